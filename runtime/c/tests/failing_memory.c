/* Let every allocation of libcff's numbers fail once, one after the other: each call must say so
 * and leave nothing behind. Linked with --wrap=malloc,--wrap=realloc and built with the address
 * sanitizer, which tells what was left. Exit status: 0 if all is well, else a line's number. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "finishing.h"
#include "regions.h"
#include "resize.h"

void *__real_malloc(size_t n_bytes);
void *__real_realloc(void *old, size_t n_bytes);
void *__wrap_malloc(size_t n_bytes);
void *__wrap_realloc(void *old, size_t n_bytes);

static int allowed = -1; /* allocations until one fails, -1 for none */

static bool fails(void) { return allowed >= 0 && allowed-- == 0; }

void *__wrap_malloc(size_t n_bytes) { return fails() ? NULL : __real_malloc(n_bytes); }

void *__wrap_realloc(void *old, size_t n_bytes) {
  return fails() ? NULL : __real_realloc(old, n_bytes);
}

static uint8_t pixels[64 * 64], resized[40 * 40 * 3];
static float nearest[16 * 16], map[64 * 64];

static cff_status preprocess(void) {
  const cff_image image = {pixels, 64, 64, 64, CFF_PIXEL_GREY};
  return cff__preprocess(&image, resized, 40, 40);
}

static cff_status fuse(void) {
  const float *const planes[] = {nearest, nearest};
  const cff__grid grids[] = {{16, 16}, {8, 4}};
  return cff__fuse_maps(planes, grids, 2, CFF__DISTANCE_LOG, map, 1.0F, map, 64, 64);
}

static cff_status regions(void) {
  static float board[64 * 64]; /* more runs than the first room for them */
  cff__region *found = NULL;
  size_t n_found = 0;
  for (size_t i = 0; i < sizeof board / sizeof *board; i++) board[i] = (float)(i % 3 == 0);
  const cff_status status = cff__find_regions(board, 64, 64, 0.5, 100, 100, &found, &n_found);
  const bool agrees = (found != NULL) == (status == CFF_OK) && (n_found > 0) == (found != NULL);
  free(found);
  return agrees ? status : CFF_ERROR_USAGE;
}

/* 0, or 1 if the call did not fail as it must, or never came through. */
static int try_all(cff_status (*call)(void)) {
  for (int n = 0; n < 100; n++) {
    allowed = n;
    const cff_status status = call();
    const bool failed = allowed < 0;
    allowed = -1;
    if (!failed) return status != CFF_OK || n == 0;
    if (status != CFF_ERROR_MEMORY || strlen(cff_last_error()) == 0) return 1;
  }
  return 1;
}

int main(void) {
  if (try_all(preprocess)) return __LINE__;
  if (try_all(fuse)) return __LINE__;
  if (try_all(regions)) return __LINE__;
  return 0;
}
