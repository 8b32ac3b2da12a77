#include "status.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MAX_SENTENCE 1024

#if defined(_MSC_VER)
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL __thread
#endif

static THREAD_LOCAL char sentence[MAX_SENTENCE];

uint32_t cff_abi_version(void) { return CFF_ABI_VERSION; }

const char *cff_last_error(void) { return sentence; }

const char *cff_status_str(cff_status status) {
  static const char *const names[] = {
      "CFF_OK",            "CFF_ERROR_USAGE",   "CFF_ERROR_MEMORY",  "CFF_ERROR_STORAGE",
      "CFF_ERROR_BUNDLE",  "CFF_ERROR_PROFILE", "CFF_ERROR_MISMATCH", "CFF_ERROR_IMAGE",
      "CFF_ERROR_BACKEND", "CFF_ERROR_BUFFER"};
  size_t number = (size_t)status; /* a negative one becomes large */
  return number < sizeof names / sizeof *names ? names[number] : "unknown status";
}

/* Bytes of the character that may be shown; 0 for controls and for what is not UTF-8. */
static size_t shown_bytes(const unsigned char *text) {
  unsigned first = text[0], second;
  size_t n = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (n == 1) return first >= 0x20 && first != 0x7f;
  for (size_t i = 1; i < n; i++)
    if ((text[i] & 0xc0) != 0x80) return 0; /* the NUL too */
  second = text[1];
  /* longer forms than needed, controls, surrogates, above U+10FFFF */
  bool wrong = first < 0xc2 || first > 0xf4 || (first == 0xc2 && second < 0xa0) ||
               (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
               (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f);
  return wrong ? 0 : n;
}

/* A sentence may quote a hostile file, and be cut inside a character. */
static void make_printable(char *text) {
  while (*text != '\0') {
    size_t n = shown_bytes((const unsigned char *)text);
    if (n == 0) *text = '?';
    text += n > 0 ? n : 1;
  }
}

cff_status cff__fail(cff_status status, const char *format, ...) {
  char text[MAX_SENTENCE]; /* an argument may be the sentence itself */
  va_list arguments;
  va_start(arguments, format);
  if (vsnprintf(text, sizeof text, format, arguments) < 0) text[0] = '\0';
  va_end(arguments);
  make_printable(text);
  memcpy(sentence, text, sizeof text);
  return status;
}

cff_status cff__wrap_error(cff_status status, const char *before, const char *after) {
  return cff__fail(status, "%.400s%.500s%.100s", before, sentence, after);
}

cff_status cff__no_memory(const char *what, uint64_t n_bytes) {
  return cff__fail(CFF_ERROR_MEMORY, "memory for %s must be at hand, got none of %llu bytes", what,
                   (unsigned long long)n_bytes);
}

cff_status cff__copy_text(const char *text, char *buffer, size_t size, size_t *n_needed) {
  size_t n_bytes = strlen(text) + 1;
  if (n_needed != NULL) *n_needed = n_bytes;
  if (buffer == NULL && size == 0) {
    if (n_needed != NULL) return CFF_OK;
    return cff__fail(CFF_ERROR_USAGE, "`buffer` or `n_needed` must be given, got neither");
  }
  if (buffer == NULL) return cff__fail(CFF_ERROR_USAGE, "`buffer` must be given, got NULL");
  if (size < n_bytes)
    return cff__fail(CFF_ERROR_BUFFER, "`buffer` must hold %llu bytes, got %llu",
                     (unsigned long long)n_bytes, (unsigned long long)size);
  memcpy(buffer, text, n_bytes);
  return CFF_OK;
}

cff_status cff__copy_struct(void *to, const void *from, size_t n_bytes, const char *name) {
  uint32_t known;
  memcpy(&known, to, sizeof known);
  if (known < sizeof known || known > (1u << 16))
    return cff__fail(CFF_ERROR_USAGE, "`%s.struct_size` must be sizeof the struct, got %u", name,
                     (unsigned)known);
  size_t n_copied = known < n_bytes ? known : n_bytes;
  memcpy((char *)to + sizeof known, (const char *)from + sizeof known, n_copied - sizeof known);
  if (known > n_bytes) memset((char *)to + n_bytes, 0, known - n_bytes);
  return CFF_OK;
}
