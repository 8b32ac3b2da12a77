#include "mapper.h"

#include <stdlib.h>
#include <string.h>

#include "status.h"

void cff__mapper_free(cff__mapper *mapper) {
  free(mapper->map);
  free(mapper->scratch);
  for (size_t stage = 0; stage < CFF__MAX_STAGES; stage++) free(mapper->nearest[stage]);
  memset(mapper, 0, sizeof *mapper);
}

static cff_status make_stage(cff__mapper *mapper, size_t stage) {
  const cff__stage *facts = &mapper->manifest->stages[stage];
  const cff__grid grid = {(size_t)facts->rows, (size_t)facts->columns};
  const size_t n_bytes = grid.height * grid.width * sizeof(float);
  mapper->grids[stage] = grid;
  mapper->nearest[stage] = malloc(n_bytes);
  return mapper->nearest[stage] == NULL ? cff__no_memory("a search", n_bytes) : CFF_OK;
}

cff_status cff__mapper_make(cff__mapper *mapper, cff_session *session, size_t n_images,
                            cff_progress progress, void *user) {
  const cff__manifest *manifest = cff__session_manifest(session);
  memset(mapper, 0, sizeof *mapper);
  mapper->session = session;
  mapper->manifest = manifest;
  mapper->progress = progress;
  mapper->user = user;
  mapper->n_images = n_images;
  mapper->height = (size_t)manifest->height;
  mapper->width = (size_t)manifest->width;
  mapper->distance =
      strcmp(manifest->distance, "log") == 0 ? CFF__DISTANCE_LOG : CFF__DISTANCE_COSINE;
  const size_t n_bytes = mapper->height * mapper->width * sizeof(float);
  mapper->map = malloc(n_bytes);
  mapper->scratch = malloc(n_bytes);
  cff_status done = CFF_OK;
  if (mapper->map == NULL || mapper->scratch == NULL) done = cff__no_memory("maps", n_bytes);
  for (size_t stage = 0; stage < manifest->n_stages && done == CFF_OK; stage++)
    done = make_stage(mapper, stage);
  if (done != CFF_OK) cff__mapper_free(mapper);
  return done;
}

cff_status cff__mapper_encode(cff__mapper *mapper, const uint8_t *pixels, const float *condition,
                              cff__encoding *encoding) {
  cff_status done = cff__encode(mapper->session, pixels, condition, encoding);
  if (done != CFF_OK) return done;
  mapper->n_encoded++;
  if (mapper->progress == NULL ||
      mapper->progress(mapper->user, (int32_t)mapper->n_encoded, (int32_t)mapper->n_images) == 0)
    return CFF_OK;
  cff__encoding_free(mapper->session, encoding);
  return cff__fail(CFF_ERROR_USAGE,
                   "`progress` must return 0 for the work to go on, it stopped it after %d of %d "
                   "images; no profile was made",
                   (int)mapper->n_encoded, (int)mapper->n_images);
}

cff_status cff__mapper_map(cff__mapper *mapper, const cff__encoding *encoding,
                           const cff__banks *const *sets, size_t n_sets) {
  const cff__manifest *manifest = mapper->manifest;
  cff_status done = cff__search(mapper->session, encoding, sets, n_sets, mapper->nearest);
  if (done != CFF_OK) return done;
  return cff__fuse_maps((const float *const *)mapper->nearest, mapper->grids, manifest->n_scorers,
                        mapper->distance, encoding->map, (float)manifest->map_weight,
                        mapper->map, mapper->height, mapper->width);
}
