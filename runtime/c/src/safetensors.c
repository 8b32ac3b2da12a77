#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64

#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "json_writer.h"
#include "status.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors are read as they lie in the file, which is little-endian"
#endif

static const char *const dtype_names[] = {"F32", "U8"};
static const uint64_t dtype_bytes[] = {4, 1};

/* Bytes of a shape; false if they do not fit. */
static bool count_bytes(const cff__tensor *tensor, uint64_t *n_bytes) {
  uint64_t n = dtype_bytes[tensor->dtype];
  bool is_empty = false;
  for (int i = 0; i < tensor->n_dimensions; i++) {
    uint64_t side = (uint64_t)tensor->shape[i];
    is_empty = is_empty || side == 0;
    if (side > 0 && n > ((uint64_t)INT64_MAX) / side) return false;
    if (side > 0) n *= side;
  }
  *n_bytes = is_empty ? 0 : n;
  return true;
}

static cff_status read_dtype(const cff__json *entry, cff_status status, cff__dtype *dtype) {
  const char *name = NULL;
  cff_status done = cff__json_take_text(entry, "dtype", status, &name);
  if (done != CFF_OK) return done;
  for (int i = 0; i < 2; i++) {
    if (strcmp(name, dtype_names[i]) != 0) continue;
    *dtype = (cff__dtype)i;
    return CFF_OK;
  }
  return cff__fail(status, "tensor `%.80s` must be of type F32 or U8, got %.40s", entry->key, name);
}

/* A list of whole numbers from 0 on. */
static cff_status read_sizes(const cff__json *entry, const char *key, size_t n_most,
                             cff_status status, int64_t *sizes, size_t *n) {
  const cff__json *list = NULL;
  cff_status done = cff__json_take(entry, key, CFF__JSON_ARRAY, status, &list);
  if (done != CFF_OK) return done;
  if (list->n_children > n_most)
    return cff__fail(status, "`%s` of tensor `%.80s` must have at most %d numbers", key, entry->key,
                     (int)n_most);
  *n = 0;
  for (const cff__json *item = list->first; item != NULL; item = item->next) {
    if (!item->is_integer || item->integer < 0)
      return cff__fail(status, "`%s` of tensor `%.80s` must be whole numbers from 0 on", key,
                       entry->key);
    sizes[(*n)++] = item->integer;
  }
  return CFF_OK;
}

static cff_status read_entry(const cff__json *entry, cff_status status, cff__tensor *tensor) {
  int64_t offsets[2];
  size_t n_offsets = 0, n_dimensions = 0;
  uint64_t expected;
  if (entry->kind != CFF__JSON_OBJECT)
    return cff__fail(status, "tensor `%.80s` must be described by an object", entry->key);
  tensor->name = entry->key;
  cff_status done = read_dtype(entry, status, &tensor->dtype);
  if (done == CFF_OK)
    done = read_sizes(entry, "shape", CFF__MAX_DIMENSIONS, status, tensor->shape, &n_dimensions);
  if (done == CFF_OK) done = read_sizes(entry, "data_offsets", 2, status, offsets, &n_offsets);
  if (done != CFF_OK) return done;
  tensor->n_dimensions = (int)n_dimensions;
  if (n_offsets != 2 || offsets[0] > offsets[1] || !count_bytes(tensor, &expected) ||
      (uint64_t)(offsets[1] - offsets[0]) != expected)
    return cff__fail(status, "tensor `%.80s` must lie where its shape needs it, got other offsets",
                     entry->key);
  tensor->begin = (uint64_t)offsets[0];
  tensor->n_bytes = expected;
  return CFF_OK;
}

static int compare_begins(const void *a, const void *b) {
  const cff__tensor *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

/* No gap, no overlap, nothing behind the last one. */
static cff_status check_cover(cff__safetensors *file, uint64_t n_data) {
  uint64_t at = 0;
  if (file->n_tensors > 0)
    qsort(file->tensors, file->n_tensors, sizeof *file->tensors, compare_begins);
  for (size_t i = 0; i < file->n_tensors; i++) {
    const cff__tensor *tensor = &file->tensors[i];
    if (tensor->begin != at || tensor->n_bytes > n_data - at)
      return cff__fail(file->status,
                       "tensors must lie one after the other and inside the file, `%.80s` does "
                       "not; the file is damaged or not copied completely",
                       tensor->name);
    at += tensor->n_bytes;
  }
  if (at != n_data)
    return cff__fail(file->status, "tensors must end where the file ends, %llu bytes are left",
                     (unsigned long long)(n_data - at));
  return CFF_OK;
}

static cff_status read_metadata(cff__safetensors *file, const cff__json *entry) {
  if (entry->kind != CFF__JSON_OBJECT)
    return cff__fail(file->status, "`__metadata__` must be an object");
  for (const cff__json *item = entry->first; item != NULL; item = item->next)
    if (item->kind != CFF__JSON_TEXT)
      return cff__fail(file->status, "`__metadata__` must hold texts, `%.80s` is none", item->key);
  file->metadata = entry;
  return CFF_OK;
}

static cff_status parse_header(cff__safetensors *file, const char *text, size_t n_bytes,
                               uint64_t n_data) {
  const cff__json *header = NULL;
  cff_status done =
      cff__json_parse(text, n_bytes, "safetensors header", file->status, &file->arena, &header);
  if (done != CFF_OK) return done;
  file->tensors = cff__arena_alloc(&file->arena, header->n_children, sizeof *file->tensors);
  if (file->tensors == NULL)
    return cff__no_memory("tensors", header->n_children * sizeof *file->tensors);
  for (const cff__json *entry = header->first; entry != NULL; entry = entry->next) {
    if (strcmp(entry->key, "__metadata__") == 0)
      done = read_metadata(file, entry);
    else
      done = read_entry(entry, file->status, &file->tensors[file->n_tensors++]);
    if (done != CFF_OK) return done;
  }
  return check_cover(file, n_data);
}

cff_status cff__safetensors_open(const char *path, cff_status status, cff__safetensors *file) {
  uint8_t start[8];
  uint64_t n_file, n_header = 0;
  memset(file, 0, sizeof *file);
  file->status = status;
  cff_status done = cff__open_file(path, status, &file->file, &n_file);
  if (done != CFF_OK) return done;
  if (n_file < 8 || fread(start, 1, 8, file->file) != 8)
    return cff__fail(status, "must be a safetensors file, got %llu bytes",
                     (unsigned long long)n_file);
  for (int i = 0; i < 8; i++) n_header |= (uint64_t)start[i] << (8 * i);
  if (n_header > CFF__MAX_HEADER_BYTES || n_header > n_file - 8)
    return cff__fail(status, "must be a complete safetensors file, its header would take %llu bytes",
                     (unsigned long long)n_header);
  char *text = malloc((size_t)n_header + 1);
  if (text == NULL) return cff__no_memory("safetensors header", n_header);
  if (fread(text, 1, (size_t)n_header, file->file) != n_header)
    done = cff__fail(status, "must be a complete safetensors file, it ended early");
  /* texts of the arena outlive `text`; only `source` points into it */
  if (done == CFF_OK) done = parse_header(file, text, (size_t)n_header, n_file - 8 - n_header);
  free(text);
  file->data_start = 8 + n_header;
  return done;
}

void cff__safetensors_close(cff__safetensors *file) {
  if (file->file != NULL) fclose(file->file);
  cff__arena_free(&file->arena);
  memset(file, 0, sizeof *file);
}

const cff__tensor *cff__safetensors_find(const cff__safetensors *file, const char *name) {
  for (size_t i = 0; i < file->n_tensors; i++)
    if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
  return NULL;
}

cff_status cff__safetensors_read(const cff__safetensors *file, const cff__tensor *tensor,
                                 void **data) {
  *data = NULL;
  if (tensor->n_bytes > SIZE_MAX - 1) return cff__no_memory(tensor->name, tensor->n_bytes);
  size_t n_bytes = (size_t)tensor->n_bytes;
  void *bytes = malloc(n_bytes > 0 ? n_bytes : 1);
  if (bytes == NULL) return cff__no_memory(tensor->name, n_bytes);
  if (fseeko(file->file, (off_t)(file->data_start + tensor->begin), SEEK_SET) != 0 ||
      fread(bytes, 1, n_bytes, file->file) != n_bytes) {
    free(bytes);
    return cff__fail(file->status, "tensor `%.80s` must be complete, the file ended early",
                     tensor->name);
  }
  *data = bytes;
  return CFF_OK;
}

static void write_header(cff__json_writer *out, const char *key, const char *metadata,
                         const cff__tensor *tensors, size_t n_tensors) {
  cff__json_open(out, '{');
  cff__json_put_key(out, "__metadata__");
  cff__json_open(out, '{');
  cff__json_put_key(out, key);
  cff__json_put_text(out, metadata);
  cff__json_close(out, '}');
  for (size_t i = 0; i < n_tensors; i++) {
    cff__json_put_key(out, tensors[i].name);
    cff__json_open(out, '{');
    cff__json_put_key(out, "dtype");
    cff__json_put_text(out, dtype_names[tensors[i].dtype]);
    cff__json_put_key(out, "shape");
    cff__json_open(out, '[');
    for (int d = 0; d < tensors[i].n_dimensions; d++)
      cff__json_put_integer(out, tensors[i].shape[d]);
    cff__json_close(out, ']');
    cff__json_put_key(out, "data_offsets");
    cff__json_open(out, '[');
    cff__json_put_integer(out, (int64_t)tensors[i].begin);
    cff__json_put_integer(out, (int64_t)(tensors[i].begin + tensors[i].n_bytes));
    cff__json_close(out, ']');
    cff__json_close(out, '}');
  }
  cff__json_close(out, '}');
  /* readers may map the file: tensors start at a multiple of 8 */
  while (!out->failed && out->n_bytes % 8 != 0) {
    out->needs_comma = false;
    cff__json_put_source(out, " ", 1);
  }
}

static cff_status write_all(const char *path, const cff__json_writer *header,
                            const cff__tensor *tensors, const void *const *data, size_t n) {
  cff__new_file out;
  uint8_t start[8];
  for (int i = 0; i < 8; i++) start[i] = (uint8_t)((uint64_t)header->n_bytes >> (8 * i));
  cff_status done = cff__new_file_open(&out, path);
  if (done == CFF_OK) done = cff__new_file_write(&out, start, 8);
  if (done == CFF_OK) done = cff__new_file_write(&out, header->text, header->n_bytes);
  for (size_t i = 0; i < n && done == CFF_OK; i++)
    done = cff__new_file_write(&out, data[i], (size_t)tensors[i].n_bytes);
  return done == CFF_OK ? cff__new_file_keep(&out) : done; /* a failure has dropped it */
}

cff_status cff__safetensors_write(const char *path, const char *key, const char *metadata,
                                  cff__tensor *tensors, const void *const *data, size_t n_tensors) {
  cff__json_writer header = {0};
  uint64_t at = 0;
  for (size_t i = 0; i < n_tensors; i++) {
    if (!count_bytes(&tensors[i], &tensors[i].n_bytes) || tensors[i].n_bytes > INT64_MAX - at)
      return cff__fail(CFF_ERROR_USAGE, "tensor `%.80s` must fit in a file", tensors[i].name);
    tensors[i].begin = at;
    at += tensors[i].n_bytes;
  }
  write_header(&header, key, metadata, tensors, n_tensors);
  cff_status done = cff__json_check(&header);
  if (done == CFF_OK && header.n_bytes > CFF__MAX_HEADER_BYTES)
    done = cff__fail(CFF_ERROR_USAGE, "facts of the profile must take at most %llu bytes",
                     (unsigned long long)CFF__MAX_HEADER_BYTES);
  if (done == CFF_OK) done = write_all(path, &header, tensors, data, n_tensors);
  cff__json_free(&header);
  return done;
}
