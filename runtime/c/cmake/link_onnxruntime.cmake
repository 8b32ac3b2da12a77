# cff_link_onnxruntime(TARGET): ONNX Runtime's headers, and its library in whatever version is there
# at run time, see onnxruntime_stub.c.

get_filename_component(CFF_ONNXRUNTIME_LIBDIR "${OnnxRuntime_LIBRARY}" DIRECTORY)
add_library(cff_onnxruntime_stub SHARED ${CMAKE_CURRENT_LIST_DIR}/onnxruntime_stub.c)
set_target_properties(
  cff_onnxruntime_stub PROPERTIES OUTPUT_NAME onnxruntime SOVERSION 1
                                  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/stub)

function(cff_link_onnxruntime target)
  target_include_directories(${target} SYSTEM PRIVATE ${OnnxRuntime_INCLUDE_DIR})
  # as flags: as a target, libcff would look for the stub when it is loaded
  target_link_options(${target} PRIVATE -L${CMAKE_CURRENT_BINARY_DIR}/stub)
  target_link_libraries(${target} PRIVATE -lonnxruntime)
  add_dependencies(${target} cff_onnxruntime_stub)
  set_target_properties(${target} PROPERTIES BUILD_RPATH "${CFF_ONNXRUNTIME_LIBDIR}")
  # a program's linker need not find ONNX Runtime, least of all a cross compiler's
  target_link_options(${target} INTERFACE -Wl,--allow-shlib-undefined)
endfunction()
