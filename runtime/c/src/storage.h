/* Reading files with a limit, and writing them so that a reader never sees half of one. */
#ifndef CFF_STORAGE_H
#define CFF_STORAGE_H

#include <stdint.h>
#include <stdio.h>

#include "cff.h"
#include "sha256.h"

/* Open a regular file for reading and tell its size.
 * status: of errors. file: to be closed with fclose. */
cff_status cff__open_file(const char *path, cff_status status, FILE **file, uint64_t *n_bytes);

/* Whether there is a regular file, or a link to one. */
int cff__is_file(const char *path);

/* Read a whole file of at most `limit` bytes, a NUL after them. The caller frees `data`. */
cff_status cff__read_file(const char *path, uint64_t limit, cff_status status, char **data,
                          size_t *n_bytes);

/* Hash a file that must have `n_bytes`. */
cff_status cff__hash_file(const char *path, uint64_t n_bytes, cff_status status,
                          char hex[CFF__SHA256_HEX_SIZE]);

/* Path without links and dots; the caller frees it. NULL if there is none. */
char *cff__real_path(const char *path);

/* `folder`/`name`; the caller frees it. NULL if there is no memory. */
char *cff__join_path(const char *folder, const char *name);

/* A file that is being written beside its place. */
typedef struct cff__new_file {
  FILE *file;
  char *path, *temporary;
} cff__new_file;

cff_status cff__new_file_open(cff__new_file *out, const char *path);
cff_status cff__new_file_write(cff__new_file *out, const void *data, size_t n_bytes);

/* Flush to disk and rename. On failure, as after cff__new_file_drop, nothing is changed. */
cff_status cff__new_file_keep(cff__new_file *out);
void cff__new_file_drop(cff__new_file *out);

#endif
