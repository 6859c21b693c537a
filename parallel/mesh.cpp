namespace limbeck::parallel {}
