/* The manifest of a bundle, schema 4: the facts that the runtime needs. */
#ifndef CFF_MANIFEST_H
#define CFF_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "cff.h"
#include "json.h"
#include "json_writer.h"
#include "sha256.h"

#define CFF__MANIFEST_SCHEMA 4
#define CFF__MAX_STAGES 16
#define CFF__MAX_VARIANTS 32
#define CFF__MAX_TAP_BYTES 1000
#define CFF__MAX_TOKENS (1 << 16)
#define CFF__MAX_WIDTH (1 << 14)
#define CFF__MAX_SIZE_PX 8192
#define CFF__MIN_SIZE_PX 16
#define CFF__MAX_PORT_BYTES 64

typedef struct cff__stage {
  const char *tap;
  int32_t rows, columns; /* of its grid */
  int32_t width;         /* C_s */
} cff__stage;

typedef struct cff__file_entry {
  const char *name, *sha256;
  int64_t n_bytes;
} cff__file_entry;

/* The encoder in a precision; the first is fp32. */
typedef struct cff__variant {
  const char *precision, *encoder, *id;
} cff__variant;

/* The matrix that an encoder takes beside the image: of a class word, or features of a reference. */
typedef struct cff__condition {
  const char *input;
  int32_t n_rows, n_columns;
  const char *source;           /* "words" or "reference" */
  bool is_of_reference;
  const char *file;             /* of the class words, else NULL */
  const char **names;           /* the class words */
  size_t n_names;
  int32_t stage;                /* whose features a reference gives */
  const char *choice;           /* of the reference, "medoid" or "first"; NULL with class words */
} cff__condition;

/* All texts live in the arena that it was parsed with. */
typedef struct cff__manifest {
  const char *scorers[CFF__MAX_STAGES]; /* graph of each stage */
  cff__stage stages[CFF__MAX_STAGES];
  size_t n_stages, n_scorers; /* as many, or no scorer: nothing is searched */
  int32_t height, width; /* px */
  const char *distance;  /* "cosine" or "log" */
  cff__condition condition;
  const char *map_output;
  double map_weight;
  const char *score_output;    /* NULL for none */
  const char *score_statistic; /* of the map, "max" or "std" */
  cff__file_entry *files; /* sorted by name */
  size_t n_files;
  cff__variant *variants;
  size_t n_variants;
} cff__manifest;

/* Read a manifest and check every field's type and range, and the ids. */
cff_status cff__manifest_parse(const char *text, size_t n_bytes, cff__arena *arena,
                               cff__manifest *manifest);

/* Read what the encoder takes and gives; the stages are read before. */
cff_status cff__manifest_parse_signature(const cff__json *fields, cff__arena *arena,
                                         cff__manifest *manifest);

/* Whether the image score is the standard deviation of the map, not its maximum. */
bool cff__scores_spread(const cff__manifest *manifest);

/* NULL if it is not named. */
const cff__file_entry *cff__manifest_file(const cff__manifest *manifest, const char *name);
const cff__variant *cff__manifest_variant(const cff__manifest *manifest, const char *precision);

/* Hash over all that decides a score, as `Manifest.compute_id` of the Python runtime. */
cff_status cff__manifest_compute_id(const cff__manifest *manifest, const char *encoder,
                                    char hex[CFF__SHA256_HEX_SIZE]);

/* Hash over the hashes of an encoder's graph and weights. */
cff_status cff__manifest_encoder_sha256(const cff__manifest *manifest, const char *encoder,
                                        char hex[CFF__SHA256_HEX_SIZE]);

/* The preprocessing as JSON, keys sorted or in the order of the Python runtime. */
void cff__put_preprocessing(cff__json_writer *out, int32_t height, int32_t width, bool sorted);

#endif
