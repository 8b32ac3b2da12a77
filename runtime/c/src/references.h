/* The reference images of a profile that is being made, and further images beside them. */
#ifndef CFF__REFERENCES_H
#define CFF__REFERENCES_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"
#include "profile.h"

#define CFF__MAX_REFERENCES ((size_t)1 << 16)
#define CFF__MAX_NAME_BYTES 4096

/* Check a caller's images, `name` of them for sentences, before any is worked on. */
cff_status cff__check_images(const char *name, const cff_image *images, size_t n_images);

/* Check the names of n_images images; NULL is fine. */
cff_status cff__check_names(const char *const *names, size_t n_images);

/* Preprocess checked images to [n,height,width,3]. The caller frees *pixels, NULL without any. */
cff_status cff__prepare_images(const char *name, const cff_image *images, size_t n_images,
                               const cff__manifest *manifest, uint8_t **pixels);

/* Make room for n_references references and their images of a bundle's size. */
cff_status cff__references_make(cff_profile *profile, size_t n_references,
                                const cff__manifest *manifest);

/* Copy a reference of another profile to place `index`; CFF_ERROR_PROFILE if its image is not the
 * one that it names. */
cff_status cff__references_copy(cff_profile *profile, size_t index, const cff_profile *from,
                                size_t from_index, const cff__manifest *manifest);

/* Preprocess checked images and put them in from place `index` on. names: NULL for numbers. */
cff_status cff__references_add(cff_profile *profile, size_t index, const cff_image *images,
                               size_t n_images, const char *const *names,
                               const cff__manifest *manifest);

#endif
