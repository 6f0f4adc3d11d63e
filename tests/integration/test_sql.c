/* The sql layer against a real server: outcomes, streams, migrations, TLS. See with-server. */
#include "base/buf.h"
#include "base/mem.h"
#include "sql/conn.h"
#include "sql/migrate.h"
#include "sql/schema.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct dsn dsn, admin_dsn, tls_dsn;

static void load(struct dsn *d, const char *variable)
{
	const char *text = getenv(variable);
	struct err e;

	if (!text || dsn_load(d, text, &e))
		fatal("%s: %s", variable, text ? e.text : "not set: run this under with-server");
}

static struct sql_conn *open_dsn(const struct dsn *d)
{
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	struct sql_conn *c = sql_conn_new(d, &limits);
	struct err e;

	if (sql_conn_open(c, &e))
		fatal("%s", e.text);
	return c;
}

static enum sql_outcome run(struct sql_conn *c, const char *text)
{
	return sql_text(c, text, strlen(text), NULL, SQL_TEXT_PLAIN);
}

static void run_ok(struct sql_conn *c, const char *text)
{
	if (run(c, text) != SQL_OK)
		fatal("%s", sql_error(c));
}

static int on_u64(void *arg, const struct sql_cell *cells, unsigned n)
{
	(void)n;
	*(uint64_t *)arg = cells[0].u;
	return 0;
}

static uint64_t number(struct sql_conn *c, const char *text)
{
	uint64_t v = 0;
	struct sql_text_sink sink = {.on_row = on_u64, .arg = &v};

	if (sql_text(c, text, strlen(text), &sink, SQL_TEXT_PLAIN) != SQL_OK)
		fatal("%s", sql_error(c));
	return v;
}

/* A fresh connection and two heads of one tenant that only this test uses. */
static struct sql_conn *with_heads(unsigned tenant)
{
	struct sql_conn *c = open_dsn(&dsn);
	char text[200];

	snprintf(text, sizeof text,
	         "DELETE FROM journal WHERE tenant_id=%u;DELETE FROM head WHERE tenant_id=%u;"
	         "INSERT INTO head(tenant_id,partition_id,next_seq,bytes) VALUES "
	         "(%u,0,1,0),(%u,1,1,0)",
	         tenant, tenant, tenant, tenant);
	run_ok(c, text);
	assert_int_equal(sql_commit(c), SQL_OK);
	return c;
}

/* ---- statements --------------------------------------------------------------------------------
 */

static void test_session_rules(void **state)
{
	struct sql_conn *c = open_dsn(&dsn);

	(void)state;
	assert_int_equal(number(c, "SELECT @@autocommit"), 0);
	assert_int_equal(number(c, "SELECT @@innodb_lock_wait_timeout"), 1);
	assert_int_equal(number(c, "SELECT @@wait_timeout"), 6);
	assert_int_equal(number(c, "SELECT @@time_zone='+00:00'"), 1);
	assert_int_equal(number(c, sql_conn_server(c)->mariadb
	                                   ? "SELECT @@tx_isolation='READ-COMMITTED'"
	                                   : "SELECT @@transaction_isolation='READ-COMMITTED'"),
	                 1);
	/* over the socket, as the DSN says */
	assert_int_equal(number(c, "SELECT COUNT(*) FROM information_schema.processlist WHERE"
	                           " id=CONNECTION_ID() AND host='localhost'"),
	                 1);
	assert_int_equal(sql_conn_server(c)->max_packet, 64 << 20);
	assert_int_equal(sql_conn_server(c)->flush_at_commit, 1);
	sql_conn_free(c);
}

static void test_unchanged_rows_match(void **state)
{
	struct sql_conn *c = with_heads(1001);

	(void)state;
	run_ok(c, "UPDATE head SET bytes=0 WHERE tenant_id=1001");
	assert_int_equal(sql_affected(c), 2);
	sql_conn_free(c);
}

static void test_head_advance_gives_base_seq(void **state)
{
	struct sql_conn *c = with_heads(1002);
	struct sql_param p[] = {sql_u64(10), sql_u64(500), sql_u64(1002), sql_u64(1)};

	(void)state;
	assert_int_equal(sql_exec(c, STMT_HEAD_ADVANCE, p, 4), SQL_OK);
	assert_int_equal(sql_insert_id(c), 1);
	assert_int_equal(sql_exec(c, STMT_HEAD_ADVANCE, p, 4), SQL_OK);
	assert_int_equal(sql_insert_id(c), 11);
	assert_int_equal(sql_affected(c), 1);
	p[2] = sql_u64(4000000);
	assert_int_equal(sql_exec(c, STMT_HEAD_ADVANCE, p, 4), SQL_OK);
	assert_int_equal(sql_affected(c), 0);
	sql_conn_free(c);
}

struct done {
	unsigned count;
	uint64_t affected[8];
	unsigned rows[8];
	struct sql_conn *c;
};

static int count_row(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct done *d = arg;

	(void)cells;
	(void)n;
	d->rows[sql_text_result(d->c)]++;
	return 0;
}

static void on_done(void *arg, unsigned result, uint64_t affected)
{
	struct done *d = arg;

	assert_int_equal(result, d->count);
	d->affected[d->count++] = affected;
}

static void test_text_of_several_statements(void **state)
{
	static const char text[] =
	        "UPDATE head SET bytes=bytes+1 WHERE tenant_id=1003;"
	        "SELECT next_seq,bytes FROM head WHERE tenant_id=1003;"
	        "UPDATE head SET bytes=7 WHERE tenant_id=1003 AND partition_id=0";
	struct sql_conn *c = with_heads(1003);
	struct done d = {.c = c};
	struct sql_text_sink sink = {.on_row = count_row, .on_done = on_done, .arg = &d};

	(void)state;
	assert_int_equal(sql_text(c, text, sizeof text - 1, &sink, SQL_TEXT_PLAIN), SQL_OK);
	assert_int_equal(d.count, 3);
	assert_int_equal(d.affected[0], 2);
	assert_int_equal(d.rows[1], 2);
	assert_int_equal(d.affected[2], 1);
	assert_int_equal(sql_affected(c), 1);
	assert_int_equal(run(c, "SELECT 1;SELECT 1;SELECT nothing;SELECT 1"), SQL_FATAL);
	assert_int_equal(sql_text_result(c), 2);
	assert_int_equal(number(c, "SELECT 41+1"), 42); /* still in step with the server */
	sql_conn_free(c);
}

static struct sql_param *batch_row(struct sql_param *p, unsigned tenant, uint64_t base,
                                   struct slice attributes, struct slice body)
{
	static const char session[16];

	p[0] = sql_u64(tenant);
	p[1] = sql_u64(0);
	p[2] = sql_u64(base);
	p[3] = sql_u64(1);
	p[4] = sql_u64(body.n);
	p[5] = sql_bytes(session, 16);
	p[6] = sql_u64(0);
	p[7] = sql_u64(base);
	p[8] = sql_utf8(attributes.p, attributes.n);
	p[9] = sql_bytes(body.p, body.n);
	return p;
}

enum { LOB_MAX = 5 << 20 };
static const size_t lob_sizes[] = {0, 1, 1023, 1024, 1025, 100000, LOB_MAX, 3, 256 << 10};

struct lobs {
	const char *bytes;
	unsigned rows;
};

static int on_lob(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct lobs *l = arg;
	size_t size = lob_sizes[l->rows];

	assert_int_equal(n, 9);
	assert_int_equal(cells[0].u, l->rows + 1);
	assert_int_equal(cells[3].bytes.n, 16);
	assert_in_range(cells[6].u, 1700000000000, 9999999999999);
	assert_true(slice_eq(cells[7].bytes, slice_str("[]")));
	assert_int_equal(cells[8].bytes.n, size);
	assert_true(slice_eq(cells[8].bytes, slice(l->bytes + l->rows, size)));
	l->rows++;
	return 0;
}

static int stop_at_first(void *arg, const struct sql_cell *cells, unsigned n)
{
	(void)cells;
	(void)n;
	++*(unsigned *)arg;
	return 1;
}

/* Rows smaller, as large as and far larger than any buffer, in any order. */
static void test_lobs_are_whole(void **state)
{
	struct sql_conn *c = with_heads(1004);
	struct sql_param p[10];
	struct sql_param from[] = {sql_u64(1004), sql_u64(0), sql_u64(1), sql_u64(100),
	                           sql_u64(50)};
	size_t n = sizeof lob_sizes / sizeof lob_sizes[0];
	char *bytes = xmalloc(LOB_MAX + n);
	struct lobs lobs = {.bytes = bytes};
	unsigned rows = 0;

	(void)state;
	for (size_t i = 0; i < LOB_MAX + n; i++)
		bytes[i] = (char)(i * 2654435761u >> 13);
	for (size_t i = 0; i < n; i++) {
		batch_row(p, 1004, i + 1, slice_str("[]"), slice(bytes + i, lob_sizes[i]));
		assert_int_equal(sql_exec(c, STMT_JOURNAL_INSERT_1, p, 10), SQL_OK);
	}
	assert_int_equal(sql_commit(c), SQL_OK);
	for (int again = 0; again < 2; again++) {
		lobs.rows = 0;
		assert_int_equal(sql_query(c, STMT_JOURNAL_READ, from, 5, on_lob, &lobs), SQL_OK);
		assert_int_equal(lobs.rows, n);
	}
	assert_int_equal(sql_query(c, STMT_JOURNAL_READ, from, 5, stop_at_first, &rows), SQL_OK);
	assert_int_equal(rows, 1);
	assert_int_equal(number(c, "SELECT 5"), 5);
	free(bytes);
	sql_conn_free(c);
}

static void test_64_rows_in_one_insert(void **state)
{
	struct sql_conn *c = with_heads(1005);
	struct sql_param p[640];

	(void)state;
	for (unsigned i = 0; i < 64; i++)
		batch_row(p + 10 * i, 1005, i + 1, slice_str("[]"), slice_str("x"));
	assert_int_equal(sql_exec(c, STMT_JOURNAL_INSERT_64, p, 640), SQL_OK);
	assert_int_equal(sql_affected(c), 64);
	assert_int_equal(sql_exec(c, STMT_JOURNAL_INSERT_16, p, 160), SQL_DUP);
	assert_null(strstr(sql_error(c), "1005")); /* no values in what is logged */
	assert_int_equal(sql_commit(c), SQL_OK);
	assert_int_equal(number(c, "SELECT COUNT(*) FROM journal WHERE tenant_id=1005"), 64);
	sql_conn_free(c);
}

static void test_bad_data_is_fatal(void **state)
{
	struct sql_conn *c = with_heads(1006);
	struct sql_param p[10];
	size_t size = 65 << 20;
	char *bytes = xcalloc(1, size);

	(void)state;
	batch_row(p, 1006, 1, slice_str("\xff\xfe"), slice_str("x"));
	assert_int_equal(sql_exec(c, STMT_JOURNAL_INSERT_1, p, 10), SQL_FATAL);
	batch_row(p, 1006, 1, slice_str("[]"), slice(bytes, size));
	assert_int_equal(sql_exec(c, STMT_JOURNAL_INSERT_1, p, 10), SQL_FATAL);
	assert_true(sql_conn_is_open(c)); /* refused before the server could hang up */
	batch_row(p, 1006, 1, slice_str("[]"), slice_str("x"));
	assert_int_equal(sql_exec(c, STMT_JOURNAL_INSERT_1, p, 10), SQL_OK);
	free(bytes);
	sql_conn_free(c);
}

/* ---- outcomes ----------------------------------------------------------------------------------
 */

static void *lock_1_then_0(void *arg)
{
	struct sql_conn *c = arg;

	sql_thread_begin();
	if (run(c, "UPDATE head SET bytes=bytes+100 WHERE tenant_id=1010 AND partition_id=0") ==
	    SQL_OK)
		sql_commit(c);
	sql_thread_end();
	return NULL;
}

/* The one of the two that is chosen as the victim must end with nothing stored, also if it goes on.
 */
static void test_deadlock_is_retry_and_never_commits(void **state)
{
	struct sql_conn *a = with_heads(1010), *b = open_dsn(&dsn);
	enum sql_outcome o;
	pthread_t thread;

	(void)state;
	run_ok(a, "UPDATE head SET bytes=1 WHERE tenant_id=1010 AND partition_id=0");
	/* b is the heavier transaction, so a is the victim */
	run_ok(b, "UPDATE head SET bytes=2 WHERE tenant_id=1010 AND partition_id=1;"
	          "INSERT INTO head(tenant_id,partition_id,next_seq,bytes) VALUES "
	          "(1010,5,1,0),(1010,6,1,0),(1010,7,1,0),(1010,8,1,0)");
	pthread_create(&thread, NULL, lock_1_then_0, b);
	usleep(200000);
	o = run(a, "UPDATE head SET bytes=3 WHERE tenant_id=1010 AND partition_id=1");
	assert_int_equal(o, SQL_RETRY);
	assert_int_equal(sql_errno(a), 1213);
	assert_int_equal(run(a, "UPDATE head SET bytes=4 WHERE tenant_id=1010 AND partition_id=9"),
	                 SQL_RETRY);
	assert_int_equal(sql_commit(a), SQL_RETRY);
	pthread_join(thread, NULL);
	assert_int_equal(
	        number(a, "SELECT bytes FROM head WHERE tenant_id=1010 AND partition_id=0"), 100);
	assert_int_equal(
	        number(a, "SELECT bytes FROM head WHERE tenant_id=1010 AND partition_id=1"), 2);
	assert_int_equal(sql_commit(a), SQL_OK); /* the next transaction is a clean one */
	sql_conn_free(a);
	sql_conn_free(b);
}

static void test_lock_wait_is_retry(void **state)
{
	struct sql_conn *a = with_heads(1011), *b = open_dsn(&dsn);

	(void)state;
	run_ok(a, "UPDATE head SET bytes=1 WHERE tenant_id=1011 AND partition_id=0");
	run_ok(b, "UPDATE head SET bytes=2 WHERE tenant_id=1011 AND partition_id=1");
	assert_int_equal(run(b, "UPDATE head SET bytes=2 WHERE tenant_id=1011 AND partition_id=0"),
	                 SQL_RETRY);
	assert_int_equal(sql_errno(b), 1205);
	assert_int_equal(sql_commit(b), SQL_RETRY);
	assert_int_equal(
	        number(b, "SELECT bytes FROM head WHERE tenant_id=1011 AND partition_id=1"), 0);
	sql_conn_free(a);
	sql_conn_free(b);
}

static uint64_t connection_id(struct sql_conn *c)
{
	return number(c, "SELECT CONNECTION_ID()");
}

static void kill_connection(struct sql_conn *by, uint64_t id)
{
	char text[64];

	snprintf(text, sizeof text, "KILL %llu", (unsigned long long)id);
	run_ok(by, text);
}

static void test_lost_before_commit_is_retry(void **state)
{
	struct sql_conn *a = with_heads(1012), *admin = open_dsn(&admin_dsn);
	struct err e;

	(void)state;
	run_ok(a, "UPDATE head SET bytes=1 WHERE tenant_id=1012");
	kill_connection(admin, connection_id(a));
	assert_int_equal(run(a, "SELECT 1"), SQL_RETRY);
	assert_false(sql_conn_is_open(a));
	assert_int_equal(sql_commit(a), SQL_RETRY);
	/* Also when the connection is opened again in between: what came before is gone. */
	assert_int_equal(sql_conn_open(a, &e), 0);
	assert_int_equal(
	        number(a, "SELECT bytes FROM head WHERE tenant_id=1012 AND partition_id=0"), 0);
	sql_conn_free(a);
	sql_conn_free(admin);
}

struct cut {
	struct sql_conn *by;
	const char *kill;
	unsigned rows;
};

static int kill_at_first(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct cut *cut = arg;

	(void)cells;
	(void)n;
	if (!cut->rows++)
		run_ok(cut->by, cut->kill);
	return 0;
}

/* What ends a result between two rows is known for what it is, as what refuses a statement is. */
static void test_result_that_is_cut(void **state)
{
	struct sql_conn *c = with_heads(1031), *admin = open_dsn(&admin_dsn);
	struct sql_param from[] = {sql_u64(1031), sql_u64(0), sql_u64(0), sql_u64(1000),
	                           sql_u64(1000)};
	static const char body[1 << 20];
	struct sql_param p[10];
	unsigned long long id = connection_id(c);
	struct cut cut = {.by = admin};
	char kill[64];

	(void)state;
	for (unsigned i = 0; i < 50; i++) { /* more than sockets hold */
		batch_row(p, 1031, i + 1, slice_str("[]"), slice(body, sizeof body));
		assert_int_equal(sql_exec(c, STMT_JOURNAL_INSERT_1, p, 10), SQL_OK);
	}
	assert_int_equal(sql_commit(c), SQL_OK);
	cut.kill = kill;
	snprintf(kill, sizeof kill, "KILL QUERY %llu", id);
	assert_int_equal(sql_query(c, STMT_JOURNAL_READ, from, 5, kill_at_first, &cut), SQL_RETRY);
	assert_in_range(cut.rows, 1, 49);
	assert_int_equal(sql_errno(c), 1317);
	assert_true(sql_conn_is_open(c));
	sql_rollback(c);
	cut.rows = 0;
	snprintf(kill, sizeof kill, "KILL %llu", id);
	assert_int_equal(sql_query(c, STMT_JOURNAL_READ, from, 5, kill_at_first, &cut), SQL_RETRY);
	assert_in_range(cut.rows, 1, 49);
	assert_false(sql_conn_is_open(c));
	sql_conn_free(c);
	sql_conn_free(admin);
}

struct commit {
	struct sql_conn *c;
	enum sql_outcome outcome;
	atomic_bool over;
};

static void *commit_main(void *arg)
{
	struct commit *k = arg;

	sql_thread_begin();
	k->outcome = sql_commit(k->c);
	atomic_store(&k->over, true);
	sql_thread_end();
	return NULL;
}

/* FLUSH TABLES WITH READ LOCK holds the COMMIT inside the server; then its connection is killed. */
static void test_killed_during_commit_is_unknown(void **state)
{
	struct commit k = {.c = with_heads(1013)};
	struct sql_conn *locker = open_dsn(&admin_dsn), *killer = open_dsn(&admin_dsn);
	uint64_t id = connection_id(k.c);
	pthread_t thread;

	(void)state;
	run_ok(k.c, "UPDATE head SET bytes=1 WHERE tenant_id=1013");
	run_ok(locker, "FLUSH TABLES WITH READ LOCK");
	pthread_create(&thread, NULL, commit_main, &k);
	usleep(300000);
	assert_false(atomic_load(&k.over));
	kill_connection(killer, id);
	pthread_join(thread, NULL);
	assert_int_equal(k.outcome, SQL_UNKNOWN);
	assert_false(sql_conn_is_open(k.c));
	run_ok(locker, "UNLOCK TABLES");
	sql_conn_free(k.c);
	sql_conn_free(locker);
	sql_conn_free(killer);
}

static void test_read_only_server_is_left(void **state)
{
	struct sql_conn *a = with_heads(1014), *admin = open_dsn(&admin_dsn);
	struct err e;

	(void)state;
	run_ok(admin, "SET GLOBAL read_only=1");
	assert_int_equal(run(a, "UPDATE head SET bytes=1 WHERE tenant_id=1014"), SQL_RETRY);
	assert_false(sql_conn_is_open(a));
	assert_int_equal(sql_conn_open(a, &e), 0);
	assert_int_equal(sql_check_durable(sql_conn_server(a), false, &e), -1);
	run_ok(admin, "SET GLOBAL read_only=0");
	sql_conn_free(a);
	sql_conn_free(admin);
}

static void test_server_without_fsync_is_refused(void **state)
{
	struct sql_conn *admin = open_dsn(&admin_dsn), *a;
	struct err e;

	(void)state;
	run_ok(admin, "SET GLOBAL innodb_flush_log_at_trx_commit=2");
	a = open_dsn(&dsn);
	assert_int_equal(sql_check_durable(sql_conn_server(a), false, &e), -1);
	assert_int_equal(sql_check_durable(sql_conn_server(a), true, &e), 0);
	run_ok(admin, "SET GLOBAL innodb_flush_log_at_trx_commit=1");
	assert_int_equal(sql_conn_open(a, &e), 0);
	assert_int_equal(sql_check_durable(sql_conn_server(a), false, &e), 0);
	sql_conn_free(a);
	sql_conn_free(admin);
}

/* ---- TLS ---------------------------------------------------------------------------------------
 */

enum { ERROR_TLS = 2026 };

/* 0, or the error's number. */
static int try_tls(const char *host, const char *ca_name, struct err *e)
{
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	char ca[512];
	struct sql_conn *c;
	struct dsn d;
	int rc;

	dsn_copy(&d, &tls_dsn);
	free(d.hosts[0].name);
	free(d.ssl_ca);
	snprintf(ca, sizeof ca, "%s/%s", getenv("LEAT_TEST_TLS_DIR"), ca_name);
	d.hosts[0].name = xstrdup(host);
	d.ssl_ca = xstrdup(ca);
	c = sql_conn_new(&d, &limits);
	rc = sql_conn_open(c, e);
	sql_conn_free(c);
	dsn_release(&d);
	return rc ? e->code : 0;
}

static void test_tls_is_verified(void **state)
{
	struct err e = {0};

	(void)state;
	if (try_tls("localhost", "ca.pem", &e))
		fail_msg("%s", e.text);
	assert_int_equal(try_tls("localhost", "other-ca.pem", &e), ERROR_TLS);
	assert_int_equal(try_tls("localhost", "missing.pem", &e), ERROR_TLS);
	/* not a name in the certificate */
	assert_int_equal(try_tls("127.0.0.1", "ca.pem", &e), ERROR_TLS);
}

static void test_server_without_tls_is_refused(void **state)
{
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	char ca[512];
	struct sql_conn *c;
	struct dsn d;
	struct err e;

	(void)state;
	dsn_copy(&d, &dsn);
	free(d.socket);
	d.socket = NULL;
	snprintf(ca, sizeof ca, "%s/ca.pem", getenv("LEAT_TEST_TLS_DIR"));
	d.ssl_ca = xstrdup(ca);
	c = sql_conn_new(&d, &limits);
	assert_int_equal(sql_conn_open(c, &e), -1);
	sql_conn_free(c);
	dsn_release(&d);
}

/* ---- migrations --------------------------------------------------------------------------------
 */

static struct dsn scratch; /* a schema of its own, as root */

static void reset_scratch(void)
{
	struct sql_conn *admin = open_dsn(&admin_dsn);

	run_ok(admin, "DROP DATABASE IF EXISTS scratch;CREATE DATABASE scratch");
	sql_conn_free(admin);
}

struct run {
	struct dsn *dsn;
	atomic_uint *steps;
	int rc;
	unsigned before, after;
	struct err e;
};

static void count_step(void *arg, unsigned version, const char *name)
{
	struct run *r = arg;

	(void)version;
	(void)name;
	atomic_fetch_add(r->steps, 1);
}

static void *migrate_main(void *arg)
{
	struct run *r = arg;
	struct migrate_events events = {.on_step = count_step, .arg = r};

	sql_thread_begin();
	r->rc = migrate_run(r->dsn, &events, &r->before, &r->after, &r->e);
	sql_thread_end();
	return NULL;
}

static void test_concurrent_migrations(void **state)
{
	enum { AT_ONCE = 3 };

	(void)state;
	for (int round = 0; round < 5; round++) {
		atomic_uint steps = 0;
		struct run runs[AT_ONCE];
		pthread_t threads[AT_ONCE];

		reset_scratch();
		for (int i = 0; i < AT_ONCE; i++) {
			runs[i] = (struct run){.dsn = &scratch, .steps = &steps};
			pthread_create(&threads[i], NULL, migrate_main, &runs[i]);
		}
		for (int i = 0; i < AT_ONCE; i++) {
			pthread_join(threads[i], NULL);
			if (runs[i].rc)
				fail_msg("round %d: %s", round, runs[i].e.text);
			assert_int_equal(runs[i].after, schema_latest());
		}
		assert_int_equal(steps, schema_latest()); /* each step was run by one of them */
	}
}

static void migrate_once(int rc, const char *says)
{
	atomic_uint steps = 0;
	struct run r = {.dsn = &scratch, .steps = &steps};
	struct migrate_events events = {.on_step = count_step, .arg = &r};

	r.rc = migrate_run(&scratch, &events, &r.before, &r.after, &r.e);
	if (r.rc != rc || (rc && !strstr(r.e.text, says)))
		fail_msg("%d: %s", r.rc, rc ? r.e.text : "");
}

static void check_schema(struct sql_conn *c, int rc, const char *says)
{
	struct err e = {0};

	if (sql_schema_check(c, &e) != rc || (rc && !strstr(e.text, says)))
		fail_msg("%s", e.text);
}

static void test_schema_versions(void **state)
{
	struct sql_conn *c;

	(void)state;
	reset_scratch();
	c = open_dsn(&scratch);
	check_schema(c, -1, "run `leat migrate");
	migrate_once(0, NULL);
	check_schema(c, 0, NULL);
	migrate_once(0, NULL);
	/* Every step may be run again over what it left behind. */
	run_ok(c, "DELETE FROM schema_version");
	assert_int_equal(sql_commit(c), SQL_OK);
	check_schema(c, -1, "at version 0");
	migrate_once(0, NULL);
	check_schema(c, 0, NULL);
	run_ok(c, "INSERT INTO schema_version(version,name) VALUES (9999,'future')");
	assert_int_equal(sql_commit(c), SQL_OK);
	check_schema(c, -1, "newer leat");
	migrate_once(-1, "at version 9999");
	sql_conn_free(c);
}

/* A step that fails in the middle is repeated whole by the next run. */
static void test_failed_step_is_repeated(void **state)
{
	struct sql_conn *c;

	(void)state;
	reset_scratch();
	c = open_dsn(&scratch);
	run_ok(c, "CREATE TABLE change_counter (unexpected INT)");
	migrate_once(-1, "schema step 0001_journal, statement 4");
	run_ok(c, "DROP TABLE change_counter");
	sql_rollback(c);
	migrate_once(0, NULL);
	check_schema(c, 0, NULL);
	sql_conn_free(c);
}

/* Whatever the server: a word that only one of them reserves is found here. */
static void test_every_statement_prepares(void **state)
{
	static const struct {
		const char *name;
		const char *text;
	} all[] = {
#define SQL_STMT(name, commits, text, what) {#name, text},
#include "sql/statements.def"
#undef SQL_STMT
	};
	struct sql_conn *c;
	struct buf text = {0};
	int refused = 0;

	(void)state;
	reset_scratch();
	migrate_once(0, NULL);
	c = open_dsn(&scratch);
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
		buf_clear(&text);
		buf_append_str(&text, "SET @statement=CONVERT(x'");
		for (const char *p = all[i].text; *p; p++)
			buf_printf(&text, "%02x", (unsigned char)*p);
		buf_append_str(&text, "' USING utf8mb4);PREPARE statement FROM @statement");
		if (sql_text(c, text.data, text.len, NULL, SQL_TEXT_PLAIN) == SQL_OK)
			continue;
		print_error("%s: %s\n", all[i].name, sql_error(c));
		refused++;
		sql_rollback(c);
	}
	assert_int_equal(refused, 0);
	buf_release(&text);
	sql_conn_free(c);
}

/* ---- the views ---------------------------------------------------------------------------------
 */

static void test_event_view(void **state)
{
	static const char attributes[] =
	        "[{\"topic\":\"a/b\",\"client\":\"c1\",\"o\":0,\"l\":5},"
	        "{\"topic\":\"\u00e4\",\"q\":0,\"client\":\"c1\",\"id\":\"x1\",\"source\":\"/"
	        "s\",\"type\":\"t\","
	        "\"time\":\"2026-01-01T00:00:00Z\",\"subject\":\"su\",\"key\":\"k\",\"corr\":"
	        "\"co\","
	        "\"caus\":\"ca\",\"ct\":\"text/plain\",\"pf\":1,\"rt\":\"r\",\"cd\":\"aGk=\","
	        "\"up\":[[\"n\",\"v\"],[\"n\",\"w\"]],\"exp\":1000,\"o\":5,\"l\":3}]";
	static const char *const checks[] = {
	        "seq=7 AND id='0-7' AND source='mqtt:c1' AND type='mqtt.publish' AND qos=1 AND"
	        " time=DATE_FORMAT(appended_at,'%Y-%m-%dT%H:%i:%s.%fZ') AND data='hello' AND"
	        " topic='a/b' AND tenant='viewed' AND expires_at IS NULL AND user_properties IS "
	        "NULL",
	        "seq=8 AND id='x1' AND source='/s' AND type='t' AND qos=0 AND subject='su' AND"
	        " time='2026-01-01T00:00:00Z' AND event_key='k' AND correlation_id='co' AND"
	        " causation_id='ca' AND content_type='text/plain' AND payload_format=1 AND"
	        " response_topic='r' AND correlation_data='hi' AND data='yes' AND topic='\u00e4' "
	        "AND"
	        " JSON_EXTRACT(user_properties,'$[1][1]')='w' AND expires_at='1970-01-01 00:00:01'",
	};
	struct sql_conn *c = with_heads(1020);
	struct sql_param p[10];
	char text[1024];

	(void)state;
	run_ok(c, "DELETE FROM tenant WHERE tenant_id=1020;"
	          "INSERT INTO tenant(tenant_id,name) VALUES (1020,'viewed')");
	batch_row(p, 1020, 7, slice_str(attributes), slice_str("helloyes"));
	assert_int_equal(sql_exec(c, STMT_JOURNAL_INSERT_1, p, 10), SQL_OK);
	assert_int_equal(number(c, "SELECT COUNT(*) FROM event WHERE tenant_id=1020"), 2);
	for (size_t i = 0; i < 2; i++) {
		snprintf(text, sizeof text,
		         "SELECT COUNT(*) FROM event WHERE tenant_id=1020 AND %s", checks[i]);
		if (number(c, text) != 1)
			fail_msg("event %zu: %s", i, checks[i]);
	}
	sql_conn_free(c);
}

static void test_lag_view(void **state)
{
	struct sql_conn *c = with_heads(1021);

	(void)state;
	run_ok(c, "DELETE FROM tenant WHERE tenant_id=1021;"
	          "INSERT INTO tenant(tenant_id,name) VALUES (1021,'lagging');"
	          "INSERT INTO "
	          "subscription(tenant_id,subscription_id,kind,subject,name,filters,expiry_s)"
	          " VALUES (1021,77,1,'s','c','[]',60);"
	          "UPDATE head SET next_seq=11 WHERE tenant_id=1021 AND partition_id=0;"
	          "INSERT INTO cursors(tenant_id,subscription_id,partition_id,epoch,acked_through,"
	          "acked_ahead) VALUES (1021,77,0,1,4,''),(1021,77,1,1,0,'')");
	assert_int_equal(number(c, "SELECT behind FROM subscription_lag WHERE tenant_id=1021 AND"
	                           " partition_id=0"),
	                 6);
	assert_int_equal(number(c, "SELECT behind FROM subscription_lag WHERE tenant_id=1021 AND"
	                           " partition_id=1 AND kind='session' AND name='c'"),
	                 0);
	sql_conn_free(c);
}

static int prepare_schema(void **state)
{
	unsigned before, after;
	struct err e;

	(void)state;
	if (migrate_run(&dsn, NULL, &before, &after, &e))
		fatal("%s", e.text);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_session_rules),
	        cmocka_unit_test(test_unchanged_rows_match),
	        cmocka_unit_test(test_head_advance_gives_base_seq),
	        cmocka_unit_test(test_text_of_several_statements),
	        cmocka_unit_test(test_lobs_are_whole),
	        cmocka_unit_test(test_64_rows_in_one_insert),
	        cmocka_unit_test(test_bad_data_is_fatal),
	        cmocka_unit_test(test_deadlock_is_retry_and_never_commits),
	        cmocka_unit_test(test_lock_wait_is_retry),
	        cmocka_unit_test(test_lost_before_commit_is_retry),
	        cmocka_unit_test(test_result_that_is_cut),
	        cmocka_unit_test(test_killed_during_commit_is_unknown),
	        cmocka_unit_test(test_read_only_server_is_left),
	        cmocka_unit_test(test_server_without_fsync_is_refused),
	        cmocka_unit_test(test_tls_is_verified),
	        cmocka_unit_test(test_server_without_tls_is_refused),
	        cmocka_unit_test(test_concurrent_migrations),
	        cmocka_unit_test(test_schema_versions),
	        cmocka_unit_test(test_failed_step_is_repeated),
	        cmocka_unit_test(test_every_statement_prepares),
	        cmocka_unit_test(test_event_view),
	        cmocka_unit_test(test_lag_view),
	};
	int failed;

	sql_library_init();
	load(&dsn, "LEAT_TEST_DSN");
	load(&admin_dsn, "LEAT_TEST_ADMIN_DSN");
	load(&tls_dsn, "LEAT_TEST_TLS_DSN");
	dsn_copy(&scratch, &admin_dsn);
	free(scratch.schema);
	scratch.schema = xstrdup("scratch");
	failed = cmocka_run_group_tests(tests, prepare_schema, NULL);
	dsn_release(&dsn);
	dsn_release(&admin_dsn);
	dsn_release(&tls_dsn);
	dsn_release(&scratch);
	sql_library_end();
	return failed;
}
