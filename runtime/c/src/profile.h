/* A profile: everything about one product, in one safetensors file, schema 3. */
#ifndef CFF_PROFILE_H
#define CFF_PROFILE_H

#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "cff.h"
#include "json_writer.h"
#include "manifest.h"

#define CFF__PROFILE_SCHEMA 3
#define CFF__PROFILE_KEY "cff_profile"
#define CFF__MAX_PROFILE_BYTES ((uint64_t)1 << 34)

typedef struct cff__matrix {
  float *values; /* row by row, from malloc */
  int64_t n_rows, n_columns;
} cff__matrix;

/* What the profile was made with. */
typedef struct cff__origin {
  const char *precision, *encoder_sha256, *distance;
  const char *preprocessing; /* JSON */
  int32_t height, width;     /* px */
  double map_weight;
  const char *score_statistic;
} cff__origin;

typedef struct cff__reference {
  const char *name, *sha256, *added;
  int64_t width, height; /* px, as it was given */
} cff__reference;

/* As in the Python runtime; a threshold that no score reaches would pass every part. */
#define CFF__MAX_THRESHOLD 1e6

typedef struct cff__threshold {
  double value, review, pixel_value, expected_false_rejects;
  const char *method, *statement;
  const char *card; /* JSON */
  int64_t n_parts;
  double *scores, *peaks;
  size_t n_scores, n_peaks;
} cff__threshold;

/* Texts, lists and JSON live in the arena; matrices and images are from malloc. */
struct cff_profile {
  uint64_t serial; /* no other profile of this process has or had it */
  cff__arena arena;
  const char *product, *bundle_id;
  const char *condition_name; /* a class word or a reference */
  cff__origin origin;
  cff__reference *references;
  size_t n_references; /* K */
  cff__threshold threshold;
  double display_range[2], peak_scale, product_limit;
  const char *settings, *history; /* JSON */
  const char *compression;        /* JSON, "null" for none */
  cff__matrix banks[CFF__MAX_STAGES], means[CFF__MAX_STAGES];
  size_t n_stages, n_banks; /* as many banks, or none */
  cff__matrix condition;
  uint8_t *images; /* [K,H,W,3], from malloc */
};

/* Next number of this process, from 1; any number of threads may ask. */
uint64_t cff__next_serial(void);

/* Say what a new profile is made with: precision, encoder, preprocessing and id of a bundle. */
cff_status cff__profile_set_origin(cff_profile *profile, const cff_bundle *bundle);

/* Keep written JSON as a text in the arena; the writer is freed. */
cff_status cff__profile_keep_json(cff__json_writer *out, cff__arena *arena, const char **kept);

/* Add an entry to the history, which may be NULL yet.
 * key, source: a field of its own, JSON. */
cff_status cff__profile_record(cff_profile *profile, const char *action, const char *key,
                               const char *source);

/* Read the facts out of their JSON, but for what must fit the tensors. */
cff_status cff__profile_parse_facts(const char *text, size_t n_bytes, cff_profile *profile);

/* Write the facts as JSON. */
void cff__profile_put_facts(cff__json_writer *out, const cff_profile *profile);

#endif
