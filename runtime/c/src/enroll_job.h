/* What enrolling and enrolling again have in common: from a caller's options to a profile. */
#ifndef CFF__ENROLL_JOB_H
#define CFF__ENROLL_JOB_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"
#include "enrolment.h"
#include "manifest.h"
#include "profile.h"

/* A profile in the making, and what is freed when it is made. */
typedef struct cff__job {
  cff_session *session;
  const cff__manifest *manifest;
  cff_enroll_options options;
  const cff_image *images; /* new references */
  size_t n_images;
  cff__recipe recipe;
  uint8_t *further, *defects;
  cff_profile *profile;
} cff__job;

/* Check options and images, and begin a profile. The job starts as {0}. */
cff_status cff__job_start(cff__job *one, cff_session *session, const cff_image *images,
                          size_t n_images, const cff_enroll_options *options);

/* Check the recipe, prepare the images beside the references, and make the profile, which has its
 * product, references and, where it is of a class word, its condition. */
cff_status cff__job_run(cff__job *one);

/* Hand the profile out if all went well, else free it; `done` is returned. */
cff_status cff__job_end(cff__job *one, cff_status done, cff_profile **profile);

/* Copy a text into the profile's arena. */
cff_status cff__job_keep_text(cff__job *one, const char *given, const char **kept);

#endif
