/* jwks: the keys of an identity provider, a JSON Web Key Set (RFC 7517, section 5), parsed. Only
 * public keys for RS256, PS256, ES256 and EdDSA are taken, each for one algorithm (an RSA key that
 * does not say is for RS256): a secret or a private half in a document that everybody may read is
 * worth nothing. What is not usable is left out; a set in which nothing is, is refused as a whole,
 * so that an error page never takes the place of good keys.
 *
 * Parsed by any thread; its keys are then used by one thread at a time. */
#ifndef LEAT_TENANCY_JWKS_H
#define LEAT_TENANCY_JWKS_H

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"
#include "tenancy/jws.h"

#include <stddef.h>

enum {
	JWKS_MAX_BYTES = 256 * 1024,
	JWKS_MAX_KEYS = 100,
};

struct jwks;

struct jwks_key {
	struct slice kid; /* all of these are the set's */
	const struct jws_key *key;
};

/* NULL: e says why. */
struct jwks *jwks_parse(struct slice text, struct err *e);
void jwks_free(struct jwks *s); /* NULL does nothing */

size_t jwks_count(const struct jwks *s);
struct jwks_key jwks_at(const struct jwks *s, size_t i);
/* The set again, of what is in it: the members that say what its public keys are, and no others. */
void jwks_put(const struct jwks *s, struct buf *out);
/* What was left out and why, of the first such key; "" = nothing. */
const char *jwks_left_out(const struct jwks *s);

#endif
