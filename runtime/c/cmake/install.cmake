# What `cmake --install` puts under the prefix: library, header, cff.pc, find_package(cff).
# All places are relative to the prefix, which can be moved.

include(CMakePackageConfigHelpers)

# libcff.so.1 looks for libonnxruntime.so.1 beside itself, then where it was when libcff was built
set(CFF_INSTALL_RPATH "$ORIGIN;${CFF_ONNXRUNTIME_LIBDIR}"
    CACHE STRING "Folders in which the installed libcff looks for ONNX Runtime")
set_target_properties(cff PROPERTIES INSTALL_RPATH "${CFF_INSTALL_RPATH}")

# the first number is the ABI's: whoever asks for 1 gets any 1.x
set(CFF_PACKAGE_VERSION ${CFF_ABI_VERSION}.${PROJECT_VERSION})
set(CFF_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/cff)
configure_package_config_file(
  cmake/cffConfig.cmake.in cffConfig.cmake
  INSTALL_DESTINATION ${CFF_PACKAGE_DIR} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  cffConfigVersion.cmake VERSION ${CFF_PACKAGE_VERSION} COMPATIBILITY SameMajorVersion)

# pkg-config finds the prefix from where cff.pc lies, LIBDIR/pkgconfig
file(RELATIVE_PATH CFF_PC_TO_INCLUDE ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig
     ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cff.pc.in cff.pc @ONLY)

install(TARGETS cff EXPORT cffTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/cff.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/cff.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(EXPORT cffTargets NAMESPACE cff:: DESTINATION ${CFF_PACKAGE_DIR})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/cffConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/cffConfigVersion.cmake
        DESTINATION ${CFF_PACKAGE_DIR})
