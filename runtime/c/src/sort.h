/* Sorting floats, many times faster than with qsort. */
#ifndef CFF__SORT_H
#define CFF__SORT_H

#include <stddef.h>

/* Sort ascending in place; NaN stands at either end. scratch: room for n floats. */
void cff__sort_floats(float *values, float *scratch, size_t n);

#endif
