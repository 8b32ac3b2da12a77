/* Reading and writing safetensors files of float32 and uint8.
 *
 * 8 bytes: length of the header, little-endian; the header, JSON; the tensors, without gaps.
 */
#ifndef CFF_SAFETENSORS_H
#define CFF_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "arena.h"
#include "cff.h"
#include "json.h"
#include "storage.h"

#define CFF__MAX_HEADER_BYTES ((uint64_t)32 << 20)
#define CFF__MAX_DIMENSIONS 4

typedef enum cff__dtype { CFF__F32, CFF__U8 } cff__dtype;

typedef struct cff__tensor {
  const char *name;
  cff__dtype dtype;
  int n_dimensions;
  int64_t shape[CFF__MAX_DIMENSIONS];
  uint64_t begin, n_bytes; /* after the header; n_bytes fits shape and dtype */
} cff__tensor;

typedef struct cff__safetensors {
  FILE *file;
  cff_status status; /* of errors */
  cff__arena arena;
  const cff__json *metadata; /* texts by name; NULL if there are none */
  cff__tensor *tensors;
  size_t n_tensors;
  uint64_t data_start;
} cff__safetensors;

/* Read and check the header. Close it also after a failure. */
cff_status cff__safetensors_open(const char *path, cff_status status, cff__safetensors *file);
void cff__safetensors_close(cff__safetensors *file);

/* NULL if there is none. */
const cff__tensor *cff__safetensors_find(const cff__safetensors *file, const char *name);

/* Allocate and read a tensor; the caller frees it. Never NULL on success, even if empty. */
cff_status cff__safetensors_read(const cff__safetensors *file, const cff__tensor *tensor,
                                 void **data);

/* Write tensors in their order, float32 first; `begin` and `n_bytes` are set here.
 * data: of each tensor. */
cff_status cff__safetensors_write(const char *path, const char *key, const char *metadata,
                                  cff__tensor *tensors, const void *const *data, size_t n_tensors);

#endif
