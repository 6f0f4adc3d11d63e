#include "tenancy/registry.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "tenancy/certificate.h"
#include "tenancy/jwk.h"

#include <inttypes.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>

/* Public keys whose private halves were thrown away: see registry_find_key(). */
static const char decoy_rsa[] = "-----BEGIN PUBLIC KEY-----\n"
                                "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAl4d27Aflyjq+hvm0DTa3\n"
                                "nlxQMrH3o8FGCAApiZaI24d8SmDU9cBCyKhq8uIyHr4YxbxX+5w5uioEs5DeJMNa\n"
                                "T2tTi7Z2xtFE98jz97nbDMsn/w7gHANm+Q2Bbn7S74yfP8IFm2y7GlvcfvoK5FCi\n"
                                "tQz5OyyXlqy9xeRC4U9C5jTMZkbYF5/dxTfKOtOsJGiHFQPC4S9WTy6H5iML7AoR\n"
                                "vICbdBsamw0PHIh47kYRe6aD4wkbw+2uZF8CcVK9tWu6DlUSMJmWZM815JCMX23H\n"
                                "H9AK/i8Q+4puxkV4f9LyfUdnmv38ThCui8WYb1rB4xdpa6+ZfCN/+APs99E54YRx\n"
                                "OwIDAQAB\n"
                                "-----END PUBLIC KEY-----\n";

static const char decoy_ec[] = "-----BEGIN PUBLIC KEY-----\n"
                               "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEzhbXZ9h72Quy03Wd6VTaqfNnUDdu\n"
                               "G/Wuwnx3lcfQmeHgQTnEajj2sFJUQnfxO78c7EQhecDYD1LHxxbVCdWIrA==\n"
                               "-----END PUBLIC KEY-----\n";

static const char decoy_ed[] = "-----BEGIN PUBLIC KEY-----\n"
                               "MCowBQYDK2VwAyEAarqcZTY6EA3Q3WpK4ZCXWAmk+5iuL8UdCqGHVaMNm4Q=\n"
                               "-----END PUBLIC KEY-----\n";

enum { KEY_ID_MAX = REGISTRY_KID_MAX + 1 + REGISTRY_ISSUER_MAX };

struct registry_tenant {
	struct tenant t; /* first: callers have a pointer to it */
	uint64_t seen;   /* the registry_apply() that last had it */
};

struct registry_key {
	uint64_t id;
	struct registry_tenant *owner;
	enum jws_alg alg;
	bool broken;            /* it was parsed, in vain */
	struct jws_key *parsed; /* NULL until a token asks */
	uint32_t name_len;
	uint32_t material_len;
	char bytes[]; /* name: kid NUL issuer; then the material */
};

struct registry {
	registry_change_fn on_change;
	void *arg;
	struct map by_id;               /* tenant id -> registry_tenant, deleted ones too */
	struct map by_name;             /* not deleted */
	struct map keys;                /* kid NUL issuer -> registry_key */
	struct revocation_set *revoked; /* NULL = none */
	struct issuer_set *issuers;     /* likewise */
	struct certificate_set *certificates;
	uint64_t applies;
	uint64_t last_key_id;
	struct tenant_limits defaults;
	struct jws_key *decoys[JWS_ALG_COUNT];
};

/* ---- keys ---- */

/* A kid has no NUL in it, so the name is unambiguous whatever the issuer is. */
static size_t key_name(char out[KEY_ID_MAX], struct slice issuer, struct slice kid)
{
	memcpy(out, kid.p, kid.n);
	out[kid.n] = '\0';
	memcpy(out + kid.n + 1, issuer.p, issuer.n);
	return kid.n + 1 + issuer.n;
}

static struct slice key_material(const struct registry_key *k)
{
	return slice(k->bytes + k->name_len, k->material_len);
}

static void key_free(struct registry_key *k)
{
	jws_key_free(k->parsed);
	explicit_bzero(k->bytes, k->name_len + k->material_len);
	free(k);
}

int registry_kid_check(struct slice kid, struct err *e)
{
	bool ok = kid.n >= 1 && kid.n <= REGISTRY_KID_MAX;

	for (size_t i = 0; ok && i < kid.n; i++)
		ok = kid.p[i] >= '!' && kid.p[i] <= '~';
	return ok ? 0
	          : err_set(e, 0, "kid must be 1 to %d printable ASCII characters, no spaces",
	                    REGISTRY_KID_MAX);
}

static int check_row(const struct registry_key_row *row, struct err *e)
{
	if (row->issuer.n == 0 || row->issuer.n > REGISTRY_ISSUER_MAX)
		return err_set(e, 0, "an issuer has 1 to %d bytes; this one has %zu",
		               REGISTRY_ISSUER_MAX, row->issuer.n);
	if (row->material.n > JWS_MATERIAL_MAX)
		return err_set(e, 0, "a key has at most %d bytes; this one has %zu",
		               JWS_MATERIAL_MAX, row->material.n);
	return registry_kid_check(row->kid, e);
}

/* A JWK that calls itself something else would be looked for under the wrong name. */
static int check_jwk_kid(const struct registry_key_row *row, struct err *e)
{
	struct jwk j;
	int rc;

	if (!jwk_is(row->material))
		return 0;
	if (jwk_parse(row->material, &j, e) < 0)
		return -1;
	rc = j.kid.n && !slice_eq(j.kid, row->kid)
	             ? err_set(e, 0, "this JWK has the kid %.80s, not %.80s",
	                       log_quote(j.kid.p, j.kid.n), row->kid.p)
	             : 0;
	jwk_release(&j);
	return rc;
}

int registry_key_check(const struct registry_key_row *row, struct err *e)
{
	struct jws_key *k;

	if (check_row(row, e) < 0 || check_jwk_kid(row, e) < 0)
		return -1;
	k = jws_key_public(row->alg, row->material, e);
	jws_key_free(k);
	return k ? 0 : -1;
}

static struct registry_key *key_new(struct registry *r, const struct registry_key_row *row,
                                    struct registry_tenant *owner, struct slice name)
{
	struct registry_key *k = xcalloc(1, sizeof *k + name.n + row->material.n);

	k->id = ++r->last_key_id;
	k->owner = owner;
	k->alg = row->alg;
	k->name_len = (uint32_t)name.n;
	k->material_len = (uint32_t)row->material.n;
	memcpy(k->bytes, name.p, name.n);
	if (row->material.n)
		memcpy(k->bytes + name.n, row->material.p, row->material.n);
	return k;
}

static bool key_same(const struct registry_key *k, const struct registry_key_row *row,
                     const struct registry_tenant *owner)
{
	return k->owner == owner && k->alg == row->alg && slice_eq(key_material(k), row->material);
}

static void skip_key(const struct registry_key_row *row, const char *why)
{
	log_warn("registry", "tenant=%" PRIu32 " kid=%s key left out: %s", row->tenant_id,
	         log_quote(row->kid.p, row->kid.n), why);
}

/* Put the row's key into `fresh`: the one there was if nothing changed, so that what is parsed and
 * its id live on. */
static void apply_key(struct registry *r, struct map *fresh, const struct registry_key_row *row)
{
	struct registry_tenant *owner = map_get(&r->by_id, &row->tenant_id, sizeof row->tenant_id);
	char name[KEY_ID_MAX];
	struct registry_key *k;
	struct err e;
	size_t n;

	if (check_row(row, &e) < 0)
		return skip_key(row, e.text);
	if (!owner || owner->seen != r->applies)
		return skip_key(row, "no such tenant");
	n = key_name(name, row->issuer, row->kid);
	if (map_get(fresh, name, n))
		return skip_key(row, "issuer and kid are there twice");
	k = map_get(&r->keys, name, n);
	if (k && key_same(k, row, owner))
		map_del(&r->keys, name, n);
	else
		k = key_new(r, row, owner, slice(name, n));
	map_put(fresh, k->bytes, k->name_len, k);
}

/* ---- tenants ---- */

static bool limits_same(const struct tenant_limits *x, const struct tenant_limits *y)
{
#define LIMIT_SAME(column, type) &&x->column == y->column
	return true TENANT_LIMITS(LIMIT_SAME);
#undef LIMIT_SAME
}

static bool tenant_same(const struct tenant *a, const struct tenant *b)
{
	return a->state == b->state && a->weight == b->weight && a->partitions == b->partitions &&
	       a->first_partition == b->first_partition && limits_same(&a->limits, &b->limits) &&
	       a->storage_full == b->storage_full;
}

/* What happened to whom, told when everything is in place. */
struct news {
	const struct tenant *t;
	enum registry_change what;
	uint64_t key_id;
};

struct news_list {
	struct news *v;
	size_t n, cap;
};

static void news_add(struct news_list *l, const struct tenant *t, enum registry_change what,
                     uint64_t key_id)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 16;
		l->v = xrealloc(l->v, l->cap * sizeof *l->v);
	}
	l->v[l->n++] = (struct news){.t = t, .what = what, .key_id = key_id};
}

static void news_tell(const struct registry *r, struct news_list *l)
{
	for (size_t i = 0; r->on_change && i < l->n; i++)
		r->on_change(r->arg, l->v[i].t, l->v[i].what, l->v[i].key_id);
	free(l->v);
}

static struct registry_tenant *add_tenant(struct registry *r, const struct tenant *row)
{
	struct registry_tenant *t = xcalloc(1, sizeof *t);

	t->t.id = row->id;
	map_put(&r->by_id, &t->t.id, sizeof t->t.id, t);
	return t;
}

static void fill_in(const struct tenant_limits *defaults, struct tenant_limits *l)
{
#define LIMIT_FILL(column, type) \
	if (!l->column)          \
		l->column = defaults->column;
	TENANT_LIMITS(LIMIT_FILL)
#undef LIMIT_FILL
}

static void apply_tenant(struct registry *r, const struct tenant *row, struct news_list *news)
{
	struct registry_tenant *t = map_get(&r->by_id, &row->id, sizeof row->id);
	bool added = !t || t->t.state == TENANT_DELETED;
	struct tenant now = *row;

	fill_in(&r->defaults, &now.limits);
	if (!t)
		t = add_tenant(r, row);
	if (added)
		news_add(news, &t->t, REGISTRY_TENANT_ADDED, 0);
	else if (!tenant_same(&t->t, &now))
		news_add(news, &t->t, REGISTRY_TENANT_CHANGED, 0);
	t->t = now;
	t->seen = r->applies;
}

static void drop_unseen(struct registry *r, struct news_list *news)
{
	struct registry_tenant *t;
	size_t at = 0;

	while ((t = map_next(&r->by_id, &at))) {
		if (t->seen == r->applies || t->t.state == TENANT_DELETED)
			continue;
		t->t.state = TENANT_DELETED;
		news_add(news, &t->t, REGISTRY_TENANT_DELETED, 0);
	}
}

/* Anew each time: an admin may have swapped two names. */
static void index_names(struct registry *r)
{
	struct registry_tenant *t;
	size_t at = 0;

	map_release(&r->by_name);
	while ((t = map_next(&r->by_id, &at))) {
		if (t->t.state != TENANT_DELETED)
			map_put(&r->by_name, t->t.name, strlen(t->t.name), t);
	}
}

/* A tenant's own issuer is the tenant's: no other may speak under its name. The procedures see to
 * it; this is for rows that were written by hand. */
static void shadow_issuers(struct registry *r)
{
	struct registry_key *k;
	struct issuer *i;
	size_t at = 0;

	if (!issuer_set_count(r->issuers))
		return;
	while ((i = issuer_set_next(r->issuers, &at)))
		i->shadowed = false;
	for (at = 0; (k = map_next(&r->keys, &at));) {
		size_t kid = strlen(k->bytes) + 1; /* its name is kid NUL issuer */

		i = issuer_set_find(r->issuers, slice(k->bytes + kid, k->name_len - kid));
		if (i && !i->shadowed)
			log_error(
			        "registry",
			        "issuer=%s is an identity provider and has keys of tenant=%" PRIu32
			        ": only these count",
			        log_quote_str(i->name), k->owner->t.id);
		if (i)
			i->shadowed = true;
	}
}

void registry_apply(struct registry *r, const struct tenant *tenants, size_t tenant_count,
                    const struct registry_key_row *keys, size_t key_count)
{
	struct news_list news = {0};
	struct map fresh;
	struct registry_key *k;
	size_t at = 0;

	r->applies++;
	for (size_t i = 0; i < tenant_count; i++)
		apply_tenant(r, &tenants[i], &news);
	drop_unseen(r, &news);
	index_names(r);
	map_init(&fresh);
	for (size_t i = 0; i < key_count; i++)
		apply_key(r, &fresh, &keys[i]);
	while ((k = map_next(&r->keys, &at))) {
		news_add(&news, &k->owner->t, REGISTRY_KEY_GONE, k->id);
		key_free(k);
	}
	map_release(&r->keys);
	r->keys = fresh;
	shadow_issuers(r);
	news_tell(r, &news);
}

/* ---- identity providers ---- */

/* The key keeps the id it had before, so that its connections live on. */
static void inherit(struct issuer *old, struct issuer *i, size_t at)
{
	struct jwks_key k = jwks_at(i->jwks, at);
	int was = issuer_key_index(old, k.kid);

	if (was < 0 || !jws_key_same(jwks_at(old->jwks, (size_t)was).key, k.key))
		return;
	i->key_ids[at] = old->key_ids[was];
	old->key_ids[was] = 0;
}

static void take_issuer(struct registry *r, struct issuer *i)
{
	struct issuer *old = issuer_set_find(r->issuers, slice_str(i->name));

	if (old)
		i->wanted = old->wanted, i->wanted_ms = old->wanted_ms;
	for (size_t k = 0; k < jwks_count(i->jwks); k++) {
		if (old && issuer_same(old, i))
			inherit(old, i, k);
		if (!i->key_ids[k])
			i->key_ids[k] = ++r->last_key_id;
	}
}

static void drop_issuers(struct registry *r, struct news_list *news)
{
	struct issuer *i;
	size_t at = 0;

	while ((i = issuer_set_next(r->issuers, &at))) {
		for (size_t k = 0; k < jwks_count(i->jwks); k++) {
			if (i->key_ids[k])
				news_add(news, NULL, REGISTRY_KEY_GONE, i->key_ids[k]);
		}
	}
	issuer_set_free(r->issuers);
}

void registry_take_issuers(struct registry *r, struct issuer_set *s)
{
	struct news_list news = {0};
	struct issuer *i;
	size_t at = 0;

	while ((i = issuer_set_next(s, &at)))
		take_issuer(r, i);
	drop_issuers(r, &news);
	r->issuers = s;
	shadow_issuers(r);
	news_tell(r, &news);
}

/* ---- certificates ---- */

void registry_take_certificates(struct registry *r, struct certificate_set *s)
{
	struct news_list news = {0};
	struct certificate *c;
	size_t at = 0;

	certificate_set_number(s, r->certificates, &r->last_key_id);
	while ((c = certificate_set_next(r->certificates, &at))) {
		if (c->key_id)
			news_add(&news, NULL, REGISTRY_KEY_GONE, c->key_id);
	}
	certificate_set_free(r->certificates);
	r->certificates = s;
	news_tell(r, &news);
}

const struct certificate_set *registry_certificates(const struct registry *r)
{
	return r->certificates;
}

/* ---- what is to be fetched ---- */

const char *registry_wanted_issuer(struct registry *r)
{
	struct issuer *i;
	size_t at = 0;

	while ((i = issuer_set_next(r->issuers, &at))) {
		if (!i->wanted)
			continue;
		i->wanted = false;
		return i->name;
	}
	return NULL;
}

/* Whatever kids come, an issuer is asked for at most so often; one without keys, which are fetched
 * anyhow as soon as they can be, is not, so that the first new kid later is told at once. */
static void want(struct issuer *i)
{
	uint64_t now_ms = clock_now_ms();

	if (!i->jwks ||
	    (i->wanted_ms && now_ms - i->wanted_ms < ISSUER_WANT_EVERY_S * UINT64_C(1000)))
		return;
	i->wanted_ms = now_ms;
	i->wanted = true;
}

void registry_take_revocations(struct registry *r, struct revocation_set *s)
{
	revocation_set_free(r->revoked);
	r->revoked = s;
	if (r->on_change)
		r->on_change(r->arg, NULL, REGISTRY_REVOKED, 0);
}

/* ---- asking ---- */

const struct revocation_set *registry_revocations(const struct registry *r)
{
	return r->revoked;
}

const struct tenant *registry_tenant(const struct registry *r, uint32_t id)
{
	const struct registry_tenant *t = map_get(&r->by_id, &id, sizeof id);

	return t && t->t.state != TENANT_DELETED ? &t->t : NULL;
}

const struct tenant *registry_tenant_by_name(const struct registry *r, struct slice name)
{
	const struct registry_tenant *t = map_get(&r->by_name, name.p, name.n);

	return t ? &t->t : NULL;
}

size_t registry_count(const struct registry *r)
{
	return r->by_name.count;
}

/* The key behind a name, parsed; NULL and m->why_not when it cannot be used. */
static struct registry_key *usable_key(struct registry *r, struct slice name, enum jws_alg alg,
                                       struct registry_match *m)
{
	struct registry_key *k = map_get(&r->keys, name.p, name.n);
	struct err e = {0};

	if (!k) {
		snprintf(m->why_not, sizeof m->why_not, "no key with this iss and kid");
		return NULL;
	}
	if (k->alg != alg) {
		snprintf(m->why_not, sizeof m->why_not, "algorithm %s is not the key's %s",
		         jws_alg_name(alg), jws_alg_name(k->alg));
		return NULL;
	}
	if (!k->parsed && !k->broken) {
		k->parsed = jws_key_public(k->alg, key_material(k), &e);
		k->broken = !k->parsed;
		if (k->broken)
			log_error("registry", "tenant=%" PRIu32 " kid=%s unusable: %s",
			          k->owner->t.id, log_quote_str(k->bytes), e.text);
	}
	if (k->broken)
		snprintf(m->why_not, sizeof m->why_not, "the key cannot be used");
	return k->broken ? NULL : k;
}

static const struct jws_key *decoy(struct registry *r, enum jws_alg alg)
{
	static const char *const pem[JWS_ALG_COUNT] = {[JWS_RS256] = decoy_rsa,
	                                               [JWS_PS256] = decoy_rsa,
	                                               [JWS_ES256] = decoy_ec,
	                                               [JWS_EDDSA] = decoy_ed};
	uint8_t secret[JWS_SECRET_MIN];
	struct err e;

	if (r->decoys[alg])
		return r->decoys[alg];
	if (RAND_bytes(secret, sizeof secret) != 1)
		fatal("no random bytes");
	r->decoys[alg] = jws_key_public(
	        alg, pem[alg] ? slice_str(pem[alg]) : slice(secret, sizeof secret), &e);
	if (!r->decoys[alg])
		fatal("decoy key: %s", e.text);
	return r->decoys[alg];
}

/* The identity provider's key; false: there is none such. */
static bool find_issuer_key(struct registry *r, struct slice issuer, struct slice kid,
                            enum jws_alg alg, struct registry_match *m)
{
	struct issuer *i = issuer_set_find(r->issuers, issuer);
	int at;

	if (!i || i->shadowed)
		return false;
	at = issuer_key_index(i, kid);
	if (at < 0) {
		want(i);
		snprintf(m->why_not, sizeof m->why_not,
		         "this identity provider has no key with this kid");
		return false;
	}
	m->key = jwks_at(i->jwks, (size_t)at).key;
	if (jws_key_alg(m->key) != alg) {
		snprintf(m->why_not, sizeof m->why_not, "algorithm %s is not the key's %s",
		         jws_alg_name(alg), jws_alg_name(jws_key_alg(m->key)));
		return false;
	}
	m->issuer = i;
	m->key_id = i->key_ids[at];
	return true;
}

void registry_find_key(struct registry *r, struct slice issuer, struct slice kid, enum jws_alg alg,
                       struct registry_match *m)
{
	struct registry_key *k = NULL;
	char name[KEY_ID_MAX];

	*m = (struct registry_match){0};
	if (issuer.n <= REGISTRY_ISSUER_MAX && kid.n <= REGISTRY_KID_MAX)
		k = usable_key(r, slice(name, key_name(name, issuer, kid)), alg, m);
	if (!k && find_issuer_key(r, issuer, kid, alg, m))
		return;
	m->key = k ? k->parsed : decoy(r, alg);
	m->tenant = k ? &k->owner->t : NULL;
	m->key_id = k ? k->id : 0;
}

/* ---- life ---- */

struct registry *registry_new(registry_change_fn on_change, void *arg)
{
	struct registry *r = xcalloc(1, sizeof *r);

	r->on_change = on_change;
	r->arg = arg;
	map_init(&r->by_id);
	map_init(&r->by_name);
	map_init(&r->keys);
	return r;
}

void registry_set_defaults(struct registry *r, const struct tenant_limits *defaults)
{
	r->defaults = *defaults;
}

void registry_free(struct registry *r)
{
	void *v;
	size_t at;

	if (!r)
		return;
	for (at = 0; (v = map_next(&r->keys, &at));)
		key_free(v);
	for (at = 0; (v = map_next(&r->by_id, &at));)
		free(v);
	for (int i = 0; i < JWS_ALG_COUNT; i++)
		jws_key_free(r->decoys[i]);
	revocation_set_free(r->revoked);
	issuer_set_free(r->issuers);
	certificate_set_free(r->certificates);
	map_release(&r->keys);
	map_release(&r->by_name);
	map_release(&r->by_id);
	free(r);
}
