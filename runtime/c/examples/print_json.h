/* A text as JSON. */
#ifndef PRINT_JSON_H
#define PRINT_JSON_H

#include <stdio.h>

/* Write `text` in quotes, in ASCII as Python's `json.dumps` does: file names need not be UTF-8. */
void print_json(FILE *file, const char *text);

#endif
