/* The sentences of a threshold, word for word the Python runtime's. */
#ifndef CFF__STATEMENT_H
#define CFF__STATEMENT_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"

#define CFF__MAX_STATEMENT 4096 /* the longest possible has under 3000 bytes */

/* Text that grows in its room; starts as {0}. */
typedef struct cff__statement {
  size_t n_bytes;
  char text[CFF__MAX_STATEMENT];
} cff__statement;

/* Words and integers only: a number with a point would come out in the locale's way. */
void cff__say(cff__statement *said, const char *format, ...) CFF__PRINTF(2, 3);

/* "1 good part", "2 good parts" */
void cff__say_count(cff__statement *said, int64_t n, const char *kind);

/* "false rejects <= 7% with 95% confidence" */
void cff__say_bound(cff__statement *said, const char *what, double share, double confidence);

/* How many parts a promise takes, in a number that can be made. */
void cff__say_needed(cff__statement *said, double share, double confidence);

/* That n parts are too few for a wish. */
void cff__say_unsupported(cff__statement *said, double wish, int64_t n, double confidence);

#endif
