namespace limbeck::launch {}
