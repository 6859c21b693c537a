# Of the build alone: the kernels are a shared library, whose users need none of it.
if(LIMBECK_OPENMP)
  find_package(OpenMP QUIET COMPONENTS CXX)
  limbeck_require(OpenMP_CXX_FOUND "OpenMP" g++)
  # Not find_package(dnnl): Debian's package file also asks for OpenCL, which the CPU engine does not use.
  limbeck_find_library(dnnl "oneDNN" libdnnl-dev oneapi/dnnl/dnnl.hpp dnnl)
endif()
