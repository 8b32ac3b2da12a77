/* Taken literally, n kept rows read the bank n times, which memory cannot deliver. The same rows
 * come out in rounds: distances can only fall, so that among the N_CANDIDATES farthest rows steps
 * may be taken as long as the next of them is not nearer than the farthest of all others was. Then
 * the rows of that round are compared with the whole bank.
 *
 * Every cosine is summed in one order wherever it is needed, so that the rows depend neither on
 * the rounds nor on the processor. */
#include "greedy.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "pixels.h"
#include "status.h"

#define N_CANDIDATES 1024
#define PANEL 32  /* rows that are compared at once: their sums stay in registers */
#define DEPTH 128 /* columns at a time, so that a panel's part stays in the nearest cache */
#define BLOCK 64  /* rows at a time, likewise in the next cache */
/* rows nearer than rounding tells are copies of a kept one: any of them may be next */
#define COPY (1.0F - 1e-6F)

static size_t at_most(size_t n, size_t limit) { return n < limit ? n : limit; }

void cff__greedy_free(cff__greedy *greedy) {
  free(greedy->nearest);
  free(greedy->panels);
  free(greedy->sorted);
  free(greedy->local);
  free(greedy->picked);
  free(greedy->candidates);
  memset(greedy, 0, sizeof *greedy);
}

cff_status cff__greedy_make(cff__greedy *greedy, cff__rows bank) {
  size_t bytes = SIZE_MAX;
  memset(greedy, 0, sizeof *greedy);
  greedy->bank = bank;
  if (cff__multiply(bank.width, N_CANDIDATES * sizeof(float), &bytes))
    greedy->panels = malloc(bytes);
  greedy->nearest = malloc(bank.n * sizeof(float)); /* less than the bank itself */
  greedy->sorted = malloc(bank.n * sizeof(float));
  greedy->local = malloc(N_CANDIDATES * sizeof(float));
  greedy->picked = malloc(N_CANDIDATES * sizeof(int64_t));
  greedy->candidates = malloc(N_CANDIDATES * sizeof(int64_t));
  if (greedy->panels == NULL || greedy->nearest == NULL || greedy->sorted == NULL ||
      greedy->local == NULL || greedy->picked == NULL || greedy->candidates == NULL) {
    cff__greedy_free(greedy);
    return cff__no_memory("comparing rows", bytes);
  }
  for (size_t i = 0; i < bank.n; i++) greedy->nearest[i] = -CFF__SETTLED;
  return CFF_OK;
}

/* Put n > 0 rows into panels [width,PANEL]; the last row fills the last one. */
static void pack(cff__rows bank, const int64_t *rows, size_t n, float *panels) {
  for (size_t start = 0; start < n; start += PANEL, panels += PANEL * bank.width) {
    for (size_t j = 0; j < PANEL; j++) {
      const size_t row = (size_t)rows[at_most(start + j, n - 1)];
      for (size_t k = 0; k < bank.width; k++)
        panels[k * PANEL + j] = bank.values[row * bank.width + k];
    }
  }
}

/* A part's sums start at 0: short sums round less than one long one. */
static void add_products(const float *row, const float *panel, size_t depth, float *sums) {
  float part[PANEL] = {0.0F};
  for (size_t k = 0; k < depth; k++)
    for (size_t j = 0; j < PANEL; j++) part[j] += row[k] * panel[k * PANEL + j];
  for (size_t j = 0; j < PANEL; j++) sums[j] += part[j];
}

/* Raise the largest cosines of n <= BLOCK rows to the rows of a panel, place by place. */
static void compare_panel(const float *block, size_t n, size_t width, const float *panel,
                          float largest[BLOCK][PANEL]) {
  float cosines[BLOCK][PANEL];
  memset(cosines, 0, n * sizeof *cosines);
  for (size_t start = 0; start < width; start += DEPTH)
    for (size_t i = 0; i < n; i++)
      add_products(block + i * width + start, panel + start * PANEL, at_most(width - start, DEPTH),
                   cosines[i]);
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < PANEL; j++)
      largest[i][j] = cosines[i][j] > largest[i][j] ? cosines[i][j] : largest[i][j];
}

static void compare_block(const float *block, size_t n, size_t width, const float *panels,
                          size_t n_packed, float *nearest) {
  float largest[BLOCK][PANEL];
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < PANEL; j++) largest[i][j] = nearest[i];
  for (size_t start = 0; start < n_packed; start += PANEL)
    compare_panel(block, n, width, panels + start * width, largest);
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < PANEL; j++)
      if (largest[i][j] > nearest[i]) nearest[i] = largest[i][j];
}

void cff__greedy_compare(const cff__greedy *greedy, const int64_t *rows, size_t n, float *nearest) {
  const cff__rows bank = greedy->bank;
  for (size_t done = 0; done < n; done += N_CANDIDATES) {
    const size_t n_packed = at_most(n - done, N_CANDIDATES);
    pack(bank, rows + done, n_packed, greedy->panels);
    for (size_t first = 0; first < bank.n; first += BLOCK)
      compare_block(bank.values + first * bank.width, at_most(bank.n - first, BLOCK), bank.width,
                    greedy->panels, n_packed, nearest + first);
  }
}

/* The value that would stand at `rank` if n values, none of them NaN, were sorted (Hoare,
 * Algorithm 65, 1961). Changes their order. */
static float select_rank(float *values, size_t n, size_t rank) {
  size_t low = 0, high = n - 1;
  while (low < high) {
    const float pivot = values[low + (high - low) / 2];
    size_t i = low, j = high;
    for (;; i++, j--) {
      while (values[i] < pivot) i++;
      while (pivot < values[j]) j--;
      if (i >= j) break;
      const float swapped = values[i];
      values[i] = values[j];
      values[j] = swapped;
    }
    if (rank <= j) high = j; /* up to j < high nothing is above the pivot, nothing below after */
    else low = j + 1;
  }
  return values[rank];
}

/* Collect the farthest rows, ascending; return the smallest cosine of all others. */
static float find_candidates(cff__greedy *greedy) {
  const size_t n_rows = greedy->bank.n, wanted = at_most(n_rows, N_CANDIDATES);
  float bound = CFF__SETTLED;
  size_t n = 0, n_below = 0;
  if (n_rows > wanted) {
    memcpy(greedy->sorted, greedy->nearest, n_rows * sizeof *greedy->sorted);
    bound = select_rank(greedy->sorted, n_rows, wanted);
  }
  for (size_t i = 0; i < n_rows; i++) n_below += greedy->nearest[i] < bound;
  size_t n_equal = wanted - n_below; /* of the rows at the bound itself */
  for (size_t i = 0; i < n_rows && n < wanted; i++) {
    const float nearest = greedy->nearest[i];
    if (nearest > bound || (nearest == bound && n_equal == 0)) continue;
    if (nearest == bound) n_equal--;
    greedy->candidates[n] = (int64_t)i;
    greedy->local[n++] = nearest;
  }
  greedy->n_candidates = n;
  return bound;
}

/* Take at most n_more steps among the candidates; returns how many, at least 1. */
static size_t take_round(cff__greedy *greedy, float bound, size_t n_more) {
  const size_t width = greedy->bank.width, n = greedy->n_candidates;
  float *local = greedy->local;
  size_t n_picked = 0;
  pack(greedy->bank, greedy->candidates, n, greedy->panels);
  while (n_picked < n_more) {
    size_t index = 0;
    for (size_t i = 1; i < n; i++)
      if (local[i] < local[index]) index = i;
    const bool others_may_be_farther = bound < local[index] && local[index] < COPY;
    if (n_picked > 0 && (others_may_be_farther || local[index] == CFF__SETTLED)) break;
    const int64_t row = greedy->candidates[index];
    /* cosines are the same both ways round: the row's to every candidate */
    for (size_t start = 0; start < n; start += PANEL) {
      float cosines[PANEL] = {0.0F};
      const float *values = greedy->bank.values + (size_t)row * width;
      for (size_t k = 0; k < width; k += DEPTH)
        add_products(values + k, greedy->panels + start * width + k * PANEL,
                     at_most(width - k, DEPTH), cosines);
      for (size_t j = 0; j < at_most(n - start, PANEL); j++)
        if (cosines[j] > local[start + j]) local[start + j] = cosines[j];
    }
    local[index] = CFF__SETTLED;
    greedy->picked[n_picked++] = row;
  }
  return n_picked;
}

void cff__greedy_spread(cff__greedy *greedy, size_t n_more, int64_t *picked) {
  while (n_more > 0) {
    const float bound = find_candidates(greedy);
    const size_t n = take_round(greedy, bound, at_most(n_more, N_CANDIDATES));
    cff__greedy_compare(greedy, greedy->picked, n, greedy->nearest);
    for (size_t i = 0; i < n; i++) {
      greedy->nearest[greedy->picked[i]] = CFF__SETTLED;
      picked[i] = greedy->picked[i];
    }
    picked += n;
    n_more -= n;
  }
}
