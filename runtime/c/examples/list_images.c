#define _POSIX_C_SOURCE 200809L

#include "list_images.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* As the Python runtime lists them, and PPM and PGM: what cannot be read is to be told, not left
 * out. */
static bool is_image(const char *name) {
  static const char *const suffixes[] = {".png", ".jpg",  ".jpeg", ".bmp",
                                         ".tif", ".tiff", ".ppm",  ".pgm"};
  const char *suffix = strrchr(name, '.');
  if (name[0] == '.' || suffix == NULL) return false;
  for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
    if (strcasecmp(suffix, suffixes[i]) == 0) return true;
  }
  return false;
}

/* `folder` may be NULL. */
static bool append(image_list *list, const char *folder, const char *name) {
  size_t n_bytes = strlen(name) + 1 + (folder == NULL ? 0 : strlen(folder) + 1);
  char *path = malloc(n_bytes);
  char **paths = realloc(list->paths, (list->n_paths + 1) * sizeof *paths);
  if (paths != NULL) list->paths = paths;
  if (path == NULL || paths == NULL) {
    free(path);
    return false;
  }
  snprintf(path, n_bytes, "%s%s%s", folder == NULL ? "" : folder, folder == NULL ? "" : "/", name);
  list->paths[list->n_paths++] = path;
  return true;
}

static int compare(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool append_folder(image_list *list, char *folder, char reason[REASON_BYTES]) {
  for (size_t n = strlen(folder); n > 1 && folder[n - 1] == '/'; n--) folder[n - 1] = '\0';
  size_t n_before = list->n_paths;
  DIR *entries = opendir(folder);
  bool is_done = entries != NULL;
  for (struct dirent *entry; is_done && (entry = readdir(entries)) != NULL;) {
    if (is_image(entry->d_name)) is_done = append(list, folder, entry->d_name);
  }
  if (entries != NULL) closedir(entries);
  size_t n_new = list->n_paths - n_before;
  if (!is_done || n_new == 0) {
    snprintf(reason, REASON_BYTES, "folder `%s` must be readable and hold at least one image",
             folder);
    return false;
  }
  qsort(list->paths + n_before, n_new, sizeof *list->paths, compare);
  return true;
}

bool list_images(const char *path, image_list *list, char reason[REASON_BYTES]) {
  struct stat facts;
  if (stat(path, &facts) != 0) {
    snprintf(reason, REASON_BYTES, "`%s` must be an existing image or folder; check the path",
             path);
    return false;
  }
  snprintf(reason, REASON_BYTES, "there is not enough memory");
  if (!S_ISDIR(facts.st_mode)) return append(list, NULL, path);
  char *folder = strdup(path);
  bool is_done = folder != NULL && append_folder(list, folder, reason);
  free(folder);
  return is_done;
}

void free_list(image_list *list) {
  for (size_t i = 0; i < list->n_paths; i++) free(list->paths[i]);
  free(list->paths);
  list->paths = NULL;
  list->n_paths = 0;
}
