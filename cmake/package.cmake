# What `cpack` packs: on Debian and its like `limbeck` (the program, examples and docs) and `liblimbeck-dev` (the libraries
# to link to), with the libraries of the release that it runs on; `cpack -G TGZ` one archive that is unpacked anywhere.
set(CPACK_PACKAGE_NAME limbeck)
set(CPACK_PACKAGE_CONTACT "The authors of Limbeck")
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
set(CPACK_STRIP_FILES ON)
set(CPACK_GENERATOR TGZ)

find_program(LIMBECK_DPKG dpkg)
mark_as_advanced(LIMBECK_DPKG)
if(LIMBECK_DPKG)
  set(CPACK_GENERATOR DEB)
  set(CPACK_DEB_COMPONENT_INSTALL ON)
  set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
  # Packages of two releases differ in what they depend on.
  cmake_host_system_information(RESULT release QUERY DISTRIB_INFO)
  set(CPACK_DEBIAN_PACKAGE_RELEASE 1~${release_ID}${release_VERSION_ID})

  set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME limbeck)
  set(CPACK_DEBIAN_PROGRAM_DESCRIPTION "One program, started by mpirun, that needs no Python and no GPU. It reads and writes Hugging Face safetensors and GGUF.")
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_SECTION science)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_RECOMMENDS openmpi-bin)
  if(LIMBECK_CUDA AND CUDA_cublasLt_LIBRARY)  # which no program links to, so that SHLIBDEPS does not find its package
    file(REAL_PATH ${CUDA_cublasLt_LIBRARY} library)
    execute_process(COMMAND ${LIMBECK_DPKG} --search ${library} OUTPUT_VARIABLE owner ERROR_QUIET)
    if(owner MATCHES "^([a-z0-9.+-]+)(:[a-z0-9]+)?: ")
      string(APPEND CPACK_DEBIAN_PROGRAM_PACKAGE_RECOMMENDS ", ${CMAKE_MATCH_1}")
    endif()
  endif()
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_SUGGESTS "anarchism, python3-pip")
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME liblimbeck-dev)
  set(CPACK_DEBIAN_DEVELOPMENT_DESCRIPTION "Graph-free autograd, optimizers and ranks of Limbeck, to link to
Headers and archives for C++20, with what CMake's find_package(limbeck) reads.")
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SHLIBDEPS OFF)
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
    "limbeck (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE}), libfmt-dev")
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_RECOMMENDS "libopenmpi-dev, nlohmann-json3-dev, zlib1g-dev, libzstd-dev, \
libpcre2-dev, libutf8proc-dev, libxxhash-dev, libhdf5-dev, libsentencepiece-dev")
  install(FILES cmake/copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/limbeck COMPONENT program)
  install(FILES cmake/copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/liblimbeck-dev COMPONENT core)
endif()

include(CPack)
cpack_add_component_group(program)
cpack_add_component_group(development)
cpack_add_component(kernels GROUP program)
cpack_add_component(program GROUP program)
foreach(component IN ITEMS core optim parallel mpi data)
  cpack_add_component(${component} GROUP development)
endforeach()
