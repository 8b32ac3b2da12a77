/* JSON as Python's json.dumps writes it, byte for byte: ids are hashes over such text. */
#ifndef CFF_JSON_WRITER_H
#define CFF_JSON_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cff.h"

/* Text that grows; starts as {0}. Once memory is out, `failed` is set and nothing is added. */
typedef struct cff__json_writer {
  char *text; /* ended by a NUL once anything was written */
  size_t n_bytes, n_allocated;
  bool needs_comma, failed;
} cff__json_writer;

void cff__json_free(cff__json_writer *out);

/* CFF_ERROR_MEMORY if anything is missing. */
cff_status cff__json_check(const cff__json_writer *out);

/* bracket: one of {}[]. */
void cff__json_open(cff__json_writer *out, char bracket);
void cff__json_close(cff__json_writer *out, char bracket);
void cff__json_put_key(cff__json_writer *out, const char *key);

/* Values; text is valid UTF-8, a double is finite, `source` is JSON already. */
void cff__json_put_text(cff__json_writer *out, const char *text);
void cff__json_put_double(cff__json_writer *out, double value);
void cff__json_put_integer(cff__json_writer *out, int64_t value);
void cff__json_put_bool(cff__json_writer *out, bool value);
void cff__json_put_source(cff__json_writer *out, const char *source, size_t n_bytes);

/* Shortest decimal that reads back as the same double, as Python's repr. */
#define CFF__DOUBLE_SIZE 64
void cff__format_double(double value, char text[CFF__DOUBLE_SIZE]);

#endif
