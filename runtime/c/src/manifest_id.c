/* The hashes by which bundles and encoders are known. */
#include <stdlib.h>
#include <string.h>

#include "manifest.h"
#include "status.h"

/* The weights of a graph above protobuf's limit, which stand beside it; NULL if there are none.
 * `status` tells whether memory ran out. */
static const cff__file_entry *weights_of(const cff__manifest *manifest, const char *graph,
                                         cff_status *status) {
  static const char suffix[] = ".data";
  size_t n = strlen(graph);
  char *name = malloc(n + sizeof suffix);
  *status = name == NULL ? cff__no_memory("a name", n) : CFF_OK;
  if (name == NULL) return NULL;
  memcpy(name, graph, n);
  memcpy(name + n, suffix, sizeof suffix);
  const cff__file_entry *found = cff__manifest_file(manifest, name);
  free(name);
  return found;
}

/* Graphs first, then the weights of those that have some. */
static cff_status put_graphs(cff__json_writer *out, const cff__manifest *manifest,
                             const char *encoder) {
  cff_status status = CFF_OK;
  cff__json_open(out, '[');
  for (int pass = 0; pass < 2; pass++) {
    for (size_t i = 0; i <= manifest->n_scorers && status == CFF_OK; i++) {
      const char *graph = i == 0 ? encoder : manifest->scorers[i - 1];
      const cff__file_entry *file = pass == 0 ? cff__manifest_file(manifest, graph)
                                              : weights_of(manifest, graph, &status);
      if (file != NULL) cff__json_put_text(out, file->sha256);
    }
  }
  cff__json_close(out, ']');
  return status;
}

static void put_stages(cff__json_writer *out, const cff__manifest *manifest) {
  cff__json_open(out, '[');
  for (size_t i = 0; i < manifest->n_stages; i++) {
    const cff__stage *stage = &manifest->stages[i];
    cff__json_open(out, '{');
    cff__json_put_key(out, "grid");
    cff__json_open(out, '[');
    cff__json_put_integer(out, stage->rows);
    cff__json_put_integer(out, stage->columns);
    cff__json_close(out, ']');
    cff__json_put_key(out, "tap");
    cff__json_put_text(out, stage->tap);
    cff__json_put_key(out, "width");
    cff__json_put_integer(out, stage->width);
    cff__json_close(out, '}');
  }
  cff__json_close(out, ']');
}

/* A text, or null where there is none. */
static void put_text(cff__json_writer *out, const char *key, const char *text) {
  cff__json_put_key(out, key);
  if (text != NULL) cff__json_put_text(out, text);
  else cff__json_put_source(out, "null", 4);
}

static void put_condition(cff__json_writer *out, const cff__condition *condition) {
  cff__json_open(out, '{');
  put_text(out, "choice", condition->choice);
  put_text(out, "input", condition->input);
  cff__json_put_key(out, "shape");
  cff__json_open(out, '[');
  cff__json_put_integer(out, condition->n_rows);
  cff__json_put_integer(out, condition->n_columns);
  cff__json_close(out, ']');
  put_text(out, "source", condition->source);
  cff__json_put_key(out, "stage");
  if (condition->is_of_reference) cff__json_put_integer(out, condition->stage);
  else cff__json_put_source(out, "null", 4);
  cff__json_close(out, '}');
}

cff_status cff__manifest_compute_id(const cff__manifest *manifest, const char *encoder,
                                    char hex[CFF__SHA256_HEX_SIZE]) {
  cff__json_writer out = {0};
  cff__json_open(&out, '{'); /* keys in order */
  cff__json_put_key(&out, "condition");
  put_condition(&out, &manifest->condition);
  cff__json_put_key(&out, "distance");
  cff__json_put_text(&out, manifest->distance);
  cff__json_put_key(&out, "graphs");
  cff_status done = put_graphs(&out, manifest, encoder);
  cff__json_put_key(&out, "map");
  cff__json_open(&out, '{');
  put_text(&out, "output", manifest->map_output);
  cff__json_put_key(&out, "weight");
  cff__json_put_double(&out, manifest->map_weight);
  cff__json_close(&out, '}');
  cff__json_put_key(&out, "preprocessing");
  cff__put_preprocessing(&out, manifest->height, manifest->width, true);
  cff__json_put_key(&out, "schema_version");
  cff__json_put_integer(&out, CFF__MANIFEST_SCHEMA);
  cff__json_put_key(&out, "score");
  cff__json_open(&out, '{');
  put_text(&out, "output", manifest->score_output);
  put_text(&out, "statistic", manifest->score_statistic);
  cff__json_close(&out, '}');
  cff__json_put_key(&out, "stages");
  put_stages(&out, manifest);
  cff__json_close(&out, '}');
  if (done == CFF_OK) done = cff__json_check(&out);
  if (done == CFF_OK) cff__sha256_of(out.text, out.n_bytes, hex);
  cff__json_free(&out);
  return done;
}

cff_status cff__manifest_encoder_sha256(const cff__manifest *manifest, const char *encoder,
                                        char hex[CFF__SHA256_HEX_SIZE]) {
  cff_status status = CFF_OK;
  const cff__file_entry *graph = cff__manifest_file(manifest, encoder);
  const cff__file_entry *weights = weights_of(manifest, encoder, &status);
  cff__sha256 hash;
  cff__sha256_init(&hash);
  if (graph != NULL) cff__sha256_update(&hash, graph->sha256, strlen(graph->sha256));
  if (weights != NULL) cff__sha256_update(&hash, weights->sha256, strlen(weights->sha256));
  cff__sha256_finish(&hash, hex);
  return status;
}
