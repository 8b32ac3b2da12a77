/* Inspect an image as often as standard input says, and tell how long each took.
 *
 *     inspections BUNDLE PROFILE PIXELS WIDTH HEIGHT THREADS
 *
 * PIXELS: file of WIDTH * HEIGHT * 3 bytes, RGB. Writes "ready" once everything is loaded. For every
 * line with a number n it writes n lines "score total preprocess encode search finish" (ms) and a
 * line "done". */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cff.h"

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e3 * (double)now.tv_sec + 1e-6 * (double)now.tv_nsec;
}

static uint8_t *read_pixels(const char *path, size_t n_bytes) {
  FILE *file = fopen(path, "rb");
  uint8_t *pixels = malloc(n_bytes);
  if (file != NULL && pixels != NULL && fread(pixels, 1, n_bytes, file) == n_bytes) {
    fclose(file);
    return pixels;
  }
  if (file != NULL) fclose(file);
  free(pixels);
  return NULL;
}

static cff_status inspect_once(cff_session *session, const cff_profile *profile,
                               const cff_image *image) {
  cff_result *result = NULL;
  cff_result_info info = {.struct_size = sizeof info};
  const double start = now_ms();
  cff_status done = cff_session_inspect(session, profile, image, &result);
  const double total = now_ms() - start;
  if (done == CFF_OK) done = cff_result_get_info(result, &info);
  if (done == CFF_OK)
    printf("%.17g %.6f %.6f %.6f %.6f %.6f\n", info.score, total, info.preprocess_ms,
           info.encode_ms, info.search_ms, info.finish_ms);
  cff_result_free(result);
  return done;
}

static cff_status answer(cff_session *session, const cff_profile *profile,
                         const cff_image *image) {
  cff_status done = CFF_OK;
  long n = 0;
  puts("ready");
  fflush(stdout);
  while (done == CFF_OK && scanf("%ld", &n) == 1) {
    while (done == CFF_OK && n-- > 0) done = inspect_once(session, profile, image);
    if (done == CFF_OK) puts("done");
    fflush(stdout);
  }
  return done;
}

int main(int argc, char **argv) {
  if (argc != 7) {
    fprintf(stderr, "usage: inspections BUNDLE PROFILE PIXELS WIDTH HEIGHT THREADS\n");
    return 2;
  }
  const int32_t width = (int32_t)atoi(argv[4]), height = (int32_t)atoi(argv[5]);
  uint8_t *pixels = read_pixels(argv[3], 3 * (size_t)width * (size_t)height);
  if (pixels == NULL) {
    fprintf(stderr, "`%s` must hold %d x %d RGB pixels\n", argv[3], (int)width, (int)height);
    return 2;
  }
  const cff_image image = {pixels, width, height, 3 * (size_t)width, CFF_PIXEL_RGB};
  cff_bundle *bundle = NULL;
  cff_profile *profile = NULL;
  cff_session *session = NULL;
  cff_session_options options;
  cff_status done = cff_session_options_init(&options, sizeof options);
  options.n_threads = (int32_t)atoi(argv[6]);
  if (done == CFF_OK) done = cff_profile_load(argv[2], &profile);
  if (done == CFF_OK) done = cff_bundle_open(argv[1], NULL, &bundle);
  if (done == CFF_OK) done = cff_session_open(bundle, &options, &session);
  if (done == CFF_OK) done = answer(session, profile, &image);
  if (done != CFF_OK) fprintf(stderr, "%s: %s\n", cff_status_str(done), cff_last_error());
  cff_session_free(session);
  cff_bundle_free(bundle);
  cff_profile_free(profile);
  free(pixels);
  return done == CFF_OK ? 0 : 1;
}
