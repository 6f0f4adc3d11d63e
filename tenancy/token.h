/* token: is this JWT one of ours, and what does it say? The tenant comes from the key that verified
 * the token, or for an identity provider's key from the claim that its row names, and from nothing
 * else. Loop thread only.
 *
 * In this order, so that nothing costly or confusable is reached by what is plainly wrong: size,
 * three parts, strict base64url, JSON without duplicate members and of bounded depth; the header's
 * members; the key by (iss, kid), whose algorithm must be the header's; the signature; the claims.
 *
 * What a client is told never depends on whether a key or tenant exists, nor does the time it
 * takes: no key, another algorithm's key and a wrong signature are one answer, UNVERIFIED; what it
 * was goes to the log. Only a bearer whose signature was good is told about claims, expiry and its
 * tenant.
 *
 * Clocks: nbf and iat may lie TOKEN_LEEWAY_S ahead of ours (the issuer's clock is fast); exp gets
 * no leeway, since the connection would be ended at once. */
#ifndef LEAT_TENANCY_TOKEN_H
#define LEAT_TENANCY_TOKEN_H

#include "base/slice.h"
#include "tenancy/acl.h"
#include "tenancy/registry.h"
#include "tenancy/token_limits.h"

#include <stdint.h>

enum {
	TOKEN_MAX_BYTES = 16 * 1024,
	TOKEN_MAX_DEPTH = 16, /* of JSON nesting */
	TOKEN_SUBJECT_MAX = 255,
	TOKEN_ID_MAX = 255,
	TOKEN_LEEWAY_S = 5,
};

enum token_refusal {
	TOKEN_OK,
#define TOKEN_REFUSAL(name, text) TOKEN_##name,
#include "tenancy/token_refusal.def"
#undef TOKEN_REFUSAL
	TOKEN_REFUSAL_COUNT,
};

const char *token_refusal_name(enum token_refusal why); /* "expired" */

struct token_settings {
	const char *audience;    /* aud must contain it */
	uint64_t max_lifetime_s; /* exp - iat at most (- now without iat); 0 = no cap */
};

#define TOKEN_SETTINGS_DEFAULT ((struct token_settings){.audience = "leat"})

/* What a good token says. Owned by the caller: claims_release. */
struct claims {
	const struct tenant *tenant; /* borrowed from the registry, whose life is longer */
	uint64_t key_id;             /* REGISTRY_KEY_GONE with this id ends it */
	uint64_t expires_s;          /* seconds since 1970, as the next */
	uint64_t issued_s;           /* 0 = not said */
	struct slice subject;  /* owned, NUL-terminated; 1..TOKEN_SUBJECT_MAX bytes of UTF-8 */
	struct slice token_id; /* jti; owned, NUL-terminated; empty = none */
	struct acl *acl;       /* owned; acl_bind it before asking */
	struct token_limits limits;
	bool by_certificate; /* of a client certificate, not of a token */
};

void claims_release(struct claims *c); /* zeroes it; also fine on a zeroed one */

/* Is the token they are of revoked by now? Those of no token (key_id 0) never are. */
bool claims_revoked(const struct registry *r, const struct claims *c);

struct token_answer {
	enum token_refusal why; /* TOKEN_OK: claims are filled in */
	char text[256];         /* for the client: what is wrong and what to do */
	char detail[256];       /* for the log only: what the client must not know */
};

/* 0, or -1 with the answer's reason and *out zeroed. now_s: seconds since 1970. */
int token_verify(struct registry *r, const struct token_settings *s, struct slice text,
                 uint64_t now_s, struct claims *out, struct token_answer *answer);

/* For what else lets somebody in (tenancy/certificate.h); each returns -1, but for a good standing.
 * refuse_unverified: in the words for every key, signature and certificate that is not known. */
int token_refuse(struct token_answer *a, enum token_refusal why, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
int token_refuse_unverified(struct token_answer *a, const char *detail);
int token_check_standing(const struct registry *r, const struct claims *c, struct token_answer *a);

#endif
