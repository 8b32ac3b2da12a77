#include "bundle.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "safetensors.h"
#include "status.h"
#include "storage.h"

#define MAX_MANIFEST_BYTES ((uint64_t)4 << 20)
#define FAIL CFF_ERROR_BUNDLE

static cff_status read_manifest(cff_bundle *bundle) {
  char *path = cff__join_path(bundle->path, "manifest.json"), *text = NULL;
  size_t n_bytes = 0;
  if (path == NULL) return cff__no_memory("a path", strlen(bundle->path));
  cff_status done =
      cff__is_file(path)
          ? cff__read_file(path, MAX_MANIFEST_BYTES, FAIL, &text, &n_bytes)
          : cff__fail(CFF_ERROR_USAGE,
                      "`%.500s` must be a bundle (a folder with `manifest.json`); make one with "
                      "`cff-export`",
                      bundle->path);
  free(path);
  if (done == CFF_OK)
    done = cff__manifest_parse(text, n_bytes, &bundle->arena, &bundle->manifest);
  free(text);
  return done;
}

/* The precisions or class words, one a line; the caller frees the text. */
static char *join_lines(size_t n, const char *(*get)(const cff_bundle *, size_t),
                        const cff_bundle *bundle) {
  size_t n_bytes = 1;
  for (size_t i = 0; i < n; i++) n_bytes += strlen(get(bundle, i)) + 1;
  char *text = malloc(n_bytes), *at = text;
  if (text == NULL) return NULL;
  for (size_t i = 0; i < n; i++) {
    size_t length = strlen(get(bundle, i));
    if (i > 0) *at++ = '\n';
    memcpy(at, get(bundle, i), length);
    at += length;
  }
  *at = '\0';
  return text;
}

static const char *get_precision(const cff_bundle *bundle, size_t i) {
  return bundle->manifest.variants[i].precision;
}

static const char *get_word(const cff_bundle *bundle, size_t i) {
  return bundle->manifest.condition.names[i];
}

static cff_status choose_precision(cff_bundle *bundle, const char *precision) {
  bundle->variant = cff__manifest_variant(&bundle->manifest, precision);
  if (bundle->variant != NULL) return CFF_OK;
  char *known = join_lines(bundle->manifest.n_variants, get_precision, bundle);
  if (known == NULL) return cff__no_memory("a text", 0);
  for (char *at = known; *at != '\0'; at++)
    if (*at == '\n') *at = ' ';
  cff__fail(CFF_ERROR_USAGE,
            "`precision` must be one of this bundle's (%.200s), got %.40s; add it with `cff-export "
            "BUNDLE --precision %.40s`",
            known, precision, precision);
  free(known);
  return CFF_ERROR_USAGE;
}

static cff_status verify_path(const char *path, const char *root, const cff__file_entry *entry) {
  char hex[CFF__SHA256_HEX_SIZE];
  char *real = cff__real_path(path);
  if (real == NULL && errno == ENOMEM) return cff__no_memory("a path", strlen(path));
  if (real == NULL)
    return cff__fail(FAIL, "`%.500s` must exist, the manifest names it; copy the bundle again",
                     path);
  size_t n_root = strlen(root);
  bool inside = strncmp(real, root, n_root) == 0 && (real[n_root] == '/' || n_root == 1);
  free(real);
  if (!inside)
    return cff__fail(FAIL, "`%.400s` must lie inside the bundle `%.400s`, not behind a link", path,
                     root);
  cff_status done = cff__hash_file(path, (uint64_t)entry->n_bytes, FAIL, hex);
  if (done == CFF_OK && strcmp(hex, entry->sha256) != 0)
    return cff__fail(FAIL,
                     "`%.500s` must have the SHA-256 of the manifest and has another; the file was "
                     "changed or damaged, copy the bundle again",
                     path);
  return done;
}

static cff_status verify_files(const cff_bundle *bundle) {
  char *root = cff__real_path(bundle->path);
  if (root == NULL)
    return errno == ENOMEM ? cff__no_memory("a path", strlen(bundle->path))
                           : cff__fail(FAIL, "`%.500s` must be a folder", bundle->path);
  cff_status done = CFF_OK;
  for (size_t i = 0; i < bundle->manifest.n_files && done == CFF_OK; i++) {
    char *path = cff__join_path(bundle->path, bundle->manifest.files[i].name);
    done = path == NULL ? cff__no_memory("a path", 0)
                        : verify_path(path, root, &bundle->manifest.files[i]);
    free(path);
  }
  free(root);
  return done;
}

cff_status cff_bundle_open(const char *path, const char *precision, cff_bundle **bundle) {
  if (bundle == NULL) return cff__fail(CFF_ERROR_USAGE, "`bundle` must be given, got NULL");
  *bundle = NULL;
  if (path == NULL) return cff__fail(CFF_ERROR_USAGE, "`path` must be given, got NULL");
  cff_bundle *opened = calloc(1, sizeof *opened);
  if (opened == NULL) return cff__no_memory("a bundle", sizeof *opened);
  opened->path = cff__arena_text(&opened->arena, path, strlen(path));
  cff_status done = opened->path == NULL ? cff__no_memory("a path", strlen(path)) : CFF_OK;
  if (done == CFF_OK) done = read_manifest(opened);
  if (done == CFF_OK) done = choose_precision(opened, precision == NULL ? "fp32" : precision);
  if (done == CFF_OK) done = verify_files(opened);
  if (done == CFF_OK) *bundle = opened;
  else cff_bundle_free(opened);
  return done;
}

void cff_bundle_free(cff_bundle *bundle) {
  if (bundle == NULL) return;
  cff__arena_free(&bundle->arena);
  free(bundle);
}

cff_status cff_bundle_get_info(const cff_bundle *bundle, cff_bundle_info *info) {
  if (bundle == NULL || info == NULL)
    return cff__fail(CFF_ERROR_USAGE, "`bundle` and `info` must be given, got NULL");
  const cff__manifest *manifest = &bundle->manifest;
  const cff__condition *condition = &manifest->condition;
  cff_bundle_info found = {sizeof found,
                           manifest->height,
                           manifest->width,
                           (int32_t)manifest->n_stages,
                           condition->is_of_reference ? 0 : condition->n_rows,
                           manifest->score_output != NULL,
                           (int32_t)manifest->n_variants,
                           (int32_t)condition->n_names,
                           condition->is_of_reference ? CFF_CONDITION_REFERENCE
                                                      : CFF_CONDITION_WORD,
                           condition->n_rows,
                           condition->n_columns,
                           (int32_t)manifest->n_scorers};
  return cff__copy_struct(info, &found, sizeof found, "info");
}

cff_status cff_bundle_get_text(const cff_bundle *bundle, cff_bundle_text which, char *buffer,
                               size_t size, size_t *n_needed) {
  if (bundle == NULL) return cff__fail(CFF_ERROR_USAGE, "`bundle` must be given, got NULL");
  const cff__manifest *manifest = &bundle->manifest;
  const char *text = NULL;
  char *joined = NULL;
  switch ((int)which) {
    case CFF_BUNDLE_ID: text = bundle->variant->id; break;
    case CFF_BUNDLE_PRECISION: text = bundle->variant->precision; break;
    case CFF_BUNDLE_DISTANCE: text = manifest->distance; break;
    case CFF_BUNDLE_PRECISIONS:
      joined = join_lines(manifest->n_variants, get_precision, bundle);
      break;
    case CFF_BUNDLE_TEXT_NAMES:
      joined = join_lines(manifest->condition.n_names, get_word, bundle);
      break;
    default: return cff__fail(CFF_ERROR_USAGE, "`which` must be a cff_bundle_text, got %d", which);
  }
  if (text == NULL && joined == NULL) return cff__no_memory("a text", 0);
  cff_status done = cff__copy_text(text != NULL ? text : joined, buffer, size, n_needed);
  free(joined);
  return done;
}

cff_status cff__bundle_file(const cff_bundle *bundle, const char *name, char **path) {
  *path = NULL;
  if (cff__manifest_file(&bundle->manifest, name) == NULL)
    return cff__fail(FAIL, "`%.80s` must be a file of the manifest of `%.500s`", name,
                     bundle->path);
  *path = cff__join_path(bundle->path, name);
  return *path == NULL ? cff__no_memory("a path", strlen(name)) : CFF_OK;
}

static cff_status read_condition(const cff_bundle *bundle, cff__safetensors *file,
                                 const char *name, float **values) {
  const cff__condition *condition = &bundle->manifest.condition;
  const int64_t n_rows = condition->n_rows, n_columns = condition->n_columns;
  void *data = NULL;
  const cff__tensor *tensor = cff__safetensors_find(file, name);
  if (tensor == NULL)
    return cff__fail(FAIL, "`%.80s` must hold a tensor `%.80s`, export the bundle again",
                     condition->file, name);
  if (tensor->dtype != CFF__F32 || tensor->n_dimensions != 2 || tensor->shape[0] != n_rows ||
      tensor->shape[1] != n_columns)
    return cff__fail(FAIL, "condition `%.80s` must be float32 of shape (%d, %d)", name,
                     (int)n_rows, (int)n_columns);
  cff_status done = cff__safetensors_read(file, tensor, &data);
  if (done != CFF_OK) return done;
  *values = data;
  for (int64_t i = 0; i < n_rows * n_columns; i++) {
    if (isfinite((*values)[i])) continue;
    free(data);
    *values = NULL;
    return cff__fail(FAIL, "condition `%.80s` must be finite, export the bundle again", name);
  }
  return CFF_OK;
}

cff_status cff__bundle_condition_of_word(const cff_bundle *bundle, const char *name,
                                         float **condition) {
  const cff__condition *facts = &bundle->manifest.condition;
  bool known = false;
  char *path = NULL;
  *condition = NULL;
  for (size_t i = 0; i < facts->n_names; i++)
    known = known || strcmp(facts->names[i], name) == 0;
  if (!known)
    return cff__fail(CFF_ERROR_USAGE,
                     "text name must be one of the bundle's, got `%.80s`; export with `cff-export "
                     "--text-names` to add one",
                     name);
  cff_status done = cff__bundle_file(bundle, facts->file, &path);
  if (done != CFF_OK) return done;
  cff__safetensors file;
  done = cff__safetensors_open(path, FAIL, &file);
  if (done == CFF_OK) done = read_condition(bundle, &file, name, condition);
  cff__safetensors_close(&file);
  free(path);
  return done;
}
