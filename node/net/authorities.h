/* authorities: certificates that vouch for servers, read from a PEM file and looked at once, so
 * that a file that is being replaced, or is none, changes nothing. Shared by reference and never
 * changed; references are counted without a lock, so that one thread at a time may take and drop
 * them. */
#ifndef LEAT_NODE_AUTHORITIES_H
#define LEAT_NODE_AUTHORITIES_H

#include "base/err.h"
#include "base/slice.h"

#include <stddef.h>

struct authorities;

/* NULL: the file cannot be read, or has no certificate. The caller has the first reference. */
struct authorities *authorities_read(const char *file, struct err *e);
struct authorities *authorities_ref(struct authorities *a); /* returns a; NULL is fine */
void authorities_free(struct authorities *a);               /* drops one reference */

struct slice authorities_pem(const struct authorities *a);
size_t authorities_count(const struct authorities *a);

#endif
