/* The features of the references, and the memory banks that images are scored against. */
#ifndef CFF__REFERENCE_BANKS_H
#define CFF__REFERENCE_BANKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cff.h"
#include "coreset.h"
#include "manifest.h"
#include "profile.h"
#include "session.h"

typedef struct cff__reference_banks {
  cff_session *session;
  const cff__manifest *manifest;
  size_t n_references;
  cff__matrix rows[CFF__MAX_STAGES]; /* [K N_s,C_s], reference by reference; of all stages */
  cff__banks **singles;              /* [K], each reference's own; not used if compressed */
  bool is_compressed;
  cff__coreset coresets[CFF__MAX_STAGES];
  int64_t *left_rows[CFF__MAX_STAGES]; /* [K,n_left], without each reference; K > 1 */
  int64_t n_left[CFF__MAX_STAGES];
  cff__matrix gathered[CFF__MAX_STAGES]; /* what `taken` is made around */
  cff__banks *taken;                     /* that the last call gave */
  const cff__banks **sets;               /* [K] */
} cff__reference_banks;

/* max_bank: rows that a stage's bank may have; 0 for any number. Where the bundle has no scorers
 * there are no banks, but the features are kept. */
cff_status cff__reference_banks_make(cff__reference_banks *banks, cff_session *session,
                                     size_t n_references, int64_t max_bank);
void cff__reference_banks_free(cff__reference_banks *banks);

/* Put in the features of a reference; all of them, in order. */
cff_status cff__reference_banks_add(cff__reference_banks *banks, size_t index,
                                    const cff__encoding *encoding);

/* Compress the banks, once all references are in, if they have more rows than they may. */
cff_status cff__reference_banks_compress(cff__reference_banks *banks, int64_t max_bank);

/* Sets of banks that together are the bank without a reference. They belong to `banks` and serve
 * until the next call. A lone reference is searched against itself. */
cff_status cff__reference_banks_without(cff__reference_banks *banks, size_t left_out,
                                        const cff__banks *const **sets, size_t *n_sets);

/* No reference will be left out any more: only the rows of the profile stay, in `rows`. */
cff_status cff__reference_banks_settle(cff__reference_banks *banks);

/* A set of banks of all rows, once settled; as cff__reference_banks_without. */
cff_status cff__reference_banks_all(cff__reference_banks *banks, const cff__banks *const **sets,
                                    size_t *n_sets);

#endif
