namespace limbeck::data {}
