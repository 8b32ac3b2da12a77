/* The manifest of a bundle, schema 3: the facts that the runtime needs. */
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

#define CFF__MANIFEST_SCHEMA 3
#define CFF__MAX_STAGES 16
#define CFF__MAX_VARIANTS 32
#define CFF__MAX_TAP_BYTES 1000
#define CFF__MAX_TOKENS (1 << 16)
#define CFF__MAX_WIDTH (1 << 14)
#define CFF__MAX_SIZE_PX 8192
#define CFF__MIN_SIZE_PX 16

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

/* All texts live in the arena that it was parsed with. */
typedef struct cff__manifest {
  const char *scorers[CFF__MAX_STAGES]; /* graph of each stage */
  cff__stage stages[CFF__MAX_STAGES];
  size_t n_stages;
  int32_t height, width; /* px */
  int32_t joint_dim;
  const char *distance;  /* "cosine" or "log" */
  const char *text_file;
  const char **text_names;
  size_t n_text_names;
  double text_weight;
  bool has_text_tower;
  cff__file_entry *files; /* sorted by name */
  size_t n_files;
  cff__variant *variants;
  size_t n_variants;
} cff__manifest;

/* Read a manifest and check every field's type and range, and the ids. */
cff_status cff__manifest_parse(const char *text, size_t n_bytes, cff__arena *arena,
                               cff__manifest *manifest);

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
