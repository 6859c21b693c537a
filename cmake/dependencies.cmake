# Everything Limbeck is built from. A missing one is named with its Debian package.
function(limbeck_require found name package)
  if(NOT ${found})
    message(FATAL_ERROR "${name} was not found. Install it with: apt-get install ${package}")
  endif()
endfunction()

# The target limbeck_NAME of a library that brings no package file of its own for CMake.
function(limbeck_library name title package header library)
  string(TOUPPER ${name} prefix)
  find_path(${prefix}_INCLUDE ${header})
  find_library(${prefix}_LIBRARY ${library})
  limbeck_require(${prefix}_LIBRARY "${title}" ${package})
  add_library(limbeck_${name} INTERFACE)
  target_include_directories(limbeck_${name} SYSTEM INTERFACE ${${prefix}_INCLUDE})
  target_link_libraries(limbeck_${name} INTERFACE ${${prefix}_LIBRARY})
endfunction()

find_package(Threads REQUIRED)
find_package(fmt QUIET)
limbeck_require(fmt_FOUND "fmt" libfmt-dev)
find_package(spdlog QUIET)
limbeck_require(spdlog_FOUND "spdlog" libspdlog-dev)
find_package(nlohmann_json QUIET)
limbeck_require(nlohmann_json_FOUND "nlohmann-json" nlohmann-json3-dev)
find_package(CLI11 QUIET)
limbeck_require(CLI11_FOUND "CLI11" libcli11-dev)
find_package(ZLIB QUIET)
limbeck_require(ZLIB_FOUND "zlib" zlib1g-dev)
find_package(MPI QUIET COMPONENTS CXX)
limbeck_require(MPI_CXX_FOUND "MPI" "libopenmpi-dev openmpi-bin")
# SentencePiece's library holds a protobuf of its own, of another version, and shows its symbols. So that neither takes
# the other's, ours is linked from its archive, in front of SentencePiece, and hidden (launch/CMakeLists.txt hides what
# its headers make).
limbeck_library(sentencepiece "SentencePiece" libsentencepiece-dev sentencepiece_processor.h sentencepiece)
set(Protobuf_USE_STATIC_LIBS ON)
if(Protobuf_LIBRARY_RELEASE MATCHES "\\.so$")  # found by a configuration that did not ask for the archive
  unset(Protobuf_LIBRARY_RELEASE CACHE)
endif()
find_package(Protobuf QUIET)
limbeck_require(Protobuf_FOUND "protobuf" "libprotobuf-dev protobuf-compiler")
target_link_options(protobuf::libprotobuf INTERFACE LINKER:--exclude-libs,libprotobuf.a)
target_link_libraries(protobuf::libprotobuf INTERFACE limbeck_sentencepiece)
set(HDF5_PREFER_PARALLEL OFF)
enable_language(C)
find_package(HDF5 QUIET COMPONENTS C)
limbeck_require(HDF5_FOUND "HDF5 (serial)" libhdf5-dev)

limbeck_library(pcre2 "PCRE2" libpcre2-dev pcre2.h pcre2-8)
limbeck_library(utf8proc "utf8proc" libutf8proc-dev utf8proc.h utf8proc)
limbeck_library(xxhash "xxHash" libxxhash-dev xxhash.h xxhash)
limbeck_library(zstd "zstd" libzstd-dev zstd.h zstd)

if(LIMBECK_OPENMP)
  find_package(OpenMP QUIET COMPONENTS CXX)
  limbeck_require(OpenMP_CXX_FOUND "OpenMP" g++)
  # Not find_package(dnnl): Debian's package file also asks for OpenCL, which the CPU engine does not use.
  limbeck_library(dnnl "oneDNN" libdnnl-dev oneapi/dnnl/dnnl.hpp dnnl)
endif()
