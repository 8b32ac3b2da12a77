/* A bundle's graphs in ONNX Runtime: encode an image, search memory banks. */
#ifndef CFF__SESSION_H
#define CFF__SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cff.h"
#include "manifest.h"

const cff__manifest *cff__session_manifest(const cff_session *session);
const cff_bundle *cff__session_bundle(const cff_session *session);

/* One encoded image; features stay on the session's device. Starts as {0}. */
typedef struct cff__encoding {
  void *features[CFF__MAX_STAGES]; /* OrtValue [1,N_s,C_s], unit rows */
  float *map;                      /* [H,W], from malloc */
  bool has_score;
  double score;
} cff__encoding;

/* Encode a preprocessed image [H,W,3] with a condition of the manifest's shape. */
cff_status cff__encode(cff_session *session, const uint8_t *pixels, const float *condition,
                       cff__encoding *encoding);
void cff__encoding_free(cff_session *session, cff__encoding *encoding);

/* Copy the features of a stage to `rows` [N_s,C_s]. */
cff_status cff__download(cff_session *session, const cff__encoding *encoding, size_t stage,
                         float *rows);

/* The features of a stage on the host, [N_s,C_s]: the encoding's own, or a copy. The caller frees
 * `copy`, NULL where there is none. */
cff_status cff__host_rows(cff_session *session, const cff__encoding *encoding, size_t stage,
                          const float **rows, float **copy);

/* The memory banks of the stages with a scorer, where the scorers take them, cut into chunks of rows. */
typedef struct cff__banks cff__banks;

/* rows: of each stage with a scorer [n_rows[s],C_s], row by row; they must outlive the banks. */
cff_status cff__banks_make(cff_session *session, const float *const *rows, const int64_t *n_rows,
                           cff__banks **banks);
void cff__banks_free(cff_session *session, cff__banks *banks);

/* Write each token's largest cosine to any row of n_sets > 0 sets of banks to nearest[s] [N_s];
 * nothing where the bundle has no scorers.
 * The same on any number of threads; NaN stays NaN. */
cff_status cff__search(cff_session *session, const cff__encoding *encoding,
                       const cff__banks *const *sets, size_t n_sets, float *const *nearest);

#endif
