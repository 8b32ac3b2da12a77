/* Inspect images and folders; print one JSON object a line, as `cff-run inspect --json` does.
 *
 *     inspect_folder bottle.bundle bottle.safetensors parts/ > answers.jsonl
 *
 * Exit code 0, 1 if an image or the run failed, 2 if the call itself is wrong. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cff.h"
#include "list_images.h"
#include "print_json.h"
#include "read_image.h"

static const char usage[] =
    "usage: inspect_folder [--provider NAME] [--threads N] [--precision NAME]\n"
    "                      BUNDLE PROFILE IMAGE|FOLDER...\n";

typedef struct settings {
  const char *precision; /* NULL: the profile's */
  cff_session_options session;
  const char *bundle;
  const char *profile;
  image_list images;
} settings;

static int fail(const char *reason) {
  fprintf(stderr, "error: %s\n", reason);
  return 1;
}

/* 2 if the call itself is wrong, else 1, as the Python commands. */
static int fail_cff(cff_status status) {
  return fail(cff_last_error()) + (status == CFF_ERROR_USAGE);
}

static int fail_usage(const char *reason) {
  fputs(usage, stderr);
  return fail(reason) + 1;
}

/* Return an exit code. */
static int read_arguments(int argc, char **argv, settings *s) {
  char reason[REASON_BYTES];
  int i = 1;
  for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
    char *end = argv[i + 1];
    if (strcmp(argv[i], "--provider") == 0) s->session.provider = argv[i + 1];
    else if (strcmp(argv[i], "--precision") == 0) s->precision = argv[i + 1];
    else if (strcmp(argv[i], "--threads") == 0) {
      s->session.n_threads = (int32_t)strtol(argv[i + 1], &end, 10);
      if (end == argv[i + 1] || *end != '\0') return fail_usage("`--threads` must be a number");
    } else return fail_usage("options must be --provider, --threads or --precision");
  }
  if (argc - i < 3) return fail_usage("a bundle, a profile and an image or folder must be given");
  s->bundle = argv[i];
  s->profile = argv[i + 1];
  for (i += 2; i < argc; i++) {
    if (!list_images(argv[i], &s->images, reason)) return fail(reason) + 1;
  }
  return 0;
}

/* Return an exit code. */
static int inspect(cff_session *session, const cff_profile *profile, const char *path) {
  char reason[REASON_BYTES] = "", *json = NULL;
  const char *why = reason;
  cff_image image;
  cff_result *result = NULL;
  size_t n_bytes = 0;
  if (read_image(path, &image, reason)) {
    cff_status status = cff_session_inspect(session, profile, &image, &result);
    if (status == CFF_OK) status = cff_result_get_text(result, CFF_RESULT_JSON, NULL, 0, &n_bytes);
    if (status == CFF_OK && (json = malloc(n_bytes)) != NULL) {
      status = cff_result_get_text(result, CFF_RESULT_JSON, json, n_bytes, NULL);
    }
    why = status != CFF_OK ? cff_last_error() : json == NULL ? "there is not enough memory" : NULL;
  }
  fputs("{\"image\": ", stdout);
  print_json(stdout, path);
  if (why == NULL) {
    printf(", %s\n", json + 1); /* what stands inside its braces */
  } else {
    fputs(", \"error\": ", stdout);
    print_json(stdout, why);
    fputs("}\n", stdout);
    fail(why);
  }
  free(json);
  cff_result_free(result);
  free_image(&image);
  return why != NULL;
}

static int inspect_all(cff_session *session, const cff_profile *profile, const image_list *images) {
  size_t n_failed = 0;
  for (size_t i = 0; i < images->n_paths; i++) {
    n_failed += inspect(session, profile, images->paths[i]) != 0;
    if (fflush(stdout) != 0) { /* a closed pipe, a full disk */
      fprintf(stderr, "error: output: %s\n", strerror(errno));
      return 1;
    }
  }
  if (n_failed == 0) return 0;
  fprintf(stderr, "error: %zu of %zu images failed\n", n_failed, images->n_paths);
  return 1;
}

int main(int argc, char **argv) {
  settings s = {0};
  cff_bundle *bundle = NULL;
  cff_profile *profile = NULL;
  cff_session *session = NULL;
  char precision[64];
  cff_session_options_init(&s.session, sizeof s.session);
  int exit_code = read_arguments(argc, argv, &s);
  if (exit_code == 0) {
    cff_status status = cff_profile_load(s.profile, &profile);
    if (status == CFF_OK && s.precision == NULL) { /* the bundle as the profile knows it */
      status = cff_profile_get_text(profile, CFF_PROFILE_PRECISION, precision, sizeof precision,
                                    NULL);
      s.precision = precision;
    }
    if (status == CFF_OK) status = cff_bundle_open(s.bundle, s.precision, &bundle);
    if (status == CFF_OK) status = cff_profile_check(profile, bundle);
    if (status == CFF_OK) status = cff_session_open(bundle, &s.session, &session);
    exit_code = status == CFF_OK ? inspect_all(session, profile, &s.images) : fail_cff(status);
  }
  cff_session_free(session);
  cff_profile_free(profile);
  cff_bundle_free(bundle);
  free_list(&s.images);
  return exit_code;
}
