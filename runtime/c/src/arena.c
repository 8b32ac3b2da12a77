#include "arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)1 << 14)

typedef union most_aligned {
  long long integer;
  double number;
  void *pointer;
} most_aligned;

struct cff__arena_block {
  struct cff__arena_block *next;
  size_t n_used, n_bytes;
  most_aligned data[];
};

static struct cff__arena_block *add_block(cff__arena *arena, size_t n_bytes) {
  size_t size = n_bytes > BLOCK_BYTES ? n_bytes : BLOCK_BYTES;
  struct cff__arena_block *block = calloc(1, sizeof *block + size);
  if (block == NULL) return NULL;
  block->n_bytes = size;
  if (arena->blocks != NULL && size > BLOCK_BYTES) { /* keep what is left of the open block */
    block->next = arena->blocks->next;
    arena->blocks->next = block;
  } else {
    block->next = arena->blocks;
    arena->blocks = block;
  }
  return block;
}

void *cff__arena_alloc(cff__arena *arena, size_t n_items, size_t item_bytes) {
  if (item_bytes != 0 && n_items > (SIZE_MAX / 4) / item_bytes) return NULL;
  size_t unit = sizeof(most_aligned);
  size_t n_bytes = (n_items * item_bytes + unit - 1) / unit * unit;
  struct cff__arena_block *block = arena->blocks;
  if (block == NULL || block->n_bytes - block->n_used < n_bytes) block = add_block(arena, n_bytes);
  if (block == NULL) return NULL;
  void *piece = (char *)block->data + block->n_used;
  block->n_used += n_bytes;
  return piece;
}

char *cff__arena_text(cff__arena *arena, const char *text, size_t n_bytes) {
  char *copy = n_bytes == SIZE_MAX ? NULL : cff__arena_alloc(arena, n_bytes + 1, 1);
  if (copy != NULL && n_bytes > 0) memcpy(copy, text, n_bytes);
  return copy;
}

void cff__arena_free(cff__arena *arena) {
  struct cff__arena_block *block = arena->blocks;
  while (block != NULL) {
    struct cff__arena_block *next = block->next;
    free(block);
    block = next;
  }
  arena->blocks = NULL;
}
