/* What n good parts say about the next ones: the mathematics of the Python runtime's
 * `thresholds.bounds`, whose module text has the derivations.
 *
 * Shares and confidences are inside (0, 1); counts are 0 or more. Nothing here allocates. */
#ifndef CFF__BOUNDS_H
#define CFF__BOUNDS_H

#include <stdint.h>

/* P(Binomial(n, share) <= n_above). */
double cff__binomial_cdf(int64_t n_above, int64_t n, double share);

/* The share that, with the confidence, is not exceeded where `n_above` of n are above; 1 where
 * nothing is known. */
double cff__upper_share(int64_t n_above, int64_t n, double confidence);

/* Largest rank whose bound is at most `share`; 0 if no rank's is. n < INT64_MAX. */
int64_t cff__largest_rank(int64_t n, double share, double confidence);

/* Least n whose largest score promises `share`; CFF__MOST_COUNTED stands for that many or more,
 * beyond which doubles leave integers out. */
#define CFF__MOST_COUNTED ((int64_t)1 << 53)
int64_t cff__parts_needed(double share, double confidence);

/* "7%": a bound in per cent with two digits, rounded up, whatever the locale. */
#define CFF__PERCENT_SIZE 328
void cff__percent(double share, char text[CFF__PERCENT_SIZE]);

/* "95%": a confidence in per cent with at most six digits, as Python's `.6g`. */
#define CFF__CONFIDENCE_SIZE 64
void cff__percent_confident(double confidence, char text[CFF__CONFIDENCE_SIZE]);

#endif
