/* What a session is made of; for its own files. */
#ifndef CFF__SESSION_STATE_H
#define CFF__SESSION_STATE_H

#include <pthread.h>
#include <stdbool.h>

#include "arena.h"
#include "bundle.h"
#include "cff.h"
#include "cores.h"
#include "graph.h"
#include "manifest.h"
#include "session.h"
#include "walkers.h"

/* Banks of a profile that lie on the device. */
typedef struct cff__kept_banks {
  uint64_t serial; /* of the profile */
  cff__banks *banks;
  size_t n_users;
  bool forgotten; /* freed by the last user */
  struct cff__kept_banks *next;
} cff__kept_banks;

/* Fixed once opened, but for `kept`. */
struct cff_session {
  const cff_bundle *bundle;
  cff__arena arena;
  OrtEnv *env;
  cff__choice choice;
  int64_t chunk_rows; /* of a bank */
  cff__graph encoder, scorers[CFF__MAX_STAGES];
  cff__graph copier;        /* between host and device; only with a GPU */
  OrtMemoryInfo *host;      /* the caller's memory */
  OrtAllocator *allocator;  /* of the device, for what graphs give each other */
  OrtValue *start[CFF__MAX_STAGES]; /* [N_s], below any cosine */
  cff__walkers *walkers;
  cff__places places; /* of the encoder's workers and the walkers */
  pthread_mutex_t lock; /* of `kept` */
  bool has_lock;
  cff__kept_banks *kept;
};

/* A graph that gives back its float input. */
#define CFF__N_COPIER_BYTES 51
extern const unsigned char cff__copier_bytes[CFF__N_COPIER_BYTES];

/* Whether tensors lie on a device, so that rows must be copied there and back. */
bool cff__has_device(const cff_session *session);

/* Put a tensor around the caller's memory. */
cff_status cff__wrap_tensor(const cff_session *session, const void *data, size_t n_bytes,
                            ONNXTensorElementDataType type, const int64_t *shape, size_t rank,
                            OrtValue **value);

/* Make a float tensor on the device. */
cff_status cff__make_tensor(const cff_session *session, const int64_t *shape, size_t rank,
                            OrtValue **value);

/* Copy between host and device, of one shape. */
cff_status cff__copy_tensor(const cff_session *session, const OrtValue *from, OrtValue *to);

void cff__free_tensor(OrtValue *value);

/* The floats of a tensor on the host. */
cff_status cff__tensor_floats(const OrtValue *value, float **floats);

size_t cff__n_tokens(const cff_session *session, size_t stage);

#endif
