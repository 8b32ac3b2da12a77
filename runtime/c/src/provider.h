/* Execution providers of ONNX Runtime, by name. Run so far: "cpu". The others take the same path
 * and have not run. */
#ifndef CFF__PROVIDER_H
#define CFF__PROVIDER_H

#include <stdbool.h>
#include <stddef.h>

#include "arena.h"
#include "cff.h"
#include "ort.h"

typedef struct cff__provider {
  const char *name;   /* ours */
  const char *listed; /* as ONNX Runtime lists it */
  const char *memory; /* as ONNX Runtime calls the GPU's; NULL: its tensors lie on the host */
  bool is_cpu;
} cff__provider;

/* A provider with its options, whose texts live in an arena. */
typedef struct cff__choice {
  const cff__provider *provider;
  int32_t device;
  const char **keys, **values;
  size_t n_options;
} cff__choice;

/* Choose a provider that the loaded ONNX Runtime has. Needs an environment. */
cff_status cff__provider_choose(const cff_session_options *options, cff__arena *arena,
                                cff__choice *choice);

/* Let a graph run on the provider that was chosen, on no other. */
cff_status cff__provider_append(const cff__choice *choice, OrtSessionOptions *options);

/* The choice for graphs that only copy between host and device. */
cff__choice cff__provider_for_copies(const cff__choice *choice);

#endif
