#if defined(__linux__)
#define _GNU_SOURCE /* affinity: a container or `taskset` may allow fewer cores than there are */
#include <sched.h>
#else
#define _POSIX_C_SOURCE 200809L
#endif

#include "cores.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "status.h"

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

#if defined(__linux__)
_Static_assert(sizeof(cpu_set_t) <= sizeof((cff__stay *)0)->before, "room for a set of cores");

static void find_cores(int32_t n_threads, cff__places *places) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  const int n = CPU_COUNT(&allowed);
  if (n < 2 || n > CFF__MAX_THREADS || (n_threads != 0 && n_threads != n)) return;
  for (int core = 0; core < CPU_SETSIZE; core++)
    if (CPU_ISSET(core, &allowed)) places->cores[places->n_cores++] = core;
}

/* Where the core was taken away since, the thread stays as it is. */
static bool move_to(int32_t core) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  return sched_setaffinity(0, sizeof one, &one) == 0;
}

static bool move_for_a_while(int32_t core, unsigned char *before) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return false;
  memcpy(before, &allowed, sizeof allowed);
  return move_to(core);
}

static void move_back(const unsigned char *before) {
  cpu_set_t allowed;
  memcpy(&allowed, before, sizeof allowed);
  sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
static void find_cores(int32_t n_threads, cff__places *places) {
  (void)n_threads;
  (void)places;
}

static bool move_to(int32_t core) {
  (void)core;
  return false;
}

static bool move_for_a_while(int32_t core, unsigned char *before) {
  (void)before;
  return move_to(core);
}

static void move_back(const unsigned char *before) { (void)before; }
#endif

cff_status cff__places_make(int32_t n_threads, cff__places *places) {
  memset(places, 0, sizeof *places);
  places->has_lock = pthread_mutex_init(&places->first, NULL) == 0;
  if (!places->has_lock) return cff__no_memory("a lock", sizeof places->first);
  find_cores(n_threads, places);
  return CFF_OK;
}

void cff__places_free(cff__places *places) {
  if (places->has_lock) pthread_mutex_destroy(&places->first);
  places->has_lock = false;
}

void cff__places_help(const cff__places *places, size_t helper) {
  if (helper + 1 < (size_t)places->n_cores) (void)move_to(places->cores[helper + 1]);
}

void cff__places_enter(cff__places *places, cff__stay *stay) {
  stay->is_moved = false;
  if (places->n_cores == 0 || pthread_mutex_trylock(&places->first) != 0) return;
  stay->is_moved = move_for_a_while(places->cores[0], stay->before);
  if (!stay->is_moved) pthread_mutex_unlock(&places->first);
}

void cff__places_leave(cff__places *places, const cff__stay *stay) {
  if (!stay->is_moved) return;
  move_back(stay->before);
  pthread_mutex_unlock(&places->first);
}

void cff__places_affinities(const cff__places *places, char text[CFF__AFFINITIES_SIZE]) {
  size_t n = 0;
  text[0] = '\0';
  for (int32_t i = 1; i < places->n_cores; i++)
    n += (size_t)snprintf(text + n, CFF__AFFINITIES_SIZE - n, "%s%d", i > 1 ? ";" : "",
                          (int)places->cores[i] + 1);
}
