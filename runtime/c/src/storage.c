#define _XOPEN_SOURCE 700
#define _FILE_OFFSET_BITS 64

#include "storage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "status.h"

#define BLOCK_BYTES ((size_t)1 << 18)

int cff__is_file(const char *path) {
  struct stat facts;
  return stat(path, &facts) == 0 && S_ISREG(facts.st_mode);
}

cff_status cff__open_file(const char *path, cff_status status, FILE **file, uint64_t *n_bytes) {
  struct stat facts;
  *file = NULL;
  if (!cff__is_file(path)) /* opening a pipe could wait for ever */
    return cff__fail(status, "`%.500s` must be an existing file", path);
  int handle = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* it may have become a pipe */
  FILE *opened = handle < 0 ? NULL : fdopen(handle, "rb");
  if (opened == NULL) {
    cff_status done = cff__fail(status, "`%.500s` must be readable: %s", path, strerror(errno));
    if (handle >= 0) close(handle);
    return done;
  }
  if (fstat(fileno(opened), &facts) != 0 || !S_ISREG(facts.st_mode)) {
    fclose(opened);
    return cff__fail(status, "`%.500s` must be a regular file", path);
  }
  *file = opened;
  *n_bytes = (uint64_t)facts.st_size;
  return CFF_OK;
}

cff_status cff__read_file(const char *path, uint64_t limit, cff_status status, char **data,
                          size_t *n_bytes) {
  FILE *file;
  uint64_t size;
  *data = NULL;
  cff_status done = cff__open_file(path, status, &file, &size);
  if (done != CFF_OK) return done;
  if (size > limit || size > SIZE_MAX - 1) {
    fclose(file);
    return cff__fail(status, "`%.500s` must be at most %llu bytes, got %llu", path,
                     (unsigned long long)limit, (unsigned long long)size);
  }
  char *bytes = malloc((size_t)size + 1);
  size_t n_read = bytes == NULL ? 0 : fread(bytes, 1, (size_t)size, file);
  fclose(file);
  if (bytes == NULL) return cff__no_memory(path, size);
  if (n_read != size) {
    free(bytes);
    return cff__fail(status, "`%.500s` must be readable, it ended early", path);
  }
  bytes[size] = '\0';
  *data = bytes;
  *n_bytes = (size_t)size;
  return CFF_OK;
}

cff_status cff__hash_file(const char *path, uint64_t n_bytes, cff_status status,
                          char hex[CFF__SHA256_HEX_SIZE]) {
  FILE *file;
  uint64_t size;
  cff_status done = cff__open_file(path, status, &file, &size);
  if (done != CFF_OK) return done;
  if (size != n_bytes) {
    fclose(file);
    return cff__fail(status,
                     "`%.500s` must have %llu bytes, got %llu; the file was changed or not copied "
                     "completely, copy the bundle again",
                     path, (unsigned long long)n_bytes, (unsigned long long)size);
  }
  char *block = malloc(BLOCK_BYTES);
  if (block == NULL) {
    fclose(file);
    return cff__no_memory(path, BLOCK_BYTES);
  }
  cff__sha256 hash;
  cff__sha256_init(&hash);
  uint64_t n_read = 0; /* a file that grows has another hash anyhow */
  for (size_t n; n_read <= n_bytes && (n = fread(block, 1, BLOCK_BYTES, file)) > 0; n_read += n)
    cff__sha256_update(&hash, block, n);
  cff__sha256_finish(&hash, hex);
  int failed = ferror(file);
  free(block);
  fclose(file);
  if (failed) return cff__fail(status, "`%.500s` must be readable, reading failed", path);
  return CFF_OK;
}

char *cff__real_path(const char *path) { return realpath(path, NULL); }

char *cff__join_path(const char *folder, const char *name) {
  size_t n_folder = strlen(folder), n_name = strlen(name);
  char *path = malloc(n_folder + n_name + 2);
  if (path == NULL) return NULL;
  memcpy(path, folder, n_folder);
  path[n_folder] = '/';
  memcpy(path + n_folder + 1, name, n_name + 1);
  return path;
}

static cff_status not_written(cff__new_file *out) {
  cff_status status =
      errno == ENOMEM
          ? cff__no_memory("writing a file", 0)
          : cff__fail(CFF_ERROR_STORAGE,
                      "`%.500s` could not be written: %s; free some space or choose another place, "
                      "nothing was changed",
                      out->path, strerror(errno));
  cff__new_file_drop(out);
  return status;
}

/* A name beside the path that no other file has, and that is not too long where the path is not;
 * with the permissions of any new file. */
static int open_temporary(cff__new_file *out) {
  const char *slash = strrchr(out->path, '/');
  const char *name = slash == NULL ? out->path : slash + 1;
  size_t n_folder = (size_t)(name - out->path), n_name = 40 + 40;
  out->temporary = malloc(n_folder + n_name);
  if (out->temporary == NULL) {
    errno = ENOMEM;
    return -1;
  }
  memcpy(out->temporary, out->path, n_folder);
  for (unsigned attempt = 0; attempt < 1000; attempt++) {
    snprintf(out->temporary + n_folder, n_name, ".%.40s.%lx-%u.tmp", name,
             (unsigned long)getpid() & 0xffffffffUL, attempt);
    int handle = open(out->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (handle >= 0 || errno != EEXIST) return handle;
  }
  return -1;
}

cff_status cff__new_file_open(cff__new_file *out, const char *path) {
  memset(out, 0, sizeof *out);
  size_t n = strlen(path) + 1;
  out->path = malloc(n);
  if (out->path == NULL) return cff__no_memory(path, n);
  memcpy(out->path, path, n);
  int handle = open_temporary(out);
  if (handle < 0) {
    int cause = errno;
    free(out->temporary); /* it is not ours */
    out->temporary = NULL;
    errno = cause;
    return not_written(out);
  }
  out->file = fdopen(handle, "wb");
  if (out->file == NULL) {
    int cause = errno;
    close(handle);
    errno = cause;
    return not_written(out);
  }
  return CFF_OK;
}

cff_status cff__new_file_write(cff__new_file *out, const void *data, size_t n_bytes) {
  if (n_bytes > 0 && fwrite(data, 1, n_bytes, out->file) != n_bytes) return not_written(out);
  return CFF_OK;
}

cff_status cff__new_file_keep(cff__new_file *out) {
  if (fflush(out->file) != 0 || fsync(fileno(out->file)) != 0) return not_written(out);
  int closed = fclose(out->file);
  out->file = NULL;
  if (closed != 0 || rename(out->temporary, out->path) != 0) return not_written(out);
  free(out->temporary);
  out->temporary = NULL;
  cff__new_file_drop(out);
  return CFF_OK;
}

void cff__new_file_drop(cff__new_file *out) {
  if (out->file != NULL) fclose(out->file);
  if (out->temporary != NULL) unlink(out->temporary);
  free(out->temporary);
  free(out->path);
  memset(out, 0, sizeof *out);
}
