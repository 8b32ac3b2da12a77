/* Calls of the C library that fail when a test wants it. Linked with --wrap for every name below;
 * calls of the C library itself are not touched. */
#ifndef FAILING_CALLS_H
#define FAILING_CALLS_H

#include <stdbool.h>

typedef enum failing_call {
  FAIL_MEMORY, /* malloc, calloc, realloc; realpath for want of memory */
  FAIL_OPEN,   /* open, fdopen */
  FAIL_STAT,   /* stat, fstat */
  FAIL_READ,   /* fread: comes up short */
  FAIL_SEEK,   /* fseeko */
  FAIL_WRITE,  /* fwrite: the disk is full */
  FAIL_FLUSH,  /* fflush */
  FAIL_SYNC,   /* fsync */
  FAIL_CLOSE,  /* fclose, of a file that it closes nevertheless */
  FAIL_RENAME  /* rename */
} failing_call;

const char *failing_name(failing_call call);

/* Let one call fail: the one after `n_before` others of its kind. */
void failing_start(failing_call call, int n_before);

/* No call fails any more; whether one did. */
bool failing_stop(void);

#endif
