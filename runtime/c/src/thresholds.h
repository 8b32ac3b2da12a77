/* Choosing the thresholds of a profile, and saying what they promise: the numbers and the words of
 * the Python runtime's `thresholds`. */
#ifndef CFF__THRESHOLDS_H
#define CFF__THRESHOLDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "cff.h"
#include "profile.h"

#define CFF__DEFAULT_MARGIN 0.2
#define CFF__MAX_MARGIN 100.0 /* beyond it every part would pass */
#define CFF__DEFAULT_CONFIDENCE 0.95

typedef struct cff__scores {
  const double *values;
  size_t n;
} cff__scores;

/* What a threshold is set from. */
typedef struct cff__calibration {
  cff__scores scores; /* of the references left out (K > 1), then of the augmentations */
  cff__scores peaks;  /* their maps' maxima, as many; equal where they are the scores */
  int64_t n_parts;    /* K, at most as many as scores */
  double margin;
  cff__scores further, further_peaks;  /* good parts that are not in the memory bank */
  cff__scores defects;                 /* defective parts */
  const char *const *further_hashes;   /* sha256 of their preprocessed pixels, as many; or NULL */
  const char *const *defective_hashes;
  double max_false_reject, max_false_accept; /* wishes; 0 for none */
  double confidence;
  const char *at;         /* date of the card; NULL for now */
  bool has_encoder_score; /* scores that are not the maxima have the encoder's in them */
} cff__calibration;

/* CFF_ERROR_USAGE if a wish, the margin or the confidence cannot be meant, also before any image
 * is encoded. Sentences name the fields of cff_enroll_options. */
cff_status cff__check_wishes(double margin, double max_false_reject, double max_false_accept,
                             double confidence, size_t n_defects);

/* Set the thresholds. All texts and lists of `threshold` live in the arena or as long as the
 * library; on failure it stays as it was. CFF_ERROR_BACKEND if a score is not finite. */
cff_status cff__choose_threshold(const cff__calibration *given, cff__arena *arena,
                                 cff__threshold *threshold);

/* "2026-11-22T11:34:21+00:00": the time in UTC to the second. */
#define CFF__TIME_SIZE 32
void cff__now_utc(char text[CFF__TIME_SIZE]);

#endif
