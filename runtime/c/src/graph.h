/* A graph, loaded by ONNX Runtime and checked against what the manifest says of it. */
#ifndef CFF__GRAPH_H
#define CFF__GRAPH_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"
#include "cores.h"
#include "ort.h"
#include "provider.h"

#define CFF__MAX_RANK 4

/* An input or output. */
typedef struct cff__port {
  const char *name;
  ONNXTensorElementDataType type;
  size_t rank;
  int64_t shape[CFF__MAX_RANK]; /* CFF__ANY where the graph may take any size */
} cff__port;
#define CFF__ANY ((int64_t)-1)

typedef struct cff__graph {
  OrtSession *session;
  const char *name; /* for sentences; outlives the graph */
} cff__graph;

/* Load a file, or bytes where `path` is NULL.
 * n_threads: of one operator; 0 leaves it to ONNX Runtime. places: of these threads, or NULL. */
cff_status cff__graph_load(OrtEnv *env, const cff__choice *choice, const char *path,
                           const void *bytes, size_t n_bytes, int32_t n_threads,
                           const cff__places *places, cff__graph *graph);
void cff__graph_free(cff__graph *graph);

/* CFF_ERROR_BUNDLE unless the graph's inputs are these and no others, and its outputs at least
 * these. Sizes that the graph leaves open fit; a run is held to the sizes of its tensors. */
cff_status cff__graph_check(const cff__graph *graph, const cff__port *inputs, size_t n_inputs,
                            const cff__port *outputs, size_t n_outputs);

/* Run; outputs are tensors that exist already, and ONNX Runtime fails where a shape is another. */
cff_status cff__graph_run(const cff__graph *graph, const char *const *input_names,
                          const OrtValue *const *inputs, size_t n_inputs,
                          const char *const *output_names, OrtValue **outputs, size_t n_outputs);

#endif
