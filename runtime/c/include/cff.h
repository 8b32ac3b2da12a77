/* libcff: bundles and profiles of cff-edge. Encoders do not run in it yet.
 *
 *     cff_bundle *bundle = NULL;
 *     cff_profile *profile = NULL;
 *     cff_profile_info info = {sizeof info};
 *     cff_status status = cff_bundle_open("bottle.bundle", NULL, &bundle);
 *     if (status == CFF_OK) status = cff_profile_load("bottle.safetensors", &profile);
 *     if (status == CFF_OK) status = cff_profile_check(profile, bundle);
 *     if (status == CFF_OK) status = cff_profile_get_info(profile, &info);
 *     if (status == CFF_OK) printf("rejects above %g\n", info.threshold);
 *     else fprintf(stderr, "%s: %s\n", cff_status_str(status), cff_last_error());
 *     cff_profile_free(profile);
 *     cff_bundle_free(bundle);
 *
 * Errors. Every function that can fail returns a `cff_status`, and on failure leaves a sentence in
 * `cff_last_error()`: what must hold, what came, the next step. Out-pointers are set to NULL on
 * failure. A NULL where a pointer is needed is CFF_ERROR_USAGE. No function prints, exits or
 * aborts.
 *
 * Memory. Whoever opens or loads a handle frees it; freeing NULL does nothing. All buffers belong
 * to the caller, who can ask how large they must be. Paths and texts are UTF-8, ended by a NUL.
 *
 * Threads. A bundle and a profile never change once they are there: any number of threads may use
 * one at once. Freeing one while another thread uses it is an error of the caller. The sentence of
 * `cff_last_error()` belongs to the thread that called.
 *
 * Structs whose first field is `struct_size` grow at their end only. Set it to `sizeof` the struct
 * that you compiled with; fields beyond it are not touched.
 */
#ifndef CFF_H
#define CFF_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CFF_API __attribute__((visibility("default")))
#else
#define CFF_API
#endif

/* Rises when a program must be compiled again. */
#define CFF_ABI_VERSION 1

/* ABI version of the library that is loaded; compare with CFF_ABI_VERSION. */
CFF_API uint32_t cff_abi_version(void);

/* ---- Errors ---------------------------------------------------------------------------------- */

typedef enum cff_status {
  CFF_OK = 0,
  CFF_ERROR_USAGE = 1,    /* the call itself is wrong */
  CFF_ERROR_MEMORY = 2,   /* not enough memory */
  CFF_ERROR_STORAGE = 3,  /* a file could not be written */
  CFF_ERROR_BUNDLE = 4,   /* a bundle is damaged or not a bundle */
  CFF_ERROR_PROFILE = 5,  /* a profile is damaged or not a profile */
  CFF_ERROR_MISMATCH = 6, /* a profile belongs to another bundle */
  CFF_ERROR_IMAGE = 7,    /* an image cannot be used */
  CFF_ERROR_BACKEND = 8,  /* the inference engine cannot run this */
  CFF_ERROR_BUFFER = 9    /* the caller's buffer is too small */
} cff_status;

/* Name of a status, such as "CFF_ERROR_BUNDLE"; never NULL. */
CFF_API const char *cff_status_str(cff_status status);

/* Sentence about the last call of this thread that failed; "" if none did. Valid until the
 * thread's next call that fails. */
CFF_API const char *cff_last_error(void);

/* ---- Images ---------------------------------------------------------------------------------- */

typedef enum cff_pixel_format {
  CFF_PIXEL_RGB = 0,
  CFF_PIXEL_BGR = 1,
  CFF_PIXEL_RGBA = 2, /* alpha is ignored */
  CFF_PIXEL_GREY = 3
} cff_pixel_format;

/* 8 bits per channel, channels interleaved, rows from the top. */
typedef struct cff_image {
  const uint8_t *pixels;
  int32_t width;    /* px */
  int32_t height;   /* px */
  size_t stride;    /* bytes from one row to the next, at least a row's pixels */
  int32_t format;   /* a cff_pixel_format */
} cff_image;

/* ---- Bundles --------------------------------------------------------------------------------- */

/* A verified bundle, the folder that `cff-export` writes, seen by one precision of its encoder. */
typedef struct cff_bundle cff_bundle;

/* Read the manifest, and check size and SHA-256 of every file that it names.
 * precision: of the encoder, such as "fp32"; NULL is "fp32". */
CFF_API cff_status cff_bundle_open(const char *path, const char *precision, cff_bundle **bundle);

CFF_API void cff_bundle_free(cff_bundle *bundle);

typedef struct cff_bundle_info {
  uint32_t struct_size;
  int32_t height; /* px, of the encoder's input and of the anomaly map */
  int32_t width;  /* px */
  int32_t n_stages;
  int32_t joint_dim;      /* C, length of a text vector */
  int32_t has_text_tower; /* 1 if the encoder gives a text score, else 0 */
  int32_t n_precisions;   /* of the encoder */
  int32_t n_text_names;   /* class words with text vectors */
} cff_bundle_info;

CFF_API cff_status cff_bundle_get_info(const cff_bundle *bundle, cff_bundle_info *info);

typedef enum cff_bundle_text {
  CFF_BUNDLE_ID = 0,        /* SHA-256, hex */
  CFF_BUNDLE_PRECISION = 1, /* of the encoder, as opened */
  CFF_BUNDLE_PRECISIONS = 2, /* all of the bundle, one a line */
  CFF_BUNDLE_TEXT_NAMES = 3, /* class words, one a line */
  CFF_BUNDLE_DISTANCE = 4   /* "cosine" or "log" */
} cff_bundle_text;

/* Copy a text, ended by a NUL.
 * buffer: NULL with size 0 to ask for the size alone.
 * n_needed: bytes of the text with its NUL; may be NULL. */
CFF_API cff_status cff_bundle_get_text(const cff_bundle *bundle, cff_bundle_text which,
                                       char *buffer, size_t size, size_t *n_needed);

/* ---- Profiles -------------------------------------------------------------------------------- */

/* Everything about one product: memory bank, text vectors, references, threshold. */
typedef struct cff_profile cff_profile;

/* Read a profile and check its fields, types, shapes and values. */
CFF_API cff_status cff_profile_load(const char *path, cff_profile **profile);

/* Write a profile to a temporary file beside `path`, flush it to disk and rename it. On failure
 * what stood at `path` stays as it was. */
CFF_API cff_status cff_profile_save(const cff_profile *profile, const char *path);

CFF_API void cff_profile_free(cff_profile *profile);

/* CFF_OK if the profile belongs to the bundle and precision, else CFF_ERROR_MISMATCH. */
CFF_API cff_status cff_profile_check(const cff_profile *profile, const cff_bundle *bundle);

typedef struct cff_profile_info {
  uint32_t struct_size;
  int32_t n_references; /* K */
  int32_t n_stages;
  int32_t height;            /* px, of the references as the encoder sees them */
  int32_t width;             /* px */
  int32_t is_compressed;     /* 1 if rows of the memory bank were left out, else 0 */
  int64_t n_bank_rows;       /* over all stages */
  double threshold;          /* a part with a larger score is rejected */
  double review_threshold;   /* a part with a larger score is for review; at most `threshold` */
  double pixel_threshold;    /* map values above it form regions */
  double peak_scale;         /* factor of the map's maximum in the score, with a text tower */
  double product_limit;      /* a larger distance looks like another product */
  double display_low;        /* colour scale of pictures */
  double display_high;
  double expected_false_rejects; /* upper bound; 1 where nothing is promised */
} cff_profile_info;

CFF_API cff_status cff_profile_get_info(const cff_profile *profile, cff_profile_info *info);

typedef enum cff_profile_text {
  CFF_PROFILE_PRODUCT = 0,
  CFF_PROFILE_BUNDLE_ID = 1,
  CFF_PROFILE_PRECISION = 2,
  CFF_PROFILE_TEXT_NAME = 3,
  CFF_PROFILE_METHOD = 4,    /* how the threshold was set */
  CFF_PROFILE_STATEMENT = 5, /* what it promises */
  CFF_PROFILE_FACTS = 6      /* all facts, JSON */
} cff_profile_text;

/* See cff_bundle_get_text. */
CFF_API cff_status cff_profile_get_text(const cff_profile *profile, cff_profile_text which,
                                        char *buffer, size_t size, size_t *n_needed);

#ifdef __cplusplus
}
#endif

#endif /* CFF_H */
