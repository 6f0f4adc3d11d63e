#include "tenancy/jwks.h"

#include "base/log.h"
#include "base/mem.h"
#include "tenancy/jwk.h"
#include "tenancy/registry.h"

#include <stdio.h>
#include <stdlib.h>

struct entry {
	char kid[REGISTRY_KID_MAX + 1];
	struct jws_key *key;
};

struct jwks {
	size_t n;
	json_t *keys; /* what is public of them */
	char left_out[200];
	struct entry entries[];
};

static bool has_kid(const struct jwks *s, struct slice kid)
{
	for (size_t i = 0; i < s->n; i++) {
		if (slice_eq(slice_str(s->entries[i].kid), kid))
			return true;
	}
	return false;
}

static int check(const struct jwks *s, const struct jwk *k, struct err *e)
{
	if (k->alg == JWS_HS256)
		return err_set(e, 0, "it is a secret");
	if (registry_kid_check(k->kid, e) < 0)
		return -1;
	return has_kid(s, k->kid) ? err_set(e, 0, "its kid is there twice") : 0;
}

/* Whatever else the document says, of keys that are not secret too, is not kept. */
static json_t *public_of(const json_t *v)
{
	static const char *const members[] = {"kty", "kid", "alg", "use", "key_ops",
	                                      "n",   "e",   "crv", "x",   "y"};
	json_t *out = json_object();

	for (size_t i = 0; i < sizeof members / sizeof members[0]; i++) {
		json_t *member = json_object_get(v, members[i]);

		if (member)
			json_object_set(out, members[i], member);
	}
	return out;
}

static int take(struct jwks *s, const json_t *v, struct err *e)
{
	struct jws_key *key = NULL;
	struct jwk k;

	if (jwk_from_json(v, &k, e) < 0)
		return -1;
	if (check(s, &k, e) == 0 && (key = jws_key_of_jwk(&k, e))) {
		struct entry *at = &s->entries[s->n++];

		memcpy(at->kid, k.kid.p, k.kid.n);
		at->kid[k.kid.n] = '\0';
		at->key = key;
		json_array_append_new(s->keys, public_of(v));
	}
	jwk_release(&k);
	return key ? 0 : -1;
}

static struct jwks *take_all(const json_t *keys, struct err *e)
{
	size_t n = json_array_size(keys);
	struct jwks *s = xcalloc(1, sizeof *s + n * sizeof s->entries[0]);

	s->keys = json_array();
	for (size_t i = 0; i < n; i++) {
		struct err why = {0};

		if (take(s, json_array_get(keys, i), &why) < 0 && !s->left_out[0])
			snprintf(s->left_out, sizeof s->left_out, "key %zu was left out: %.150s",
			         i + 1, why.text);
	}
	if (s->n)
		return s;
	err_set(e, 0, "there is no key in it that can be used%s%s", s->left_out[0] ? "; " : "",
	        s->left_out);
	jwks_free(s);
	return NULL;
}

struct jwks *jwks_parse(struct slice text, struct err *e)
{
	struct jwks *s = NULL;
	json_error_t why;
	const json_t *keys;
	json_t *v;

	if (text.n > JWKS_MAX_BYTES) {
		err_set(e, 0, "a JWKS has at most %d bytes; this one has %zu", JWKS_MAX_BYTES,
		        text.n);
		return NULL;
	}
	v = json_loadb(text.p ? text.p : "", text.n, JSON_REJECT_DUPLICATES, &why);
	keys = json_object_get(v, "keys");
	if (!v)
		err_set(e, 0, "it is not JSON, at byte %d", why.position);
	else if (!json_is_array(keys))
		err_set(e, 0, "it is not a JWKS: it has no array keys");
	else if (json_array_size(keys) > JWKS_MAX_KEYS)
		err_set(e, 0, "it has %zu keys; at most %d are allowed", json_array_size(keys),
		        JWKS_MAX_KEYS);
	else
		s = take_all(keys, e);
	json_decref(v);
	return s;
}

void jwks_free(struct jwks *s)
{
	for (size_t i = 0; s && i < s->n; i++)
		jws_key_free(s->entries[i].key);
	if (s)
		json_decref(s->keys);
	free(s);
}

size_t jwks_count(const struct jwks *s)
{
	return s ? s->n : 0;
}

struct jwks_key jwks_at(const struct jwks *s, size_t i)
{
	return (struct jwks_key){.kid = slice_str(s->entries[i].kid), .key = s->entries[i].key};
}

const char *jwks_left_out(const struct jwks *s)
{
	return s->left_out;
}

void jwks_put(const struct jwks *s, struct buf *out)
{
	char *text = json_dumps(s->keys, JSON_COMPACT);

	buf_append_str(out, "{\"keys\":");
	buf_append_str(out, text);
	buf_u8(out, '}');
	free(text);
}
