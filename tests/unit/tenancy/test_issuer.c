/* Identity providers in the registry: which key verifies, what becomes of ids when sets change, and
 * what is asked to be fetched. */
#include "tenancy/registry.h"

#include "base/clock.h"
#include "base/log.h"
#include "tests/unit/tenancy/jwks.h"
#include "tests/unit/tenancy/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#define SET(keys) "{\"keys\":[" keys "]}"
#define EC(kid) "{\"kid\":\"" kid "\"," JWK_EC "}"
#define ED(kid) "{\"kid\":\"" kid "\"," JWK_ED "}"

struct heard {
	unsigned n;
	uint64_t key_ids[8];
};

static void on_change(void *arg, const struct tenant *t, enum registry_change what, uint64_t key_id)
{
	struct heard *h = arg;

	if (what != REGISTRY_KEY_GONE)
		return;
	assert_null(t);
	assert_true(h->n < 8);
	h->key_ids[h->n++] = key_id;
}

static struct issuer_row row(const char *name, const char *jwks)
{
	return (struct issuer_row){.issuer = slice_str(name),
	                           .audience = slice_str("aud"),
	                           .tenant_claim = slice_str("org"),
	                           .subject_claim = slice_str("sub"),
	                           .permissions = slice_str("acl"),
	                           .jwks = slice_str(jwks)};
}

static void take(struct registry *r, const struct issuer_row *rows, size_t n)
{
	struct issuer_set *s = issuer_set_new();

	for (size_t i = 0; i < n; i++)
		issuer_set_add(s, &rows[i]);
	registry_take_issuers(r, s);
}

static struct registry_match find(struct registry *r, const char *issuer, const char *kid,
                                  enum jws_alg alg)
{
	struct registry_match m;

	registry_find_key(r, slice_str(issuer), slice_str(kid), alg, &m);
	assert_non_null(m.key);
	assert_int_equal(jws_key_alg(m.key), alg);
	return m;
}

static void test_issuer_finds(void **state)
{
	struct registry *r = registry_new(NULL, NULL);
	struct issuer_row rows[] = {row("a", SET(EC("k1") "," ED("k2"))), row("b", SET(EC("k1"))),
	                            row("c", ""), row("d", "garbage")};
	(void)state;

	take(r, rows, 4);
	assert_string_equal(find(r, "a", "k1", JWS_ES256).issuer->name, "a");
	assert_string_equal(find(r, "b", "k1", JWS_ES256).issuer->name, "b");
	assert_int_not_equal(find(r, "a", "k1", JWS_ES256).key_id,
	                     find(r, "b", "k1", JWS_ES256).key_id);
	assert_null(find(r, "a", "k1", JWS_EDDSA).issuer); /* another algorithm's */
	assert_null(find(r, "a", "k1", JWS_HS256).issuer);
	assert_null(find(r, "b", "k2", JWS_EDDSA).issuer);
	assert_null(find(r, "c", "k1", JWS_ES256).issuer);
	assert_null(find(r, "d", "k1", JWS_ES256).issuer);
	assert_null(find(r, "", "k1", JWS_ES256).issuer);
	assert_null(find(r, "a", "k1", JWS_ES256).tenant);
	registry_free(r);
}

static void test_issuer_bad_rows(void **state)
{
	struct registry *r = registry_new(NULL, NULL);
	struct issuer_row rows[] = {row("a", SET(EC("k1"))), row("b", SET(EC("k1"))),
	                            row("c", SET(EC("k1"))), row("d", SET(EC("k1")))};
	char name[ISSUER_SETTING_MAX + 1];
	(void)state;

	memset(name, 'x', sizeof name);
	rows[0].audience = slice(NULL, 0);
	rows[1].tenant_claim = slice(NULL, 0); /* and no tenant either */
	rows[2].subject_claim = slice(name, sizeof name);
	rows[3].permissions = slice("a\0b", 3);
	take(r, rows, 4);
	for (const char *n = "abcd"; *n; n++) {
		char text[2] = {*n, '\0'};

		assert_null(find(r, text, "k1", JWS_ES256).issuer);
	}
	rows[1].tenant_id = 1;
	take(r, rows + 1, 1);
	assert_non_null(find(r, "b", "k1", JWS_ES256).issuer);
	registry_free(r);
}

/* A key that stays keeps its id; what it is replaced by under its kid, or means now, does not. */
static void test_issuer_ids(void **state)
{
	struct heard h = {0};
	struct registry *r = registry_new(on_change, &h);
	struct issuer_row a = row("a", SET(EC("k1") "," ED("k2")));
	uint64_t k1, k2;
	(void)state;

	take(r, &a, 1);
	k1 = find(r, "a", "k1", JWS_ES256).key_id;
	k2 = find(r, "a", "k2", JWS_EDDSA).key_id;
	assert_true(k1 && k2 && k1 != k2);
	a.jwks = slice_str(SET(ED("k2") "," EC("k3") "," EC("k1")));
	take(r, &a, 1);
	assert_int_equal(h.n, 0);
	assert_int_equal(find(r, "a", "k1", JWS_ES256).key_id, k1);
	assert_int_equal(find(r, "a", "k2", JWS_EDDSA).key_id, k2);
	a.jwks = slice_str(SET(ED("k1") "," ED("k2"))); /* k1 is another key now, k3 is gone */
	take(r, &a, 1);
	assert_int_equal(h.n, 2);
	assert_int_not_equal(find(r, "a", "k1", JWS_EDDSA).key_id, k1);
	assert_int_equal(find(r, "a", "k2", JWS_EDDSA).key_id, k2);
	a.tenant_claim = slice_str("company");
	h.n = 0;
	take(r, &a, 1);
	assert_int_equal(h.n, 2);
	assert_int_not_equal(find(r, "a", "k2", JWS_EDDSA).key_id, k2);
	h.n = 0;
	take(r, NULL, 0);
	assert_int_equal(h.n, 2);
	assert_null(find(r, "a", "k2", JWS_EDDSA).issuer);
	registry_free(r);
}

/* Whatever kids come, whoever sends them: once, and then not for half a minute. */
static void test_issuer_wanted(void **state)
{
	struct registry *r = registry_new(NULL, NULL);
	struct issuer_row rows[] = {row("a", SET(EC("k1"))), row("b", "")};
	uint64_t now_ms = 1000000;
	(void)state;

	clock_set(now_ms, 0);
	take(r, rows, 2);
	find(r, "a", "k1", JWS_ES256);
	find(r, "nobody", "k1", JWS_ES256);
	find(r, "a", "k1", JWS_EDDSA);
	assert_null(registry_wanted_issuer(r));
	for (int i = 0; i < 100; i++)
		find(r, "a", i % 2 ? "made-up" : "k9", JWS_ES256);
	assert_string_equal(registry_wanted_issuer(r), "a");
	assert_null(registry_wanted_issuer(r));
	find(r, "b", "k1", JWS_ES256);
	assert_null(registry_wanted_issuer(r)); /* it has no keys yet: they are fetched anyhow */
	rows[1] = row("b", SET(EC("k1")));
	take(r, rows, 2); /* a new set does not forget */
	find(r, "b", "k2", JWS_ES256);
	assert_string_equal(registry_wanted_issuer(r), "b");
	clock_set(now_ms + ISSUER_WANT_EVERY_S * 1000 - 1, 0);
	find(r, "a", "k9", JWS_ES256);
	assert_null(registry_wanted_issuer(r));
	clock_set(now_ms + ISSUER_WANT_EVERY_S * 1000, 0);
	find(r, "a", "k9", JWS_ES256);
	assert_string_equal(registry_wanted_issuer(r), "a");
	registry_free(r);
	clock_tick();
}

/* Rows that only a hand could have written: the tenant's own keys count, in whatever order. */
static void test_issuer_shadowed(void **state)
{
	struct tenant t = {.id = 1, .state = TENANT_ACTIVE, .name = "acme"};
	struct registry_key_row key = {.tenant_id = 1,
	                               .alg = JWS_HS256,
	                               .issuer = slice_str("a"),
	                               .kid = slice_str("own"),
	                               .material = slice_str(key_secret)};
	struct issuer_row a = row("a", SET(EC("k1")));
	struct registry *r = registry_new(NULL, NULL);
	(void)state;

	registry_apply(r, &t, 1, &key, 1);
	take(r, &a, 1);
	assert_null(find(r, "a", "k1", JWS_ES256).issuer);
	assert_string_equal(find(r, "a", "own", JWS_HS256).tenant->name, "acme");
	registry_apply(r, &t, 1, NULL, 0);
	assert_non_null(find(r, "a", "k1", JWS_ES256).issuer);
	registry_apply(r, &t, 1, &key, 1);
	assert_null(find(r, "a", "k1", JWS_ES256).issuer);
	assert_null(registry_wanted_issuer(r));
	registry_free(r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_issuer_finds),    cmocka_unit_test(test_issuer_bad_rows),
	        cmocka_unit_test(test_issuer_ids),      cmocka_unit_test(test_issuer_wanted),
	        cmocka_unit_test(test_issuer_shadowed),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
