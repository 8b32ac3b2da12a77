/* The calibration card: what a threshold was set from, what it promises, and on which premises.
 * JSON, as json.dumps writes what the Python runtime's `thresholds.card` makes. */
#ifndef CFF__CARD_H
#define CFF__CARD_H

#include <stdbool.h>

#include "arena.h"
#include "thresholds.h"

/* What is promised, each figure an upper bound. */
typedef struct cff__risk {
  double expected_false_rejects; /* 1 where nothing is promised */
  double false_rejects;          /* with the confidence; NaN for none */
  double false_accepts;          /* likewise */
  bool supported;                /* whether all wishes are */
} cff__risk;

/* Whether the scores are the maps' maxima, and whether the encoder's have a share in them. */
bool cff__scores_are_maxima(const cff__calibration *given);
bool cff__scores_are_sums(const cff__calibration *given);

/* Write the card into the arena. All scores are finite. */
cff_status cff__make_card(const cff__calibration *given, const char *method,
                          const cff__risk *risk, cff__arena *arena, const char **card);

#endif
