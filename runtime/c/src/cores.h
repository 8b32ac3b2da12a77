/* How many cores this process may use, and which core each computing thread runs on. */
#ifndef CFF__CORES_H
#define CFF__CORES_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cff.h"

#define CFF__MAX_THREADS 256
#define CFF__AFFINITIES_SIZE (CFF__MAX_THREADS * 6)

/* 1 to CFF__MAX_THREADS; where the system tells, only cores that the process is allowed. */
int32_t cff__n_cores(void);

/* Where threads are as many as cores, each has one: workers from the second on, the caller the first
 * while it computes. A woken thread may else be put behind the one that woke it, for a tick and
 * more, although another core is idle. As `cff_runtime.backends.core_places`; Linux only. */
typedef struct cff__places {
  int32_t n_cores; /* 0 where nothing is placed */
  int32_t cores[CFF__MAX_THREADS];
  pthread_mutex_t first; /* held by the caller that is on the first core */
  bool has_lock;
} cff__places;

/* A caller's stay on the first core, and where it may run else. */
typedef struct cff__stay {
  bool is_moved;
  unsigned char before[128]; /* cpu_set_t */
} cff__stay;

/* n_threads: 0 takes what there is. */
cff_status cff__places_make(int32_t n_threads, cff__places *places);
void cff__places_free(cff__places *places);

/* Put the calling thread, helper 0, 1 .., on its core for good. */
void cff__places_help(const cff__places *places, size_t helper);

/* Keep the calling thread on the first core for a while; of several at once, one. */
void cff__places_enter(cff__places *places, cff__stay *stay);
void cff__places_leave(cff__places *places, const cff__stay *stay);

/* The workers' cores as ONNX Runtime wants them: counted from 1, the caller's left out. */
void cff__places_affinities(const cff__places *places, char text[CFF__AFFINITIES_SIZE]);

#endif
