#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session_state.h"
#include "status.h"

#define FLOAT ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
#define UINT8 ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
#define MAX_OUTPUTS (CFF__MAX_STAGES + 2)

/* The encoder's tensors in one run. Those of the features belong to the encoding. */
typedef struct run {
  OrtValue *inputs[2];
  OrtValue *outputs[MAX_OUTPUTS];
  char stage_names[CFF__MAX_STAGES][16];
  const char *output_names[MAX_OUTPUTS];
  size_t n_stages, n_outputs;
  float score;
} run;

static cff_status bind_inputs(const cff_session *session, const uint8_t *pixels, const float *condition,
                              run *one) {
  const cff__manifest *manifest = &session->bundle->manifest;
  const int64_t image_shape[4] = {1, manifest->height, manifest->width, 3};
  const int64_t shape[2] = {manifest->condition.n_rows, manifest->condition.n_columns};
  const size_t n_pixels = (size_t)manifest->height * (size_t)manifest->width;
  const size_t n_bytes = (size_t)shape[0] * (size_t)shape[1] * sizeof *condition;
  cff_status done =
      cff__wrap_tensor(session, pixels, n_pixels * 3, UINT8, image_shape, 4, &one->inputs[0]);
  if (done == CFF_OK)
    done = cff__wrap_tensor(session, condition, n_bytes, FLOAT, shape, 2, &one->inputs[1]);
  return done;
}

static cff_status bind_features(const cff_session *session, cff__encoding *encoding, run *one) {
  const cff__manifest *manifest = &session->bundle->manifest;
  cff_status done = CFF_OK;
  one->n_stages = one->n_outputs = manifest->n_stages;
  for (size_t stage = 0; stage < one->n_stages && done == CFF_OK; stage++) {
    const int64_t shape[3] = {1, (int64_t)cff__n_tokens(session, stage),
                              manifest->stages[stage].width};
    snprintf(one->stage_names[stage], sizeof one->stage_names[stage], "features_%d", (int)stage);
    one->output_names[stage] = one->stage_names[stage];
    done = cff__make_tensor(session, shape, 3, &one->outputs[stage]);
    encoding->features[stage] = one->outputs[stage];
  }
  return done;
}

static cff_status bind_map(const cff_session *session, cff__encoding *encoding, run *one) {
  const cff__manifest *manifest = &session->bundle->manifest;
  const int64_t map_shape[3] = {1, manifest->height, manifest->width}, score_shape[1] = {1};
  const size_t n_bytes =
      (size_t)manifest->height * (size_t)manifest->width * sizeof *encoding->map;
  encoding->map = malloc(n_bytes);
  if (encoding->map == NULL) return cff__no_memory("a map", n_bytes);
  one->output_names[one->n_outputs] = manifest->map_output;
  cff_status done = cff__wrap_tensor(session, encoding->map, n_bytes, FLOAT, map_shape, 3,
                                     &one->outputs[one->n_outputs++]);
  if (done != CFF_OK || manifest->score_output == NULL) return done;
  one->output_names[one->n_outputs] = manifest->score_output;
  return cff__wrap_tensor(session, &one->score, sizeof one->score, FLOAT, score_shape, 1,
                          &one->outputs[one->n_outputs++]);
}

cff_status cff__encode(cff_session *session, const uint8_t *pixels, const float *condition,
                       cff__encoding *encoding) {
  const cff__manifest *manifest = &session->bundle->manifest;
  const char *const input_names[2] = {"image", manifest->condition.input};
  cff__stay stay;
  run one;
  memset(&one, 0, sizeof one);
  memset(encoding, 0, sizeof *encoding);
  cff_status done = bind_inputs(session, pixels, condition, &one);
  if (done == CFF_OK) done = bind_features(session, encoding, &one);
  if (done == CFF_OK) done = bind_map(session, encoding, &one);
  if (done == CFF_OK) {
    cff__places_enter(&session->places, &stay);
    done = cff__graph_run(&session->encoder, input_names, (const OrtValue *const *)one.inputs, 2,
                          one.output_names, one.outputs, one.n_outputs);
    cff__places_leave(&session->places, &stay);
  }
  encoding->has_score = manifest->score_output != NULL;
  encoding->score = (double)one.score;
  cff__free_tensor(one.inputs[0]);
  cff__free_tensor(one.inputs[1]);
  for (size_t i = one.n_stages; i < one.n_outputs; i++) cff__free_tensor(one.outputs[i]);
  if (done != CFF_OK) cff__encoding_free(session, encoding);
  return done;
}

void cff__encoding_free(cff_session *session, cff__encoding *encoding) {
  (void)session;
  for (size_t stage = 0; stage < CFF__MAX_STAGES; stage++)
    cff__free_tensor(encoding->features[stage]);
  free(encoding->map);
  memset(encoding, 0, sizeof *encoding);
}

cff_status cff__host_rows(cff_session *session, const cff__encoding *encoding, size_t stage,
                          const float **rows, float **copy) {
  const cff__stage *shape = &session->bundle->manifest.stages[stage];
  float *floats = NULL;
  *rows = *copy = NULL;
  if (!cff__has_device(session)) {
    cff_status done = cff__tensor_floats(encoding->features[stage], &floats);
    *rows = floats;
    return done;
  }
  size_t n_bytes = cff__n_tokens(session, stage) * (size_t)shape->width * sizeof *floats;
  floats = malloc(n_bytes);
  if (floats == NULL) return cff__no_memory("features", n_bytes);
  cff_status done = cff__download(session, encoding, stage, floats);
  if (done == CFF_OK) *rows = *copy = floats;
  else free(floats);
  return done;
}

cff_status cff__download(cff_session *session, const cff__encoding *encoding, size_t stage,
                         float *rows) {
  const int64_t n_tokens = (int64_t)cff__n_tokens(session, stage);
  const int64_t shape[3] = {1, n_tokens, session->bundle->manifest.stages[stage].width};
  const size_t n_bytes = (size_t)n_tokens * (size_t)shape[2] * sizeof *rows;
  float *floats = NULL;
  OrtValue *wrapped = NULL;
  if (!cff__has_device(session)) {
    cff_status done = cff__tensor_floats(encoding->features[stage], &floats);
    if (done == CFF_OK) memcpy(rows, floats, n_bytes);
    return done;
  }
  cff_status done = cff__wrap_tensor(session, rows, n_bytes, FLOAT, shape, 3, &wrapped);
  if (done == CFF_OK) done = cff__copy_tensor(session, encoding->features[stage], wrapped);
  cff__free_tensor(wrapped);
  return done;
}
