/* Encodes images and makes their anomaly maps, one at a time; its buffers serve all of them. */
#ifndef CFF__MAPPER_H
#define CFF__MAPPER_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"
#include "finishing.h"
#include "manifest.h"
#include "session.h"

typedef struct cff__mapper {
  cff_session *session;
  const cff__manifest *manifest;
  cff_progress progress;
  void *user;
  size_t n_encoded, n_images;
  size_t height, width;
  float *map, *scratch; /* [H,W] */
  float *nearest[CFF__MAX_STAGES]; /* [N_s] */
  cff__grid grids[CFF__MAX_STAGES];
  cff__distance distance;
} cff__mapper;

/* n_images: to be encoded in all, for `progress`, which may be NULL. */
cff_status cff__mapper_make(cff__mapper *mapper, cff_session *session, size_t n_images,
                            cff_progress progress, void *user);
void cff__mapper_free(cff__mapper *mapper);

/* Encode a preprocessed image [H,W,3] with a condition and tell of it. On failure there is no
 * encoding. */
cff_status cff__mapper_encode(cff__mapper *mapper, const uint8_t *pixels, const float *condition,
                              cff__encoding *encoding);

/* Make the map of an image against some sets of banks, of which the nearest row counts; it stands
 * in mapper->map. */
cff_status cff__mapper_map(cff__mapper *mapper, const cff__encoding *encoding,
                           const cff__banks *const *sets, size_t n_sets);

#endif
