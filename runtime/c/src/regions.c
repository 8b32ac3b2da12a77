#include "regions.h"

#include <stdbool.h>
#include <stdlib.h>

#include "status.h"

/* A run: neighbouring pixels of one row above the threshold. Runs that touch, corners included,
   are joined into components; the first run of a component speaks for it. */
typedef struct run {
  size_t y, start, stop; /* pixels [start,stop) of row y */
  size_t parent;
  float peak;
} run;

typedef struct runs {
  run *all;
  size_t count, room;
} runs;

typedef struct component {
  uint64_t area, order;
  size_t left, top, right, bottom; /* right and bottom are outside */
  float peak;
} component;

static bool append(runs *list, run one) {
  if (list->count == list->room) {
    const size_t room = list->room ? list->room * 2 : 64;
    run *larger =
        room > SIZE_MAX / sizeof *larger ? NULL : realloc(list->all, room * sizeof *larger);
    if (!larger) {
      return false;
    }
    list->all = larger;
    list->room = room;
  }
  list->all[list->count++] = one;
  return true;
}

static size_t root_of(run *all, size_t index) {
  while (all[index].parent != index) {
    all[index].parent = all[all[index].parent].parent; /* halves the path for the next */
    index = all[index].parent;
  }
  return index;
}

static void join(run *all, size_t a, size_t b) {
  a = root_of(all, a);
  b = root_of(all, b);
  if (a < b) {
    all[b].parent = a;
  } else {
    all[a].parent = b;
  }
}

static bool row_runs(const float *row, size_t y, size_t width, double threshold, runs *list) {
  for (size_t x = 0; x < width; x++) {
    if (!((double)row[x] > threshold)) { /* NaN is not above */
      continue;
    }
    run one = {y, x, x, list->count, row[x]};
    for (; x < width && (double)row[x] > threshold; x++) {
      one.peak = row[x] > one.peak ? row[x] : one.peak;
    }
    one.stop = x;
    if (!append(list, one)) {
      return false;
    }
  }
  return true;
}

/* Join the runs [middle,end) of one row with [begin,middle) of the row above. */
static void join_rows(run *all, size_t begin, size_t middle, size_t end) {
  size_t above = begin;
  for (size_t below = middle; below < end; below++) {
    /* one pixel further on both sides: corners touch */
    while (above < middle && all[above].stop < all[below].start) {
      above++;
    }
    for (size_t i = above; i < middle && all[i].start <= all[below].stop; i++) {
      join(all, i, below);
    }
  }
}

static bool find_runs(const float *map, size_t height, size_t width, double threshold, runs *list) {
  size_t begin = 0;
  for (size_t y = 0; y < height; y++) {
    const size_t middle = list->count;
    if (!row_runs(map + y * width, y, width, threshold, list)) {
      return false;
    }
    join_rows(list->all, begin, middle, list->count);
    begin = middle;
  }
  return true;
}

static component component_of(const run *one, uint64_t order) {
  const component made = {
      one->stop - one->start, order, one->start, one->y, one->stop, one->y + 1, one->peak};
  return made;
}

static void grow(component *one, const run *by, uint64_t order) {
  one->area += by->stop - by->start;
  one->order = order < one->order ? order : one->order;
  one->left = by->start < one->left ? by->start : one->left;
  one->right = by->stop > one->right ? by->stop : one->right;
  one->bottom = by->y + 1; /* runs come row by row */
  one->peak = by->peak > one->peak ? by->peak : one->peak;
}

/* Turn runs into components. A root stands before its runs: the smaller index always wins. Once
   read, a root's `parent` becomes the number of its component. */
static size_t gather(runs *list, size_t width, component *components) {
  size_t count = 0;
  for (size_t i = 0; i < list->count; i++) {
    root_of(list->all, i);
  }
  for (size_t i = 0; i < list->count; i++) {
    run *one = &list->all[i];
    /* Python's labels follow the first block of 2 x 2 pixels that a component touches */
    const uint64_t order = (uint64_t)(one->y / 2) * (width / 2 + 1) + one->start / 2;
    if (one->parent == i) {
      components[count] = component_of(one, order);
      one->parent = count++;
    } else {
      one->parent = list->all[one->parent].parent;
      grow(&components[one->parent], one, order);
    }
  }
  return count;
}

static int by_peak(const void *left, const void *right) {
  const component *a = left, *b = right;
  if (a->peak != b->peak) {
    return a->peak > b->peak ? -1 : 1;
  }
  return a->order < b->order ? -1 : a->order > b->order;
}

/* Scale [start,stop) from the map to whole pixels of the image, rounding outwards. */
static void outward(size_t start, size_t stop, size_t image_side, size_t map_side,
                    int64_t *position, int64_t *length) {
  const uint64_t first = (uint64_t)start * image_side / map_side;
  const uint64_t last = ((uint64_t)stop * image_side + map_side - 1) / map_side;
  *position = (int64_t)first;
  *length = (int64_t)(last - first);
}

static bool side_fits(size_t side) { return side > 0 && side <= CFF__REGION_MAX_SIDE; }

static component *find_components(const float *map, size_t height, size_t width, double threshold,
                                  bool *made, size_t *count) {
  runs list = {NULL, 0, 0};
  component *components = NULL;
  *made = find_runs(map, height, width, threshold, &list);
  if (*made && list.count > 0) {
    *made = list.count <= SIZE_MAX / sizeof *components;
    components = *made ? malloc(list.count * sizeof *components) : NULL;
    *made = components != NULL;
  }
  if (components) {
    *count = gather(&list, width, components);
    qsort(components, *count, sizeof *components, by_peak);
  }
  free(list.all);
  return components;
}

cff_status cff__find_regions(const float *map, size_t height, size_t width, double threshold,
                             size_t image_height, size_t image_width, cff__region **regions,
                             size_t *n_regions) {
  *regions = NULL;
  *n_regions = 0;
  if (!side_fits(height) || !side_fits(width) || !side_fits(image_height) ||
      !side_fits(image_width)) {
    return cff__fail(CFF_ERROR_IMAGE, "map and image sides must be 1 to %llu px",
                     (unsigned long long)CFF__REGION_MAX_SIDE);
  }
  bool made;
  size_t count = 0;
  component *found = find_components(map, height, width, threshold, &made, &count);
  cff__region *told = count > 0 ? malloc(count * sizeof *told) : NULL;
  const double pixel_area =
      ((double)image_height * (double)image_width) / ((double)height * (double)width);
  for (size_t i = 0; told && i < count; i++) {
    told[i].area_px = (double)found[i].area * pixel_area;
    told[i].peak = (double)found[i].peak;
    outward(found[i].left, found[i].right, image_width, width, &told[i].x, &told[i].width);
    outward(found[i].top, found[i].bottom, image_height, height, &told[i].y, &told[i].height);
  }
  free(found);
  *regions = told;
  *n_regions = told ? count : 0;
  if (!made || (count > 0 && !told)) {
    return cff__no_memory("regions", (uint64_t)count * sizeof *told);
  }
  return CFF_OK;
}
