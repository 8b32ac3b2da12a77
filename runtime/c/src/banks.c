#define _POSIX_C_SOURCE 200809L

#include "banks.h"

#include <stdlib.h>

#include "profile.h"
#include "session_state.h"
#include "status.h"

#define FLOAT ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT

/* A tensor around rows, or of their copy on the device. */
static cff_status make_chunk(cff_session *session, const float *rows, int64_t n_rows, int64_t width,
                             OrtValue **chunk) {
  const int64_t shape[2] = {n_rows, width};
  const size_t n_bytes = (size_t)n_rows * (size_t)width * sizeof *rows;
  OrtValue *wrapped = NULL;
  cff_status done = cff__wrap_tensor(session, rows, n_bytes, FLOAT, shape, 2, &wrapped);
  if (done != CFF_OK || !cff__has_device(session)) {
    *chunk = wrapped;
    return done;
  }
  done = cff__make_tensor(session, shape, 2, chunk);
  if (done == CFF_OK) done = cff__copy_tensor(session, wrapped, *chunk);
  cff__free_tensor(wrapped);
  return done;
}

static cff_status make_stage(cff_session *session, const float *rows, int64_t n_rows, size_t stage,
                             cff__banks *banks) {
  const int64_t width = session->bundle->manifest.stages[stage].width;
  const int64_t most = session->chunk_rows;
  const size_t n_chunks = (size_t)(n_rows / most + (n_rows % most != 0));
  cff_status done = CFF_OK;
  banks->chunks[stage] = calloc(n_chunks > 0 ? n_chunks : 1, sizeof **banks->chunks);
  if (banks->chunks[stage] == NULL)
    return cff__no_memory("a memory bank", n_chunks * sizeof **banks->chunks);
  for (int64_t start = 0; start < n_rows && done == CFF_OK; start += most) {
    const int64_t n = n_rows - start < most ? n_rows - start : most;
    OrtValue **chunk = &banks->chunks[stage][banks->n_chunks[stage]++];
    done = make_chunk(session, rows + start * width, n, width, chunk);
  }
  return done;
}

cff_status cff__banks_make(cff_session *session, const float *const *rows, const int64_t *n_rows,
                           cff__banks **banks) {
  *banks = NULL;
  cff__banks *made = calloc(1, sizeof *made);
  if (made == NULL) return cff__no_memory("memory banks", sizeof *made);
  cff_status done = CFF_OK;
  for (size_t s = 0; s < session->bundle->manifest.n_scorers && done == CFF_OK; s++)
    done = make_stage(session, rows[s], n_rows[s], s, made);
  if (done == CFF_OK) *banks = made;
  else cff__banks_free(session, made);
  return done;
}

void cff__banks_free(cff_session *session, cff__banks *banks) {
  (void)session;
  if (banks == NULL) return;
  for (size_t stage = 0; stage < CFF__MAX_STAGES; stage++) {
    for (size_t i = 0; i < banks->n_chunks[stage]; i++) cff__free_tensor(banks->chunks[stage][i]);
    free(banks->chunks[stage]);
  }
  free(banks);
}

static cff_status make_of_profile(cff_session *session, const cff_profile *profile,
                                  cff__banks **banks) {
  const float *rows[CFF__MAX_STAGES] = {NULL};
  int64_t n_rows[CFF__MAX_STAGES] = {0};
  for (size_t stage = 0; stage < profile->n_banks; stage++) {
    rows[stage] = profile->banks[stage].values;
    n_rows[stage] = profile->banks[stage].n_rows;
  }
  return cff__banks_make(session, rows, n_rows, banks);
}

/* The lock is held. */
static cff__kept_banks *find_kept(const cff_session *session, const cff_profile *profile) {
  cff__kept_banks *kept = session->kept;
  while (kept != NULL && (kept->forgotten || kept->serial != profile->serial)) kept = kept->next;
  return kept;
}

/* The lock is held. */
static void drop_kept(cff_session *session, cff__kept_banks *kept) {
  cff__kept_banks **at = &session->kept;
  while (*at != kept) at = &(*at)->next;
  *at = kept->next;
  cff__banks_free(session, kept->banks);
  free(kept);
}

/* The lock is held: who comes meanwhile would only upload the same once more. */
static cff_status keep_banks(cff_session *session, const cff_profile *profile,
                             cff__kept_banks **kept) {
  cff__kept_banks *made = calloc(1, sizeof *made);
  if (made == NULL) return cff__no_memory("memory banks", sizeof *made);
  cff_status done = make_of_profile(session, profile, &made->banks);
  if (done != CFF_OK) {
    free(made);
    return done;
  }
  made->serial = profile->serial;
  made->next = session->kept;
  *kept = session->kept = made;
  return CFF_OK;
}

cff_status cff__banks_take(cff_session *session, const cff_profile *profile, cff__banks **banks) {
  if (!cff__has_device(session)) return make_of_profile(session, profile, banks);
  cff_status done = CFF_OK;
  pthread_mutex_lock(&session->lock);
  cff__kept_banks *kept = find_kept(session, profile);
  if (kept == NULL) done = keep_banks(session, profile, &kept);
  if (done == CFF_OK) {
    kept->n_users++;
    *banks = kept->banks;
  }
  pthread_mutex_unlock(&session->lock);
  return done;
}

void cff__banks_give(cff_session *session, cff__banks *banks) {
  if (!cff__has_device(session)) {
    cff__banks_free(session, banks);
    return;
  }
  pthread_mutex_lock(&session->lock);
  cff__kept_banks *kept = session->kept;
  while (kept->banks != banks) kept = kept->next;
  if (--kept->n_users == 0 && kept->forgotten) drop_kept(session, kept);
  pthread_mutex_unlock(&session->lock);
}

cff_status cff_session_forget(cff_session *session, const cff_profile *profile) {
  if (session == NULL || profile == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`session` and `profile` must be given, got NULL");
  pthread_mutex_lock(&session->lock);
  cff__kept_banks *kept = find_kept(session, profile);
  if (kept != NULL) {
    kept->forgotten = true;
    if (kept->n_users == 0) drop_kept(session, kept);
  }
  pthread_mutex_unlock(&session->lock);
  return CFF_OK;
}

void cff__kept_banks_free(cff_session *session) {
  while (session->kept != NULL) drop_kept(session, session->kept);
}
