namespace limbeck::kernels {}
