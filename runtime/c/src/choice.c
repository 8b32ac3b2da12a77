/* Each side, false rejects and false accepts, has a limit, a bound and a sentence; a threshold is
 * put together from both. Numbers and words follow `thresholds.choice` of the Python runtime. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "card.h"
#include "json_writer.h"
#include "rule.h"
#include "statement.h"
#include "status.h"
#include "thresholds.h"

/* One limit: the score, what it promises, and whether that is what was wished. */
typedef struct side {
  double limit, expected, bound; /* NaN for no bound */
  bool supported;
  int64_t rank;
} side;

static int compare_doubles(const void *left, const void *right) {
  const double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

/* The rank-th smallest of some values, 1 <= rank <= n. */
static cff_status rank_smallest(cff__scores scores, size_t rank, double *value) {
  double *sorted =
      scores.n <= SIZE_MAX / sizeof *sorted ? malloc(scores.n * sizeof *sorted) : NULL;
  if (sorted == NULL) return cff__no_memory("sorted scores", scores.n * sizeof *sorted);
  memcpy(sorted, scores.values, scores.n * sizeof *sorted);
  qsort(sorted, scores.n, sizeof *sorted, compare_doubles);
  *value = sorted[rank - 1];
  free(sorted);
  return CFF_OK;
}

static cff_status rank_largest(cff__scores scores, int64_t rank, double *value) {
  return rank_smallest(scores, scores.n + 1 - (size_t)rank, value);
}

/* `reject` comes with the limit of the references and its expected false rejects. */
static void from_references(const cff__calibration *given, side *reject, cff__statement *said) {
  const double wish = given->max_false_reject;
  char percent[CFF__PERCENT_SIZE];
  if (given->n_parts > 1) {
    cff__percent(reject->expected, percent);
    cff__say(said,
             "expected false rejects <= %s: the most that %lld good parts can promise, if the "
             "next ones are made and lit alike; more parts tighten it",
             percent, (long long)given->n_parts);
  } else {
    cff__say(said, "one good part supports no promise about false rejects; enrol at least two");
  }
  reject->supported = wish == 0.0;
  if (reject->supported) return;
  cff__say(said, ". ");
  cff__say_bound(said, "False rejects", wish, given->confidence);
  cff__say(said, " need ");
  cff__say_needed(said, wish, given->confidence);
  cff__say(said, " further good parts that are not references, got none");
}

static void say_further(const cff__calibration *given, const side *reject, cff__statement *said) {
  const int64_t n = (int64_t)given->further.n;
  const double wish = given->max_false_reject, confidence = given->confidence;
  char percent[CFF__PERCENT_SIZE];
  cff__say_bound(said, "false rejects", reject->bound, confidence);
  cff__say(said, " from ");
  cff__say_count(said, n, "good");
  cff__percent(reject->expected, percent);
  cff__say(said, " beside the references (expected: <= %s)", percent);
  if (!reject->supported) {
    cff__say_unsupported(said, wish, n, confidence);
  } else if (reject->rank > 1) {
    cff__percent(cff__upper_share(0, n, confidence), percent);
    cff__say(said, "; a higher threshold could promise <= %s", percent);
  } else {
    const int64_t more = cff__parts_needed(reject->bound / 2.0, confidence) - n;
    cff__say(said, "; %lld more would halve it", (long long)more);
  }
}

/* `reject` as for from_references. */
static cff_status from_further(const cff__calibration *given, side *reject, cff__statement *said) {
  const int64_t n = (int64_t)given->further.n;
  const double wish = given->max_false_reject;
  const side of_references = *reject;
  int64_t rank = wish == 0.0 ? 1 : cff__largest_rank(n, wish, given->confidence);
  reject->supported = rank > 0;
  rank = rank > 0 ? rank : 1;
  cff_status done = rank_largest(given->further, rank, &reject->limit);
  if (done != CFF_OK) return done;
  reject->rank = rank;
  reject->expected = (double)rank / ((double)n + 1.0);
  reject->bound = cff__upper_share(rank - 1, n, given->confidence);
  if (n < given->n_parts && (wish == 0.0 || !reject->supported)) { /* both rules */
    reject->limit = fmax(reject->limit, of_references.limit);
    reject->expected = fmin(reject->expected, of_references.expected);
  }
  say_further(given, reject, said);
  return CFF_OK;
}

static cff_status from_defects(const cff__calibration *given, side *accept, cff__statement *said) {
  const int64_t n = (int64_t)given->defects.n;
  const double wish = given->max_false_accept;
  const int64_t rank = cff__largest_rank(n, wish, given->confidence);
  accept->supported = rank > 0;
  accept->rank = rank > 0 ? rank : 1;
  double lowest = 0.0;
  cff_status done = rank_smallest(given->defects, (size_t)accept->rank, &lowest);
  if (done != CFF_OK) return done;
  accept->limit = nextafter(lowest, -HUGE_VAL); /* that part itself is rejected */
  accept->bound = cff__upper_share(accept->rank - 1, n, given->confidence);
  cff__say_bound(said, "False accepts", accept->bound, given->confidence);
  cff__say(said, " from ");
  cff__say_count(said, n, "defective");
  if (!accept->supported) cff__say_unsupported(said, wish, n, given->confidence);
  return CFF_OK;
}

static int64_t count_between(cff__scores scores, double low, double high) {
  int64_t n = 0;
  for (size_t i = 0; i < scores.n; i++) n += low < scores.values[i] && scores.values[i] <= high;
  return n;
}

/* Threshold and review threshold where both sides have a limit. */
static void combine(const cff__calibration *given, const side *reject, const side *accept,
                    cff__threshold *chosen, cff__statement *said) {
  if (accept->limit >= reject->limit) { /* only a wish for few false rejects lets it rise */
    chosen->value = given->max_false_reject != 0.0 ? 0.5 * (reject->limit + accept->limit)
                                                   : reject->limit;
    chosen->review = chosen->value;
    return;
  }
  const cff__scores left_out = {given->scores.values,
                                given->n_parts > 1 ? (size_t)given->n_parts : 0};
  const cff__scores good = given->further.n > 0 ? given->further : left_out;
  chosen->value = reject->limit;
  chosen->review = accept->limit;
  cff__say(said, ". No single threshold keeps both: parts between are for review, of those shown ");
  cff__say_count(said, count_between(good, accept->limit, reject->limit), "good");
  cff__say(said, " and %lld defective",
           (long long)count_between(given->defects, accept->limit, reject->limit));
}

bool cff__scores_are_maxima(const cff__calibration *given) {
  for (size_t i = 0; i < given->scores.n; i++)
    if (given->scores.values[i] != given->peaks.values[i]) return false;
  return true;
}

bool cff__scores_are_sums(const cff__calibration *given) {
  return given->has_encoder_score && !cff__scores_are_maxima(given);
}

static side limit_of_references(const cff__calibration *given) {
  const int64_t n = given->n_parts;
  side low = {cff__default_limit(given->scores, n, given->margin), 1.0, NAN, true, 1};
  if (n == 1) return low;
  low.expected = (cff__scores_are_sums(given) ? 2.0 : 1.0) / ((double)n + 1.0);
  if (cff__scores_are_sums(given)) {
    const cff__scores scores = {given->scores.values, (size_t)n};
    const cff__scores peaks = {given->peaks.values, (size_t)n};
    low.limit = fmax(low.limit, cff__text_apart_limit(scores, peaks, given->peaks));
  }
  return low;
}

static cff_status set_pixel_value(const cff__calibration *given, int64_t rank,
                                  cff__threshold *chosen) {
  const int64_t n_peaks = (int64_t)given->further_peaks.n;
  chosen->pixel_value = chosen->review;
  if (cff__scores_are_maxima(given)) return CFF_OK;
  if (n_peaks > 0)
    return rank_largest(given->further_peaks, rank < n_peaks ? rank : n_peaks,
                        &chosen->pixel_value);
  chosen->pixel_value = cff__default_limit(given->peaks, given->n_parts, given->margin);
  return CFF_OK;
}

/* A number as Python writes it, also where it is none. */
static void describe(double number, char text[CFF__DOUBLE_SIZE]) {
  if (isfinite(number)) cff__format_double(number, text);
  else strcpy(text, isnan(number) ? "nan" : number > 0.0 ? "inf" : "-inf");
}

static cff_status require_share(const char *name, double share) {
  char text[CFF__DOUBLE_SIZE];
  if (share > 0.0 && share < 1.0) return CFF_OK;
  describe(share, text);
  return cff__fail(CFF_ERROR_USAGE, "`%s` must be above 0 and below 1, got %s; 1 %% is 0.01", name,
                   text);
}

cff_status cff__check_wishes(double margin, double max_false_reject, double max_false_accept,
                             double confidence, size_t n_defects) {
  char text[CFF__DOUBLE_SIZE];
  if (!(margin >= 0.0 && margin <= CFF__MAX_MARGIN)) {
    describe(margin, text);
    return cff__fail(CFF_ERROR_USAGE, "`margin` must be 0 to %g, got %s",
                     CFF__MAX_MARGIN, text);
  }
  cff_status done = CFF_OK;
  if (max_false_reject != 0.0) done = require_share("max_false_reject", max_false_reject);
  if (done == CFF_OK && max_false_accept != 0.0)
    done = require_share("max_false_accept", max_false_accept);
  if (done == CFF_OK) done = require_share("confidence", confidence);
  if (done == CFF_OK && max_false_accept != 0.0 && n_defects == 0)
    done = cff__fail(CFF_ERROR_USAGE, "`max_false_accept` must come with defective parts, got "
                                      "none; give their images as `defects`");
  return done;
}

static cff_status require_finite(const char *name, cff__scores scores) {
  char text[CFF__DOUBLE_SIZE];
  for (size_t i = 0; i < scores.n; i++) {
    if (isfinite(scores.values[i])) continue;
    describe(scores.values[i], text);
    return cff__fail(CFF_ERROR_BACKEND, "`%s` must be finite, got %s; run `cff-run verify`", name,
                     text);
  }
  return CFF_OK;
}

static cff_status check_given(const cff__calibration *given) {
  cff_status done = require_finite("scores", given->scores);
  if (done == CFF_OK) done = require_finite("peaks", given->peaks);
  if (done == CFF_OK) done = require_finite("further", given->further);
  if (done == CFF_OK) done = require_finite("further_peaks", given->further_peaks);
  if (done == CFF_OK) done = require_finite("defects", given->defects);
  if (done != CFF_OK) return done;
  if (given->scores.n == 0 || given->peaks.n != given->scores.n)
    return cff__fail(CFF_ERROR_USAGE,
                     "`scores` and `peaks` must hold as many good parts, at least one, got %llu "
                     "and %llu",
                     (unsigned long long)given->scores.n, (unsigned long long)given->peaks.n);
  if (given->n_parts < 1 || (uint64_t)given->n_parts > given->scores.n)
    return cff__fail(CFF_ERROR_USAGE, "`n_parts` must be 1 to the %llu scores, got %lld",
                     (unsigned long long)given->scores.n, (long long)given->n_parts);
  return cff__check_wishes(given->margin, given->max_false_reject, given->max_false_accept,
                           given->confidence, given->defects.n);
}

static cff_status keep_scores(cff__scores scores, cff__arena *arena, double **kept, size_t *n) {
  *kept = cff__arena_alloc(arena, scores.n, sizeof **kept);
  if (*kept == NULL) return cff__no_memory("scores", scores.n * sizeof **kept);
  memcpy(*kept, scores.values, scores.n * sizeof **kept);
  *n = scores.n;
  return CFF_OK;
}

static cff_status keep(const cff__calibration *given, const cff__statement *said, cff__arena *arena,
                       cff__threshold *chosen) {
  chosen->n_parts = given->n_parts;
  chosen->statement = cff__arena_text(arena, said->text, said->n_bytes);
  if (chosen->statement == NULL) return cff__no_memory("a statement", said->n_bytes);
  cff_status done = keep_scores(given->scores, arena, &chosen->scores, &chosen->n_scores);
  if (done == CFF_OK) done = keep_scores(given->peaks, arena, &chosen->peaks, &chosen->n_peaks);
  return done;
}

/* Decide on values and words. */
static cff_status decide(const cff__calibration *given, cff__threshold *chosen, cff__risk *risk,
                         cff__statement *said) {
  side reject = limit_of_references(given);
  side accept = {0.0, 1.0, NAN, true, 1};
  cff_status done = CFF_OK;
  if (given->further.n > 0) done = from_further(given, &reject, said);
  else from_references(given, &reject, said);
  if (done != CFF_OK) return done;
  chosen->value = chosen->review = reject.limit;
  if (given->max_false_accept != 0.0) {
    cff__say(said, ". ");
    done = from_defects(given, &accept, said);
    if (done == CFF_OK) combine(given, &reject, &accept, chosen, said);
  }
  if (done == CFF_OK) done = set_pixel_value(given, reject.rank, chosen);
  if (done != CFF_OK) return done;
  if (!isfinite(chosen->value) || !isfinite(chosen->review) || !isfinite(chosen->pixel_value))
    return cff__fail(CFF_ERROR_USAGE, "thresholds must be finite, got one that is not; give a "
                                      "smaller `margin`");
  chosen->expected_false_rejects = reject.expected;
  *risk = (cff__risk){reject.expected, reject.bound, accept.bound,
                      reject.supported && accept.supported};
  return CFF_OK;
}

cff_status cff__choose_threshold(const cff__calibration *given, cff__arena *arena,
                                 cff__threshold *threshold) {
  cff_status done = check_given(given);
  if (done != CFF_OK) return done;
  cff__threshold chosen = {0};
  cff__risk risk;
  cff__statement said = {0};
  done = decide(given, &chosen, &risk, &said);
  if (done != CFF_OK) return done;
  chosen.method = given->further.n > 0  ? "further-parts"
                  : given->n_parts > 1 ? "leave-one-image-out"
                                       : "self-augmentation";
  done = cff__make_card(given, chosen.method, &risk, arena, &chosen.card);
  if (done == CFF_OK) done = keep(given, &said, arena, &chosen);
  if (done == CFF_OK) *threshold = chosen;
  return done;
}
