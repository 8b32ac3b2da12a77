#include "bounds.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_BISECTIONS 60
#define NEGLIGIBLE 1e-17 /* of a sum */
#define MOST_DECIMALS 308 /* 10^308 is the largest power that is a double */

/* The terms follow from each other, t_(i+1) = t_i (n - i) / (i + 1) share / (1 - share). Their
 * logarithms are added up, in Python's order; the sum counts in units of the largest so far. */
double cff__binomial_cdf(int64_t n_above, int64_t n, double share) {
  if (n_above >= n || share <= 0.0) return 1.0;
  if (n_above < 0 || share >= 1.0) return 0.0;
  const double odds = log(share) - log1p(-share), first = (double)n * log1p(-share);
  double total = 0.0, largest = first, sum = 1.0;
  for (int64_t i = 0; i < n_above; i++) {
    total += log((double)(n - i) / ((double)i + 1.0)) + odds;
    const double here = first + total;
    if (here > largest) {
      sum = sum * exp(largest - here) + 1.0;
      largest = here;
      continue;
    }
    const double term = exp(here - largest);
    sum += term;
    if (term * (double)(n_above - i) < sum * NEGLIGIBLE) break; /* from here on they only fall */
  }
  const double share_below = exp(largest) * sum;
  return share_below > 1.0 ? 1.0 : share_below;
}

double cff__upper_share(int64_t n_above, int64_t n, double confidence) {
  if (n_above >= n) return 1.0;
  double low = 0.0, high = 1.0;
  for (int i = 0; i < N_BISECTIONS; i++) {
    const double middle = 0.5 * (low + high);
    if (cff__binomial_cdf(n_above, n, middle) > 1.0 - confidence) low = middle;
    else high = middle;
  }
  return high; /* the side on which the bound holds */
}

int64_t cff__largest_rank(int64_t n, double share, double confidence) {
  int64_t low = 0, high = n + 1; /* ranks that hold and that do not */
  while (high - low > 1) {
    const int64_t rank = low + (high - low) / 2;
    if (cff__binomial_cdf(rank - 1, n, share) <= 1.0 - confidence) low = rank;
    else high = rank;
  }
  return low;
}

int64_t cff__parts_needed(double share, double confidence) {
  const double about = ceil(log1p(-confidence) / log1p(-share)) - 1.0;
  if (!(about < (double)CFF__MOST_COUNTED)) return CFF__MOST_COUNTED;
  int64_t n = about > 1.0 ? (int64_t)about : 1;
  /* the logarithms round either way */
  while (n < CFF__MOST_COUNTED && cff__binomial_cdf(0, n, share) > 1.0 - confidence) n++;
  return n;
}

/* Drop zeros after the point, and the point if nothing follows it. */
static void drop_zeros(char *text) {
  size_t n = strlen(text);
  while (n > 0 && text[n - 1] == '0') n--;
  if (n > 0 && text[n - 1] == '.') n--;
  text[n] = '\0';
}

void cff__percent(double share, char text[CFF__PERCENT_SIZE]) {
  if (!(share > 0.0)) {
    memcpy(text, "0%", 3);
    return;
  }
  const double value = 100.0 * share;
  int n_decimals = 1 - (int)floor(log10(value));
  n_decimals = n_decimals < 0 ? 0 : n_decimals;
  n_decimals = n_decimals > MOST_DECIMALS ? MOST_DECIMALS : n_decimals;
  /* at most 100 of the last decimal; 7.000000000000001 is 7 */
  const int units = (int)ceil(value * pow(10.0, n_decimals) * (1.0 - 1e-9));
  snprintf(text, CFF__PERCENT_SIZE - 2, "%0*d", n_decimals + 1, units);
  if (n_decimals > 0) { /* put the point in by hand: printf's is the locale's */
    char *point = text + strlen(text) - n_decimals;
    memmove(point + 1, point, (size_t)n_decimals + 1);
    *point = '.';
    drop_zeros(text);
  }
  strcat(text, "%");
}

void cff__percent_confident(double confidence, char text[CFF__CONFIDENCE_SIZE]) {
  char written[32], digits[32];
  int n = 0;
  snprintf(written, sizeof written, "%.5e", 100.0 * confidence);
  const char *mark = strchr(written, 'e');
  for (const char *at = written; at < mark; at++) /* a locale has its own decimal point */
    if (*at >= '0' && *at <= '9') digits[n++] = *at;
  while (n > 1 && digits[n - 1] == '0') n--;
  digits[n] = '\0';
  const int exponent = atoi(mark + 1);
  if (exponent < -4) {
    snprintf(text, CFF__CONFIDENCE_SIZE, "%c%s%se-%02d%%", digits[0], n > 1 ? "." : "",
             digits + 1, -exponent);
  } else if (exponent < 0) {
    snprintf(text, CFF__CONFIDENCE_SIZE, "0.%.*s%s%%", -exponent - 1, "000", digits);
  } else { /* at most 100 */
    const int n_whole = exponent + 1, n_given = n < n_whole ? n : n_whole;
    snprintf(text, CFF__CONFIDENCE_SIZE, "%.*s%.*s%s%s%%", n_given, digits, n_whole - n_given,
             "00", n > n_whole ? "." : "", digits + n_given);
  }
}
