#include "references.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pixels.h"
#include "resize.h"
#include "sha256.h"
#include "status.h"
#include "thresholds.h"
#include "utf8.h"

/* Say which image a sentence is about. */
static cff_status in_image(cff_status status, const char *name, size_t index) {
  char before[64];
  snprintf(before, sizeof before, "%.30s[%llu]: ", name, (unsigned long long)index);
  return cff__wrap_error(status, before, "");
}

cff_status cff__check_images(const char *name, const cff_image *images, size_t n_images) {
  if (n_images == 0) return CFF_OK;
  if (images == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`%s` must be given, got NULL for %llu images", name,
                     (unsigned long long)n_images);
  if (n_images > CFF__MAX_REFERENCES)
    return cff__fail(CFF_ERROR_USAGE, "`%s` must hold at most %llu images, got %llu", name,
                     (unsigned long long)CFF__MAX_REFERENCES, (unsigned long long)n_images);
  for (size_t i = 0; i < n_images; i++) {
    cff_status done = cff__check_image(&images[i]);
    if (done != CFF_OK) return in_image(done, name, i);
  }
  return CFF_OK;
}

cff_status cff__check_names(const char *const *names, size_t n_images) {
  for (size_t i = 0; names != NULL && i < n_images; i++) {
    const size_t n_bytes = names[i] == NULL ? 0 : strlen(names[i]);
    if (names[i] == NULL || n_bytes > CFF__MAX_NAME_BYTES || !cff__utf8_is_valid(names[i], n_bytes))
      return cff__fail(CFF_ERROR_USAGE,
                       "`names[%llu]` must be a name in UTF-8 of at most %d bytes, got %s",
                       (unsigned long long)i, CFF__MAX_NAME_BYTES,
                       names[i] == NULL ? "NULL" : "another text");
  }
  return CFF_OK;
}

static size_t image_bytes(const cff__manifest *manifest) {
  return (size_t)manifest->height * (size_t)manifest->width * 3;
}

static cff_status make_room(size_t n_images, const cff__manifest *manifest, uint8_t **pixels) {
  size_t n_bytes = SIZE_MAX;
  *pixels = NULL;
  if (cff__multiply(n_images, image_bytes(manifest), &n_bytes)) *pixels = malloc(n_bytes);
  return *pixels == NULL ? cff__no_memory("images", n_bytes) : CFF_OK;
}

static cff_status prepare(const char *name, const cff_image *images, size_t n_images,
                          const cff__manifest *manifest, uint8_t *pixels) {
  for (size_t i = 0; i < n_images; i++) {
    cff_status done = cff__preprocess(&images[i], pixels + i * image_bytes(manifest),
                                      (size_t)manifest->height, (size_t)manifest->width);
    if (done != CFF_OK) return in_image(done, name, i);
  }
  return CFF_OK;
}

cff_status cff__prepare_images(const char *name, const cff_image *images, size_t n_images,
                               const cff__manifest *manifest, uint8_t **pixels) {
  *pixels = NULL;
  if (n_images == 0) return CFF_OK;
  cff_status done = make_room(n_images, manifest, pixels);
  return done == CFF_OK ? prepare(name, images, n_images, manifest, *pixels) : done;
}

cff_status cff__references_make(cff_profile *profile, size_t n_references,
                                const cff__manifest *manifest) {
  uint64_t n_bytes = image_bytes(manifest);
  for (size_t stage = 0; stage < manifest->n_stages; stage++) {
    const cff__stage *facts = &manifest->stages[stage];
    n_bytes += (uint64_t)facts->rows * (uint64_t)facts->columns * (uint64_t)facts->width * 4;
  }
  if (n_references > CFF__MAX_REFERENCES || n_references > CFF__MAX_PROFILE_BYTES / n_bytes)
    return cff__fail(CFF_ERROR_USAGE,
                     "references must be at most %llu and take at most %llu bytes, got %llu of "
                     "%llu bytes each; enrol fewer",
                     (unsigned long long)CFF__MAX_REFERENCES,
                     (unsigned long long)CFF__MAX_PROFILE_BYTES, (unsigned long long)n_references,
                     (unsigned long long)n_bytes);
  profile->n_references = n_references;
  profile->references =
      cff__arena_alloc(&profile->arena, n_references, sizeof *profile->references);
  if (profile->references == NULL)
    return cff__no_memory("references", n_references * sizeof *profile->references);
  return make_room(n_references, manifest, &profile->images);
}

static cff_status set(cff_profile *profile, size_t index, const cff__reference *given) {
  cff__reference *reference = &profile->references[index];
  cff__arena *arena = &profile->arena;
  *reference = *given;
  reference->name = cff__arena_text(arena, given->name, strlen(given->name));
  reference->sha256 = cff__arena_text(arena, given->sha256, strlen(given->sha256));
  reference->added = cff__arena_text(arena, given->added, strlen(given->added));
  if (reference->name == NULL || reference->sha256 == NULL || reference->added == NULL)
    return cff__no_memory("a reference", strlen(given->name));
  return CFF_OK;
}

cff_status cff__references_copy(cff_profile *profile, size_t index, const cff_profile *from,
                                size_t from_index, const cff__manifest *manifest) {
  const size_t n_bytes = image_bytes(manifest);
  const cff__reference *reference = &from->references[from_index];
  const uint8_t *pixels = from->images + from_index * n_bytes;
  char hex[CFF__SHA256_HEX_SIZE];
  cff__sha256_of(pixels, n_bytes, hex);
  if (strcmp(hex, reference->sha256) != 0)
    return cff__fail(CFF_ERROR_PROFILE,
                     "image of reference `%.80s` must have the hash that the profile names, and "
                     "has another; the file was changed, enrol the product again",
                     reference->name);
  memcpy(profile->images + index * n_bytes, pixels, n_bytes);
  return set(profile, index, reference);
}

cff_status cff__references_add(cff_profile *profile, size_t index, const cff_image *images,
                               size_t n_images, const char *const *names,
                               const cff__manifest *manifest) {
  const size_t n_bytes = image_bytes(manifest);
  uint8_t *pixels = profile->images + index * n_bytes;
  char hex[CFF__SHA256_HEX_SIZE], at[CFF__TIME_SIZE], number[32];
  cff__now_utc(at);
  cff_status done = prepare("images", images, n_images, manifest, pixels);
  for (size_t i = 0; i < n_images && done == CFF_OK; i++) {
    cff__sha256_of(pixels + i * n_bytes, n_bytes, hex);
    snprintf(number, sizeof number, "image %llu", (unsigned long long)i + 1);
    const cff__reference made = {names == NULL ? number : names[i], hex, at, images[i].width,
                                 images[i].height};
    done = set(profile, index + i, &made);
  }
  return done;
}
