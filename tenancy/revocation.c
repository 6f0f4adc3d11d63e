#include "tenancy/revocation.h"

#include "base/buf.h"
#include "base/map.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_MAX = sizeof(uint32_t) + 1 + REVOCATION_NAME_MAX };

struct entry {
	uint64_t before_s;
	uint32_t at; /* of its key in `keys` */
	uint32_t len;
};

struct revocation_set {
	struct buf keys; /* tenant id, kind and name, end to end */
	struct entry *entries;
	size_t count, cap;
	struct map by_key; /* once sealed */
};

static size_t put_key(char out[KEY_MAX], uint32_t tenant_id, enum revocation_kind kind,
                      struct slice name)
{
	memcpy(out, &tenant_id, sizeof tenant_id);
	out[sizeof tenant_id] = (char)kind;
	if (name.n)
		memcpy(out + sizeof tenant_id + 1, name.p, name.n);
	return sizeof tenant_id + 1 + name.n;
}

bool revocation_set_add(struct revocation_set *s, const struct revocation_row *row)
{
	char key[KEY_MAX];
	size_t n;

	assert(!s->by_key.count);
	if (row->name.n > REVOCATION_NAME_MAX || row->kind < REVOCATION_SUBJECT ||
	    row->kind > REVOCATION_TENANT || s->keys.len > UINT32_MAX - KEY_MAX)
		return false;
	n = put_key(key, row->tenant_id, row->kind, row->name);
	if (s->count == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 64;
		s->entries = xrealloc(s->entries, s->cap * sizeof *s->entries);
	}
	s->entries[s->count++] = (struct entry){
	        .before_s = row->before_s, .at = (uint32_t)s->keys.len, .len = (uint32_t)n};
	buf_append(&s->keys, key, n);
	return true;
}

/* Only now, as the bytes move while they grow. */
void revocation_set_seal(struct revocation_set *s)
{
	for (size_t i = 0; i < s->count; i++) {
		struct entry *e = &s->entries[i];

		map_put(&s->by_key, s->keys.data + e->at, e->len, e);
	}
}

size_t revocation_set_count(const struct revocation_set *s)
{
	return s ? s->count : 0;
}

static bool has(const struct revocation_set *s, const struct revocation_token *t,
                enum revocation_kind kind, struct slice name)
{
	char key[KEY_MAX];
	const struct entry *e;

	if (name.n > REVOCATION_NAME_MAX)
		return false;
	e = map_get(&s->by_key, key, put_key(key, t->tenant_id, kind, name));
	return e && (!t->issued_s || t->issued_s < e->before_s);
}

bool revocation_set_has(const struct revocation_set *s, const struct revocation_token *t)
{
	if (!s || !s->count)
		return false;
	return has(s, t, REVOCATION_TENANT, (struct slice){0}) ||
	       has(s, t, REVOCATION_SUBJECT, t->subject) ||
	       (t->token_id.n && has(s, t, REVOCATION_TOKEN_ID, t->token_id));
}

struct revocation_set *revocation_set_new(void)
{
	struct revocation_set *s = xcalloc(1, sizeof *s);

	map_init(&s->by_key);
	return s;
}

void revocation_set_free(struct revocation_set *s)
{
	if (!s)
		return;
	map_release(&s->by_key);
	buf_release(&s->keys);
	free(s->entries);
	free(s);
}
