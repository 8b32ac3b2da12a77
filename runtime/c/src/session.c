#define _POSIX_C_SOURCE 200809L

#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "banks.h"
#include "cores.h"
#include "session_state.h"
#include "status.h"

#define FLOAT ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
#define UINT8 ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8

#define CHUNK_ROWS 1024    /* on a device */
#define CPU_CHUNK_ROWS 512 /* few enough to share out, and their cosines stay near the core */
#define BELOW_ANY_COSINE (-2.0F)

const cff__manifest *cff__session_manifest(const cff_session *session) {
  return &session->bundle->manifest;
}

const cff_bundle *cff__session_bundle(const cff_session *session) { return session->bundle; }

static const cff_session_options defaults = {sizeof defaults, 0, "cpu", 0, NULL};

cff_status cff_session_options_init(cff_session_options *options, uint32_t struct_size) {
  if (options == NULL) return cff__fail(CFF_ERROR_USAGE, "`options` must be given, got NULL");
  options->struct_size = struct_size;
  return cff__copy_struct(options, &defaults, sizeof defaults, "options");
}

/* What the caller's struct, of its own size, says over the defaults. */
static cff_status read_options(const cff_session_options *given, cff_session_options *options) {
  *options = defaults;
  if (given == NULL) return CFF_OK;
  uint32_t known = given->struct_size;
  if (known < sizeof known || known > (1u << 16))
    return cff__fail(CFF_ERROR_USAGE,
                     "`options.struct_size` must be sizeof(cff_session_options), got %u; call "
                     "cff_session_options_init first",
                     (unsigned)known);
  memcpy(options, given, known < sizeof *options ? known : sizeof *options);
  if (options->n_threads < 0 || options->n_threads > CFF__MAX_THREADS)
    return cff__fail(CFF_ERROR_USAGE, "`options.n_threads` must be 0 to %d, got %d",
                     CFF__MAX_THREADS, (int)options->n_threads);
  return CFF_OK;
}

static cff_status load(cff_session *session, const char *name, int32_t n_threads,
                       const cff__places *places, cff__graph *graph) {
  char *path = NULL;
  graph->name = name;
  cff_status done = cff__bundle_file(session->bundle, name, &path);
  if (done == CFF_OK)
    done = cff__graph_load(session->env, &session->choice, path, NULL, 0, n_threads, places,
                           graph);
  free(path);
  return done;
}

static cff_status load_encoder(cff_session *session, int32_t n_threads) {
  const cff__manifest *manifest = &session->bundle->manifest;
  const cff__condition *condition = &manifest->condition;
  const int64_t height = manifest->height, width = manifest->width;
  const cff__port inputs[] = {{"image", UINT8, 4, {1, height, width, 3}},
                              {condition->input, FLOAT, 2,
                               {condition->n_rows, condition->n_columns}}};
  cff__port outputs[CFF__MAX_STAGES + 2];
  char names[CFF__MAX_STAGES][16];
  size_t n = manifest->n_stages;
  for (size_t stage = 0; stage < n; stage++) {
    snprintf(names[stage], sizeof names[stage], "features_%d", (int)stage);
    outputs[stage] = (cff__port){names[stage], FLOAT, 3,
                                 {1, (int64_t)cff__n_tokens(session, stage),
                                  manifest->stages[stage].width}};
  }
  outputs[n++] = (cff__port){manifest->map_output, FLOAT, 3, {1, height, width}};
  if (manifest->score_output != NULL)
    outputs[n++] = (cff__port){manifest->score_output, FLOAT, 1, {1}};
  cff_status done = load(session, session->bundle->variant->encoder, n_threads,
                         &session->places, &session->encoder);
  return done == CFF_OK ? cff__graph_check(&session->encoder, inputs, 2, outputs, n) : done;
}

static cff_status load_scorer(cff_session *session, size_t stage, int32_t n_threads) {
  const cff__manifest *manifest = &session->bundle->manifest;
  const int64_t n_tokens = (int64_t)cff__n_tokens(session, stage);
  const int64_t width = manifest->stages[stage].width;
  const cff__port inputs[] = {{"features", FLOAT, 3, {1, n_tokens, width}},
                              {"bank", FLOAT, 2, {CFF__ANY, width}},
                              {"best_so_far", FLOAT, 1, {n_tokens}}};
  const cff__port output = {"best", FLOAT, 1, {n_tokens}};
  cff_status done = load(session, manifest->scorers[stage], n_threads, NULL,
                         &session->scorers[stage]);
  return done == CFF_OK ? cff__graph_check(&session->scorers[stage], inputs, 3, &output, 1) : done;
}

static cff_status load_graphs(cff_session *session, int32_t n_threads) {
  cff__choice copies = cff__provider_for_copies(&session->choice);
  cff_status done = load_encoder(session, n_threads);
  for (size_t s = 0; s < session->bundle->manifest.n_scorers && done == CFF_OK; s++)
    done = load_scorer(session, s, session->choice.provider->is_cpu ? 1 : n_threads);
  session->copier.name = "the copy to the device";
  if (done == CFF_OK && cff__has_device(session))
    done = cff__graph_load(session->env, &copies, NULL, cff__copier_bytes,
                           CFF__N_COPIER_BYTES, 1, NULL, &session->copier);
  return done;
}

/* The encoder's own allocator: it keeps memory from image to image. */
static cff_status find_memory(cff_session *session) {
  const OrtApi *ort = cff__ort();
  OrtMemoryInfo *device = NULL;
  const char *name = session->choice.provider->memory;
  OrtStatus *status =
      ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &session->host);
  if (status == NULL)
    status = name != NULL
                 ? ort->CreateMemoryInfo(name, OrtDeviceAllocator, session->choice.device,
                                         OrtMemTypeDefault, &device)
                 : ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &device);
  if (status == NULL)
    status = ort->CreateAllocator(session->encoder.session, device, &session->allocator);
  if (device != NULL) ort->ReleaseMemoryInfo(device);
  return cff__ort_check(status, "find", "memory of the device");
}

static cff_status make_start(cff_session *session, size_t stage) {
  const size_t n = cff__n_tokens(session, stage);
  const int64_t shape[1] = {(int64_t)n};
  float *values = malloc(n * sizeof *values), *floats = NULL;
  OrtValue *wrapped = NULL;
  if (values == NULL) return cff__no_memory("a search", n * sizeof *values);
  for (size_t i = 0; i < n; i++) values[i] = BELOW_ANY_COSINE;
  cff_status done = cff__make_tensor(session, shape, 1, &session->start[stage]);
  if (done == CFF_OK && cff__has_device(session)) {
    done = cff__wrap_tensor(session, values, n * sizeof *values, FLOAT, shape, 1, &wrapped);
    if (done == CFF_OK) done = cff__copy_tensor(session, wrapped, session->start[stage]);
    cff__free_tensor(wrapped);
  } else if (done == CFF_OK) {
    done = cff__tensor_floats(session->start[stage], &floats);
    if (done == CFF_OK) memcpy(floats, values, n * sizeof *values);
  }
  free(values);
  return done;
}

static cff_status open_parts(cff_session *session, const cff_session_options *options) {
  cff_status done = cff__ort_acquire(&session->env);
  if (done != CFF_OK) return done;
  done = cff__provider_choose(options, &session->arena, &session->choice);
  if (done != CFF_OK) return done;
  bool is_cpu = session->choice.provider->is_cpu;
  int32_t n_threads = options->n_threads;
  session->chunk_rows = is_cpu ? CPU_CHUNK_ROWS : CHUNK_ROWS;
  session->has_lock = pthread_mutex_init(&session->lock, NULL) == 0;
  if (!session->has_lock) return cff__no_memory("a lock", sizeof session->lock);
  done = cff__places_make(is_cpu ? n_threads : 1, &session->places);
  if (done == CFF_OK) done = load_graphs(session, n_threads);
  if (done == CFF_OK) done = find_memory(session);
  for (size_t s = 0; s < session->bundle->manifest.n_scorers && done == CFF_OK; s++)
    done = make_start(session, s);
  if (n_threads == 0) n_threads = cff__n_cores();
  if (done == CFF_OK)
    done = cff__walkers_start(is_cpu ? n_threads : 1, &session->places, &session->walkers);
  return done;
}

cff_status cff_session_open(const cff_bundle *bundle, const cff_session_options *options,
                            cff_session **session) {
  cff_session_options chosen;
  if (session == NULL) return cff__fail(CFF_ERROR_USAGE, "`session` must be given, got NULL");
  *session = NULL;
  if (bundle == NULL) return cff__fail(CFF_ERROR_USAGE, "`bundle` must be given, got NULL");
  cff_status done = read_options(options, &chosen);
  if (done != CFF_OK) return done;
  cff_session *opened = calloc(1, sizeof *opened);
  if (opened == NULL) return cff__no_memory("a session", sizeof *opened);
  opened->bundle = bundle;
  done = open_parts(opened, &chosen);
  if (done == CFF_OK) *session = opened;
  else cff_session_free(opened);
#if defined(__GLIBC__)
  malloc_trim(0); /* loading takes twice the weights for a moment, which the allocator would keep */
#endif
  return done;
}

void cff_session_free(cff_session *session) {
  if (session == NULL) return;
  cff__walkers_stop(session->walkers);
  cff__kept_banks_free(session);
  for (size_t stage = 0; stage < CFF__MAX_STAGES; stage++) {
    cff__free_tensor(session->start[stage]);
    cff__graph_free(&session->scorers[stage]);
  }
  if (session->allocator != NULL) cff__ort()->ReleaseAllocator(session->allocator);
  cff__graph_free(&session->copier);
  cff__graph_free(&session->encoder);
  if (session->host != NULL) cff__ort()->ReleaseMemoryInfo(session->host);
  if (session->has_lock) pthread_mutex_destroy(&session->lock);
  cff__places_free(&session->places);
  if (session->env != NULL) cff__ort_release();
  cff__arena_free(&session->arena);
  free(session);
}
