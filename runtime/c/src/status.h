/* Failing with a status and a sentence. */
#ifndef CFF_STATUS_H
#define CFF_STATUS_H

#include "cff.h"

#if defined(__GNUC__)
#define CFF__PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define CFF__PRINTF(text, first)
#endif

/* Leave a sentence for cff_last_error and return `status`. */
cff_status cff__fail(cff_status status, const char *format, ...) CFF__PRINTF(2, 3);

/* Put words before and after the sentence that stands; either may be "". Returns `status`. */
cff_status cff__wrap_error(cff_status status, const char *before, const char *after);

/* CFF_ERROR_MEMORY; `what` the memory was for. */
cff_status cff__no_memory(const char *what, uint64_t n_bytes);

/* Copy a text into a caller's buffer, see cff_bundle_get_text. */
cff_status cff__copy_text(const char *text, char *buffer, size_t size, size_t *n_needed);

/* Copy the fields of a struct that the caller knows; its `struct_size` stays as it is.
 * Both start with a uint32_t struct_size. */
cff_status cff__copy_struct(void *to, const void *from, size_t n_bytes, const char *name);

#endif
