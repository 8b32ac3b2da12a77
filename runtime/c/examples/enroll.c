/* Make a profile from a few good parts; print its threshold and what that promises.
 *
 *     enroll --product bottle bottle.bundle bottle.safetensors good_1.png good_2.png ...
 *
 * Exit code 0, 1 if the run failed, 2 if the call itself is wrong. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cff.h"
#include "list_images.h"
#include "read_image.h"

static const char usage[] =
    "usage: enroll --product NAME [--text-name WORD] [--max-bank ROWS] [--provider NAME]\n"
    "              [--threads N] [--precision NAME] BUNDLE PROFILE IMAGE|FOLDER...\n";

typedef struct settings {
  const char *product;
  const char *precision;
  cff_session_options session;
  cff_enroll_options enroll;
  const char *bundle;
  const char *profile;
  image_list files;
} settings;

static int fail(const char *reason) {
  fprintf(stderr, "error: %s\n", reason);
  return 1;
}

static int fail_usage(const char *reason) {
  fputs(usage, stderr);
  return fail(reason) + 1;
}

static int show_progress(void *user, int32_t n_done, int32_t n_images) {
  (void)user;
  if (n_done == n_images) fprintf(stderr, "encoded %d of %d\n", (int)n_done, (int)n_images);
  return 0;
}

/* Return whether `value` is a number. */
static int read_number(const char *value, long *number) {
  char *end = NULL;
  *number = strtol(value, &end, 10);
  return end != value && *end == '\0';
}

/* Return an exit code. */
static int read_arguments(int argc, char **argv, settings *s) {
  char reason[REASON_BYTES];
  long number = 0;
  int i = 1;
  for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
    const char *name = argv[i] + 2, *value = argv[i + 1];
    if (strcmp(name, "product") == 0) s->product = value;
    else if (strcmp(name, "text-name") == 0) s->enroll.text_name = value;
    else if (strcmp(name, "precision") == 0) s->precision = value;
    else if (strcmp(name, "provider") == 0) s->session.provider = value;
    else if (strcmp(name, "threads") == 0 && read_number(value, &number)) {
      s->session.n_threads = (int32_t)number;
    } else if (strcmp(name, "max-bank") == 0 && read_number(value, &number)) {
      s->enroll.max_bank = number;
    } else return fail_usage("options must be as above, numbers where N or ROWS stands");
  }
  if (argc - i < 3 || s->product == NULL) {
    return fail_usage("a product, a bundle, a profile and an image or folder must be given");
  }
  s->bundle = argv[i];
  s->profile = argv[i + 1];
  for (i += 2; i < argc; i++) {
    if (!list_images(argv[i], &s->files, reason)) return fail(reason) + 1;
  }
  return 0;
}

/* Read all images; a profile remembers them by their file names. Return an exit code. */
static int read_images(const image_list *files, cff_image *images, const char **names) {
  char reason[REASON_BYTES];
  for (size_t i = 0; i < files->n_paths; i++) {
    if (!read_image(files->paths[i], &images[i], reason)) return fail(reason);
    const char *slash = strrchr(files->paths[i], '/');
    names[i] = slash == NULL ? files->paths[i] : slash + 1;
  }
  return 0;
}

/* Return an exit code. */
static int report(const settings *s, const cff_profile *profile) {
  cff_profile_info info = {.struct_size = sizeof info};
  size_t n_bytes = 0;
  char *statement = NULL;
  cff_status status = cff_profile_get_info(profile, &info);
  if (status == CFF_OK) {
    status = cff_profile_get_text(profile, CFF_PROFILE_STATEMENT, NULL, 0, &n_bytes);
  }
  if (status == CFF_OK && (statement = malloc(n_bytes)) == NULL) {
    return fail("there is not enough memory");
  }
  if (status == CFF_OK) {
    status = cff_profile_get_text(profile, CFF_PROFILE_STATEMENT, statement, n_bytes, NULL);
  }
  if (status == CFF_OK) {
    printf("%s  %s, K = %d, threshold %.4f\n%s\n", s->profile, s->product,
           (int)info.n_references, info.threshold, statement);
  }
  free(statement);
  if (status != CFF_OK) return fail(cff_last_error());
  return fflush(stdout) == 0 ? 0 : fail("output: could not be written");
}

/* Return an exit code. */
static int enroll(settings *s, const cff_image *images) {
  cff_bundle *bundle = NULL;
  cff_session *session = NULL;
  cff_profile *profile = NULL;
  int exit_code = 0;
  cff_status status = cff_bundle_open(s->bundle, s->precision, &bundle);
  if (status == CFF_OK) status = cff_session_open(bundle, &s->session, &session);
  if (status == CFF_OK) {
    status = cff_session_enroll(session, s->product, images, s->files.n_paths, &s->enroll,
                                &profile);
  }
  if (status == CFF_OK) status = cff_profile_save(profile, s->profile);
  if (status == CFF_OK) exit_code = report(s, profile);
  else exit_code = fail(cff_last_error()) + (status == CFF_ERROR_USAGE);
  cff_session_free(session);
  cff_profile_free(profile);
  cff_bundle_free(bundle);
  return exit_code;
}

int main(int argc, char **argv) {
  settings s = {0};
  cff_session_options_init(&s.session, sizeof s.session);
  cff_enroll_options_init(&s.enroll, sizeof s.enroll);
  s.enroll.progress = show_progress;
  int exit_code = read_arguments(argc, argv, &s);
  if (exit_code == 0) {
    cff_image *images = calloc(s.files.n_paths, sizeof *images);
    const char **names = calloc(s.files.n_paths, sizeof *names);
    s.enroll.names = names;
    exit_code = images == NULL || names == NULL ? fail("there is not enough memory")
                                                : read_images(&s.files, images, names);
    if (exit_code == 0) exit_code = enroll(&s, images);
    for (size_t i = 0; images != NULL && i < s.files.n_paths; i++) free_image(&images[i]);
    free(images);
    free(names);
  }
  free_list(&s.files);
  return exit_code;
}
