# Flags that Limbeck's own sources share. No target hands them on: who links to Limbeck compiles as he likes.
add_library(limbeck_flags INTERFACE)
target_compile_options(limbeck_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Werror
  -ffp-contract=fast -fno-math-errno)
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
