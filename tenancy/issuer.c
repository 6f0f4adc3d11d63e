#include "tenancy/issuer.h"

#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

struct issuer_set {
	struct map by_name;
};

/* ---- one ---- */

static void issuer_free(struct issuer *i)
{
	free((char *)i->name);
	free((char *)i->audience);
	free((char *)i->tenant_claim);
	free((char *)i->subject_claim);
	free((char *)i->permissions);
	jwks_free(i->jwks);
	free(i->key_ids);
	free(i);
}

static char *copy(struct slice s)
{
	return xstrndup(s.p ? s.p : "", s.n);
}

/* Whole texts only: a NUL in one would make it another. */
static bool is_setting(struct slice s, bool may_be_empty)
{
	return (s.n || may_be_empty) && s.n <= ISSUER_SETTING_MAX &&
	       (!s.n || !memchr(s.p, '\0', s.n));
}

static struct jwks *parse_keys(const struct issuer_row *row)
{
	struct jwks *keys;
	struct err e;

	if (!row->jwks.n)
		return NULL;
	keys = jwks_parse(row->jwks, &e);
	if (!keys)
		log_error("issuer", "issuer=%s keys left out: %s",
		          log_quote(row->issuer.p, row->issuer.n), e.text);
	return keys;
}

int issuer_key_index(const struct issuer *i, struct slice kid)
{
	for (size_t k = 0; k < jwks_count(i->jwks); k++) {
		if (slice_eq(jwks_at(i->jwks, k).kid, kid))
			return (int)k;
	}
	return -1;
}

bool issuer_same(const struct issuer *a, const struct issuer *b)
{
	return strcmp(a->audience, b->audience) == 0 &&
	       strcmp(a->tenant_claim, b->tenant_claim) == 0 && a->tenant_id == b->tenant_id &&
	       strcmp(a->subject_claim, b->subject_claim) == 0 &&
	       strcmp(a->permissions, b->permissions) == 0;
}

/* ---- all ---- */

struct issuer_set *issuer_set_new(void)
{
	struct issuer_set *s = xcalloc(1, sizeof *s);

	map_init(&s->by_name);
	return s;
}

void issuer_set_free(struct issuer_set *s)
{
	struct issuer *i;
	size_t at = 0;

	if (!s)
		return;
	while ((i = map_next(&s->by_name, &at)))
		issuer_free(i);
	map_release(&s->by_name);
	free(s);
}

void issuer_set_add(struct issuer_set *s, const struct issuer_row *row)
{
	struct issuer *i;

	if (!is_setting(row->issuer, false) || !is_setting(row->audience, false) ||
	    !is_setting(row->tenant_claim, row->tenant_id != 0) ||
	    !is_setting(row->subject_claim, false) || !is_setting(row->permissions, false) ||
	    issuer_set_find(s, row->issuer)) {
		log_warn("issuer", "issuer=%s left out: a setting is missing or too long",
		         log_quote(row->issuer.p, row->issuer.n));
		return;
	}
	i = xcalloc(1, sizeof *i);
	i->name = copy(row->issuer);
	i->audience = copy(row->audience);
	i->tenant_claim = copy(row->tenant_claim);
	i->subject_claim = copy(row->subject_claim);
	i->permissions = copy(row->permissions);
	i->tenant_id = row->tenant_id;
	i->jwks = parse_keys(row);
	i->key_ids = xcalloc(jwks_count(i->jwks) + 1, sizeof *i->key_ids);
	map_put(&s->by_name, i->name, row->issuer.n, i);
}

struct issuer *issuer_set_find(const struct issuer_set *s, struct slice name)
{
	return s && name.n ? map_get(&s->by_name, name.p, name.n) : NULL;
}

struct issuer *issuer_set_next(const struct issuer_set *s, size_t *at)
{
	return s ? map_next(&s->by_name, at) : NULL;
}

size_t issuer_set_count(const struct issuer_set *s)
{
	return s ? s->by_name.count : 0;
}
