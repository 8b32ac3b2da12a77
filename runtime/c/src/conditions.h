/* The condition that each image of an enrolment is encoded with. That of a class word serves for
 * all. Where it is the features of a reference, a template is chosen: for a reference that is
 * judged among the others, so that no part is compared with itself, else among all. */
#ifndef CFF__CONDITIONS_H
#define CFF__CONDITIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "cff.h"
#include "manifest.h"
#include "profile.h"

typedef struct cff__conditions {
  const cff__manifest *manifest;
  const float *word;  /* condition of a class word, else NULL */
  float *zeros;       /* where a template is not chosen yet, else NULL */
  size_t *without;    /* [K], the reference that serves where each is left out */
  const float *rows;  /* [K,T,D], features of the stage that gives templates */
} cff__conditions;

/* profile: with its condition where it is of a class word, and K references. Begin with zeros. */
cff_status cff__conditions_make(cff__conditions *conditions, const cff__manifest *manifest,
                                const cff_profile *profile);
void cff__conditions_free(cff__conditions *conditions);

/* Whether the first condition stays, so that an encoding with it serves for the map too. */
bool cff__conditions_settled(const cff__conditions *conditions);

/* What the references are first encoded with, for their features. */
const float *cff__conditions_first(const cff__conditions *conditions);

/* Choose the templates from the profile's means, and put the one of all into the profile, with the
 * name of its reference; nothing with a class word.
 * rows: [K,T,D], features of the stage that gives templates; they outlive the conditions. */
cff_status cff__conditions_choose(cff__conditions *conditions, const float *rows,
                                  cff_profile *profile);

/* What a judged reference and its augmentations are encoded with; a lone one with its own. */
const float *cff__conditions_without(const cff__conditions *conditions, size_t left_out);

/* The reference whose sum of cosines to the others is the largest, of the unit rows [K,C] without
 * number `left_out`, K for none; of sums that differ by less than 1e-9 the first. At least one row is
 * left. sums: room for K + C numbers. */
size_t cff__medoid(const cff__matrix *rows, size_t left_out, double *sums);

#endif
