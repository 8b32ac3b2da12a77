#include "statement.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "bounds.h"

#define MOST_PARTS 10000000 /* more are not worth asking for */

void cff__say(cff__statement *said, const char *format, ...) {
  const size_t room = sizeof said->text - said->n_bytes;
  va_list arguments;
  va_start(arguments, format);
  const int n = vsnprintf(said->text + said->n_bytes, room, format, arguments);
  va_end(arguments);
  if (n > 0) said->n_bytes += (size_t)n < room ? (size_t)n : room - 1;
}

void cff__say_count(cff__statement *said, int64_t n, const char *kind) {
  cff__say(said, "%lld %s part%s", (long long)n, kind, n == 1 ? "" : "s");
}

void cff__say_bound(cff__statement *said, const char *what, double share, double confidence) {
  char percent[CFF__PERCENT_SIZE], confident[CFF__CONFIDENCE_SIZE];
  cff__percent(share, percent);
  cff__percent_confident(confidence, confident);
  cff__say(said, "%s <= %s with %s confidence", what, percent, confident);
}

void cff__say_needed(cff__statement *said, double share, double confidence) {
  if (-log1p(-confidence) / share > MOST_PARTS) cff__say(said, "more than %d", MOST_PARTS);
  else cff__say(said, "%lld", (long long)cff__parts_needed(share, confidence));
}

void cff__say_unsupported(cff__statement *said, double wish, int64_t n, double confidence) {
  char percent[CFF__PERCENT_SIZE];
  cff__percent(wish, percent);
  cff__say(said, "; <= %s cannot be promised from %lld, it takes ", percent, (long long)n);
  cff__say_needed(said, wish, confidence);
  cff__say(said, " parts");
}
