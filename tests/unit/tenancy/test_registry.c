#include "tenancy/registry.h"

#include "base/clock.h"
#include "base/log.h"
#include "tests/unit/tenancy/keys.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct heard {
	struct {
		uint32_t tenant;
		enum registry_change what;
		uint64_t key_id;
	} v[16];
	size_t n;
};

static void on_change(void *arg, const struct tenant *t, enum registry_change what, uint64_t key_id)
{
	struct heard *h = arg;

	if (h->n < 16) {
		h->v[h->n].tenant = t->id;
		h->v[h->n].what = what;
		h->v[h->n].key_id = key_id;
	}
	h->n++;
}

static struct tenant row(uint32_t id, const char *name, enum tenant_state state)
{
	struct tenant t = {.id = id, .weight = 1, .partitions = 1, .state = state};

	snprintf(t.name, sizeof t.name, "%s", name);
	return t;
}

static struct registry_key_row key_row(uint32_t tenant, const char *issuer, const char *kid)
{
	return (struct registry_key_row){.tenant_id = tenant,
	                                 .alg = JWS_HS256,
	                                 .issuer = slice_str(issuer),
	                                 .kid = slice_str(kid),
	                                 .material = slice_str(key_secret)};
}

static struct registry_match find(struct registry *r, const char *issuer, const char *kid,
                                  enum jws_alg alg)
{
	struct registry_match m;

	registry_find_key(r, slice_str(issuer), slice_str(kid), alg, &m);
	assert_non_null(m.key); /* always: a decoy, if need be */
	assert_int_equal(jws_key_alg(m.key), alg);
	return m;
}

static void test_registry_finds(void **state)
{
	struct tenant t[] = {row(1, "acme", TENANT_ACTIVE), row(2, "umbrella", TENANT_SUSPENDED)};
	struct registry_key_row k[] = {key_row(1, "iss", "k1"), key_row(2, "iss", "k2"),
	                               key_row(2, "other", "k1")};
	struct registry *r = registry_new(NULL, NULL);
	(void)state;

	registry_apply(r, t, 2, k, 3);
	assert_int_equal(registry_count(r), 2);
	assert_int_equal(registry_tenant_by_name(r, slice_str("umbrella"))->id, 2);
	assert_null(registry_tenant_by_name(r, slice_str("umbrell")));
	assert_string_equal(registry_tenant(r, 1)->name, "acme");
	assert_null(registry_tenant(r, 3));
	assert_int_equal(find(r, "iss", "k1", JWS_HS256).tenant->id, 1);
	assert_int_equal(find(r, "iss", "k2", JWS_HS256).tenant->id, 2);
	assert_int_equal(find(r, "other", "k1", JWS_HS256).tenant->id, 2);
	assert_null(find(r, "other", "k2", JWS_HS256).tenant);
	assert_null(find(r, "iss", "k1", JWS_RS256).tenant);
	assert_string_equal(find(r, "iss", "k1", JWS_RS256).why_not,
	                    "algorithm RS256 is not the key's HS256");
	assert_null(find(r, "", "", JWS_ES256).tenant);
	registry_free(r);
}

static void assert_heard(struct heard *h, size_t at, uint32_t tenant, enum registry_change what)
{
	assert_true(at < h->n);
	assert_int_equal(h->v[at].tenant, tenant);
	assert_int_equal(h->v[at].what, what);
}

static void test_registry_changes(void **state)
{
	struct tenant t[] = {row(1, "a", TENANT_ACTIVE), row(2, "b", TENANT_ACTIVE)};
	struct registry_key_row k[] = {key_row(1, "iss", "k1"), key_row(2, "iss", "k2")};
	struct heard h = {0};
	struct registry *r = registry_new(on_change, &h);
	const struct tenant *a;
	uint64_t id1, id2;
	(void)state;

	registry_apply(r, t, 2, k, 2);
	assert_int_equal(h.n, 2);
	assert_heard(&h, 0, 1, REGISTRY_TENANT_ADDED);
	a = registry_tenant(r, 1);
	id1 = find(r, "iss", "k1", JWS_HS256).key_id;
	id2 = find(r, "iss", "k2", JWS_HS256).key_id;
	assert_int_not_equal(id1, id2);

	h.n = 0; /* the same again: nothing happens, and ids stay */
	registry_apply(r, t, 2, k, 2);
	assert_int_equal(h.n, 0);
	assert_int_equal(find(r, "iss", "k1", JWS_HS256).key_id, id1);

	t[0].state = TENANT_SUSPENDED;
	registry_apply(r, t, 2, k, 2);
	assert_int_equal(h.n, 1);
	assert_heard(&h, 0, 1, REGISTRY_TENANT_CHANGED);
	assert_int_equal(a->state, TENANT_SUSPENDED); /* the pointer stays good */

	h.n = 0; /* a key with other material is another key */
	k[0].material = slice_str("ffffffffffffffffffffffffffffffff");
	registry_apply(r, t, 2, k, 2);
	assert_int_equal(h.n, 1);
	assert_heard(&h, 0, 1, REGISTRY_KEY_GONE);
	assert_int_equal(h.v[0].key_id, id1);
	assert_true(find(r, "iss", "k1", JWS_HS256).key_id > id2);

	h.n = 0; /* tenant a goes, though its key's row is still there */
	registry_apply(r, t + 1, 1, k, 2);
	assert_int_equal(h.n, 2);
	assert_heard(&h, 0, 1, REGISTRY_TENANT_DELETED);
	assert_heard(&h, 1, 1, REGISTRY_KEY_GONE);
	assert_int_equal(a->state, TENANT_DELETED);
	assert_null(registry_tenant(r, 1));
	assert_null(registry_tenant_by_name(r, slice_str("a")));
	assert_null(find(r, "iss", "k1", JWS_HS256).tenant);
	registry_free(r);
}

static void test_registry_default_limits(void **state)
{
	struct tenant_limits defaults = {.max_connections = 10, .max_event_bytes = 100};
	struct tenant t[] = {row(1, "a", TENANT_ACTIVE)};
	struct heard h = {0};
	struct registry *r = registry_new(on_change, &h);
	(void)state;

	registry_set_defaults(r, &defaults);
	t[0].limits.max_connections = 7;
	registry_apply(r, t, 1, NULL, 0);
	assert_int_equal(registry_tenant(r, 1)->limits.max_connections, 7);
	assert_int_equal(registry_tenant(r, 1)->limits.max_event_bytes, 100);
	assert_int_equal(registry_tenant(r, 1)->limits.max_scheduled, 0); /* no limit */

	h.n = 0;
	registry_apply(r, t, 1, NULL, 0);
	assert_int_equal(h.n, 0);
	t[0].limits.max_connections = 0;
	registry_apply(r, t, 1, NULL, 0);
	assert_heard(&h, 0, 1, REGISTRY_TENANT_CHANGED);
	assert_int_equal(registry_tenant(r, 1)->limits.max_connections, 10);
	registry_free(r);
}

static void test_registry_names_swapped(void **state)
{
	struct tenant t[] = {row(1, "a", TENANT_ACTIVE), row(2, "b", TENANT_ACTIVE)};
	struct registry *r = registry_new(NULL, NULL);
	(void)state;

	registry_apply(r, t, 2, NULL, 0);
	strcpy(t[0].name, "b");
	strcpy(t[1].name, "a");
	registry_apply(r, t, 2, NULL, 0);
	assert_int_equal(registry_tenant_by_name(r, slice_str("a"))->id, 2);
	assert_int_equal(registry_tenant_by_name(r, slice_str("b"))->id, 1);
	registry_free(r);
}

/* Rows nobody should have been able to write must not take the others down. */
static void test_registry_bad_rows_are_left_out(void **state)
{
	struct tenant t[] = {row(1, "a", TENANT_ACTIVE)};
	struct registry_key_row k[] = {
	        key_row(1, "iss", "../../dev null"),
	        key_row(1, "", "k0"),
	        key_row(9, "iss", "k1"),
	        key_row(1, "iss", "twice"),
	        key_row(1, "iss", "twice"),
	        key_row(1, "iss", "short"),
	        key_row(1, "iss", "good"),
	};
	struct registry *r = registry_new(NULL, NULL);
	(void)state;

	k[5].material = slice("", 0);
	registry_apply(r, t, 1, k, sizeof k / sizeof *k);
	assert_null(find(r, "iss", "../../dev null", JWS_HS256).tenant);
	assert_null(find(r, "iss", "k1", JWS_HS256).tenant);
	assert_int_equal(find(r, "iss", "twice", JWS_HS256).tenant->id, 1);
	assert_int_equal(find(r, "iss", "good", JWS_HS256).tenant->id, 1);
	/* an empty secret would verify anything under libraries that allow it */
	assert_null(find(r, "iss", "short", JWS_HS256).tenant);
	assert_null(find(r, "iss", "short", JWS_HS256).tenant);
	registry_free(r);
}

static void test_registry_key_check(void **state)
{
	struct registry_key_row k = key_row(1, "iss", "k1");
	char longest[REGISTRY_ISSUER_MAX + 2];
	struct err e;
	(void)state;

	assert_int_equal(registry_key_check(&k, &e), 0);
	k.kid = slice_str("a b");
	assert_int_equal(registry_key_check(&k, &e), -1);
	assert_string_equal(e.text, "kid must be 1 to 128 printable ASCII characters, no spaces");
	k = key_row(1, "iss", "k1");
	memset(longest, 'i', sizeof longest);
	k.issuer = slice(longest, REGISTRY_ISSUER_MAX + 1);
	assert_int_equal(registry_key_check(&k, &e), -1);
	assert_string_equal(e.text, "an issuer has 1 to 255 bytes; this one has 256");
}

static void test_tenant_names(void **state)
{
	static const char *const good[] = {
	        "a",      "0",  "acme",
	        "acme-2", "a-", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	static const char *const bad[] = {
	        "",        "-a",
	        "Acme",    "a_b",
	        "a b",     "a/b",
	        "a.b",     "..",
	        "'; DROP", "\xc3\xa9",
	        "a\n",     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
	struct err e;
	(void)state;

	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		assert_int_equal(tenant_name_check(slice_str(good[i]), &e), 0);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(tenant_name_check(slice_str(bad[i]), &e), -1);
	tenant_name_check(slice_str("'; DROP"), &e);
	assert_string_equal(e.text,
	                    "\"'; DROP\" is not a tenant name: 1 to 63 of a-z, 0-9 and -, not "
	                    "starting with -");
}

/* 10,000 tenants with an RSA key each; prints the figures for the record. */
static void test_registry_ten_thousand(void **state)
{
	enum { MANY = 10000 };
	struct tenant *t = calloc(MANY, sizeof *t);
	struct registry_key_row *k = calloc(MANY, sizeof *k);
	char(*kids)[16] = calloc(MANY, sizeof *kids);
	struct registry *r = registry_new(NULL, NULL);
	size_t before, bytes;
	uint64_t t0, t1, t2;
	(void)state;

	for (uint32_t i = 0; i < MANY; i++) {
		char name[32];

		snprintf(name, sizeof name, "tenant-%u", i);
		snprintf(kids[i], sizeof kids[i], "k%u", i);
		t[i] = row(i + 1, name, TENANT_ACTIVE);
		k[i] = key_row(i + 1, "https://issuer.example", kids[i]);
		k[i].alg = JWS_RS256;
		k[i].material = slice_str(key_rsa_public);
	}
	before = mallinfo2().uordblks;
	t0 = clock_us();
	registry_apply(r, t, MANY, k, MANY);
	t1 = clock_us();
	registry_apply(r, t, MANY, k, MANY);
	t2 = clock_us();
	bytes = (mallinfo2().uordblks - before) / MANY;
	print_message("load %.1f ms, reload %.1f ms, %zu bytes per tenant and key\n",
	              (double)(t1 - t0) / 1e3, (double)(t2 - t1) / 1e3, bytes);
	assert_int_equal(registry_count(r), MANY);
	assert_int_equal(find(r, "https://issuer.example", "k77", JWS_RS256).tenant->id, 78);
	assert_true(bytes < 1024 || before == 0); /* 0 under a sanitizer's allocator */
	registry_free(r);
	free(t);
	free(k);
	free(kids);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_registry_finds),
	        cmocka_unit_test(test_registry_changes),
	        cmocka_unit_test(test_registry_default_limits),
	        cmocka_unit_test(test_registry_names_swapped),
	        cmocka_unit_test(test_registry_bad_rows_are_left_out),
	        cmocka_unit_test(test_registry_key_check),
	        cmocka_unit_test(test_tenant_names),
	        cmocka_unit_test(test_registry_ten_thousand),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
