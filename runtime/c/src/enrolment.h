/* From preprocessed references to a profile, as the Python runtime's `enrolment`. */
#ifndef CFF__ENROLMENT_H
#define CFF__ENROLMENT_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"
#include "profile.h"
#include "session.h"

/* How a profile is made, see cff_enroll_options. */
typedef struct cff__recipe {
  double margin, max_false_reject, max_false_accept, confidence;
  int64_t max_bank;
  const uint8_t *further, *defects; /* [n,H,W,3], preprocessed */
  size_t n_further, n_defects;
  cff_progress progress;
  void *user;
} cff__recipe;

/* Complete a profile that has its product, at least one reference with its image and, where it is
 * of a class word, its condition with its name: all but settings and history. */
cff_status cff__enroll(cff_session *session, const cff__recipe *recipe, cff_profile *profile);

#endif
