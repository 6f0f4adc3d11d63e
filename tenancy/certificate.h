/* certificate: client certificates in place of tokens: the registered ones, by fingerprint, and
 * what one that a TLS handshake has verified lets its bearer do. A set is filled by one thread (a
 * worker), then given to the registry. */
#ifndef LEAT_TENANCY_CERTIFICATE_H
#define LEAT_TENANCY_CERTIFICATE_H

#include "base/slice.h"
#include "tenancy/token.h"

#include <stddef.h>
#include <stdint.h>

enum { CERTIFICATE_FINGERPRINT = 32 }; /* bytes of SHA-256 */

/* One that was shown, and verified against the authorities that clients may have theirs from. */
struct certificate_shown {
	uint8_t fingerprint[CERTIFICATE_FINGERPRINT];
	uint64_t not_before_s; /* seconds since 1970, as the next */
	uint64_t not_after_s;  /* of it, or of whoever vouches for it: what ends first */
};

/* As token_verify(), and refused with the very same words when it is not registered. The claims'
 * issued_s is not_before_s, so that what revokes a subject's tokens ends its certificates too. */
int certificate_verify(struct registry *r, const struct certificate_shown *shown, uint64_t now_s,
                       struct claims *out, struct token_answer *answer);

/* ---- the registered ones ---- */

/* A row of `client_certificate`; borrowed. */
struct certificate_row {
	struct slice fingerprint;
	struct slice subject;
	struct slice acl; /* JSON */
	uint32_t tenant_id;
};

struct certificate {
	uint64_t key_id; /* the registry's: REGISTRY_KEY_GONE names it */
	uint8_t fingerprint[CERTIFICATE_FINGERPRINT];
	uint32_t tenant_id;
	uint32_t subject_len, acl_len;
	char bytes[]; /* subject, then acl */
};

struct certificate_set;

struct certificate_set *certificate_set_new(void);
void certificate_set_free(struct certificate_set *s); /* NULL does nothing */
/* A row that cannot be is left out and logged. */
void certificate_set_add(struct certificate_set *s, const struct certificate_row *row);
size_t certificate_set_count(const struct certificate_set *s);

/* From now on ids of keys are counted from *last_id on: what is in `old` as well, unchanged, keeps
 * its id, and has none in `old` (which may be NULL) any more. */
void certificate_set_number(struct certificate_set *s, struct certificate_set *old,
                            uint64_t *last_id);
struct certificate *certificate_set_find(const struct certificate_set *s,
                                         const uint8_t *fingerprint);
struct certificate *certificate_set_next(const struct certificate_set *s, size_t *at);

#endif
