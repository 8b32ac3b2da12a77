#include <string.h>

#include "json.h"
#include "status.h"

static const char *const kinds[] = {"null", "true or false", "a number",
                                    "a text", "a list",      "an object"};

static cff_status wrong(const cff__json *value, const char *key, const char *wanted,
                        cff_status status) {
  int n_shown = value->n_source < 80 ? (int)value->n_source : 80;
  return cff__fail(status, "field `%.80s` must be %s, got %.*s", key, wanted, n_shown,
                   value->source);
}

const cff__json *cff__json_find(const cff__json *object, const char *key) {
  for (const cff__json *child = object->first; child != NULL; child = child->next)
    if (strcmp(child->key, key) == 0) return child;
  return NULL;
}

cff_status cff__json_take(const cff__json *object, const char *key, cff__json_kind kind,
                          cff_status status, const cff__json **value) {
  const cff__json *found = cff__json_find(object, key);
  if (found == NULL) return cff__fail(status, "field `%.80s` must be present", key);
  if (found->kind != kind) return wrong(found, key, kinds[kind], status);
  *value = found;
  return CFF_OK;
}

cff_status cff__json_take_text(const cff__json *object, const char *key, cff_status status,
                               const char **text) {
  const cff__json *value = NULL;
  cff_status done = cff__json_take(object, key, CFF__JSON_TEXT, status, &value);
  if (done == CFF_OK) *text = value->text;
  return done;
}

cff_status cff__json_take_number(const cff__json *object, const char *key, cff_status status,
                                 double *number) {
  const cff__json *value = NULL;
  cff_status done = cff__json_take(object, key, CFF__JSON_NUMBER, status, &value);
  if (done == CFF_OK) *number = value->number;
  return done;
}

cff_status cff__json_take_integer(const cff__json *object, const char *key, int64_t lowest,
                                  int64_t highest, cff_status status, int64_t *integer) {
  const cff__json *value = NULL;
  cff_status done = cff__json_take(object, key, CFF__JSON_NUMBER, status, &value);
  if (done != CFF_OK) return done;
  if (!value->is_integer) return wrong(value, key, "a whole number", status);
  if (value->integer < lowest || value->integer > highest)
    return cff__fail(status, "field `%.80s` must be %lld to %lld, got %lld", key,
                     (long long)lowest, (long long)highest, (long long)value->integer);
  *integer = value->integer;
  return CFF_OK;
}

cff_status cff__json_take_bool(const cff__json *object, const char *key, cff_status status,
                               bool *boolean) {
  const cff__json *value = NULL;
  cff_status done = cff__json_take(object, key, CFF__JSON_BOOL, status, &value);
  if (done == CFF_OK) *boolean = value->boolean;
  return done;
}

/* A list whose items are all of a kind. */
static cff_status take_list(const cff__json *object, const char *key, cff__json_kind kind,
                            cff_status status, const cff__json **list) {
  cff_status done = cff__json_take(object, key, CFF__JSON_ARRAY, status, list);
  if (done != CFF_OK) return done;
  for (const cff__json *item = (*list)->first; item != NULL; item = item->next)
    if (item->kind != kind)
      return cff__fail(status, "every entry of `%.80s` must be %s", key, kinds[kind]);
  return CFF_OK;
}

cff_status cff__json_take_texts(const cff__json *object, const char *key, cff_status status,
                                cff__arena *arena, const char ***texts, size_t *n) {
  const cff__json *list = NULL;
  cff_status done = take_list(object, key, CFF__JSON_TEXT, status, &list);
  if (done != CFF_OK) return done;
  const char **found = cff__arena_alloc(arena, list->n_children, sizeof *found);
  if (found == NULL) return cff__no_memory(key, list->n_children * sizeof *found);
  size_t i = 0;
  for (const cff__json *item = list->first; item != NULL; item = item->next)
    found[i++] = item->text;
  *texts = found;
  *n = list->n_children;
  return CFF_OK;
}

cff_status cff__json_take_numbers(const cff__json *object, const char *key, cff_status status,
                                  cff__arena *arena, double **numbers, size_t *n) {
  const cff__json *list = NULL;
  cff_status done = take_list(object, key, CFF__JSON_NUMBER, status, &list);
  if (done != CFF_OK) return done;
  double *found = cff__arena_alloc(arena, list->n_children, sizeof *found);
  if (found == NULL) return cff__no_memory(key, list->n_children * sizeof *found);
  size_t i = 0;
  for (const cff__json *item = list->first; item != NULL; item = item->next)
    found[i++] = item->number;
  *numbers = found;
  *n = list->n_children;
  return CFF_OK;
}
