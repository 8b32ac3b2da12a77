#define _XOPEN_SOURCE 700
#define _FILE_OFFSET_BITS 64

#include "failing_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

/* The names end in 64 where glibc counts bytes of files in 64 bits. */

static failing_call chosen;
static int n_left = -1; /* calls until one fails, -1 for none */

const char *failing_name(failing_call call) {
  static const char *const names[] = {"memory", "open",  "stat",  "read",  "seek",
                                      "write",  "flush", "fsync", "close", "rename"};
  return names[call];
}

void failing_start(failing_call call, int n_before) {
  chosen = call;
  n_left = n_before;
}

bool failing_stop(void) {
  bool failed = n_left < 0;
  n_left = -1;
  return failed;
}

static bool fails(failing_call call, int cause) {
  if (call != chosen || n_left < 0) return false;
  if (n_left-- > 0) return false;
  errno = cause;
  return true;
}

#define WRAP(type, name, parameters, arguments, call, cause, failure) \
  type __real_##name parameters;                                      \
  type __wrap_##name parameters;                                      \
  type __wrap_##name parameters {                                     \
    return fails(call, cause) ? failure : __real_##name arguments;    \
  }

WRAP(void *, malloc, (size_t n), (n), FAIL_MEMORY, ENOMEM, NULL)
WRAP(void *, calloc, (size_t n, size_t m), (n, m), FAIL_MEMORY, ENOMEM, NULL)
WRAP(void *, realloc, (void *old, size_t n), (old, n), FAIL_MEMORY, ENOMEM, NULL)
WRAP(char *, realpath, (const char *path, char *out), (path, out), FAIL_MEMORY, ENOMEM, NULL)
WRAP(FILE *, fdopen, (int handle, const char *mode), (handle, mode), FAIL_OPEN, EMFILE, NULL)
WRAP(int, stat64, (const char *path, struct stat *facts), (path, facts), FAIL_STAT, EIO, -1)
WRAP(int, fstat64, (int handle, struct stat *facts), (handle, facts), FAIL_STAT, EIO, -1)
WRAP(int, fseeko64, (FILE * file, off_t at, int from), (file, at, from), FAIL_SEEK, EIO, -1)
WRAP(size_t, fwrite, (const void *from, size_t size, size_t n, FILE *file), (from, size, n, file),
     FAIL_WRITE, ENOSPC, 0)
WRAP(int, fflush, (FILE * file), (file), FAIL_FLUSH, ENOSPC, EOF)
WRAP(int, fsync, (int handle), (handle), FAIL_SYNC, EIO, -1)
WRAP(int, rename, (const char *from, const char *to), (from, to), FAIL_RENAME, EXDEV, -1)

size_t __real_fread(void *to, size_t size, size_t n, FILE *file);
size_t __wrap_fread(void *to, size_t size, size_t n, FILE *file);
size_t __wrap_fread(void *to, size_t size, size_t n, FILE *file) {
  size_t n_read = __real_fread(to, size, n, file);
  return n_read > 0 && fails(FAIL_READ, EIO) ? 0 : n_read; /* nothing is lost at the file's end */
}

int __real_fclose(FILE *file);
int __wrap_fclose(FILE *file);
int __wrap_fclose(FILE *file) {
  int closed = __real_fclose(file);
  return fails(FAIL_CLOSE, EIO) ? EOF : closed;
}

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
  va_end(more);
  return fails(FAIL_OPEN, ENOSPC) ? -1 : __real_open64(path, flags, mode);
}
