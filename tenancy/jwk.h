/* jwk: a JSON Web Key (RFC 7517) that verifies signatures: RSA, EC on P-256 and oct (RFC 7518), OKP
 * with Ed25519 (RFC 8037). Whatever it says of itself (alg, use, key_ops) must be so; members that
 * are not known here (x5c, x5t …) are ignored, as the standard asks. Private halves are refused.
 * Any thread. */
#ifndef LEAT_TENANCY_JWK_H
#define LEAT_TENANCY_JWK_H

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"
#include "tenancy/jws.h"

#include <jansson.h>
#include <openssl/evp.h>
#include <stdbool.h>

struct jwk {
	json_t *json;     /* a reference of its own: jwk_release */
	struct slice kid; /* inside json; empty = it has none */
	enum jws_alg alg; /* what it says, else what its kind of key is used for most */
	bool says_alg;
};

/* Is this text a JWK rather than PEM or a raw secret: a JSON object with a member kty? */
bool jwk_is(struct slice text);

/* 0, or -1 with e saying what is wrong with it. */
int jwk_parse(struct slice text, struct jwk *out, struct err *e);
int jwk_from_json(const json_t *v, struct jwk *out, struct err *e);
void jwk_release(struct jwk *k);

/* May it be used with this algorithm? */
int jwk_check_alg(const struct jwk *k, enum jws_alg alg, struct err *e);

EVP_PKEY *jwk_public_key(const struct jwk *k, struct err *e);        /* not of oct */
int jwk_secret(const struct jwk *k, struct buf *out, struct err *e); /* of oct; wipe it */

#endif
