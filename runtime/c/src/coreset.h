/* Fewer rows of a memory bank: greedy k-centre on cosine distance, as the Python runtime's
 * `coreset`. Rows nearer to each other than rounding tells may be chosen the other way round. */
#ifndef CFF__CORESET_H
#define CFF__CORESET_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"
#include "finishing.h"
#include "json_writer.h"

typedef struct cff__coreset {
  int64_t *rows; /* kept, ascending, from malloc */
  int64_t n_rows, n_rows_full;
  double largest, percentile_99, mean; /* of the dropped rows' distances; 0 where none is dropped */
} cff__coreset;

void cff__coreset_free(cff__coreset *coreset);

/* Choose at most n_kept >= 1 of n_rows > 0 unit rows [n_rows,width]. The same rows on every
 * machine. */
cff_status cff__compress_bank(const float *bank, int64_t n_rows, int64_t width, int64_t n_kept,
                              cff__coreset *coreset);

/* For every reference the rows of a bank compressed alike but without that reference: greedy goes
 * on over the others' rows until there are as many as before.
 * bank: n_rows / K rows of each of K = n_references >= 2 references.
 * rows: [K,n_left], ascending for each; the caller frees them. */
cff_status cff__leave_one_out_rows(const float *bank, int64_t n_rows, int64_t width,
                                   int64_t n_references, const cff__coreset *coreset,
                                   int64_t **rows, int64_t *n_left);

/* How much the anomaly map can rise at most where rows at these cosine distances are dropped, one
 * a stage. */
double cff__map_rise(const double *distances, size_t n_stages, cff__distance distance);

/* Write what a profile tells of its compression, a JSON object whose lists have one entry a
 * stage. */
void cff__put_compression(cff__json_writer *out, const cff__coreset *coresets, size_t n_stages,
                          cff__distance distance);

#endif
