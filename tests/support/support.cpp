namespace limbeck::testing {}
