/* What an inspection returns. */
#ifndef CFF__RESULT_H
#define CFF__RESULT_H

#include <stddef.h>

#include "cff.h"
#include "regions.h"

struct cff_result {
  cff_result_info info;
  float *map;           /* [H,W], from malloc */
  cff__region *regions; /* info.n_regions, from malloc */
  char *warning;        /* from malloc; NULL for none */
};

#endif
