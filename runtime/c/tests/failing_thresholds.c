/* Let every allocation behind a threshold fail once, one after the other: each call must say so,
 * leave the threshold as it was and nothing behind. Linked with --wrap=malloc,--wrap=calloc,
 * --wrap=realloc and built with the address sanitizer, which tells what was left. Exit status: 0
 * if all is well, else a line's number. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "thresholds.h"

#define N_MANY 3000 /* more scores than a block of the arena holds */

void *__real_malloc(size_t n_bytes);
void *__real_calloc(size_t n_items, size_t item_bytes);
void *__real_realloc(void *old, size_t n_bytes);
void *__wrap_malloc(size_t n_bytes);
void *__wrap_calloc(size_t n_items, size_t item_bytes);
void *__wrap_realloc(void *old, size_t n_bytes);

static int allowed = -1; /* allocations until one fails, -1 for none */

static bool fails(void) { return allowed >= 0 && allowed-- == 0; }

void *__wrap_malloc(size_t n_bytes) { return fails() ? NULL : __real_malloc(n_bytes); }

void *__wrap_calloc(size_t n_items, size_t item_bytes) {
  return fails() ? NULL : __real_calloc(n_items, item_bytes);
}

void *__wrap_realloc(void *old, size_t n_bytes) {
  return fails() ? NULL : __real_realloc(old, n_bytes);
}

static const double scores[] = {0.4, 0.5, 0.45}, peaks[] = {0.3, 0.4, 0.2};
static const double defects[] = {0.5, 0.9};
static const char *const hashes[] = {"aa", "bb", "cc"};
static double many[N_MANY];

static bool is_zero(const cff__threshold *threshold) {
  static const cff__threshold zero;
  return memcmp(threshold, &zero, sizeof zero) == 0;
}

/* 0, or 1 if the call did not fail as it must, or never came through. */
static int try_all(const cff__calibration *given) {
  for (int n = 0; n < 100; n++) {
    cff__arena arena = {NULL};
    cff__threshold threshold;
    memset(&threshold, 0, sizeof threshold);
    allowed = n;
    const cff_status status = cff__choose_threshold(given, &arena, &threshold);
    const bool failed = allowed < 0;
    const bool untouched = is_zero(&threshold);
    allowed = -1;
    cff__arena_free(&arena);
    if (!failed) return status != CFF_OK || untouched || n == 0;
    if (status != CFF_ERROR_MEMORY || !untouched || strlen(cff_last_error()) == 0) return 1;
  }
  return 1;
}

int main(void) {
  cff__calibration given = {.scores = {scores, 3}, .peaks = {scores, 3}, .n_parts = 2};
  given.margin = CFF__DEFAULT_MARGIN;
  given.confidence = CFF__DEFAULT_CONFIDENCE;
  if (try_all(&given)) return __LINE__;
  given.peaks = (cff__scores){peaks, 3}; /* with a score of the encoder */
  given.has_encoder_score = true;
  given.further = given.further_peaks = (cff__scores){peaks, 3};
  given.defects = (cff__scores){defects, 2};
  given.further_hashes = given.defective_hashes = hashes;
  given.max_false_reject = given.max_false_accept = 0.3;
  if (try_all(&given)) return __LINE__;
  for (int i = 0; i < N_MANY; i++) many[i] = 0.001 * i;
  given.scores = given.peaks = given.further = given.defects = (cff__scores){many, N_MANY};
  given.further_hashes = given.defective_hashes = NULL;
  if (try_all(&given)) return __LINE__;
  return 0;
}
