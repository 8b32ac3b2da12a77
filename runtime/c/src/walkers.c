#define _POSIX_C_SOURCE 200809L

#include "walkers.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "status.h"

#define MAX_SENTENCE 1024

/* Lives on its caller's stack; all fields but the first three are guarded by the lock. */
typedef struct walk {
  cff__step step;
  void *context;
  size_t n_jobs;
  size_t n_taken;  /* jobs */
  size_t n_joined; /* threads that ever took part: the next one's number */
  size_t n_inside; /* threads at work, without the caller */
  cff_status status;
  char sentence[MAX_SENTENCE]; /* of the first failure */
  struct walk *next;
} walk;

struct cff__walkers {
  pthread_mutex_t lock;
  pthread_cond_t work; /* there is a walk, or the end */
  pthread_cond_t left; /* a thread has left a walk */
  walk *walks;
  bool ends;
  const cff__places *places;
  size_t n_placed; /* helpers that have a core */
  size_t n_helpers;
  pthread_t helpers[];
};

/* The lock is held. */
static bool has_work(const walk *one) {
  return one->status == CFF_OK && one->n_taken < one->n_jobs;
}

/* The lock is held, and given up while a job is done. */
static void take_jobs(cff__walkers *walkers, walk *one, size_t number) {
  while (has_work(one)) {
    size_t job = one->n_taken++;
    pthread_mutex_unlock(&walkers->lock);
    cff_status done = one->step(one->context, number, job);
    pthread_mutex_lock(&walkers->lock);
    if (done != CFF_OK && one->status == CFF_OK) {
      one->status = done;
      strncpy(one->sentence, cff_last_error(), sizeof one->sentence - 1);
    }
  }
}

/* The lock is held. */
static walk *find_work(const cff__walkers *walkers) {
  walk *one = walkers->walks;
  while (one != NULL && !has_work(one)) one = one->next;
  return one;
}

static void *help(void *argument) {
  cff__walkers *walkers = argument;
  pthread_mutex_lock(&walkers->lock);
  if (walkers->places != NULL) cff__places_help(walkers->places, walkers->n_placed++);
  while (!walkers->ends) {
    walk *one = find_work(walkers);
    if (one == NULL) {
      pthread_cond_wait(&walkers->work, &walkers->lock);
      continue;
    }
    one->n_inside++;
    take_jobs(walkers, one, one->n_joined++);
    one->n_inside--;
    pthread_cond_broadcast(&walkers->left);
  }
  pthread_mutex_unlock(&walkers->lock);
  return NULL;
}

/* The helpers take no signals: those are the program's own business. */
static bool start_helpers(cff__walkers *walkers, size_t n_helpers) {
  sigset_t all, before;
  sigfillset(&all);
  if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0) return false;
  bool started = true;
  while (started && walkers->n_helpers < n_helpers) {
    started = pthread_create(&walkers->helpers[walkers->n_helpers], NULL, help, walkers) == 0;
    if (started) walkers->n_helpers++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return started;
}

cff_status cff__walkers_start(int32_t n_threads, const cff__places *places,
                              cff__walkers **walkers) {
  *walkers = NULL;
  size_t n_helpers = n_threads > 1 ? (size_t)n_threads - 1 : 0;
  size_t n_bytes = sizeof(cff__walkers) + n_helpers * sizeof(pthread_t);
  cff__walkers *made = calloc(1, n_bytes);
  if (made == NULL) return cff__no_memory("threads", n_bytes);
  made->places = places;
  if (pthread_mutex_init(&made->lock, NULL) != 0) goto no_lock;
  if (pthread_cond_init(&made->work, NULL) != 0) goto no_work;
  if (pthread_cond_init(&made->left, NULL) != 0) goto no_left;
  if (!start_helpers(made, n_helpers)) {
    cff__walkers_stop(made);
    return cff__fail(CFF_ERROR_MEMORY,
                     "%d threads must start, the system gave fewer; ask for a smaller `n_threads`",
                     (int)n_threads - 1);
  }
  *walkers = made;
  return CFF_OK;
no_left:
  pthread_cond_destroy(&made->work);
no_work:
  pthread_mutex_destroy(&made->lock);
no_lock:
  free(made);
  return cff__no_memory("a lock", sizeof made->lock);
}

void cff__walkers_stop(cff__walkers *walkers) {
  if (walkers == NULL) return;
  pthread_mutex_lock(&walkers->lock);
  walkers->ends = true;
  pthread_cond_broadcast(&walkers->work);
  pthread_mutex_unlock(&walkers->lock);
  for (size_t i = 0; i < walkers->n_helpers; i++) pthread_join(walkers->helpers[i], NULL);
  pthread_cond_destroy(&walkers->left);
  pthread_cond_destroy(&walkers->work);
  pthread_mutex_destroy(&walkers->lock);
  free(walkers);
}

size_t cff__walkers_count(const cff__walkers *walkers) { return walkers->n_helpers + 1; }

/* The lock is held. */
static void remove_walk(cff__walkers *walkers, const walk *one) {
  walk **at = &walkers->walks;
  while (*at != one) at = &(*at)->next;
  *at = one->next;
}

/* The lock is held. Behind those that wait already. */
static void add_walk(cff__walkers *walkers, walk *one) {
  walk **at = &walkers->walks;
  while (*at != NULL) at = &(*at)->next;
  *at = one;
  size_t n_wanted = one->n_jobs < walkers->n_helpers + 1 ? one->n_jobs : walkers->n_helpers + 1;
  for (size_t i = 1; i < n_wanted; i++) pthread_cond_signal(&walkers->work);
}

cff_status cff__walk(cff__walkers *walkers, size_t n_jobs, cff__step step, void *context) {
  walk one = {step, context, n_jobs, 0, 1, 0, CFF_OK, "", NULL};
  pthread_mutex_lock(&walkers->lock);
  add_walk(walkers, &one);
  take_jobs(walkers, &one, 0);
  remove_walk(walkers, &one);
  while (one.n_inside > 0) pthread_cond_wait(&walkers->left, &walkers->lock);
  pthread_mutex_unlock(&walkers->lock);
  return one.status == CFF_OK ? CFF_OK : cff__fail(one.status, "%s", one.sentence);
}
