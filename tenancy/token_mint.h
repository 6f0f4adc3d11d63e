/* token_mint: make a JWT that token_verify accepts: for `leat token`, `leat dev` and tests. */
#ifndef LEAT_TENANCY_TOKEN_MINT_H
#define LEAT_TENANCY_TOKEN_MINT_H

#include "base/buf.h"
#include "base/err.h"
#include "tenancy/jws.h"

#include <stddef.h>
#include <stdint.h>

/* Borrowed, NUL-terminated texts. */
struct token_spec {
	const char *kid;
	const char *issuer;
	const char *subject;
	const char *audience;
	uint64_t issued_s; /* seconds since 1970 */
	uint64_t expires_s;
	const char *const *publish; /* filters of the acl claim; none = may not */
	size_t publish_count;
	const char *const *subscribe;
	size_t subscribe_count;
	const char *const *limits; /* NAME=N each: the limits claim (tenancy/token_limits.def) */
	size_t limits_count;
};

/* Append the compact token to out. -1: a filter, limit or name is not allowed, and e says which. A
 * jti is made. */
int token_mint(const struct jws_key *key, const struct token_spec *spec, struct buf *out,
               struct err *e);

/* Sign header and payload as they are, right or wrong. */
int token_sign(const struct jws_key *key, struct slice header, struct slice payload,
               struct buf *out, struct err *e);

#endif
