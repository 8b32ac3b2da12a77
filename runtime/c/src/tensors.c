#include "session_state.h"

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

size_t cff__n_tokens(const cff_session *session, size_t stage) {
  const cff__stage *one = &session->bundle->manifest.stages[stage];
  return (size_t)one->rows * (size_t)one->columns;
}
