/* libcff: few-shot anomaly detection with bundles and profiles of cff-edge, on ONNX Runtime.
 *
 *     cff_bundle *bundle = NULL;
 *     cff_profile *profile = NULL;
 *     cff_session *session = NULL;
 *     cff_result *result = NULL;
 *     cff_result_info info = {.struct_size = sizeof info};
 *     const cff_image image = {pixels, width, height, stride, CFF_PIXEL_BGR};
 *     cff_status status = cff_bundle_open("bottle.bundle", NULL, &bundle);
 *     if (status == CFF_OK) status = cff_profile_load("bottle.safetensors", &profile);
 *     if (status == CFF_OK) status = cff_session_open(bundle, NULL, &session);
 *     if (status == CFF_OK) status = cff_session_inspect(session, profile, &image, &result);
 *     if (status == CFF_OK) status = cff_result_get_info(result, &info);
 *     if (status == CFF_OK) printf("score %g, verdict %d\n", info.score, (int)info.verdict);
 *     else fprintf(stderr, "%s: %s\n", cff_status_str(status), cff_last_error());
 *     cff_result_free(result);
 *     cff_session_free(session);
 *     cff_profile_free(profile);
 *     cff_bundle_free(bundle);
 *
 * Errors. Every function that can fail returns a `cff_status`, and on failure leaves a sentence in
 * `cff_last_error()`: what must hold, what came, the next step. Out-pointers are set to NULL on
 * failure. A NULL where a pointer is needed is CFF_ERROR_USAGE. No function prints, exits or
 * aborts.
 *
 * Memory. Whoever opens, loads or is given a handle frees it; freeing NULL does nothing. All
 * buffers belong to the caller, who can ask how large they must be. Paths and texts are UTF-8,
 * ended by a NUL.
 *
 * Lifetimes. A bundle outlives its sessions. A profile outlives every call that it is given to;
 * where a session keeps copies of memory banks on a device, `cff_session_forget` drops them.
 *
 * Threads. A bundle, a profile and a result never change once they are there: any number of
 * threads may use one at once. Any number of threads may enrol and inspect with one session at
 * once, also with different profiles. Freeing a handle while another thread uses it is an error of
 * the caller. The sentence of `cff_last_error()` belongs to the thread that called. After `fork`,
 * the child opens sessions of its own.
 *
 * Environment. ONNX Runtime 1.31 starts a thread that reports usage unless ORT_DISABLE_TELEMETRY is
 * set. Opening a session sets it to 1 where it is not set; no other thread may read or change the
 * environment at that moment.
 *
 * Structs whose first field is `struct_size` grow at their end only. Set it to `sizeof` the struct
 * that you compiled with; fields beyond it are not touched. Options have a function that does so
 * and fills in what holds by default.
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

/* What an encoder takes beside the image, a float32 matrix that the profile holds: its condition. */
typedef enum cff_condition {
  CFF_CONDITION_WORD = 0,     /* of a class word, from a file of the bundle */
  CFF_CONDITION_REFERENCE = 1 /* features of one of the references, which enrolling chooses */
} cff_condition;

typedef struct cff_bundle_info {
  uint32_t struct_size;
  int32_t height; /* px, of the encoder's input and of the anomaly map */
  int32_t width;  /* px */
  int32_t n_stages;
  int32_t joint_dim;      /* rows of the condition of a class word; 0 if it is of a reference */
  int32_t has_text_tower; /* 1 if the encoder gives a score of its own, else 0 */
  int32_t n_precisions;   /* of the encoder */
  int32_t n_text_names;   /* class words with a condition; 0 if it is of a reference */
  int32_t condition_source;  /* a cff_condition */
  int32_t condition_rows;    /* its shape */
  int32_t condition_columns;
  int32_t n_scorers;         /* n_stages, or 0: nothing is searched, the map is the encoder's */
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

/* Everything about one product: memory bank, condition, references, threshold. */
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
  int64_t n_bank_rows;       /* over all stages; 0 without scorers */
  double threshold;          /* a part with a larger score is rejected */
  double review_threshold;   /* a part with a larger score is for review; at most `threshold` */
  double pixel_threshold;    /* map values above it form regions */
  double peak_scale;         /* factor of the map's maximum beside a score of the encoder */
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
  CFF_PROFILE_TEXT_NAME = 3, /* the class word, or the reference that the condition is of */
  CFF_PROFILE_METHOD = 4,    /* how the threshold was set */
  CFF_PROFILE_STATEMENT = 5, /* what it promises */
  CFF_PROFILE_FACTS = 6      /* all facts, JSON */
} cff_profile_text;

/* See cff_bundle_get_text. */
CFF_API cff_status cff_profile_get_text(const cff_profile *profile, cff_profile_text which,
                                        char *buffer, size_t size, size_t *n_needed);

/* ---- Sessions -------------------------------------------------------------------------------- */

/* A bundle's graphs, loaded by ONNX Runtime. */
typedef struct cff_session cff_session;

/* On Linux, with as many threads as the process is allowed cores, each has a core of its own, and a
 * caller stays on the first one while it inspects; with fewer, nothing is placed. */
typedef struct cff_session_options {
  uint32_t struct_size;
  int32_t n_threads;    /* on the CPU, of the encoder and of the search; 0 takes what there is */
  const char *provider; /* "cpu" (also NULL), "cuda", "tensorrt", "nv-tensorrt-rtx", "openvino" */
  int32_t device;       /* number of the GPU */
  const char *provider_options; /* further options of the provider, "key=value" a line; or NULL */
} cff_session_options;

/* Fill in the defaults: all threads, provider "cpu".
 * struct_size: sizeof(cff_session_options). */
CFF_API cff_status cff_session_options_init(cff_session_options *options, uint32_t struct_size);

/* Load the graphs of a bundle. There is no fallback to another provider.
 * options: NULL for the defaults. */
CFF_API cff_status cff_session_open(const cff_bundle *bundle, const cff_session_options *options,
                                    cff_session **session);

CFF_API void cff_session_free(cff_session *session);

/* Drop what a session keeps of a profile on its device; nothing where it keeps nothing. Call it
 * before the profile is freed, unless the session is freed first. */
CFF_API cff_status cff_session_forget(cff_session *session, const cff_profile *profile);

/* ---- Enrolling ------------------------------------------------------------------------------- */

/* Told of every image that was encoded, of a reference twice where it is encoded again with the
 * condition that the others give. Anything but 0 stops the work, which then fails with
 * CFF_ERROR_USAGE. */
typedef int (*cff_progress)(void *user, int32_t n_done, int32_t n_images);

typedef struct cff_enroll_options {
  uint32_t struct_size;
  uint32_t reserved;        /* 0 */
  const char *text_name;    /* class word; NULL: the product if the bundle has it, else "object" */
  double margin;            /* raises the rule of thumb for few references; 0 to 100 */
  double max_false_reject;  /* wished bound, inside (0, 1); 0 for none */
  double max_false_accept;  /* likewise; needs defective parts */
  double confidence;        /* of these bounds, inside (0, 1) */
  int64_t max_bank;         /* rows that a stage's memory bank may have; 0 for any number */
  const char *const *names; /* of the images, such as file names; NULL: "image 1" and so on */
  const cff_image *further; /* further good parts: not remembered, they only set the threshold */
  size_t n_further;
  const cff_image *defects; /* defective parts, likewise */
  size_t n_defects;
  cff_progress progress; /* NULL for none */
  void *user;            /* given to `progress` */
} cff_enroll_options;

/* Fill in the defaults: margin 0.2, confidence 0.95, nothing else.
 * struct_size: sizeof(cff_enroll_options). */
CFF_API cff_status cff_enroll_options_init(cff_enroll_options *options, uint32_t struct_size);

/* Make a profile from K >= 1 good parts. Where the condition is of a reference, `text_name` must be
 * NULL, and without scorers `max_bank` 0.
 * options: NULL for the defaults. */
CFF_API cff_status cff_session_enroll(cff_session *session, const char *product,
                                      const cff_image *images, size_t n_images,
                                      const cff_enroll_options *options, cff_profile **profile);

/* Make a new profile from the images that a profile holds and further good parts, with the
 * settings that it was enrolled with; a condition of a reference is chosen anew. Of the options
 * only `names`, `further`, `defects` and `progress` count. The old profile stays as it is. */
CFF_API cff_status cff_session_add_normals(cff_session *session, const cff_profile *profile,
                                           const cff_image *images, size_t n_images,
                                           const cff_enroll_options *options,
                                           cff_profile **extended);

/* Make a new profile without one of the references of a profile, else as cff_session_add_normals.
 * index: from 0. */
CFF_API cff_status cff_session_remove_reference(cff_session *session, const cff_profile *profile,
                                                size_t index, const cff_enroll_options *options,
                                                cff_profile **smaller);

/* ---- Inspecting ------------------------------------------------------------------------------ */

/* One inspected image. */
typedef struct cff_result cff_result;

/* Inspect an image of at least 16 x 16 px. */
CFF_API cff_status cff_session_inspect(cff_session *session, const cff_profile *profile,
                                       const cff_image *image, cff_result **result);

CFF_API void cff_result_free(cff_result *result);

typedef enum cff_verdict {
  CFF_VERDICT_PASS = 0,
  CFF_VERDICT_REVIEW = 1, /* for a person to look at */
  CFF_VERDICT_REJECT = 2
} cff_verdict;

typedef struct cff_result_info {
  uint32_t struct_size;
  int32_t verdict;         /* a cff_verdict */
  double score;            /* larger is more anomalous; never rescaled per image */
  double threshold;        /* of the profile */
  double review_threshold; /* of the profile; equal to `threshold` where nothing is for review */
  double text_score;       /* the encoder's own, such as "abnormal" by text alone; NaN if none */
  double product_distance; /* of the image as a whole to the nearest reference */
  double product_limit;    /* of the profile; a larger distance looks like another product */
  int32_t height;          /* px, of the anomaly map */
  int32_t width;           /* px */
  int64_t n_regions;
  double preprocess_ms;
  double encode_ms;
  double search_ms;
  double finish_ms;
} cff_result_info;

CFF_API cff_status cff_result_get_info(const cff_result *result, cff_result_info *info);

/* Copy the anomaly map, row by row; raw values, comparable between images of one profile.
 * n_values: that `map` has room for, at least height * width. */
CFF_API cff_status cff_result_get_map(const cff_result *result, float *map, size_t n_values);

/* A connected part of the anomaly map above the profile's pixel threshold. */
typedef struct cff_region {
  uint32_t struct_size;
  uint32_t reserved;
  double area_px; /* of the inspected image, as all that follows */
  double peak;    /* largest value of the anomaly map inside */
  int64_t x;
  int64_t y;
  int64_t width;
  int64_t height;
} cff_region;

/* index: from 0, strongest first. */
CFF_API cff_status cff_result_get_region(const cff_result *result, size_t index,
                                         cff_region *region);

typedef enum cff_result_text {
  CFF_RESULT_JSON = 0,   /* all but the map, as the Python runtime prints it */
  CFF_RESULT_WARNING = 1 /* looks like another product; "" where it does not */
} cff_result_text;

/* See cff_bundle_get_text. */
CFF_API cff_status cff_result_get_text(const cff_result *result, cff_result_text which,
                                       char *buffer, size_t size, size_t *n_needed);

#ifdef __cplusplus
}
#endif

#endif /* CFF_H */
