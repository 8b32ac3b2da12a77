/* Threads that share out a list of jobs; several callers may use them at once.
 *
 * Every thread takes the next job that nobody has taken, so that nobody waits but for a last job,
 * and a thread that never gets to run is not waited for at all. Who does which job depends on
 * timing: what is made of them must not. */
#ifndef CFF__WALKERS_H
#define CFF__WALKERS_H

#include <stddef.h>
#include <stdint.h>

#include "cff.h"
#include "cores.h"

typedef struct cff__walkers cff__walkers;

/* Do a job. No two threads have one `walker` number in the same walk, 0 is the caller. */
typedef cff_status (*cff__step)(void *context, size_t walker, size_t job);

/* n_threads: 1 or more, the caller's own among them, so that 1 starts none. places: cores of the
 * others, which outlive them; or NULL. */
cff_status cff__walkers_start(int32_t n_threads, const cff__places *places,
                              cff__walkers **walkers);

/* Not while anybody walks. */
void cff__walkers_stop(cff__walkers *walkers);

/* Largest number of threads in a walk. */
size_t cff__walkers_count(const cff__walkers *walkers);

/* Do all jobs, and return when they are done. The first that fails ends the walk; its status and
 * sentence become the caller's. */
cff_status cff__walk(cff__walkers *walkers, size_t n_jobs, cff__step step, void *context);

#endif
