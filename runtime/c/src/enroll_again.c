/* Making a profile anew from the images that it holds. */
#include <stdlib.h>
#include <string.h>

#include "enroll_job.h"
#include "references.h"
#include "session.h"
#include "settings.h"
#include "status.h"

/* Take over the condition of a class word; one of a reference is chosen anew. */
static cff_status take_condition(cff__job *one, const cff_profile *from) {
  const cff__matrix *given = &from->condition;
  cff__matrix *condition = &one->profile->condition;
  const size_t n_bytes = (size_t)given->n_rows * (size_t)given->n_columns * sizeof *given->values;
  if (one->manifest->condition.is_of_reference) return CFF_OK;
  condition->n_rows = given->n_rows;
  condition->n_columns = given->n_columns;
  condition->values = malloc(n_bytes);
  if (condition->values == NULL) return cff__no_memory("a condition", n_bytes);
  memcpy(condition->values, given->values, n_bytes);
  return cff__job_keep_text(one, from->condition_name, &one->profile->condition_name);
}

/* Take over what stays: product, class word, settings and history. */
static cff_status take_over(cff__job *one, const cff_profile *from) {
  cff_profile *profile = one->profile;
  cff_status done = take_condition(one, from);
  if (done == CFF_OK) done = cff__job_keep_text(one, from->product, &profile->product);
  if (done == CFF_OK) done = cff__job_keep_text(one, from->settings, &profile->settings);
  if (done == CFF_OK) done = cff__job_keep_text(one, from->history, &profile->history);
  return done == CFF_OK ? cff__settings_read(from, &one->recipe) : done;
}

/* Put in the references of a profile but for number `left_out`, then the new ones. */
static cff_status add_references(cff__job *one, const cff_profile *from, size_t left_out) {
  const size_t n_kept = from->n_references - (left_out < from->n_references);
  size_t index = 0;
  cff_status done = cff__references_make(one->profile, n_kept + one->n_images, one->manifest);
  for (size_t i = 0; i < from->n_references && done == CFF_OK; i++)
    if (i != left_out)
      done = cff__references_copy(one->profile, index++, from, i, one->manifest);
  if (done != CFF_OK) return done;
  return cff__references_add(one->profile, index, one->images, one->n_images, one->options.names,
                             one->manifest);
}

static cff_status enroll_again(cff__job *one, const cff_profile *from, size_t left_out) {
  cff_status done = take_over(one, from);
  if (done == CFF_OK) done = add_references(one, from, left_out);
  return done == CFF_OK ? cff__job_run(one) : done;
}

/* Tell in the history which n references were added or removed. */
static cff_status record_names(cff_profile *profile, const char *action, const char *key,
                               const cff__reference *references, size_t n) {
  cff__json_writer names = {0};
  cff__json_open(&names, '[');
  for (size_t i = 0; i < n; i++) cff__json_put_text(&names, references[i].name);
  cff__json_close(&names, ']');
  cff_status done = cff__json_check(&names);
  if (done == CFF_OK) done = cff__profile_record(profile, action, key, names.text);
  cff__json_free(&names);
  return done;
}

static cff_status check_given(const cff_session *session, const cff_profile *profile,
                              cff_profile **made) {
  if (made == NULL)
    return cff__fail(CFF_ERROR_USAGE, "a pointer for the new profile must be given, got NULL");
  *made = NULL;
  if (session == NULL || profile == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`session` and `profile` must be given, got NULL");
  return cff_profile_check(profile, cff__session_bundle(session));
}

cff_status cff_session_add_normals(cff_session *session, const cff_profile *profile,
                                   const cff_image *images, size_t n_images,
                                   const cff_enroll_options *options, cff_profile **extended) {
  cff__job one = {0};
  cff_status done = check_given(session, profile, extended);
  if (done != CFF_OK) return done;
  if (n_images == 0)
    return cff__fail(CFF_ERROR_USAGE, "`images` must hold at least one good part, got none");
  done = cff__job_start(&one, session, images, n_images, options);
  if (done == CFF_OK) done = enroll_again(&one, profile, profile->n_references);
  if (done == CFF_OK)
    done = record_names(one.profile, "add-normals", "added",
                        one.profile->references + profile->n_references, n_images);
  return cff__job_end(&one, done, extended);
}

cff_status cff_session_remove_reference(cff_session *session, const cff_profile *profile,
                                        size_t index, const cff_enroll_options *options,
                                        cff_profile **smaller) {
  cff__job one = {0};
  cff_status done = check_given(session, profile, smaller);
  if (done != CFF_OK) return done;
  if (index >= profile->n_references)
    return cff__fail(CFF_ERROR_USAGE, "`index` must be below the %llu references, got %llu",
                     (unsigned long long)profile->n_references, (unsigned long long)index);
  if (profile->n_references == 1)
    return cff__fail(CFF_ERROR_USAGE,
                     "a profile must keep at least one reference, this is the last one");
  done = cff__job_start(&one, session, NULL, 0, options);
  if (done == CFF_OK) done = enroll_again(&one, profile, index);
  if (done == CFF_OK)
    done = record_names(one.profile, "remove", "removed", &profile->references[index], 1);
  return cff__job_end(&one, done, smaller);
}
