/* How many cores this process may use. */
#ifndef CFF__CORES_H
#define CFF__CORES_H

#include <stdint.h>

#define CFF__MAX_THREADS 256

/* 1 to CFF__MAX_THREADS; where the system tells, only cores that the process is allowed. */
int32_t cff__n_cores(void);

#endif
