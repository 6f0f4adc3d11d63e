/* key_file: a key from a file named on the command line. Start-up and CLI only. */
#ifndef LEAT_NODE_KEY_FILE_H
#define LEAT_NODE_KEY_FILE_H

#include "base/buf.h"
#include "base/err.h"
#include "tenancy/jws.h"

/* Append the file's bytes, at most JWS_MATERIAL_MAX; one line break at the end is left out, since
 * editors and echo add it to a secret. The caller wipes and releases with key_file_release. */
int key_file_read(const char *path, struct buf *out, struct err *e);
void key_file_release(struct buf *b);

/* What --alg says; where it was not given (NULL), what the key is for. */
int key_file_alg(const char *name, struct slice material, enum jws_alg *out, struct err *e);

#endif
