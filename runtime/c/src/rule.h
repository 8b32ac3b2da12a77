/* The rule of thumb for a threshold from the references alone, `thresholds.rule` of the Python
 * runtime:
 *
 *     base  = max(scores)                     K > 1: references left out, and augmentations
 *     base  = 1.42 max(scores)                K = 1: augmentations, against their own image's bank
 *     limit = base + margin / K^2 * |base|
 */
#ifndef CFF__RULE_H
#define CFF__RULE_H

#include <stdint.h>

#include "thresholds.h"

/* Threshold of some scores or map maxima, at least one. n_parts: K >= 1. */
double cff__default_limit(cff__scores values, int64_t n_parts, double margin);

/* Half of (largest text score + scale * largest map maximum), which promises 2 / (K + 1).
 * scores, peaks: of the references left out, as many of both and at least one.
 * all_peaks: map maxima that set the scale, those of the augmentations too. */
double cff__text_apart_limit(cff__scores scores, cff__scores peaks, cff__scores all_peaks);

#endif
