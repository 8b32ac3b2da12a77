#define _POSIX_C_SOURCE 200809L /* gmtime_r */

#include <string.h>
#include <time.h>

#include "thresholds.h"

void cff__now_utc(char text[CFF__TIME_SIZE]) {
  const time_t now = time(NULL);
  struct tm parts;
  if (gmtime_r(&now, &parts) != NULL &&
      strftime(text, CFF__TIME_SIZE, "%Y-%m-%dT%H:%M:%S+00:00", &parts) > 0)
    return;
  static const char never[] = "1970-01-01T00:00:00+00:00"; /* a clock beyond every calendar */
  memcpy(text, never, sizeof never);
}
