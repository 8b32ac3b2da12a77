/* What an encoder takes beside the image, and what it gives beside features. */
#include <string.h>

#include "manifest.h"
#include "status.h"

#define FAIL CFF_ERROR_BUNDLE

/* Lower case letters, digits and `_`, a letter first; not a name that the image or features have. */
static bool is_port_name(const char *name) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
  static const char all[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
  const size_t n = strlen(name);
  return n >= 1 && n <= CFF__MAX_PORT_BYTES && strchr(letters, name[0]) != NULL &&
         strspn(name, all) == n && strcmp(name, "image") != 0 &&
         strncmp(name, "features_", strlen("features_")) != 0;
}

static cff_status require_name(const char *field, const char *name) {
  if (is_port_name(name)) return CFF_OK;
  return cff__fail(FAIL,
                   "`%s` must be at most %d of a-z, 0-9 and _, a letter first, and neither `image` "
                   "nor `features_...`, got `%.80s`",
                   field, CFF__MAX_PORT_BYTES, name);
}

/* Must be one of two words. */
static cff_status take_word(const cff__json *entry, const char *key, const char *field,
                            const char *one, const char *other, const char **word) {
  cff_status done = cff__json_take_text(entry, key, FAIL, word);
  if (done != CFF_OK || strcmp(*word, one) == 0 || strcmp(*word, other) == 0) return done;
  return cff__fail(FAIL, "`%s` must be one of %s, %s, got %.80s", field, one, other, *word);
}

static cff_status require_null(const cff__json *entry, const char *key, const char *source) {
  const cff__json *value = cff__json_find(entry, key);
  if (value != NULL && value->kind == CFF__JSON_NULL) return CFF_OK;
  return cff__fail(FAIL, "`condition.%s` must be null where `condition.source` is `%s`", key,
                   source);
}

static cff_status parse_shape(const cff__json *entry, cff__condition *condition) {
  const cff__json *shape = NULL;
  cff_status done = cff__json_take(entry, "shape", CFF__JSON_ARRAY, FAIL, &shape);
  if (done != CFF_OK) return done;
  int64_t sides[2] = {0, 0};
  for (const cff__json *side = shape->first; side != NULL && shape->n_children == 2;
       side = side->next)
    sides[side != shape->first] = side->is_integer ? side->integer : 0;
  if (sides[0] < 1 || sides[0] > CFF__MAX_TOKENS || sides[1] < 1 || sides[1] > CFF__MAX_WIDTH)
    return cff__fail(FAIL, "`condition.shape` must be two sides of at most %d and %d",
                     CFF__MAX_TOKENS, CFF__MAX_WIDTH);
  condition->n_rows = (int32_t)sides[0];
  condition->n_columns = (int32_t)sides[1];
  return CFF_OK;
}

static cff_status parse_words(const cff__json *entry, cff__arena *arena,
                              cff__condition *condition) {
  cff_status done = cff__json_take_text(entry, "file", FAIL, &condition->file);
  if (done == CFF_OK)
    done = cff__json_take_texts(entry, "names", FAIL, arena, &condition->names,
                                &condition->n_names);
  if (done == CFF_OK && condition->n_names == 0)
    return cff__fail(FAIL, "`condition.names` must hold the class words of `condition.file`, got "
                           "none");
  if (done == CFF_OK) done = require_null(entry, "stage", condition->source);
  return done == CFF_OK ? require_null(entry, "choice", condition->source) : done;
}

static cff_status parse_reference(const cff__json *entry, const cff__manifest *manifest,
                                  cff__condition *condition) {
  const cff__json *names = NULL;
  int64_t stage = 0;
  cff_status done = require_null(entry, "file", condition->source);
  if (done == CFF_OK) done = cff__json_take(entry, "names", CFF__JSON_ARRAY, FAIL, &names);
  if (done == CFF_OK && names->n_children != 0)
    return cff__fail(FAIL, "`condition.names` must be empty where `condition.source` is "
                           "`reference`");
  if (done == CFF_OK)
    done = cff__json_take_integer(entry, "stage", 0, (int64_t)manifest->n_stages - 1, FAIL,
                                  &stage);
  if (done == CFF_OK)
    done = take_word(entry, "choice", "condition.choice", "medoid", "first", &condition->choice);
  if (done != CFF_OK) return done;
  const cff__stage *of = &manifest->stages[stage];
  condition->stage = (int32_t)stage;
  if (condition->n_rows != of->rows * of->columns || condition->n_columns != of->width)
    return cff__fail(FAIL,
                     "`condition.shape` must be that of stage %d, (%d, %d), got (%d, %d); export "
                     "the bundle again",
                     (int)stage, (int)(of->rows * of->columns), (int)of->width,
                     (int)condition->n_rows, (int)condition->n_columns);
  return CFF_OK;
}

static cff_status parse_condition(const cff__json *fields, cff__arena *arena,
                                  cff__manifest *manifest) {
  const cff__json *entry = NULL;
  cff__condition *condition = &manifest->condition;
  cff_status done = cff__json_take(fields, "condition", CFF__JSON_OBJECT, FAIL, &entry);
  if (done == CFF_OK) done = cff__json_take_text(entry, "input", FAIL, &condition->input);
  if (done == CFF_OK) done = require_name("condition.input", condition->input);
  if (done == CFF_OK) done = parse_shape(entry, condition);
  if (done == CFF_OK)
    done = take_word(entry, "source", "condition.source", "words", "reference",
                     &condition->source);
  if (done != CFF_OK) return done;
  condition->is_of_reference = strcmp(condition->source, "reference") == 0;
  return condition->is_of_reference ? parse_reference(entry, manifest, condition)
                                    : parse_words(entry, arena, condition);
}

static cff_status parse_map(const cff__json *fields, cff__manifest *manifest) {
  const cff__json *entry = NULL;
  cff_status done = cff__json_take(fields, "map", CFF__JSON_OBJECT, FAIL, &entry);
  if (done == CFF_OK) done = cff__json_take_text(entry, "output", FAIL, &manifest->map_output);
  if (done == CFF_OK) done = require_name("map.output", manifest->map_output);
  if (done == CFF_OK) done = cff__json_take_number(entry, "weight", FAIL, &manifest->map_weight);
  return done;
}

static cff_status parse_score(const cff__json *fields, cff__manifest *manifest) {
  const cff__json *entry = NULL;
  cff_status done = cff__json_take(fields, "score", CFF__JSON_OBJECT, FAIL, &entry);
  if (done == CFF_OK)
    done = take_word(entry, "statistic", "score.statistic", "max", "std",
                     &manifest->score_statistic);
  if (done != CFF_OK) return done;
  const cff__json *output = cff__json_find(entry, "output");
  if (output != NULL && output->kind == CFF__JSON_NULL) return CFF_OK;
  done = cff__json_take_text(entry, "output", FAIL, &manifest->score_output);
  if (done == CFF_OK) done = require_name("score.output", manifest->score_output);
  if (done == CFF_OK && cff__scores_spread(manifest))
    return cff__fail(FAIL, "`score.statistic` must be max where the encoder gives a score, got "
                           "std; export the bundle again");
  return done;
}

bool cff__scores_spread(const cff__manifest *manifest) {
  return strcmp(manifest->score_statistic, "std") == 0;
}

cff_status cff__manifest_parse_signature(const cff__json *fields, cff__arena *arena,
                                         cff__manifest *manifest) {
  cff_status done = parse_condition(fields, arena, manifest);
  if (done == CFF_OK) done = parse_map(fields, manifest);
  if (done == CFF_OK) done = parse_score(fields, manifest);
  if (done != CFF_OK) return done;
  const char *names[] = {manifest->condition.input, manifest->map_output, manifest->score_output};
  for (size_t i = 0; i < 3; i++)
    for (size_t j = 0; j < i && names[i] != NULL; j++)
      if (strcmp(names[i], names[j]) == 0)
        return cff__fail(FAIL, "the encoder's tensors must have different names, two are `%.80s`",
                         names[i]);
  return CFF_OK;
}
