/* A strict JSON parser (RFC 8259).
 *
 * Stricter than Python's: no NaN, no key twice, no half of a surrogate pair, no NUL in a text, at
 * most CFF__JSON_MAX_DEPTH levels and CFF__JSON_MAX_VALUES values, which bound stack and memory.
 * Texts are therefore plain C strings in UTF-8.
 */
#ifndef CFF_JSON_H
#define CFF_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "cff.h"

#define CFF__JSON_MAX_DEPTH 64
#define CFF__JSON_MAX_VALUES (1 << 20) /* of about 100 bytes each in memory */

typedef enum cff__json_kind {
  CFF__JSON_NULL,
  CFF__JSON_BOOL,
  CFF__JSON_NUMBER,
  CFF__JSON_TEXT,
  CFF__JSON_ARRAY,
  CFF__JSON_OBJECT
} cff__json_kind;

typedef struct cff__json {
  cff__json_kind kind;
  bool boolean;
  bool is_integer;    /* written without point and exponent, and fits `integer` */
  int64_t integer;
  double number;      /* finite */
  const char *text;
  const char *key;    /* inside an object, else NULL */
  const char *source; /* the value as it was written, `n_source` bytes of the parsed text */
  size_t n_source;
  size_t n_children;
  const struct cff__json *first; /* child */
  const struct cff__json *next;  /* sibling */
} cff__json;

/* Parse an object. `source` points into `text`, everything else lives in the arena.
 * name: of the text, for error sentences. status: of errors. */
cff_status cff__json_parse(const char *text, size_t n_bytes, const char *name, cff_status status,
                           cff__arena *arena, const cff__json **object);

/* Value of a key; NULL if there is none. */
const cff__json *cff__json_find(const cff__json *object, const char *key);

/* The typed fields of an object; each fails with a sentence that names the field. */
cff_status cff__json_take(const cff__json *object, const char *key, cff__json_kind kind,
                          cff_status status, const cff__json **value);
cff_status cff__json_take_text(const cff__json *object, const char *key, cff_status status,
                               const char **text);
cff_status cff__json_take_number(const cff__json *object, const char *key, cff_status status,
                                 double *number);
cff_status cff__json_take_integer(const cff__json *object, const char *key, int64_t lowest,
                                  int64_t highest, cff_status status, int64_t *integer);
cff_status cff__json_take_bool(const cff__json *object, const char *key, cff_status status,
                               bool *boolean);

/* A list of texts or of numbers, allocated in the arena. */
cff_status cff__json_take_texts(const cff__json *object, const char *key, cff_status status,
                                cff__arena *arena, const char ***texts, size_t *n);
cff_status cff__json_take_numbers(const cff__json *object, const char *key, cff_status status,
                                  cff__arena *arena, double **numbers, size_t *n);

/* Number of a decimal text of the JSON grammar, whatever the locale; false if not finite. */
bool cff__parse_number(const char *text, size_t n_bytes, double *number);

#endif
