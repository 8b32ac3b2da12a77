/* Eight callers share four threads, to be run under a sanitizer. Some walks fail. */
#define _POSIX_C_SOURCE 200809L

#include "walkers.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "status.h"

#define N_CALLERS 8
#define N_WALKS 25
#define N_JOBS 20
#define N_THREADS 4

typedef struct caller {
  cff__walkers *walkers;
  pthread_t thread;
  size_t per_walker[N_THREADS]; /* no lock: no two threads have one number */
  size_t done[N_JOBS];
  int n_wrong;
} caller;

static cff_status step(void *context, size_t walker, size_t job) {
  caller *one = context;
  one->per_walker[walker]++;
  one->done[job]++;
  return CFF_OK;
}

static cff_status fail(void *context, size_t walker, size_t job) {
  (void)context, (void)walker;
  return job == 3 ? cff__fail(CFF_ERROR_BACKEND, "job 3") : CFF_OK;
}

static void *call(void *argument) {
  caller *one = argument;
  for (int i = 0; i < N_WALKS; i++) {
    if (cff__walk(one->walkers, N_JOBS, step, one) != CFF_OK) one->n_wrong++;
    if (cff__walk(one->walkers, N_JOBS, fail, one) != CFF_ERROR_BACKEND) one->n_wrong++;
    if (strcmp(cff_last_error(), "job 3") != 0) one->n_wrong++;
  }
  return NULL;
}

int main(void) {
  static caller callers[N_CALLERS];
  cff__walkers *walkers = NULL;
  size_t n_jobs = 0;
  int n_wrong = 0;
  if (cff__walkers_start(N_THREADS, &walkers) != CFF_OK) return 2;
  for (size_t i = 0; i < N_CALLERS; i++) {
    callers[i].walkers = walkers;
    if (pthread_create(&callers[i].thread, NULL, call, &callers[i]) != 0) return 2;
  }
  for (size_t i = 0; i < N_CALLERS; i++) {
    pthread_join(callers[i].thread, NULL);
    n_wrong += callers[i].n_wrong;
    for (size_t job = 0; job < N_JOBS; job++)
      if (callers[i].done[job] != N_WALKS) n_wrong++;
    for (size_t walker = 0; walker < N_THREADS; walker++) n_jobs += callers[i].per_walker[walker];
  }
  cff__walkers_stop(walkers);
  printf("%d jobs\n", (int)n_jobs);
  return n_wrong == 0 ? 0 : 1;
}
