/* JSON: what was read, written and read again is the same; numbers are the C library's. */
#include <math.h>
#include <string.h>

#include "fuzz.h"
#include "json.h"
#include "json_writer.h"

static void put(cff__json_writer *out, const cff__json *value) {
  if (value->key != NULL) cff__json_put_key(out, value->key);
  switch (value->kind) {
    case CFF__JSON_NULL: cff__json_put_source(out, "null", 4); break;
    case CFF__JSON_BOOL: cff__json_put_bool(out, value->boolean); break;
    case CFF__JSON_TEXT: cff__json_put_text(out, value->text); break;
    case CFF__JSON_NUMBER:
      if (value->is_integer) cff__json_put_integer(out, value->integer);
      else cff__json_put_double(out, value->number);
      break;
    default: {
      bool is_object = value->kind == CFF__JSON_OBJECT;
      cff__json_open(out, is_object ? '{' : '[');
      for (const cff__json *child = value->first; child != NULL; child = child->next)
        put(out, child);
      cff__json_close(out, is_object ? '}' : ']');
    }
  }
}

static void check_same(const cff__json *a, const cff__json *b) {
  FUZZ_CHECK(a->kind == b->kind && a->boolean == b->boolean && a->n_children == b->n_children);
  FUZZ_CHECK((a->key == NULL) == (b->key == NULL));
  FUZZ_CHECK(a->key == NULL || strcmp(a->key, b->key) == 0);
  FUZZ_CHECK(a->kind != CFF__JSON_TEXT || strcmp(a->text, b->text) == 0);
  FUZZ_CHECK(a->number == b->number); /* -0 may become 0, as an integer */
  FUZZ_CHECK(!a->is_integer || (b->is_integer && a->integer == b->integer));
  const cff__json *x = a->first, *y = b->first;
  for (; x != NULL && y != NULL; x = x->next, y = y->next) check_same(x, y);
  FUZZ_CHECK(x == NULL && y == NULL);
}

/* Against strtod, which the C locale of this program makes exact. */
static void check_numbers(const cff__json *value) {
  if (value->kind == CFF__JSON_NUMBER) {
    char copy[512];
    FUZZ_CHECK(value->n_source < sizeof copy);
    memcpy(copy, value->source, value->n_source);
    copy[value->n_source] = '\0';
    FUZZ_CHECK(value->number == strtod(copy, NULL) && isfinite(value->number));
    FUZZ_CHECK(!value->is_integer || (double)value->integer == value->number);
  }
  for (const cff__json *child = value->first; child != NULL; child = child->next)
    check_numbers(child);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  cff__arena arena = {NULL};
  cff__json_writer out = {0}, again = {0};
  const cff__json *first = NULL, *second = NULL;
  char *text = fuzz_copy(data, n_bytes);
  cff_status status = cff__json_parse(text, n_bytes, "text", CFF_ERROR_PROFILE, &arena, &first);
  if (status != CFF_OK) {
    fuzz_check_failure(status, CFF_ERROR_PROFILE, CFF_ERROR_PROFILE);
    FUZZ_CHECK(first == NULL);
  } else {
    check_numbers(first);
    put(&out, first);
    FUZZ_CHECK(cff__json_check(&out) == CFF_OK);
    status = cff__json_parse(out.text, out.n_bytes, "text", CFF_ERROR_PROFILE, &arena, &second);
    FUZZ_CHECK(status == CFF_OK);
    check_same(first, second);
    put(&again, second);
    FUZZ_CHECK(again.n_bytes == out.n_bytes && memcmp(again.text, out.text, out.n_bytes) == 0);
  }
  cff__json_free(&out);
  cff__json_free(&again);
  cff__arena_free(&arena);
  free(text);
  return 0;
}
