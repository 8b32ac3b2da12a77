#include "manifest.h"

#include <stdlib.h>
#include <string.h>

#include "status.h"

#define FAIL CFF_ERROR_BUNDLE

/* The only preprocessing there is, but for height and width. */
static const struct {
  const char *name;
  const char *value; /* NULL: the height or width */
} preprocessing[] = {{"height", NULL},         {"width", NULL},          {"resample", "\"bicubic\""},
                     {"cubic_a", "-0.5"},      {"antialias", "true"},    {"keep_aspect", "false"},
                     {"colour", "\"RGB\""},    {"dtype", "\"uint8\""}};
#define N_PREPROCESSING (sizeof preprocessing / sizeof *preprocessing)

/* Fields for people; they must be there, as in the Python runtime. */
static const struct {
  const char *name;
  cff__json_kind kind;
} facts[] = {{"backbone", CFF__JSON_OBJECT}, {"head", CFF__JSON_OBJECT},
             {"parity", CFF__JSON_OBJECT},   {"passes", CFF__JSON_ARRAY},
             {"tools", CFF__JSON_OBJECT},    {"licences", CFF__JSON_OBJECT},
             {"notes", CFF__JSON_ARRAY},     {"created", CFF__JSON_TEXT}};

void cff__put_preprocessing(cff__json_writer *out, int32_t height, int32_t width, bool sorted) {
  static const size_t by_name[N_PREPROCESSING] = {4, 6, 3, 7, 0, 5, 2, 1};
  cff__json_open(out, '{');
  for (size_t i = 0; i < N_PREPROCESSING; i++) {
    size_t field = sorted ? by_name[i] : i;
    const char *value = preprocessing[field].value;
    cff__json_put_key(out, preprocessing[field].name);
    if (value != NULL) cff__json_put_source(out, value, strlen(value));
    else cff__json_put_integer(out, field == 0 ? height : width);
  }
  cff__json_close(out, '}');
}

/* Whether a field has the value that this runtime implements. */
static bool is_implemented(const cff__json *value, const char *expected) {
  if (expected[0] == '"')
    return value->kind == CFF__JSON_TEXT && strlen(value->text) + 2 == strlen(expected) &&
           strncmp(value->text, expected + 1, strlen(value->text)) == 0;
  if (expected[0] == 't' || expected[0] == 'f')
    return value->kind == CFF__JSON_BOOL && value->boolean == (expected[0] == 't');
  return value->kind == CFF__JSON_NUMBER && value->number == -0.5;
}

static cff_status parse_preprocessing(const cff__json *fields, cff__manifest *manifest) {
  const cff__json *entry = NULL;
  int64_t height = 0, width = 0;
  cff_status done = cff__json_take(fields, "preprocessing", CFF__JSON_OBJECT, FAIL, &entry);
  if (done == CFF_OK)
    done = cff__json_take_integer(entry, "height", CFF__MIN_SIZE_PX, CFF__MAX_SIZE_PX, FAIL,
                                  &height);
  if (done == CFF_OK)
    done = cff__json_take_integer(entry, "width", CFF__MIN_SIZE_PX, CFF__MAX_SIZE_PX, FAIL, &width);
  if (done != CFF_OK) return done;
  for (size_t i = 0; i < N_PREPROCESSING; i++) {
    const cff__json *value = cff__json_find(entry, preprocessing[i].name);
    if (preprocessing[i].value == NULL) continue;
    if (value == NULL || !is_implemented(value, preprocessing[i].value))
      return cff__fail(FAIL,
                       "`preprocessing.%s` must be %s; this bundle needs another version of the "
                       "runtime",
                       preprocessing[i].name, preprocessing[i].value);
  }
  if (entry->n_children != N_PREPROCESSING)
    return cff__fail(FAIL, "`preprocessing` must have no other fields; this bundle needs another "
                           "version of the runtime");
  manifest->height = (int32_t)height;
  manifest->width = (int32_t)width;
  return CFF_OK;
}

static cff_status parse_stage(const cff__json *entry, cff__stage *stage) {
  const cff__json *grid = NULL;
  int64_t width = 0;
  if (entry->kind != CFF__JSON_OBJECT)
    return cff__fail(FAIL, "every entry of `stages` must be an object");
  cff_status done = cff__json_take_text(entry, "tap", FAIL, &stage->tap);
  if (done == CFF_OK) done = cff__json_take(entry, "grid", CFF__JSON_ARRAY, FAIL, &grid);
  if (done == CFF_OK)
    done = cff__json_take_integer(entry, "width", 1, CFF__MAX_WIDTH, FAIL, &width);
  if (done != CFF_OK) return done;
  if (strlen(stage->tap) > CFF__MAX_TAP_BYTES) /* hashed once for every precision */
    return cff__fail(FAIL, "`stages.tap` must be at most %d bytes", CFF__MAX_TAP_BYTES);
  int64_t sides[2] = {0, 0};
  for (const cff__json *side = grid->first; side != NULL && grid->n_children == 2;
       side = side->next)
    sides[side != grid->first] = side->is_integer ? side->integer : 0;
  if (sides[0] < 1 || sides[0] > CFF__MAX_TOKENS || sides[1] < 1 || sides[1] > CFF__MAX_TOKENS ||
      sides[0] * sides[1] > CFF__MAX_TOKENS)
    return cff__fail(FAIL, "`stages.grid` must be two positive sides of at most %d tokens",
                     CFF__MAX_TOKENS);
  stage->rows = (int32_t)sides[0];
  stage->columns = (int32_t)sides[1];
  stage->width = (int32_t)width;
  return CFF_OK;
}

static cff_status parse_stages(const cff__json *fields, cff__arena *arena,
                               cff__manifest *manifest) {
  const cff__json *list = NULL;
  const char **scorers = NULL;
  size_t n_scorers = 0;
  cff_status done = cff__json_take(fields, "stages", CFF__JSON_ARRAY, FAIL, &list);
  if (done == CFF_OK)
    done = cff__json_take_texts(fields, "scorers", FAIL, arena, &scorers, &n_scorers);
  if (done != CFF_OK) return done;
  if (list->n_children < 1 || list->n_children > CFF__MAX_STAGES)
    return cff__fail(FAIL, "`stages` must have 1 to %d entries", CFF__MAX_STAGES);
  if (n_scorers != 0 && n_scorers != list->n_children)
    return cff__fail(FAIL, "`scorers` must have one entry per stage (%d) or none, got %d",
                     (int)list->n_children, (int)(n_scorers < 1000 ? n_scorers : 1000));
  for (const cff__json *entry = list->first; entry != NULL; entry = entry->next) {
    done = parse_stage(entry, &manifest->stages[manifest->n_stages]);
    if (done != CFF_OK) return done;
    manifest->n_stages++;
  }
  for (size_t i = 0; i < n_scorers; i++) manifest->scorers[manifest->n_scorers++] = scorers[i];
  return CFF_OK;
}

/* No absolute path, no `..`, and more than dots and slashes. */
static bool stays_inside(const char *name) {
  bool names_something = false;
  if (name[0] == '/' || strchr(name, '\\') != NULL) return false;
  while (*name != '\0') {
    size_t n = strcspn(name, "/");
    if (n == 2 && name[0] == '.' && name[1] == '.') return false;
    if (n > 1 || (n == 1 && name[0] != '.')) names_something = true;
    name += n;
    if (*name == '/') name++;
  }
  return names_something;
}

static int compare_files(const void *a, const void *b) {
  return strcmp(((const cff__file_entry *)a)->name, ((const cff__file_entry *)b)->name);
}

static cff_status parse_files(const cff__json *fields, cff__arena *arena, cff__manifest *manifest) {
  const cff__json *object = NULL;
  cff_status done = cff__json_take(fields, "files", CFF__JSON_OBJECT, FAIL, &object);
  if (done != CFF_OK) return done;
  manifest->files = cff__arena_alloc(arena, object->n_children, sizeof *manifest->files);
  if (manifest->files == NULL)
    return cff__no_memory("files", object->n_children * sizeof *manifest->files);
  for (const cff__json *entry = object->first; entry != NULL; entry = entry->next) {
    cff__file_entry *file = &manifest->files[manifest->n_files++];
    file->name = entry->key;
    if (entry->kind != CFF__JSON_OBJECT)
      return cff__fail(FAIL, "`files.%.80s` must be an object", entry->key);
    if (!stays_inside(entry->key))
      return cff__fail(FAIL, "`files` must name files inside the bundle, got `%.80s`", entry->key);
    done = cff__json_take_text(entry, "sha256", FAIL, &file->sha256);
    if (done == CFF_OK)
      done = cff__json_take_integer(entry, "n_bytes", 0, INT64_MAX, FAIL, &file->n_bytes);
    if (done != CFF_OK) return done;
    if (strlen(file->sha256) != CFF__SHA256_HEX_SIZE - 1)
      return cff__fail(FAIL, "`files.%.80s.sha256` must be 64 hex digits, got `%.80s`", entry->key,
                       file->sha256);
  }
  if (manifest->n_files > 0)
    qsort(manifest->files, manifest->n_files, sizeof *manifest->files, compare_files);
  return CFF_OK;
}

static cff_status parse_variants(const cff__json *fields, cff__arena *arena,
                                 cff__manifest *manifest) {
  const cff__json *object = NULL;
  cff_status done = cff__json_take(fields, "variants", CFF__JSON_OBJECT, FAIL, &object);
  if (done != CFF_OK) return done;
  if (object->n_children >= CFF__MAX_VARIANTS)
    return cff__fail(FAIL, "`variants` must have fewer than %d entries", CFF__MAX_VARIANTS);
  size_t n_most = object->n_children + 1;
  manifest->variants = cff__arena_alloc(arena, n_most, sizeof *manifest->variants);
  if (manifest->variants == NULL)
    return cff__no_memory("variants", n_most * sizeof *manifest->variants);
  cff__variant *first = &manifest->variants[manifest->n_variants++];
  done = cff__json_take_text(fields, "precision", FAIL, &first->precision);
  if (done == CFF_OK) done = cff__json_take_text(fields, "encoder", FAIL, &first->encoder);
  if (done == CFF_OK) done = cff__json_take_text(fields, "id", FAIL, &first->id);
  if (done != CFF_OK) return done;
  if (strcmp(first->precision, "fp32") != 0)
    return cff__fail(FAIL, "`precision` must be fp32, others are `variants`, got %.80s",
                     first->precision);
  for (const cff__json *entry = object->first; entry != NULL; entry = entry->next) {
    cff__variant *variant = &manifest->variants[manifest->n_variants++];
    variant->precision = entry->key;
    if (entry->kind != CFF__JSON_OBJECT || strcmp(entry->key, "fp32") == 0)
      return cff__fail(FAIL, "`variants.%.80s` must be an object, of another precision than fp32",
                       entry->key);
    done = cff__json_take_text(entry, "encoder", FAIL, &variant->encoder);
    if (done == CFF_OK) done = cff__json_take_text(entry, "id", FAIL, &variant->id);
    if (done != CFF_OK) return done;
  }
  return CFF_OK;
}

const cff__file_entry *cff__manifest_file(const cff__manifest *manifest, const char *name) {
  cff__file_entry wanted = {name, NULL, 0};
  if (manifest->n_files == 0) return NULL;
  return bsearch(&wanted, manifest->files, manifest->n_files, sizeof wanted, compare_files);
}

const cff__variant *cff__manifest_variant(const cff__manifest *manifest, const char *precision) {
  for (size_t i = 0; i < manifest->n_variants; i++)
    if (strcmp(manifest->variants[i].precision, precision) == 0) return &manifest->variants[i];
  return NULL;
}

static cff_status require_file(const cff__manifest *manifest, const char *name) {
  if (cff__manifest_file(manifest, name) != NULL) return CFF_OK;
  return cff__fail(FAIL, "`files` must list every file of the bundle, `%.80s` is not", name);
}

static cff_status check_references(const cff__json *fields, const cff__manifest *manifest) {
  const char *golden = NULL;
  cff_status done = cff__json_take_text(fields, "golden", FAIL, &golden);
  if (done == CFF_OK) done = require_file(manifest, golden);
  if (done == CFF_OK && manifest->condition.file != NULL)
    done = require_file(manifest, manifest->condition.file);
  for (size_t i = 0; i < manifest->n_variants && done == CFF_OK; i++)
    done = require_file(manifest, manifest->variants[i].encoder);
  for (size_t i = 0; i < manifest->n_scorers && done == CFF_OK; i++)
    done = require_file(manifest, manifest->scorers[i]);
  return done;
}

static cff_status parse_fields(const cff__json *fields, cff__arena *arena,
                               cff__manifest *manifest) {
  cff_status done = parse_variants(fields, arena, manifest);
  if (done == CFF_OK) done = parse_preprocessing(fields, manifest);
  if (done == CFF_OK) done = parse_stages(fields, arena, manifest);
  if (done == CFF_OK) done = cff__json_take_text(fields, "distance", FAIL, &manifest->distance);
  if (done == CFF_OK && strcmp(manifest->distance, "cosine") != 0 &&
      strcmp(manifest->distance, "log") != 0)
    return cff__fail(FAIL, "`distance` must be one of cosine, log, got %.80s", manifest->distance);
  if (done == CFF_OK) done = cff__manifest_parse_signature(fields, arena, manifest);
  if (done == CFF_OK) done = parse_files(fields, arena, manifest);
  for (size_t i = 0; i < sizeof facts / sizeof *facts && done == CFF_OK; i++) {
    const cff__json *unused;
    done = cff__json_take(fields, facts[i].name, facts[i].kind, FAIL, &unused);
  }
  return done == CFF_OK ? check_references(fields, manifest) : done;
}

cff_status cff__manifest_parse(const char *text, size_t n_bytes, cff__arena *arena,
                               cff__manifest *manifest) {
  const cff__json *fields = NULL;
  int64_t version = 0;
  memset(manifest, 0, sizeof *manifest);
  cff_status done = cff__json_parse(text, n_bytes, "`manifest.json`", FAIL, arena, &fields);
  if (done == CFF_OK)
    done = cff__json_take_integer(fields, "schema_version", INT32_MIN, INT32_MAX, FAIL, &version);
  if (done != CFF_OK) return done;
  if (version != CFF__MANIFEST_SCHEMA)
    return cff__fail(FAIL,
                     "`schema_version` must be %d, got %d; export the bundle again with this "
                     "version, or update the runtime",
                     CFF__MANIFEST_SCHEMA, (int)version);
  done = parse_fields(fields, arena, manifest);
  for (size_t i = 0; i < manifest->n_variants && done == CFF_OK; i++) {
    char id[CFF__SHA256_HEX_SIZE];
    done = cff__manifest_compute_id(manifest, manifest->variants[i].encoder, id);
    if (done == CFF_OK && strcmp(id, manifest->variants[i].id) != 0)
      return cff__fail(FAIL,
                       "`id` of precision %.40s must be the hash of the graphs and settings, but "
                       "the manifest was changed after the export; export the bundle again",
                       manifest->variants[i].precision);
  }
  return done;
}
