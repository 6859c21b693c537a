find_package(Threads QUIET)
limbeck_require(Threads_FOUND "A library of threads" libc6-dev)
find_package(fmt QUIET)
limbeck_require(fmt_FOUND "fmt" libfmt-dev)
