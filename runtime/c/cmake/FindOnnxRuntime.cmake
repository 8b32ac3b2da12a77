# ONNX Runtime's C API: a release tarball, a package of the system or a build of one's own.
#
#   CFF_ONNXRUNTIME_ROOT   folder with include/ and lib/ (cache variable, else environment, else
#                          build/onnxruntime of the checkout where `make onnxruntime` filled it)
#   OnnxRuntime::OnnxRuntime, OnnxRuntime_VERSION_API (number of the header's API)
#
# find_package(OnnxRuntime REQUIRED) fails with the next step where there is none.

set(CFF_ONNXRUNTIME_ROOT "" CACHE PATH "Folder of ONNX Runtime, with include/ and lib/")
set(root "${CFF_ONNXRUNTIME_ROOT}")
if(NOT root)
  set(root "$ENV{CFF_ONNXRUNTIME_ROOT}")
endif()
get_filename_component(fetched "${CMAKE_CURRENT_LIST_DIR}/../../../build/onnxruntime" ABSOLUTE)
if(NOT root AND EXISTS "${fetched}/include")
  set(root "${fetched}")
endif()
unset(fetched)

# a root that is given is the only place: no mixing of one version's header and another's library;
# nor is it looked for inside the system that a toolchain file names
set(where "")
if(root)
  set(where PATHS "${root}" NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
endif()
find_path(
  OnnxRuntime_INCLUDE_DIR onnxruntime_c_api.h ${where}
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session
                include/core/session)
find_library(OnnxRuntime_LIBRARY onnxruntime ${where} PATH_SUFFIXES lib lib64)
unset(where)

if(OnnxRuntime_INCLUDE_DIR)
  file(STRINGS "${OnnxRuntime_INCLUDE_DIR}/onnxruntime_c_api.h" line
       REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX REPLACE "[^0-9]*([0-9]+).*" "\\1" OnnxRuntime_VERSION_API "${line}")
  unset(line)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  OnnxRuntime REQUIRED_VARS OnnxRuntime_LIBRARY OnnxRuntime_INCLUDE_DIR
  FAIL_MESSAGE
    "ONNX Runtime must be at CFF_ONNXRUNTIME_ROOT (`${root}`). Fetch it with `make onnxruntime`, or unpack a release of https://github.com/microsoft/onnxruntime/releases and configure with -DCFF_ONNXRUNTIME_ROOT=FOLDER")
unset(root)

if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  add_library(OnnxRuntime::OnnxRuntime SHARED IMPORTED)
  set_target_properties(
    OnnxRuntime::OnnxRuntime
    PROPERTIES IMPORTED_LOCATION "${OnnxRuntime_LIBRARY}"
               INTERFACE_INCLUDE_DIRECTORIES "${OnnxRuntime_INCLUDE_DIR}")
endif()
mark_as_advanced(OnnxRuntime_INCLUDE_DIR OnnxRuntime_LIBRARY)
