/* Regions of any map: against a flood fill, one pixel at a time. */
#include <math.h>
#include <string.h>

#include "fuzz.h"
#include "regions.h"

typedef struct board {
  const float *map;
  size_t height, width;
  double threshold;
  uint8_t *seen;
} board;

/* Pixels of the component of a pixel; `stack` has room for all. */
static size_t flood(board *on, size_t start, size_t *stack, float *peak) {
  size_t n_stack = 0, n = 0;
  stack[n_stack++] = start;
  on->seen[start] = 1;
  *peak = on->map[start];
  while (n_stack > 0) {
    size_t at = stack[--n_stack], y = at / on->width, x = at % on->width;
    n++;
    *peak = on->map[at] > *peak ? on->map[at] : *peak;
    for (size_t row = y > 0 ? y - 1 : 0; row <= y + 1 && row < on->height; row++) {
      for (size_t column = x > 0 ? x - 1 : 0; column <= x + 1 && column < on->width; column++) {
        size_t next = row * on->width + column;
        if (on->seen[next] || !((double)on->map[next] > on->threshold)) continue;
        on->seen[next] = 1;
        stack[n_stack++] = next;
      }
    }
  }
  return n;
}

/* Whether one of the regions, not yet matched, has this area and peak. */
static int match(const cff__region *regions, uint8_t *matched, size_t n, double area, float peak) {
  for (size_t i = 0; i < n; i++) {
    if (matched[i] || regions[i].area_px != area || regions[i].peak != (double)peak) continue;
    matched[i] = 1;
    return 1;
  }
  return 0;
}

static void check_against_flood(board *on, const cff__region *regions, size_t n, double pixel) {
  size_t n_values = on->height * on->width, n_found = 0;
  size_t *stack = malloc(n_values * sizeof *stack);
  uint8_t *matched = calloc(n + 1, 1);
  on->seen = calloc(n_values, 1);
  FUZZ_CHECK(stack != NULL && matched != NULL && on->seen != NULL);
  for (size_t i = 0; i < n_values; i++) {
    float peak;
    if (on->seen[i] || !((double)on->map[i] > on->threshold)) continue;
    size_t area = flood(on, i, stack, &peak);
    FUZZ_CHECK(match(regions, matched, n, (double)area * pixel, peak));
    n_found++;
  }
  FUZZ_CHECK(n_found == n);
  free(stack);
  free(matched);
  free(on->seen);
}

static void check_boxes(const cff__region *regions, size_t n, size_t height, size_t width) {
  for (size_t i = 0; i < n; i++) {
    const cff__region *one = &regions[i];
    FUZZ_CHECK(one->x >= 0 && one->y >= 0 && one->width > 0 && one->height > 0);
    FUZZ_CHECK((uint64_t)(one->x + one->width) <= width);
    FUZZ_CHECK((uint64_t)(one->y + one->height) <= height);
    FUZZ_CHECK(i == 0 || regions[i - 1].peak >= one->peak);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
  fuzz_input input = {data, n_bytes};
  board on = {NULL, fuzz_take_u8(&input) % 48, fuzz_take_u8(&input) % 48, 0.0, NULL};
  size_t image_height = fuzz_take_size(&input, CFF__REGION_MAX_SIDE + 1);
  size_t image_width = fuzz_take_size(&input, CFF__REGION_MAX_SIDE + 1);
  cff__region *regions = NULL;
  size_t n = 0, n_values = on.height * on.width;
  uint8_t how = fuzz_take_u8(&input);
  if (how & 1) fuzz_take(&input, &on.threshold, sizeof on.threshold);
  float *map = malloc(n_values * sizeof *map + 1);
  FUZZ_CHECK(map != NULL);
  if (how & 2) fuzz_take(&input, map, n_values * sizeof *map); /* any bits, NaN too */
  else
    for (size_t i = 0; i < n_values; i++) map[i] = (float)(int8_t)fuzz_take_u8(&input);
  on.map = map;
  cff_status status = cff__find_regions(map, on.height, on.width, on.threshold, image_height,
                                        image_width, &regions, &n);
  FUZZ_CHECK((regions != NULL) == (n > 0));
  if (status != CFF_OK) {
    fuzz_check_failure(status, CFF_ERROR_IMAGE, CFF_ERROR_IMAGE);
  } else {
    double pixel = ((double)image_height * (double)image_width) /
                   ((double)on.height * (double)on.width);
    check_boxes(regions, n, image_height, image_width);
    check_against_flood(&on, regions, n, pixel);
  }
  free(regions);
  free(map);
  return 0;
}
