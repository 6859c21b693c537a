find_package(MPI QUIET COMPONENTS CXX)
limbeck_require(MPI_CXX_FOUND "MPI" "libopenmpi-dev openmpi-bin")
