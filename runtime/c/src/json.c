#include "json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "status.h"
#include "utf8.h"

#define MAX_NUMBER_BYTES 400 /* the largest double has 309 digits */

typedef struct parser {
  const char *at, *end, *start;
  const char *name;
  cff_status status;
  cff__arena *arena;
  int depth, n_values;
} parser;

static cff_status parse_value(parser *p, cff__json *value);

static cff_status refuse(const parser *p, const char *why) {
  return cff__fail(p->status, "%s must be JSON: %s at byte %llu", p->name, why,
                   (unsigned long long)(p->at - p->start));
}

static void skip_space(parser *p) {
  while (p->at < p->end && (*p->at == ' ' || *p->at == '\n' || *p->at == '\t' || *p->at == '\r'))
    p->at++;
}

static bool accept(parser *p, char wanted) {
  if (p->at == p->end || *p->at != wanted) return false;
  p->at++;
  return true;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool skip_digits(parser *p) {
  const char *start = p->at;
  while (p->at < p->end && is_digit(*p->at)) p->at++;
  return p->at > start;
}

bool cff__parse_number(const char *text, size_t n_bytes, double *number) {
  char copy[MAX_NUMBER_BYTES + 8], point[8];
  if (n_bytes > MAX_NUMBER_BYTES) return false;
  const char *dot = memchr(text, '.', n_bytes);
  size_t n = dot == NULL ? n_bytes : (size_t)(dot - text);
  memcpy(copy, text, n);
  if (dot != NULL) { /* strtod wants the point of the locale, which may be longer than a byte */
    if (snprintf(point, sizeof point, "%.1f", 0.5) < 3) return false;
    size_t n_point = strlen(point) - 2, n_after = n_bytes - n - 1;
    memcpy(copy + n, point + 1, n_point);
    memcpy(copy + n + n_point, dot + 1, n_after);
    n += n_point + n_after;
  }
  copy[n] = '\0';
  *number = strtod(copy, NULL);
  return isfinite(*number);
}

static bool parse_integer(const char *text, size_t n_bytes, int64_t *integer) {
  bool negative = text[0] == '-';
  uint64_t size = 0, limit = (uint64_t)INT64_MAX;
  for (size_t i = negative; i < n_bytes; i++) {
    uint64_t digit = (uint64_t)(text[i] - '0');
    if (size > (limit - digit) / 10) return false;
    size = size * 10 + digit;
  }
  *integer = negative ? -(int64_t)size : (int64_t)size;
  return true;
}

static cff_status parse_number(parser *p, cff__json *value) {
  const char *start = p->at;
  bool is_integer = true;
  accept(p, '-');
  if (accept(p, '0')) {
    if (p->at < p->end && is_digit(*p->at)) return refuse(p, "a number starts with 0");
  } else if (!skip_digits(p)) {
    return refuse(p, "no value");
  }
  if (accept(p, '.')) {
    is_integer = false;
    if (!skip_digits(p)) return refuse(p, "no digit after a point");
  }
  if (accept(p, 'e') || accept(p, 'E')) {
    is_integer = false;
    if (!accept(p, '+')) accept(p, '-');
    if (!skip_digits(p)) return refuse(p, "no digit in an exponent");
  }
  size_t n_bytes = (size_t)(p->at - start);
  value->kind = CFF__JSON_NUMBER;
  value->is_integer = is_integer && parse_integer(start, n_bytes, &value->integer);
  value->number = (double)value->integer; /* rounded as strtod does, and far quicker */
  if (value->is_integer && value->integer != 0) return CFF_OK;
  if (!cff__parse_number(start, n_bytes, &value->number)) /* knows -0 too */
    return refuse(p, "a number is not finite or too long");
  return CFF_OK;
}

static bool parse_hex(parser *p, uint32_t *code) {
  *code = 0;
  for (int i = 0; i < 4; i++, p->at++) {
    if (p->at == p->end) return false;
    char c = *p->at;
    uint32_t digit;
    if (is_digit(c)) digit = (uint32_t)(c - '0');
    else if (c >= 'a' && c <= 'f') digit = (uint32_t)(c - 'a') + 10;
    else if (c >= 'A' && c <= 'F') digit = (uint32_t)(c - 'A') + 10;
    else return false;
    *code = *code << 4 | digit;
  }
  return true;
}

/* After the backslash and the u. */
static cff_status parse_unicode(parser *p, char **out) {
  uint32_t code, low;
  if (!parse_hex(p, &code)) return refuse(p, "no four hex digits after \\u");
  if (code == 0) return refuse(p, "a text holds a NUL");
  if (code >= 0xdc00 && code <= 0xdfff) return refuse(p, "half of a surrogate pair");
  if (code >= 0xd800 && code <= 0xdbff) {
    if (!accept(p, '\\') || !accept(p, 'u') || !parse_hex(p, &low) || low < 0xdc00 || low > 0xdfff)
      return refuse(p, "half of a surrogate pair");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  *out += cff__utf8_put(code, *out);
  return CFF_OK;
}

static cff_status parse_escape(parser *p, char **out) {
  static const char written[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
  if (accept(p, 'u')) return parse_unicode(p, out);
  const char *found = p->at < p->end && *p->at != '\0' ? strchr(written, *p->at) : NULL;
  if (found == NULL) return refuse(p, "an unknown escape");
  p->at++;
  *(*out)++ = meant[found - written];
  return CFF_OK;
}

static cff_status parse_text(parser *p, const char **text) {
  if (!accept(p, '"')) return refuse(p, "no quotation mark");
  const char *close = p->at;
  while (close < p->end && *close != '"') close += *close == '\\' && p->end - close > 1 ? 2 : 1;
  if (close >= p->end) return refuse(p, "a text without end");
  /* an escape is never shorter than what it means */
  char *out = cff__arena_alloc(p->arena, (size_t)(close - p->at) + 1, 1);
  if (out == NULL) return cff__no_memory(p->name, (uint64_t)(close - p->at));
  *text = out;
  while (p->at < close) {
    if ((unsigned char)*p->at < 0x20) return refuse(p, "a control character in a text");
    if (accept(p, '\\')) {
      cff_status status = parse_escape(p, &out);
      if (status != CFF_OK) return status;
    } else {
      *out++ = *p->at++;
    }
  }
  p->at = close + 1;
  return CFF_OK;
}

static int compare_keys(const void *a, const void *b) {
  return strcmp((*(cff__json *const *)a)->key, (*(cff__json *const *)b)->key);
}

/* Sorted, as comparing all pairs of a long object would take hours. */
static cff_status refuse_twins(const parser *p, const cff__json *object) {
  if (object->n_children < 2) return CFF_OK;
  const cff__json **sorted = malloc(object->n_children * sizeof *sorted);
  if (sorted == NULL) return cff__no_memory(p->name, object->n_children * sizeof *sorted);
  size_t n = 0;
  for (const cff__json *child = object->first; child != NULL; child = child->next)
    sorted[n++] = child;
  qsort(sorted, n, sizeof *sorted, compare_keys);
  cff_status status = CFF_OK;
  for (size_t i = 1; i < n && status == CFF_OK; i++)
    if (strcmp(sorted[i - 1]->key, sorted[i]->key) == 0) status = refuse(p, "a key stands twice");
  free(sorted);
  return status;
}

/* Members of an object or items of an array, after the opening bracket. */
static cff_status parse_children(parser *p, cff__json *parent, char closing) {
  const cff__json **link = &parent->first;
  skip_space(p);
  if (accept(p, closing)) return CFF_OK;
  for (;;) {
    if (++p->n_values >= CFF__JSON_MAX_VALUES) return refuse(p, "too many values");
    cff__json *child = cff__arena_alloc(p->arena, 1, sizeof *child);
    if (child == NULL) return cff__no_memory(p->name, sizeof *child);
    cff_status status = CFF_OK;
    skip_space(p);
    if (parent->kind == CFF__JSON_OBJECT) {
      status = parse_text(p, &child->key);
      skip_space(p);
      if (status == CFF_OK && !accept(p, ':')) status = refuse(p, "no colon after a key");
    }
    if (status == CFF_OK) status = parse_value(p, child);
    if (status != CFF_OK) return status;
    *link = child;
    link = &child->next;
    parent->n_children++;
    skip_space(p);
    if (accept(p, closing)) break;
    if (!accept(p, ',')) return refuse(p, "no comma between values");
  }
  return parent->kind == CFF__JSON_OBJECT ? refuse_twins(p, parent) : CFF_OK;
}

static bool accept_word(parser *p, const char *word) {
  size_t n = strlen(word);
  if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0) return false;
  p->at += n;
  return true;
}

static cff_status parse_unmeasured(parser *p, cff__json *value) {
  if (p->at == p->end) return refuse(p, "no value");
  if (*p->at == '"') {
    value->kind = CFF__JSON_TEXT;
    return parse_text(p, &value->text);
  }
  bool is_object = accept(p, '{');
  if (is_object || accept(p, '[')) {
    value->kind = is_object ? CFF__JSON_OBJECT : CFF__JSON_ARRAY;
    if (++p->depth > CFF__JSON_MAX_DEPTH) return refuse(p, "nested too deeply");
    cff_status status = parse_children(p, value, is_object ? '}' : ']');
    p->depth--;
    return status;
  }
  if (accept_word(p, "null")) return CFF_OK;
  value->boolean = accept_word(p, "true");
  if (value->boolean || accept_word(p, "false")) {
    value->kind = CFF__JSON_BOOL;
    return CFF_OK;
  }
  return parse_number(p, value);
}

static cff_status parse_value(parser *p, cff__json *value) {
  skip_space(p);
  value->source = p->at;
  cff_status status = parse_unmeasured(p, value);
  value->n_source = (size_t)(p->at - value->source);
  return status;
}

cff_status cff__json_parse(const char *text, size_t n_bytes, const char *name, cff_status status,
                           cff__arena *arena, const cff__json **object) {
  parser p = {text, text + n_bytes, text, name, status, arena, 0, 0};
  *object = NULL;
  if (!cff__utf8_is_valid(text, n_bytes))
    return cff__fail(status, "%s must be UTF-8 text, got other bytes", name);
  cff__json *root = cff__arena_alloc(arena, 1, sizeof *root);
  if (root == NULL) return cff__no_memory(name, sizeof *root);
  cff_status done = parse_value(&p, root);
  if (done != CFF_OK) return done;
  skip_space(&p);
  if (p.at != p.end) return refuse(&p, "more text after the value");
  if (root->kind != CFF__JSON_OBJECT) return cff__fail(status, "%s must hold a JSON object", name);
  *object = root;
  return CFF_OK;
}
