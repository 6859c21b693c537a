# Flags that Limbeck's own sources share. No target hands them on: who links to Limbeck compiles as he likes. CUDA's compiler
# has flags of its own (kernels/cuda).
add_library(limbeck_flags INTERFACE)
foreach(flag -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror -ffp-contract=fast -fno-math-errno)
  target_compile_options(limbeck_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${flag}>)
endforeach()
if(CMAKE_BUILD_TYPE STREQUAL "Debug" OR LIMBECK_SANITIZE)
  target_compile_definitions(limbeck_flags INTERFACE _GLIBCXX_ASSERTIONS)
endif()
if(LIMBECK_SANITIZE)
  # GCC 12 under sanitizers takes the standard library's own <regex> for uninitialised.
  target_compile_options(limbeck_flags INTERFACE
    -fsanitize=${LIMBECK_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(limbeck_flags INTERFACE -fsanitize=${LIMBECK_SANITIZE})
endif()
# Of code that takes little time to run and much to compile: the program around the steps, and the tests. A third less in a
# release, half under sanitizers.
add_library(limbeck_light_flags INTERFACE)
if(LIMBECK_SANITIZE)
  target_compile_options(limbeck_light_flags INTERFACE -O0)
else()
  target_compile_options(limbeck_light_flags INTERFACE $<$<CONFIG:Release>:-O1>)
endif()
# Of the readers of foreign files, whose ways fuzzing follows.
add_library(limbeck_reader_flags INTERFACE)
target_link_libraries(limbeck_reader_flags INTERFACE limbeck_flags)
if(LIMBECK_FUZZ)
  target_compile_options(limbeck_reader_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# What most sources read first, read once a target: a third of the time to compile. ccache keeps what was compiled so where
# its settings allow it (launch/build.sh has them), and the file says nothing of when it was made.
add_library(limbeck_precompiled INTERFACE)
if(CMAKE_CXX_COMPILER_LAUNCHER MATCHES "ccache")
  target_compile_options(limbeck_precompiled INTERFACE
    "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>" "$<$<COMPILE_LANG_AND_ID:CXX,Clang>:SHELL:-Xclang -fno-pch-timestamp>")
endif()
target_precompile_headers(limbeck_precompiled INTERFACE
  <algorithm> <array> <cmath> <cstdint> <cstring> <filesystem> <functional> <map> <memory> <numeric> <optional> <span> <string>
  <string_view> <utility> <vector> <fmt/format.h>)
