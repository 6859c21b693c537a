namespace limbeck::optim {}
