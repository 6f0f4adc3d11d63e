/* base64url: RFC 4648, section 5, without padding, as tokens use it. Strict: one text has one
 * meaning, so that a token cannot be written in two ways. Any thread. */
#ifndef LEAT_TENANCY_BASE64URL_H
#define LEAT_TENANCY_BASE64URL_H

#include "base/buf.h"
#include "base/slice.h"

/* Append the decoded bytes to out. -1, with out as it was: a byte outside the alphabet, padding, an
 * impossible length, or bits left over that are not zero. */
int base64url_decode(struct slice text, struct buf *out);

void base64url_encode(struct slice bytes, struct buf *out); /* appends */

#endif
