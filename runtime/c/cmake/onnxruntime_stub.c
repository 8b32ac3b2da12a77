/* The linker's idea of ONNX Runtime; never loaded.
 *
 * Its libraries name their one function after their exact version, such as
 * OrtGetApiBase@VERS_1.31.1, and what is linked with one of them starts with no other. Linked with
 * this instead, libcff starts with any of them and asks it for the API version of the headers. */
const void *OrtGetApiBase(void);

const void *OrtGetApiBase(void) { return 0; }
