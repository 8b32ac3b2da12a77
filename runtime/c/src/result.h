/* What an inspection returns. */
#ifndef CFF__RESULT_H
#define CFF__RESULT_H

#include <stddef.h>

#include "cff.h"
#include "json_writer.h"
#include "regions.h"

struct cff_result {
  cff_result_info info;
  float *map;           /* [H,W], from malloc */
  cff__region *regions; /* info.n_regions, from malloc */
  char *warning;        /* from malloc; NULL for none */
};

/* With one decimal, and a point whatever the locale. */
void cff__format_tenths(double value, char text[CFF__DOUBLE_SIZE]);

#endif
