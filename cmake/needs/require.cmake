# A missing dependency is named with its Debian package. Limbeck's build and the package that it installs for
# find_package read these files alike, and each says by limbeck_missing(WHAT) what becomes of one that is missing.
macro(limbeck_require found name package)
  if(NOT ${found})
    limbeck_missing("${name} was not found. Install it with: apt-get install ${package}")
  endif()
endmacro()

# The target limbeck::NAME of a library that brings no package file of its own for CMake.
macro(limbeck_find_library name title package header library)
  string(TOUPPER LIMBECK_${name} limbeck_prefix)
  find_path(${limbeck_prefix}_INCLUDE ${header})
  find_library(${limbeck_prefix}_LIBRARY ${library})
  mark_as_advanced(${limbeck_prefix}_INCLUDE ${limbeck_prefix}_LIBRARY)
  if(NOT ${limbeck_prefix}_INCLUDE OR NOT ${limbeck_prefix}_LIBRARY)
    limbeck_missing("${title} was not found. Install it with: apt-get install ${package}")
  elseif(NOT TARGET limbeck::${name})
    add_library(limbeck::${name} INTERFACE IMPORTED)
    target_include_directories(limbeck::${name} SYSTEM INTERFACE ${${limbeck_prefix}_INCLUDE})
    target_link_libraries(limbeck::${name} INTERFACE ${${limbeck_prefix}_LIBRARY})
  endif()
endmacro()
