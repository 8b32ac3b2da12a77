#include "graph.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "status.h"

/* Every worker on its core; the caller enters its own before it runs the graph. */
static OrtStatus *place_workers(const cff__places *places, OrtSessionOptions *options) {
  const OrtApi *ort = cff__ort();
  char affinities[CFF__AFFINITIES_SIZE];
  if (places == NULL || places->n_cores == 0) return NULL;
  cff__places_affinities(places, affinities);
  OrtStatus *status = ort->SetIntraOpNumThreads(options, places->n_cores);
  if (status != NULL) return status;
  return ort->AddSessionConfigEntry(options, "session.intra_op_thread_affinities", affinities);
}

static cff_status make_options(const cff__choice *choice, int32_t n_threads,
                               const cff__places *places, const char *name,
                               OrtSessionOptions **made) {
  const OrtApi *ort = cff__ort();
  OrtSessionOptions *options = NULL;
  OrtStatus *status = ort->CreateSessionOptions(&options);
  if (status == NULL) status = ort->SetIntraOpNumThreads(options, n_threads);
  if (status == NULL) status = place_workers(places, options);
  if (status == NULL) status = ort->SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_ERROR);
  /* the program may have an environment of its own, whose log is not ours */
  if (status == NULL) status = ort->SetUserLoggingFunction(options, cff__ort_log, NULL);
  /* every graph has its own threads; left spinning after a run they slow the next graph */
  if (status == NULL)
    status = ort->AddSessionConfigEntry(options, "session.force_spinning_stop", "1");
  if (status == NULL)
    status = ort->AddSessionConfigEntry(options, "session.use_env_allocators", "1");
  /* weights stay as they are; in the arena they would lie between what comes and goes */
  if (status == NULL)
    status = ort->AddSessionConfigEntry(
        options, "session.use_device_allocator_for_initializers", "1");
  cff_status done = cff__ort_check(status, "prepare", name);
  if (done == CFF_OK) done = cff__provider_append(choice, options);
  if (done == CFF_OK) *made = options;
  else if (options != NULL) ort->ReleaseSessionOptions(options);
  return done;
}

cff_status cff__graph_load(OrtEnv *env, const cff__choice *choice, const char *path,
                           const void *bytes, size_t n_bytes, int32_t n_threads,
                           const cff__places *places, cff__graph *graph) {
  const OrtApi *ort = cff__ort();
  OrtSessionOptions *options = NULL;
  cff_status done = make_options(choice, n_threads, places, graph->name, &options);
  if (done != CFF_OK) return done;
  OrtStatus *status =
      path != NULL ? ort->CreateSession(env, path, options, &graph->session)
                   : ort->CreateSessionFromArray(env, bytes, n_bytes, options, &graph->session);
  ort->ReleaseSessionOptions(options);
  if (status != NULL) graph->session = NULL;
  return cff__ort_check(status, "load", graph->name);
}

void cff__graph_free(cff__graph *graph) {
  if (graph->session != NULL) cff__ort()->ReleaseSession(graph->session);
  graph->session = NULL;
}

/* "[1,?,3]" */
static void format_shape(const int64_t *shape, size_t rank, char *text, size_t size) {
  size_t n = 0;
  snprintf(text, size, "[");
  for (size_t i = 0; i < rank; i++) {
    n = strlen(text);
    if (shape[i] < 0) snprintf(text + n, size - n, "%s?", i > 0 ? "," : "");
    else snprintf(text + n, size - n, "%s%lld", i > 0 ? "," : "", (long long)shape[i]);
  }
  n = strlen(text);
  snprintf(text + n, size - n, "]");
}

static bool shape_fits(const cff__port *port, const int64_t *shape, size_t rank) {
  if (rank != port->rank) return false;
  for (size_t i = 0; i < rank; i++)
    if (shape[i] >= 0 && port->shape[i] != shape[i]) return false;
  return true;
}

static cff_status check_tensor(const cff__graph *graph, const cff__port *port,
                               const OrtTensorTypeAndShapeInfo *info) {
  const OrtApi *ort = cff__ort();
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t rank = 0;
  int64_t shape[CFF__MAX_RANK] = {0};
  char expected[100], actual[100] = "another rank";
  OrtStatus *status = ort->GetTensorElementType(info, &type);
  if (status == NULL) status = ort->GetDimensionsCount(info, &rank);
  if (status == NULL && rank <= CFF__MAX_RANK) status = ort->GetDimensions(info, shape, rank);
  cff_status done = cff__ort_check(status, "describe", graph->name);
  if (done != CFF_OK) return done;
  if (type == port->type && shape_fits(port, shape, rank)) return CFF_OK;
  format_shape(port->shape, port->rank, expected, sizeof expected);
  if (rank <= CFF__MAX_RANK) format_shape(shape, rank, actual, sizeof actual);
  return cff__fail(CFF_ERROR_BUNDLE,
                   "`%s` of `%.200s` must have type %d and shape %s, as the manifest says, got "
                   "type %d and shape %s; export the bundle again",
                   port->name, graph->name, (int)port->type, expected, (int)type, actual);
}

typedef OrtStatus *(ORT_API_CALL *get_name)(const OrtSession *, size_t, OrtAllocator *, char **);
typedef OrtStatus *(ORT_API_CALL *get_type)(const OrtSession *, size_t, OrtTypeInfo **);

/* Find the one of n names; n if there is none. */
static cff_status find_name(const cff__graph *graph, get_name get, size_t n, const char *name,
                            size_t *found) {
  const OrtApi *ort = cff__ort();
  OrtAllocator *allocator = NULL;
  OrtStatus *status = ort->GetAllocatorWithDefaultOptions(&allocator);
  bool same = false;
  size_t i = 0;
  for (; i < n && status == NULL && !same; i++) {
    char *text = NULL;
    status = get(graph->session, i, allocator, &text);
    if (status != NULL) break;
    same = strcmp(text, name) == 0;
    status = ort->AllocatorFree(allocator, text);
  }
  *found = same ? i - 1 : n;
  return cff__ort_check(status, "describe", graph->name);
}

static cff_status check_ports(const cff__graph *graph, get_name name_of, get_type type_of, size_t n,
                              const cff__port *ports, size_t n_ports) {
  const OrtApi *ort = cff__ort();
  cff_status done = CFF_OK;
  for (size_t i = 0; i < n_ports && done == CFF_OK; i++) {
    size_t found = n;
    OrtTypeInfo *type = NULL;
    const OrtTensorTypeAndShapeInfo *info = NULL;
    done = find_name(graph, name_of, n, ports[i].name, &found);
    if (done != CFF_OK) return done;
    if (found == n)
      return cff__fail(CFF_ERROR_BUNDLE,
                       "`%.200s` must have `%s`, as the manifest says; export the bundle again",
                       graph->name, ports[i].name);
    OrtStatus *status = type_of(graph->session, found, &type);
    if (status == NULL) status = ort->CastTypeInfoToTensorInfo(type, &info);
    done = cff__ort_check(status, "describe", graph->name);
    if (done == CFF_OK)
      done = info != NULL ? check_tensor(graph, &ports[i], info)
                          : cff__fail(CFF_ERROR_BUNDLE, "`%s` of `%.200s` must be a tensor",
                                      ports[i].name, graph->name);
    if (type != NULL) ort->ReleaseTypeInfo(type);
  }
  return done;
}

cff_status cff__graph_check(const cff__graph *graph, const cff__port *inputs, size_t n_inputs,
                            const cff__port *outputs, size_t n_outputs) {
  const OrtApi *ort = cff__ort();
  size_t n_in = 0, n_out = 0;
  OrtStatus *status = ort->SessionGetInputCount(graph->session, &n_in);
  if (status == NULL) status = ort->SessionGetOutputCount(graph->session, &n_out);
  cff_status done = cff__ort_check(status, "describe", graph->name);
  if (done != CFF_OK) return done;
  if (n_in != n_inputs)
    return cff__fail(CFF_ERROR_BUNDLE,
                     "`%.200s` must have %d inputs, got %llu; export the bundle again", graph->name,
                     (int)n_inputs, (unsigned long long)n_in);
  done = check_ports(graph, ort->SessionGetInputName, ort->SessionGetInputTypeInfo, n_in, inputs,
                     n_inputs);
  return done != CFF_OK ? done
                        : check_ports(graph, ort->SessionGetOutputName,
                                      ort->SessionGetOutputTypeInfo, n_out, outputs, n_outputs);
}

cff_status cff__graph_run(const cff__graph *graph, const char *const *input_names,
                          const OrtValue *const *inputs, size_t n_inputs,
                          const char *const *output_names, OrtValue **outputs, size_t n_outputs) {
  OrtStatus *status = cff__ort()->Run(graph->session, NULL, input_names, inputs, n_inputs,
                                      output_names, n_outputs, outputs);
  return cff__ort_check(status, "run", graph->name);
}
