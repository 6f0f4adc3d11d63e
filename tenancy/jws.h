/* jws: signatures of tokens (RFC 7515, 7518, 8037) over OpenSSL. A key belongs to exactly one
 * algorithm and is checked when it is parsed, so a signature can never be tried with another one.
 *
 * Not libjwt: version 1.10 takes the algorithm from the token, accepts any signature when a key is
 * empty, does not know EdDSA, and parses the PEM again for every token. What is used here of
 * OpenSSL is one call per algorithm, with the key parsed once.
 *
 * Keys are used by the loop thread, or by a CLI command; one thread at a time. */
#ifndef LEAT_TENANCY_JWS_H
#define LEAT_TENANCY_JWS_H

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"

#include <stdbool.h>

enum jws_alg {
	JWS_HS256, /* HMAC with SHA-256; the key is the raw secret */
	JWS_RS256, /* RSA PKCS #1 v1.5 */
	JWS_PS256, /* RSA PSS, salt as long as the hash */
	JWS_ES256, /* ECDSA on P-256 */
	JWS_EDDSA, /* Ed25519 */
	JWS_ALG_COUNT,
};

enum {
	JWS_SECRET_MIN = 32,      /* bytes of an HS256 secret; RFC 7518, section 3.2 */
	JWS_SECRET_MAX = 1024,    /* bytes */
	JWS_RSA_BITS_MIN = 2048,  /* RFC 7518, section 3.3 */
	JWS_RSA_BITS_MAX = 8192,  /* a larger one makes every token an attack on the processor */
	JWS_MATERIAL_MAX = 16384, /* bytes of PEM or JWK */
	JWS_SIGNATURE_MAX = JWS_RSA_BITS_MAX / 8, /* bytes */
};

struct jws_key;
struct jwk;

const char *jws_alg_name(enum jws_alg alg);              /* "HS256" … */
int jws_alg_parse(struct slice name, enum jws_alg *out); /* exact; -1 for any other */
extern const char jws_alg_list[];                        /* "HS256, RS256 …", for messages */

/* A key to verify with: a raw secret, a public key in PEM, or either as a JWK (tenancy/jwk.h). A
 * private key is refused: it has no business on a server that only verifies. NULL on error; the
 * material is never quoted. */
struct jws_key *jws_key_public(enum jws_alg alg, struct slice material, struct err *e);

/* The public key in a JWK, for the algorithm that it is for; never a secret. */
struct jws_key *jws_key_of_jwk(const struct jwk *k, struct err *e);

/* The algorithm a file's bytes are meant for: what a JWK says, else by the kind of key in it or in
 * the PEM (RS256 for RSA), HS256 for anything else. -1: PEM or JWK that cannot be used. */
int jws_alg_guess(struct slice material, enum jws_alg *out, struct err *e);

/* A key to sign with (and verify): a raw secret, also as a JWK, or a private key in PEM without a
 * passphrase. */
struct jws_key *jws_key_private(enum jws_alg alg, struct slice material, struct err *e);

void jws_key_free(struct jws_key *k); /* wipes a secret; NULL does nothing */
enum jws_alg jws_key_alg(const struct jws_key *k);
bool jws_key_same(const struct jws_key *a, const struct jws_key *b); /* public keys */

bool jws_verify(const struct jws_key *k, struct slice input, struct slice signature);
int jws_sign(const struct jws_key *k, struct slice input, struct buf *signature, struct err *e);

#endif
