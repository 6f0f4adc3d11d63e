/* issuer: the operator's identity providers, as a node knows them: whose keys verify, what their
 * tokens must say, and how to tell the tenant from them. A set is filled by one thread (a worker),
 * then given to the registry, which asks it for the keys that no tenant has of its own. */
#ifndef LEAT_TENANCY_ISSUER_H
#define LEAT_TENANCY_ISSUER_H

#include "base/slice.h"
#include "tenancy/jwks.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	ISSUER_SETTING_MAX = 255,   /* bytes of each of the texts below */
	ISSUER_WANT_EVERY_S = 30,   /* of one issuer: keys are asked for and fetched no oftener */
	ISSUER_REFRESH_S = 10 * 60, /* they are fetched as often as this anyhow */
	ISSUER_RETRY_S = 30,        /* after a failure; twice as long after each further one, */
	ISSUER_RETRY_MAX_S = 300,   /* up to this */
	ISSUER_FETCHES = 16,        /* at once, */
	ISSUER_FETCHES_ANY = 8,     /* of those who speak for any tenant, */
	ISSUER_FETCHES_TENANT = 4,  /* of those who speak for one and the same */
};

/* A row of `issuer`; borrowed. */
struct issuer_row {
	struct slice issuer;
	struct slice audience;
	struct slice tenant_claim; /* empty: see tenant_id */
	struct slice subject_claim;
	struct slice permissions; /* "acl", or the claim with scopes */
	struct slice jwks;        /* empty = none were fetched yet */
	uint32_t tenant_id;       /* 0 = by claim */
};

/* The texts are NUL-terminated and the issuer's. */
struct issuer {
	const char *name;
	const char *audience;
	const char *tenant_claim;
	const char *subject_claim;
	const char *permissions;
	uint32_t tenant_id;
	bool shadowed;      /* a tenant has keys of this name: it does not count */
	bool wanted;        /* its keys are to be fetched: see registry_wanted_issuer() */
	uint64_t wanted_ms; /* when that was last so, clock_now_ms(); 0 = never */
	struct jwks *jwks;  /* NULL = none */
	uint64_t *key_ids;  /* of each key; the registry's */
};

struct issuer_set;

struct issuer_set *issuer_set_new(void);
void issuer_set_free(struct issuer_set *s); /* NULL does nothing */
/* A row that cannot be is left out, keys that cannot be read likewise: logged. */
void issuer_set_add(struct issuer_set *s, const struct issuer_row *row);

struct issuer *issuer_set_find(const struct issuer_set *s, struct slice name); /* s may be NULL */
struct issuer *issuer_set_next(const struct issuer_set *s, size_t *at);
size_t issuer_set_count(const struct issuer_set *s);

/* The place of the key with this kid; -1 = none. */
int issuer_key_index(const struct issuer *i, struct slice kid);
/* Do they treat a token alike, whatever their keys are? */
bool issuer_same(const struct issuer *a, const struct issuer *b);

#endif
