#include <math.h>
#include <stdlib.h>

#include "banks.h"
#include "session_state.h"
#include "status.h"

/* A chunk of a bank, to be compared with a stage's features. */
typedef struct job {
  size_t stage;
  const OrtValue *chunk;
} job;

/* A thread's own largest cosines of a stage. A graph must not write to its input, so the latest
 * result and the next one change places. */
typedef struct best {
  OrtValue *values[2]; /* [N_s] */
  int latest;
  bool begun;
} best;

typedef struct search {
  cff_session *session;
  const cff__encoding *encoding;
  job *jobs;
  size_t n_jobs;
  best *bests; /* [n_walkers,n_stages] */
  size_t n_walkers, n_stages;
} search;

static cff_status step(void *context, size_t walker, size_t number) {
  static const char *const input_names[3] = {"features", "bank", "best_so_far"};
  static const char *const output_name = "best";
  search *one = context;
  const cff_session *session = one->session;
  const size_t stage = one->jobs[number].stage;
  best *mine = &one->bests[walker * one->n_stages + stage];
  const int next = 1 - mine->latest;
  if (mine->values[next] == NULL) {
    const int64_t shape[1] = {(int64_t)cff__n_tokens(session, stage)};
    cff_status made = cff__make_tensor(session, shape, 1, &mine->values[next]);
    if (made != CFF_OK) return made;
  }
  const OrtValue *const inputs[3] = {
      one->encoding->features[stage], one->jobs[number].chunk,
      mine->begun ? mine->values[mine->latest] : session->start[stage]};
  cff_status done = cff__graph_run(&session->scorers[stage], input_names, inputs, 3, &output_name,
                                   &mine->values[next], 1);
  mine->latest = next;
  mine->begun = true;
  return done;
}

/* Stage by stage: the first have the most tokens, and the longest jobs should begin first. */
static cff_status list_jobs(search *one, const cff__banks *const *sets, size_t n_sets) {
  size_t n = 0;
  for (size_t set = 0; set < n_sets; set++)
    for (size_t stage = 0; stage < one->n_stages; stage++) n += sets[set]->n_chunks[stage];
  one->jobs = calloc(n > 0 ? n : 1, sizeof *one->jobs);
  if (one->jobs == NULL) return cff__no_memory("a search", n * sizeof *one->jobs);
  for (size_t stage = 0; stage < one->n_stages; stage++)
    for (size_t set = 0; set < n_sets; set++)
      for (size_t i = 0; i < sets[set]->n_chunks[stage]; i++)
        one->jobs[one->n_jobs++] = (job){stage, sets[set]->chunks[stage][i]};
  return CFF_OK;
}

/* values: of a tensor [N_s] on the device. scratch: room for N_s floats. */
static cff_status read_values(const cff_session *session, const OrtValue *values, size_t stage,
                              float *scratch, const float **floats) {
  const int64_t shape[1] = {(int64_t)cff__n_tokens(session, stage)};
  float *direct = NULL;
  OrtValue *wrapped = NULL;
  if (!cff__has_device(session)) {
    cff_status done = cff__tensor_floats(values, &direct);
    *floats = direct;
    return done;
  }
  *floats = scratch;
  cff_status done = cff__wrap_tensor(session, scratch, (size_t)shape[0] * sizeof *scratch,
                                     ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, shape, 1, &wrapped);
  if (done == CFF_OK) done = cff__copy_tensor(session, values, wrapped);
  cff__free_tensor(wrapped);
  return done;
}

/* As np.maximum, which keeps NaN. */
static void keep_larger(const float *values, size_t n, float *nearest) {
  for (size_t i = 0; i < n; i++)
    if (values[i] > nearest[i] || isnan(values[i])) nearest[i] = values[i];
}

static cff_status merge_stage(const search *one, size_t stage, float *scratch, float *nearest) {
  const size_t n = cff__n_tokens(one->session, stage);
  const float *floats = NULL;
  cff_status done = read_values(one->session, one->session->start[stage], stage, scratch, &floats);
  for (size_t i = 0; i < n && done == CFF_OK; i++) nearest[i] = floats[i];
  for (size_t walker = 0; walker < one->n_walkers && done == CFF_OK; walker++) {
    const best *other = &one->bests[walker * one->n_stages + stage];
    if (!other->begun) continue;
    done = read_values(one->session, other->values[other->latest], stage, scratch, &floats);
    if (done == CFF_OK) keep_larger(floats, n, nearest);
  }
  return done;
}

static cff_status merge(const search *one, float *const *nearest) {
  size_t largest = 1;
  for (size_t stage = 0; stage < one->n_stages; stage++) {
    size_t n = cff__n_tokens(one->session, stage);
    largest = n > largest ? n : largest;
  }
  float *scratch = malloc(largest * sizeof *scratch);
  if (scratch == NULL) return cff__no_memory("a search", largest * sizeof *scratch);
  cff_status done = CFF_OK;
  for (size_t stage = 0; stage < one->n_stages && done == CFF_OK; stage++)
    done = merge_stage(one, stage, scratch, nearest[stage]);
  free(scratch);
  return done;
}

cff_status cff__search(cff_session *session, const cff__encoding *encoding,
                       const cff__banks *const *sets, size_t n_sets, float *const *nearest) {
  search one = {session, encoding, NULL, 0, NULL, cff__walkers_count(session->walkers),
                session->bundle->manifest.n_scorers};
  cff__stay stay;
  const size_t n_bests = one.n_walkers * one.n_stages;
  if (one.n_stages == 0) return CFF_OK;
  cff_status done = list_jobs(&one, sets, n_sets);
  if (done == CFF_OK) {
    one.bests = calloc(n_bests, sizeof *one.bests);
    if (one.bests == NULL) done = cff__no_memory("a search", n_bests * sizeof *one.bests);
  }
  if (done == CFF_OK) {
    cff__places_enter(&session->places, &stay);
    done = cff__walk(session->walkers, one.n_jobs, step, &one);
    cff__places_leave(&session->places, &stay);
  }
  if (done == CFF_OK) done = merge(&one, nearest);
  for (size_t i = 0; i < n_bests && one.bests != NULL; i++) {
    cff__free_tensor(one.bests[i].values[0]);
    cff__free_tensor(one.bests[i].values[1]);
  }
  free(one.bests);
  free(one.jobs);
  return done;
}
