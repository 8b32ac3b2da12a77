/* Greedy k-centre: keep the row that is farthest from all rows kept so far, again and again. */
#ifndef CFF__GREEDY_H
#define CFF__GREEDY_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"

#define CFF__SETTLED 4.0F /* above any cosine: such a row is never picked */

typedef struct cff__rows {
  const float *values; /* [n,width], unit rows */
  size_t n, width;     /* neither is 0 */
} cff__rows;

typedef struct cff__greedy {
  cff__rows bank;
  float *nearest; /* of every row, its largest cosine to the rows kept so far */
  float *panels, *sorted, *local;
  int64_t *picked, *candidates;
  size_t n_candidates;
} cff__greedy;

/* No row is kept yet. */
cff_status cff__greedy_make(cff__greedy *greedy, cff__rows bank);
void cff__greedy_free(cff__greedy *greedy);

/* Raise `nearest`, the greedy's or another of its length, to every row's largest cosine to some
 * rows of the bank. NaN raises nothing. */
void cff__greedy_compare(const cff__greedy *greedy, const int64_t *rows, size_t n, float *nearest);

/* Pick n_more rows, of which there are as many that are not settled; they are settled then. */
void cff__greedy_spread(cff__greedy *greedy, size_t n_more, int64_t *picked);

#endif
