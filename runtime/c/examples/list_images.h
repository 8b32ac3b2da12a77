/* Files and folders of a command line as a list of image files. */
#ifndef LIST_IMAGES_H
#define LIST_IMAGES_H

#include <stdbool.h>
#include <stddef.h>

#include "read_image.h"

/* Starts as {0}. */
typedef struct image_list {
  char **paths;
  size_t n_paths;
} image_list;

/* Append a file, or the images of a folder: sorted, not nested, none that is hidden. On failure
 * return false and a sentence in `reason`. */
bool list_images(const char *path, image_list *list, char reason[REASON_BYTES]);

void free_list(image_list *list);

#endif
