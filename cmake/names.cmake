# What is common to the libraries: a name for others, limbeck::NAME, here as in an installation, and what they need to
# compile against them.
set(limbeck_libraries kernels ${limbeck_parts})
list(REMOVE_ITEM limbeck_libraries program)
foreach(name IN LISTS limbeck_libraries)
  add_library(limbeck::${name} ALIAS limbeck_${name})
  set_target_properties(limbeck_${name} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(limbeck_${name} PUBLIC cxx_std_20)
endforeach()
