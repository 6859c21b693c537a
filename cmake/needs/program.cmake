# Of the build alone.
find_package(spdlog QUIET)
limbeck_require(spdlog_FOUND "spdlog" libspdlog-dev)
find_package(CLI11 QUIET)
limbeck_require(CLI11_FOUND "CLI11" libcli11-dev)
limbeck_find_library(httplib "cpp-httplib" libcpp-httplib-dev httplib.h cpp-httplib)
# SentencePiece's library holds a protobuf of its own, of another version, and shows its symbols. So that neither takes
# the other's, ours is linked from its archive, in front of SentencePiece, and hidden (launch/CMakeLists.txt hides what
# its headers make).
set(Protobuf_USE_STATIC_LIBS ON)
if(Protobuf_LIBRARY_RELEASE MATCHES "\\.so$")  # found by a configuration that did not ask for the archive
  unset(Protobuf_LIBRARY_RELEASE CACHE)
endif()
find_package(Protobuf QUIET)
limbeck_require(Protobuf_FOUND "protobuf" "libprotobuf-dev protobuf-compiler")
target_link_options(protobuf::libprotobuf INTERFACE LINKER:--exclude-libs,libprotobuf.a)
target_link_libraries(protobuf::libprotobuf INTERFACE limbeck::sentencepiece)
