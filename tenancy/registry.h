/* registry: the tenants and keys a node knows, in memory. Filled from the database by
 * tenancy/tenant_store.h, or by hand (leat dev, tests); asked at every CONNECT. Loop thread only.
 *
 * A key is parsed when the first token asks for it, so 10,000 idle tenants cost rows and no
 * cryptography. */
#ifndef LEAT_TENANCY_REGISTRY_H
#define LEAT_TENANCY_REGISTRY_H

#include "base/err.h"
#include "base/slice.h"
#include "tenancy/issuer.h"
#include "tenancy/jws.h"
#include "tenancy/revocation.h"
#include "tenancy/tenant.h"

#include <stddef.h>
#include <stdint.h>

enum {
	REGISTRY_ISSUER_MAX = 255, /* bytes */
	REGISTRY_KID_MAX = 128,    /* bytes */
};

struct registry;

/* A row of tenant_key, active ones only. Borrowed. */
struct registry_key_row {
	uint32_t tenant_id;
	enum jws_alg alg;
	struct slice issuer;
	struct slice kid;
	struct slice material; /* a PEM public key, a raw secret, or either as a JWK */
};

enum registry_change {
	REGISTRY_TENANT_ADDED,
	REGISTRY_TENANT_CHANGED, /* state, weight, partitions or limits: look at the tenant */
	REGISTRY_TENANT_DELETED, /* gone from the rows: end its connections */
	REGISTRY_KEY_GONE, /* revoked, replaced or deleted: end the connections of its tokens; t is
	                      NULL for an identity provider's, and for a certificate */
	REGISTRY_REVOKED,  /* of any tenant (t is NULL): ask claims_revoked() about each */
};

/* key_id is 0 but for REGISTRY_KEY_GONE. Called when everything new is in place. */
typedef void (*registry_change_fn)(void *arg, const struct tenant *t, enum registry_change what,
                                   uint64_t key_id);

struct registry *registry_new(registry_change_fn on_change, void *arg); /* on_change may be NULL */
void registry_free(struct registry *r);
/* What stands in the place of a limit that is 0; before the first registry_apply(). */
void registry_set_defaults(struct registry *r, const struct tenant_limits *defaults);

/* From now on exactly these tenants and keys. Rows are copied. A key that repeats an issuer and
 * kid, names no tenant of the rows, or breaks the checks below is left out and logged. */
void registry_apply(struct registry *r, const struct tenant *tenants, size_t tenant_count,
                    const struct registry_key_row *keys, size_t key_count);

/* From now on exactly these identity providers. A key that was there before and is still has the id
 * it had, where its issuer treats tokens as before. */
void registry_take_issuers(struct registry *r, struct issuer_set *s);
/* One for which a token came with a kid that is not among its keys: have them fetched. Each is told
 * of once, and then not for ISSUER_WANT_EVERY_S. NULL = none; borrowed. */
const char *registry_wanted_issuer(struct registry *r);

/* From now on exactly these client certificates; those that are as before keep their ids. */
struct certificate_set;
void registry_take_certificates(struct registry *r, struct certificate_set *s);
const struct certificate_set *registry_certificates(const struct registry *r); /* NULL = none */

/* From now on these tokens are refused; s is sealed. */
void registry_take_revocations(struct registry *r, struct revocation_set *s);
const struct revocation_set *registry_revocations(const struct registry *r); /* NULL = none */

/* May this key be added? Checks lengths, the kid's bytes and the key itself. */
int registry_key_check(const struct registry_key_row *row, struct err *e);

/* 1 to REGISTRY_KID_MAX of '!' to '~': what providers call their keys (base64, URLs, dotted names),
 * and nothing that a log line, a listing or an audit row would show as something else. It is looked
 * up in memory and bound in SQL, and never part of a path or of a statement's text. */
int registry_kid_check(struct slice kid, struct err *e);

const struct tenant *registry_tenant(const struct registry *r, uint32_t id);
const struct tenant *registry_tenant_by_name(const struct registry *r, struct slice name);
size_t registry_count(const struct registry *r); /* tenants, deleted ones not counted */

struct registry_match {
	const struct jws_key *key;   /* always there and of the algorithm asked for */
	const struct tenant *tenant; /* whose key it is; NULL: see issuer */
	const struct issuer *issuer; /* whose else; NULL too: no such key; `key` is a decoy */
	uint64_t key_id;             /* never reused; REGISTRY_KEY_GONE names it */
	char why_not[256];           /* no such key: for the log, never for the client */
};

/* The key that verifies tokens with this iss, kid and alg. Where there is none the match has a
 * decoy, so that verifying takes the same time and the answer does not tell whether a key exists.
 */
void registry_find_key(struct registry *r, struct slice issuer, struct slice kid, enum jws_alg alg,
                       struct registry_match *m);

#endif
