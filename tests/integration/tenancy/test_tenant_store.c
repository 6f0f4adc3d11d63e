/* Tenants and keys in a real database: what an operator does, and how a node follows it. */
#include "tenancy/tenant_store.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "sql/migrate.h"
#include "tenancy/tenant_admin.h"
#include "tests/unit/tenancy/keys.h"

#include <event2/event.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { FOLLOW_MS = 2000 }; /* a change is in force on every node by then */

static struct dsn dsn;
static struct sql_conn *admin;

static int setup(void **state)
{
	const char *text = getenv("LEAT_TEST_DSN");
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	unsigned before, after;
	struct err e;
	(void)state;

	if (!text || dsn_load(&dsn, text, &e))
		fatal("LEAT_TEST_DSN: %s", text ? e.text : "not set: run this under with-server");
	sql_library_init();
	if (migrate_run(&dsn, NULL, &before, &after, &e))
		fatal("%s", e.text);
	limits.wait_timeout_s = 60;
	admin = sql_conn_new(&dsn, &limits);
	if (sql_conn_open(admin, &e))
		fatal("%s", e.text);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	sql_conn_free(admin);
	dsn_release(&dsn);
	sql_library_end();
	return 0;
}

static uint32_t create(const char *name)
{
	struct tenant_admin_new t = {.name = slice_str(name), .weight = 2, .partitions = 3};
	struct err e;
	uint32_t id = 0;

	if (tenant_admin_create(admin, &t, &id, &e) < 0)
		fail_msg("%s", e.text);
	return id;
}

static void run_text(const char *text)
{
	if (sql_text(admin, text, strlen(text), NULL, SQL_TEXT_PLAIN) != SQL_OK ||
	    sql_commit(admin) != SQL_OK)
		fail_msg("%s", sql_error(admin));
}

static int add_key(const char *name, const char *issuer, const char *kid, struct err *e)
{
	struct tenant_admin_key k = {.issuer = slice_str(issuer),
	                             .kid = slice_str(kid),
	                             .material = slice_str(key_secret),
	                             .alg = JWS_HS256};

	return tenant_admin_key_add(admin, slice_str(name), &k, e);
}

static int on_count(void *arg, const struct sql_cell *cells, unsigned n)
{
	(void)n;
	*(uint64_t *)arg = cells[0].u;
	return 0;
}

static uint64_t number(const char *text)
{
	uint64_t v = 0;
	struct sql_text_sink sink = {.on_row = on_count, .arg = &v};

	assert_int_equal(sql_text(admin, text, strlen(text), &sink, SQL_TEXT_PLAIN), SQL_OK);
	assert_int_equal(sql_rollback(admin), SQL_OK);
	return v;
}

static void test_admin_tenants(void **state)
{
	struct tenant_admin_new again = {
	        .name = slice_str("admin-a"), .weight = 1, .partitions = 1};
	struct tenant_admin_row row;
	uint32_t id, other;
	char text[100];
	struct err e;
	(void)state;

	id = create("admin-a");
	snprintf(text, sizeof text, "SELECT COUNT(*) FROM head WHERE tenant_id=%u", id);
	assert_int_equal(number(text), 3);
	assert_int_equal(tenant_admin_create(admin, &again, &other, &e), -1);
	assert_string_equal(e.text, "tenant name admin-a is taken, or was: names are never reused");
	assert_int_equal(tenant_admin_find(admin, slice_str("admin-a"), &row, &e), 0);
	assert_int_equal(row.tenant.id, id);
	assert_int_equal(row.tenant.weight, 2);
	assert_int_equal(row.tenant.partitions, 3);
	assert_int_equal(row.tenant.state, TENANT_ACTIVE);
	assert_int_equal(tenant_admin_set_state(admin, slice_str("admin-a"), TENANT_DELETED, &e),
	                 0);
	assert_int_equal(tenant_admin_set_state(admin, slice_str("admin-a"), TENANT_ACTIVE, &e),
	                 -1);
	assert_string_equal(e.text, "there is no tenant admin-a any more: it was deleted");
	assert_int_equal(tenant_admin_create(admin, &again, &other, &e), -1);
	assert_int_equal(tenant_admin_find(admin, slice_str("a' OR '1'='1"), &row, &e), -1);
	assert_non_null(strstr(e.text, "is not a tenant name"));
}

static void test_admin_keys(void **state)
{
	struct err e;
	(void)state;

	create("keys-a");
	create("keys-b");
	assert_int_equal(add_key("keys-a", "i'; DROP TABLE tenant; --", "k", &e), 0);
	assert_int_equal(add_key("keys-a", "i", "k", &e), 0);
	assert_int_equal(add_key("keys-b", "i", "k", &e), -1); /* another's: not to be taken over */
	assert_string_equal(e.text, "this issuer and kid are taken, or were; choose another kid");
	assert_int_equal(add_key("nobody", "i", "k2", &e), -1);
	assert_string_equal(e.text, "there is no tenant 'nobody': see the view tenants");
	assert_int_equal(add_key("keys-a", "i", "a b", &e), -1);
	assert_int_equal(tenant_admin_key_retire(admin, slice_str("keys-b"), slice_str("i"),
	                                         slice_str("k"), &e),
	                 -1);
	assert_string_equal(e.text, "tenant keys-b has no key with this issuer and kid");
	assert_int_equal(tenant_admin_key_retire(admin, slice_str("keys-a"), slice_str("i"),
	                                         slice_str("k"), &e),
	                 0);
}

/* ---- a node beside it ---- */

struct node {
	struct event_base *base;
	struct sql *sql;
	struct registry *registry;
	struct tenant_store *store;
	bool ready;
	unsigned keys_gone;
	unsigned revoked; /* sets taken */
};

static void on_change(void *arg, const struct tenant *t, enum registry_change what, uint64_t key_id)
{
	struct node *n = arg;

	(void)t;
	(void)key_id;
	n->keys_gone += what == REGISTRY_KEY_GONE;
	n->revoked += what == REGISTRY_REVOKED;
}

static void on_ready(void *arg)
{
	((struct node *)arg)->ready = true;
}

static void node_start(struct node *n)
{
	struct sql_settings settings = SQL_SETTINGS_DEFAULT;
	struct err e;

	*n = (struct node){.base = event_base_new()};
	n->sql = sql_new(n->base, &dsn, &settings, &e);
	assert_non_null(n->sql);
	n->registry = registry_new(on_change, n);
	n->store = tenant_store_new(n->base, n->sql, n->registry, on_ready, n);
}

static void node_stop(struct node *n)
{
	tenant_store_free(n->store);
	sql_free(n->sql);
	registry_free(n->registry);
	event_base_free(n->base);
}

typedef bool condition(const struct node *n);

/* Turn the loop until it holds; fails after ms. */
static void wait_until(struct node *n, condition *holds, unsigned ms, const char *what)
{
	uint64_t end = clock_us() + ms * UINT64_C(1000);

	while (!holds(n)) {
		struct timeval tick = {0, 10000};

		if (clock_us() > end)
			fail_msg("not within %u ms: %s", ms, what);
		event_base_loopexit(n->base, &tick);
		event_base_dispatch(n->base);
	}
}

static bool is_ready(const struct node *n)
{
	return n->ready;
}

static const struct tenant *follow_tenant(const struct node *n)
{
	return registry_tenant_by_name(n->registry, slice_str("follow"));
}

static bool has_key(const struct node *n)
{
	struct registry_match m;

	registry_find_key(n->registry, slice_str("follow-iss"), slice_str("k"), JWS_HS256, &m);
	return m.tenant != NULL && m.tenant == follow_tenant(n);
}

static bool is_suspended(const struct node *n)
{
	return follow_tenant(n)->state == TENANT_SUSPENDED;
}

static bool key_is_gone(const struct node *n)
{
	return !has_key(n) && n->keys_gone == 1;
}

static bool tenant_is_gone(const struct node *n)
{
	return follow_tenant(n) == NULL;
}

static void test_store_follows(void **state)
{
	struct slice name = slice_str("follow");
	struct node n;
	struct err e;
	(void)state;

	node_start(&n);
	wait_until(&n, is_ready, 5000, "first load");
	assert_null(follow_tenant(&n));

	create("follow");
	assert_int_equal(add_key("follow", "follow-iss", "k", &e), 0);
	wait_until(&n, has_key, FOLLOW_MS, "new tenant and key");
	assert_int_equal(follow_tenant(&n)->weight, 2);

	assert_int_equal(tenant_admin_set_state(admin, name, TENANT_SUSPENDED, &e), 0);
	wait_until(&n, is_suspended, FOLLOW_MS, "suspension");

	assert_int_equal(
	        tenant_admin_key_retire(admin, name, slice_str("follow-iss"), slice_str("k"), &e),
	        0);
	wait_until(&n, key_is_gone, FOLLOW_MS, "retired key");

	assert_int_equal(tenant_admin_set_state(admin, name, TENANT_DELETED, &e), 0);
	wait_until(&n, tenant_is_gone, FOLLOW_MS, "deleted tenant");
	node_stop(&n);
}

static bool is_revoked(const struct node *n)
{
	const struct revocation_token t = {
	        .tenant_id = registry_tenant_by_name(n->registry, slice_str("revoke"))->id,
	        .issued_s = 1000,
	        .subject = slice_str("ann")};

	return revocation_set_has(registry_revocations(n->registry), &t);
}

static bool is_not_revoked(const struct node *n)
{
	return !is_revoked(n);
}

/* They have a counter of their own: what else changed is not read again. */
static void test_store_follows_revocations(void **state)
{
	struct node n;
	(void)state;

	create("revoke");
	run_text("CALL token_revoke_subject('revoke','ann',NULL,NULL,NULL)");
	node_start(&n);
	wait_until(&n, is_ready, 5000, "first load");
	assert_true(is_revoked(&n));
	assert_int_equal(n.revoked, 1);
	run_text("CALL token_revoke_undo('revoke','subject','ann')");
	wait_until(&n, is_not_revoked, FOLLOW_MS, "undone");
	create("revoke-2");
	run_text("CALL token_revoke_before('revoke','1970-01-01 00:16:41',NULL,NULL)");
	wait_until(&n, is_revoked, FOLLOW_MS, "revoked");
	assert_int_equal(n.revoked, 3);
	node_stop(&n);
}

/* Rows that only a hand at a SQL prompt could have written are left out; the rest is loaded. */
static void test_store_survives_bad_rows(void **state)
{
	struct node n;
	(void)state;

	create("good");
	run_text("INSERT INTO tenant(name) VALUES ('Bad Name');"
	         "INSERT INTO tenant_key(issuer,kid,tenant_id,alg,key_material) VALUES"
	         " ('bad','k1',4000000000,'HS256','x'),('bad','k2',1,'none',''),('bad','../"
	         "..',1,'HS256','')");
	node_start(&n);
	wait_until(&n, is_ready, 5000, "first load");
	assert_non_null(registry_tenant_by_name(n.registry, slice_str("good")));
	assert_null(registry_tenant_by_name(n.registry, slice_str("Bad Name")));
	node_stop(&n);
}

static bool has_ten_thousand(const struct node *n)
{
	return registry_count(n->registry) >= 10000;
}

/* Prints the figure for the record. Also: freed while a job is under way. */
static void test_store_ten_thousand(void **state)
{
	struct node n;
	uint64_t t0;
	(void)state;

	run_text("INSERT INTO tenant(name) WITH RECURSIVE s(i) AS"
	         " (SELECT 0 UNION ALL SELECT i+1 FROM s WHERE i<99)"
	         " SELECT CONCAT('many-',a.i*100+b.i) FROM s a, s b;"
	         "INSERT INTO tenant_key(issuer,kid,tenant_id,alg,key_material)"
	         " SELECT name,'k',tenant_id,'HS256',REPEAT('s',32) FROM tenant WHERE name LIKE "
	         "'many-%'");
	node_start(&n);
	t0 = clock_us();
	wait_until(&n, has_ten_thousand, 10000, "10,000 tenants");
	print_message("10,000 tenants and keys loaded in %.0f ms, connecting included\n",
	              (double)(clock_us() - t0) / 1e3);
	node_stop(&n);
	node_start(&n);
	node_stop(&n);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_admin_tenants),
	        cmocka_unit_test(test_admin_keys),
	        cmocka_unit_test(test_store_follows),
	        cmocka_unit_test(test_store_follows_revocations),
	        cmocka_unit_test(test_store_survives_bad_rows),
	        cmocka_unit_test(test_store_ten_thousand),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, setup, teardown);
}
