/* Memory that is taken piece by piece and given back at once. */
#ifndef CFF_ARENA_H
#define CFF_ARENA_H

#include <stddef.h>

typedef struct cff__arena {
  struct cff__arena_block *blocks;
} cff__arena;

/* Zeroed, aligned for every type; NULL if there is no memory. An arena starts as {NULL}. */
void *cff__arena_alloc(cff__arena *arena, size_t n_items, size_t item_bytes);

/* Copy of `n_bytes` of text with a NUL at its end; NULL if there is no memory. */
char *cff__arena_text(cff__arena *arena, const char *text, size_t n_bytes);

void cff__arena_free(cff__arena *arena);

#endif
