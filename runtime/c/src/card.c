#include "card.h"

#include <math.h>
#include <string.h>

#include "json_writer.h"
#include "status.h"

static const char EXCHANGEABLE[] =
    "later good parts are made, lit and taken like those behind this threshold; a new batch, lamp "
    "or lens is not covered";
static const char LEFT_OUT[] =
    "references are scored against the other references, which makes the bound pessimistic; it "
    "holds for the mean over enrolments and for a memory bank that was not compressed";
static const char SUM_APART[] =
    "the encoder's score and the map are bounded each by itself, which doubles the bound until it "
    "rests on further good parts";
static const char SAME_PROFILE[] =
    "further parts are scored with this memory bank and are in it neither now nor later; after a "
    "change of the bank they must be scored again";
static const char DEFECTS_ALIKE[] =
    "later defects are like those shown; of kinds that were not shown nothing is promised";

static void put_count(cff__json_writer *out, const char *key, size_t n) {
  cff__json_put_key(out, key);
  cff__json_put_integer(out, (int64_t)n);
}

static void put_number(cff__json_writer *out, const char *key, double number, bool is_there) {
  cff__json_put_key(out, key);
  if (is_there) cff__json_put_double(out, number);
  else cff__json_put_source(out, "null", 4);
}

static void put_scores(cff__json_writer *out, const char *key, const double *values, size_t n) {
  cff__json_put_key(out, key);
  cff__json_open(out, '[');
  for (size_t i = 0; i < n; i++) cff__json_put_double(out, values[i]);
  cff__json_close(out, ']');
}

static void put_hashes(cff__json_writer *out, const char *key, const char *const *hashes,
                       size_t n) {
  cff__json_put_key(out, key);
  cff__json_open(out, '[');
  for (size_t i = 0; hashes != NULL && i < n; i++) cff__json_put_text(out, hashes[i]);
  cff__json_close(out, ']');
}

static void put_evidence(cff__json_writer *out, const cff__calibration *given) {
  const size_t n_left_out = given->n_parts > 1 ? (size_t)given->n_parts : 0;
  const size_t n_augmentations = given->scores.n - n_left_out;
  cff__json_put_key(out, "n");
  cff__json_open(out, '{');
  put_count(out, "references", (size_t)given->n_parts); /* also where none could be left out */
  put_count(out, "augmentations", n_augmentations);
  put_count(out, "further", given->further.n);
  put_count(out, "defective", given->defects.n);
  cff__json_close(out, '}');
  cff__json_put_key(out, "scores");
  cff__json_open(out, '{');
  put_scores(out, "references", given->scores.values, n_left_out);
  put_scores(out, "augmentations", given->scores.values + n_left_out, n_augmentations);
  put_scores(out, "further", given->further.values, given->further.n);
  put_scores(out, "defective", given->defects.values, given->defects.n);
  if (!cff__scores_are_maxima(given))
    put_scores(out, "further_peaks", given->further_peaks.values, given->further_peaks.n);
  cff__json_close(out, '}');
  cff__json_put_key(out, "score");
  cff__json_put_text(out, cff__scores_are_maxima(given) ? "maximum"
                          : cff__scores_are_sums(given) ? "sum"
                                                        : "map");
  cff__json_put_key(out, "data");
  cff__json_open(out, '{');
  put_hashes(out, "further", given->further_hashes, given->further.n);
  put_hashes(out, "defective", given->defective_hashes, given->defects.n);
  cff__json_close(out, '}');
}

static void put_promises(cff__json_writer *out, const cff__calibration *given,
                         const cff__risk *risk) {
  cff__json_put_key(out, "wishes");
  cff__json_open(out, '{');
  put_number(out, "max_false_reject", given->max_false_reject, given->max_false_reject != 0.0);
  put_number(out, "max_false_accept", given->max_false_accept, given->max_false_accept != 0.0);
  put_number(out, "confidence", given->confidence, true);
  put_number(out, "margin", given->margin, true);
  cff__json_close(out, '}');
  cff__json_put_key(out, "risk");
  cff__json_open(out, '{');
  put_number(out, "expected_false_rejects", risk->expected_false_rejects, true);
  put_number(out, "false_rejects", risk->false_rejects, !isnan(risk->false_rejects));
  put_number(out, "false_accepts", risk->false_accepts, !isnan(risk->false_accepts));
  cff__json_put_key(out, "supported");
  cff__json_put_bool(out, risk->supported);
  cff__json_close(out, '}');
}

static void put_assumptions(cff__json_writer *out, const cff__calibration *given,
                            const cff__risk *risk) {
  cff__json_put_key(out, "assumptions");
  cff__json_open(out, '[');
  cff__json_put_text(out, EXCHANGEABLE);
  if (given->further.n > 0) {
    cff__json_put_text(out, SAME_PROFILE);
  } else if (given->n_parts > 1) {
    cff__json_put_text(out, LEFT_OUT);
    if (cff__scores_are_sums(given)) cff__json_put_text(out, SUM_APART);
  }
  if (!isnan(risk->false_accepts)) cff__json_put_text(out, DEFECTS_ALIKE);
  cff__json_close(out, ']');
}

cff_status cff__make_card(const cff__calibration *given, const char *method,
                          const cff__risk *risk, cff__arena *arena, const char **card) {
  cff__json_writer out = {0};
  char now[CFF__TIME_SIZE];
  cff__now_utc(now);
  cff__json_open(&out, '{');
  cff__json_put_key(&out, "date");
  cff__json_put_text(&out, given->at != NULL && given->at[0] != '\0' ? given->at : now);
  cff__json_put_key(&out, "method");
  cff__json_put_text(&out, method);
  put_evidence(&out, given);
  put_promises(&out, given, risk);
  put_assumptions(&out, given, risk);
  cff__json_close(&out, '}');
  cff_status done = cff__json_check(&out);
  if (done == CFF_OK) {
    *card = cff__arena_text(arena, out.text, out.n_bytes);
    if (*card == NULL) done = cff__no_memory("a calibration card", out.n_bytes);
  }
  cff__json_free(&out);
  return done;
}
