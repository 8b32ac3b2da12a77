#include "rule.h"

#include <math.h>

#include "finishing.h"

#define OWN_BANK_FACTOR 1.42 /* an image's own bank knows nothing of how parts differ */

static double largest_of(cff__scores scores) {
  double largest = scores.values[0];
  for (size_t i = 1; i < scores.n; i++)
    if (scores.values[i] > largest) largest = scores.values[i];
  return largest;
}

double cff__default_limit(cff__scores values, int64_t n_parts, double margin) {
  double base = largest_of(values);
  if (n_parts == 1) base += (OWN_BANK_FACTOR - 1.0) * fabs(base);
  return base + margin / ((double)n_parts * (double)n_parts) * fabs(base);
}

double cff__text_apart_limit(cff__scores scores, cff__scores peaks, cff__scores all_peaks) {
  const double scale = cff__peak_scale(all_peaks.values, all_peaks.n);
  double text = 2.0 * scores.values[0] - scale * peaks.values[0];
  for (size_t i = 1; i < scores.n; i++) { /* the text scores follow from both */
    const double one = 2.0 * scores.values[i] - scale * peaks.values[i];
    if (one > text) text = one;
  }
  return 0.5 * (text + scale * largest_of(peaks));
}
