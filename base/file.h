/* file: small files read and written whole: keys, tokens. Any thread; blocks. Errors name the path
 * and never quote the content. */
#ifndef LEAT_BASE_FILE_H
#define LEAT_BASE_FILE_H

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"

#include <stddef.h>

/* Append the file's bytes to out; a file of more than `max` bytes is an error. */
int file_read(const char *path, size_t max, struct buf *out, struct err *e);

/* The same for a secret: one that everybody on the machine can read is refused, and no copy of it
 * stays in memory that was given back. The caller wipes it. */
int file_read_secret(const char *path, size_t max, struct buf *out, struct err *e);

/* Replace the file, readable by its owner alone (mode 0600), in one step: it is written beside its
 * place and renamed. */
int file_write_private(const char *path, struct slice bytes, struct err *e);

#endif
