#if defined(__linux__)
#define _GNU_SOURCE /* affinity: a container or `taskset` may allow fewer cores than there are */
#include <sched.h>
#else
#define _POSIX_C_SOURCE 200809L
#endif

#include "cores.h"

#include <unistd.h>

static long count_cores(void) {
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
#endif
#if defined(_SC_NPROCESSORS_ONLN)
  return sysconf(_SC_NPROCESSORS_ONLN);
#else
  return 1;
#endif
}

int32_t cff__n_cores(void) {
  long n = count_cores();
  if (n < 1) return 1;
  return n < CFF__MAX_THREADS ? (int32_t)n : CFF__MAX_THREADS;
}
