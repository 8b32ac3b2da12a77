#include "enroll_job.h"

#include <stdlib.h>
#include <string.h>

#include "references.h"
#include "session.h"
#include "status.h"
#include "thresholds.h"

static const cff_enroll_options defaults = {.struct_size = sizeof defaults,
                                            .margin = CFF__DEFAULT_MARGIN,
                                            .confidence = CFF__DEFAULT_CONFIDENCE};

cff_status cff_enroll_options_init(cff_enroll_options *options, uint32_t struct_size) {
  if (options == NULL) return cff__fail(CFF_ERROR_USAGE, "`options` must be given, got NULL");
  options->struct_size = struct_size;
  return cff__copy_struct(options, &defaults, sizeof defaults, "options");
}

/* What the caller's struct, of its own size, says over the defaults. */
static cff_status read_options(const cff_enroll_options *given, cff_enroll_options *options) {
  *options = defaults;
  if (given == NULL) return CFF_OK;
  const uint32_t known = given->struct_size;
  if (known < sizeof known || known > (1u << 16))
    return cff__fail(CFF_ERROR_USAGE,
                     "`options.struct_size` must be sizeof(cff_enroll_options), got %u; call "
                     "cff_enroll_options_init first",
                     (unsigned)known);
  memcpy(options, given, known < sizeof *options ? known : sizeof *options);
  return CFF_OK;
}

cff_status cff__job_start(cff__job *one, cff_session *session, const cff_image *images,
                          size_t n_images, const cff_enroll_options *options) {
  cff_status done = read_options(options, &one->options);
  one->session = session;
  one->manifest = cff__session_manifest(session);
  one->images = images;
  one->n_images = n_images;
  if (done == CFF_OK) done = cff__check_names(one->options.names, n_images);
  if (done == CFF_OK) done = cff__check_images("images", images, n_images);
  if (done == CFF_OK)
    done = cff__check_images("further", one->options.further, one->options.n_further);
  if (done == CFF_OK)
    done = cff__check_images("defects", one->options.defects, one->options.n_defects);
  if (done != CFF_OK) return done;
  one->recipe.n_further = one->options.n_further;
  one->recipe.n_defects = one->options.n_defects;
  one->recipe.progress = one->options.progress;
  one->recipe.user = one->options.user;
  one->profile = calloc(1, sizeof *one->profile);
  return one->profile == NULL ? cff__no_memory("a profile", sizeof *one->profile) : CFF_OK;
}

cff_status cff__job_run(cff__job *one) {
  cff__recipe *recipe = &one->recipe;
  cff_status done = cff__check_wishes(recipe->margin, recipe->max_false_reject,
                                      recipe->max_false_accept, recipe->confidence,
                                      recipe->n_defects);
  if (done == CFF_OK)
    done = cff__prepare_images("further", one->options.further, recipe->n_further, one->manifest,
                               &one->further);
  if (done == CFF_OK)
    done = cff__prepare_images("defects", one->options.defects, recipe->n_defects, one->manifest,
                               &one->defects);
  recipe->further = one->further;
  recipe->defects = one->defects;
  return done == CFF_OK ? cff__enroll(one->session, recipe, one->profile) : done;
}

cff_status cff__job_end(cff__job *one, cff_status done, cff_profile **profile) {
  free(one->further);
  free(one->defects);
  if (done == CFF_OK) {
    one->profile->serial = cff__next_serial();
    *profile = one->profile;
  } else {
    cff_profile_free(one->profile);
  }
  return done;
}

cff_status cff__job_keep_text(cff__job *one, const char *given, const char **kept) {
  *kept = cff__arena_text(&one->profile->arena, given, strlen(given));
  return *kept == NULL ? cff__no_memory("a name", strlen(given)) : CFF_OK;
}
