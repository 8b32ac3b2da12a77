#include "session_state.h"

/* y = x, of floats in any shape: a ModelProto of IR version 8 and opset 13. */
const unsigned char cff__copier_bytes[CFF__N_COPIER_BYTES] = {
    0x08, 8,    0x3A, 43,                                     /* ir_version; graph, 43 bytes */
    0x0A, 16,   0x0A, 1,   'x', 0x12, 1,    'y',  0x22, 8,    /* its node: x, y, */
    'I',  'd',  'e',  'n', 't', 'i',  't',  'y',              /* of type Identity */
    0x12, 1,    'g',                                          /* its name */
    0x5A, 9,    0x0A, 1,   'x', 0x12, 4,    0x0A, 2,    8, 1, /* its input x, float */
    0x62, 9,    0x0A, 1,   'y', 0x12, 4,    0x0A, 2,    8, 1, /* its output y, float */
    0x42, 2,    0x10, 13};                                    /* opset_import */

cff_status cff__wrap_tensor(const cff_session *session, const void *data, size_t n_bytes,
                            ONNXTensorElementDataType type, const int64_t *shape, size_t rank,
                            OrtValue **value) {
  *value = NULL;
  /* ONNX Runtime does not write to inputs */
  OrtStatus *status = cff__ort()->CreateTensorWithDataAsOrtValue(
      session->host, (void *)data, n_bytes, shape, rank, type, value);
  return cff__ort_check(status, "make", "a tensor");
}

cff_status cff__make_tensor(const cff_session *session, const int64_t *shape, size_t rank,
                            OrtValue **value) {
  *value = NULL;
  OrtStatus *status = cff__ort()->CreateTensorAsOrtValue(
      session->allocator, shape, rank, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, value);
  return cff__ort_check(status, "make", "a tensor");
}

void cff__free_tensor(OrtValue *value) {
  if (value != NULL) cff__ort()->ReleaseValue(value);
}

cff_status cff__tensor_floats(const OrtValue *value, float **floats) {
  void *data = NULL;
  OrtStatus *status = cff__ort()->GetTensorMutableData((OrtValue *)value, &data);
  *floats = data;
  return cff__ort_check(status, "read", "a tensor");
}

cff_status cff__copy_tensor(const cff_session *session, const OrtValue *from, OrtValue *to) {
  static const char *const input = "x", *const output = "y";
  return cff__graph_run(&session->copier, &input, &from, 1, &output, &to, 1);
}

bool cff__has_device(const cff_session *session) {
  return session->choice.provider->memory != NULL;
}

size_t cff__n_tokens(const cff_session *session, size_t stage) {
  const cff__stage *one = &session->bundle->manifest.stages[stage];
  return (size_t)one->rows * (size_t)one->columns;
}
