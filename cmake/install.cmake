# What `cmake --install` installs. Components: kernels (the shared library of every level, which the others need), core,
# optim, parallel, mpi, data (each with its headers, and what find_package reads), program (limbeck, the examples, the docs).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(limbeck_headers ${CMAKE_INSTALL_INCLUDEDIR}/limbeck)
set(limbeck_cmake ${CMAKE_INSTALL_LIBDIR}/cmake/limbeck)

# A level's library lies where the loader looks for it beside the plain one.
foreach(level IN LISTS LIMBECK_CPU_LEVELS)
  string(MAKE_C_IDENTIFIER ${level} suffix)
  if(TARGET limbeck_kernels_${suffix})
    install(TARGETS limbeck_kernels_${suffix}
      LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/glibc-hwcaps/${level} COMPONENT kernels NAMELINK_SKIP)
  endif()
endforeach()
install(TARGETS limbeck_kernels EXPORT limbeck_core LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  COMPONENT kernels NAMELINK_COMPONENT core)
if(TARGET limbeck_kernels_cuda)
  install(TARGETS limbeck_kernels_cuda EXPORT limbeck_core LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    COMPONENT kernels NAMELINK_COMPONENT core)
  install(FILES kernels/cuda/cuda.h kernels/cuda/gpu_facts.h DESTINATION ${limbeck_headers}/kernels/cuda COMPONENT core)
  set(other_device_set cpu_only)
else()
  set(other_device_set with_cuda)
endif()
target_include_directories(limbeck_kernels INTERFACE
  $<INSTALL_INTERFACE:${limbeck_headers}> $<INSTALL_INTERFACE:${limbeck_headers}/kernels/${limbeck_device_set}>)

# limbeck_install_headers(COMPONENT FOLDER [EXCLUDED]...): the names of files or folders
function(limbeck_install_headers component folder)
  set(excluded)
  foreach(name IN LISTS ARGN)
    list(APPEND excluded PATTERN ${name} EXCLUDE)
  endforeach()
  install(DIRECTORY ${folder}/ DESTINATION ${limbeck_headers}/${folder} COMPONENT ${component}
    FILES_MATCHING PATTERN "*.h" ${excluded})
endfunction()
limbeck_install_headers(core kernels cpu cuda ${other_device_set})
foreach(component IN LISTS limbeck_libraries)
  if(component STREQUAL "kernels")
    continue()
  elseif(component STREQUAL "mpi")
    limbeck_install_headers(mpi parallel/mpi)
  else()
    # Not those that show what other libraries declare: nobody has to find their headers.
    limbeck_install_headers(${component} ${component} mpi hdf5_handle.h hdf5_structure.h hash_text.h json_at.h json_text.h tokenizer_sentencepiece.h nccl_rank.h)
  endif()
  install(TARGETS limbeck_${component} EXPORT limbeck_${component}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT ${component})
  install(EXPORT limbeck_${component} NAMESPACE limbeck:: FILE limbeck_${component}.cmake
    DESTINATION ${limbeck_cmake} COMPONENT ${component})
  install(FILES ${CMAKE_CURRENT_LIST_DIR}/needs/${component}.cmake
    DESTINATION ${limbeck_cmake}/needs COMPONENT ${component} OPTIONAL)
endforeach()

# Before 1.0 each minor version may change what is declared.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/limbeckConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/limbeckConfig.cmake ${PROJECT_BINARY_DIR}/limbeckConfigVersion.cmake
  DESTINATION ${limbeck_cmake} COMPONENT core)
install(FILES ${CMAKE_CURRENT_LIST_DIR}/needs/require.cmake DESTINATION ${limbeck_cmake}/needs COMPONENT core)

if("program" IN_LIST limbeck_parts)
  file(RELATIVE_PATH to_libraries ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  set_target_properties(limbeck PROPERTIES INSTALL_RPATH $ORIGIN/${to_libraries} INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS limbeck RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
  install(DIRECTORY examples docs DESTINATION ${CMAKE_INSTALL_DATADIR}/limbeck COMPONENT program
    FILES_MATCHING PATTERN "study" EXCLUDE PATTERN "*.textproto" PATTERN "*.md" PATTERN "*.cpp" PATTERN "CMakeLists.txt")
  install(FILES examples/chats.jsonl DESTINATION ${CMAKE_INSTALL_DATADIR}/limbeck/examples COMPONENT program)
  install(DIRECTORY examples/critique DESTINATION ${CMAKE_INSTALL_DATADIR}/limbeck/examples COMPONENT program
    USE_SOURCE_PERMISSIONS)
  install(PROGRAMS launch/fetch_teacher.sh DESTINATION ${CMAKE_INSTALL_DATADIR}/limbeck/launch COMPONENT program)
  install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DATADIR}/limbeck COMPONENT program)
endif()
