/* A bundle, opened and verified. */
#ifndef CFF_BUNDLE_H
#define CFF_BUNDLE_H

#include "arena.h"
#include "cff.h"
#include "manifest.h"

struct cff_bundle {
  cff__arena arena;
  char *path;
  cff__manifest manifest;
  const cff__variant *variant; /* the precision that it was opened with */
};

/* Path of a file that the manifest names; the caller frees it. */
cff_status cff__bundle_file(const cff_bundle *bundle, const char *name, char **path);

/* Condition of a class word, row by row; the caller frees it. */
cff_status cff__bundle_condition_of_word(const cff_bundle *bundle, const char *name,
                                         float **condition);

#endif
