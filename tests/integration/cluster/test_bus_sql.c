/* The sql backend of the bus against a real server: the suite of every backend, then what only a
 * database can do to it. See with-server. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/bus_sql.h"
#include "sql/migrate.h"
#include "tests/bus_suite.h"

#include <event2/event.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { DEFERRED_MAX = 64, TTL_MS = 2400, WAIT_MAX_MS = 20000 };

struct node {
	struct sql *sql;
	struct bus *bus;
	bool paused; /* its loop does not turn: no ticks */
	enum bus_state last;
	unsigned downs;
	unsigned others_stored; /* on_others_stored was called so often */
	struct bus_peer peer; /* the other one, as on_peers said; its id is zero when it is gone */
	size_t n_peers;
	struct {
		void (*fn)(void *);
		void *arg;
	} deferred[DEFERRED_MAX];
	size_t n_deferred;
};

static struct event_base *base;
static struct dsn dsn;
static struct sql_conn *admin;
static struct node a, b;
static uint32_t last_tenant = 100;

/* ---- the server, as an admin sees it ------------------------------------------------------------
 */

static struct sql_conn *connect_as(const char *variable)
{
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	struct dsn who;
	struct sql_conn *c;
	struct err e;

	limits.wait_timeout_s = 600;
	if (!getenv(variable) || dsn_load(&who, getenv(variable), &e))
		fatal("%s: run this under with-server", variable);
	c = sql_conn_new(&who, &limits);
	if (sql_conn_open(c, &e))
		fatal("%s", e.text);
	dsn_release(&who);
	return c;
}

static enum sql_outcome try_on(struct sql_conn *c, const char *text)
{
	return sql_text(c, text, strlen(text), NULL, SQL_TEXT_PLAIN);
}

static void run(struct sql_conn *c, const char *text)
{
	if (try_on(c, text) != SQL_OK)
		fatal("%s: %s", text, sql_error(c));
}

static int on_number(void *arg, const struct sql_cell *cells, unsigned n)
{
	(void)n;
	*(uint64_t *)arg = cells[0].u;
	return 0;
}

static uint64_t number_on(struct sql_conn *c, const char *text)
{
	uint64_t v = 0;
	struct sql_text_sink sink = {.on_row = on_number, .arg = &v};

	if (sql_text(c, text, strlen(text), &sink, SQL_TEXT_PLAIN) != SQL_OK)
		fatal("%s: %s", text, sql_error(c));
	sql_commit(c);
	return v;
}

static uint64_t number(const char *text)
{
	return number_on(admin, text);
}

/* ---- nodes --------------------------------------------------------------------------------------
 */

static void defer(void *loop, void (*fn)(void *), void *arg)
{
	struct node *n = loop;

	assert_true(n->n_deferred < DEFERRED_MAX);
	n->deferred[n->n_deferred].fn = fn;
	n->deferred[n->n_deferred++].arg = arg;
}

static void run_deferred(struct node *n)
{
	for (size_t i = 0; i < n->n_deferred; i++)
		n->deferred[i].fn(n->deferred[i].arg);
	n->n_deferred = 0;
}

static void on_generation(void *arg, uint64_t generation, bool up)
{
	struct node *n = arg;

	if (n->bus)
		bus_sql_on_generation(n->bus, generation, up);
}

static void on_state(void *arg, enum bus_state state)
{
	struct node *n = arg;

	n->last = state;
	n->downs += state == BUS_DOWN;
}

static void on_others_stored(void *arg)
{
	struct node *n = arg;

	n->others_stored++;
}

static void on_peers(void *arg, const struct bus_peer *peers, size_t n_peers)
{
	struct node *n = arg;

	n->peer = n_peers ? peers[0] : (struct bus_peer){0};
	n->n_peers = n_peers;
}

static void turn(void)
{
	static const struct timeval tick = {0, 2000};
	struct node *nodes[2] = {&a, &b};

	event_base_loopexit(base, &tick);
	event_base_loop(base, EVLOOP_ONCE);
	clock_tick();
	for (int i = 0; i < 2; i++) {
		if (!nodes[i]->bus || nodes[i]->paused)
			continue;
		run_deferred(nodes[i]);
		bus_sql_tick(nodes[i]->bus);
	}
}

static void pump(struct bus_env *env)
{
	(void)env;
	turn();
}

static void wait_for_state(const struct node *n, enum bus_state state)
{
	uint64_t until = clock_us() + WAIT_MAX_MS * 1000;

	while (n->bus->state != state) {
		turn();
		if (clock_us() > until)
			fatal("the bus never reached state %d", state);
	}
}

static void node_begin(struct node *n, const char *name)
{
	struct sql_settings settings = SQL_SETTINGS_DEFAULT;
	char addr[40];
	struct bus_sql_settings bus_settings = {
	        .name = name, .peer = addr, .ttl_ms = TTL_MS, .defer = defer, .loop = n};
	struct err e;

	memset(n, 0, sizeof *n);
	snprintf(addr, sizeof addr, "%s.test:7883", name);
	n->last = BUS_DOWN;
	settings.on_generation = on_generation;
	settings.arg = n;
	n->sql = sql_new(base, &dsn, &settings, &e);
	n->bus = n->sql ? bus_sql_new(n->sql, &bus_settings, &e) : NULL;
	if (!n->bus)
		fatal("%s", e.text);
	n->bus->events.on_state = on_state;
	n->bus->events.on_peers = on_peers;
	n->bus->events.arg = n;
}

static void node_start(struct node *n, const char *name)
{
	node_begin(n, name);
	wait_for_state(n, BUS_UP);
}

/* As a kill would: no session is ended. */
static void node_kill(struct node *n)
{
	bus_sql_end(n->bus);
	sql_free(n->sql);
	run_deferred(n);
	n->bus->ops->free(n->bus);
	memset(n, 0, sizeof *n);
}

static void on_stopped(void *arg)
{
	*(bool *)arg = true;
}

static void node_stop(struct node *n)
{
	bool stopped = false;

	n->bus->ops->stop(n->bus, on_stopped, &stopped);
	while (!stopped)
		turn();
	node_kill(n);
}

static int begin(void **state)
{
	struct bus_env *env = *state;
	char text[200];

	env->tenant_id = ++last_tenant;
	snprintf(text, sizeof text,
	         "INSERT INTO head(tenant_id,partition_id,next_seq,bytes) VALUES "
	         "(%u,0,1,0),(%u,1,1,0),(%u,2,1,0),(%u,3,1,0)",
	         last_tenant, last_tenant, last_tenant, last_tenant);
	run(admin, text);
	/* 0 partitions: scheduled events go to the one they were stored for, as the suite expects
	 */
	snprintf(text, sizeof text,
	         "INSERT INTO tenant(tenant_id,name,partitions) VALUES (%u,%u,0)", last_tenant,
	         last_tenant);
	run(admin, text);
	assert_int_equal(sql_commit(admin), SQL_OK);
	return 0;
}

static void append_hex(struct buf *out, struct slice s)
{
	buf_append_str(out, ",X'");
	for (size_t i = 0; i < s.n; i++)
		buf_printf(out, "%02x", (unsigned char)s.p[i]);
	buf_append_str(out, "'");
}

/* The row that CALL publish() makes. */
static void publish(struct bus_env *env, const struct batch *one)
{
	struct buf text = {0};
	struct event ev;

	(void)env;
	batch_event(one, 0, &ev);
	buf_printf(&text,
	           "INSERT INTO inbox(tenant_id,deliver_at,account,topic,payload) VALUES "
	           "(%u,IF(%u,CAST('1970-01-01' AS DATETIME(3))+INTERVAL %" PRIu64
	           " MICROSECOND,NULL),'suite'",
	           batch_tenant(one), ev.when != EVENT_NOW, ev.when_ms * 1000);
	append_hex(&text, ev.topic);
	append_hex(&text, ev.payload);
	buf_append(&text, ")", 2);
	run(admin, text.data);
	assert_int_equal(sql_commit(admin), SQL_OK);
	buf_release(&text);
}

static void set_partitions(struct bus_env *env, uint32_t n)
{
	char text[100];

	snprintf(text, sizeof text, "CALL tenant_set_partitions('%u',%u)", env->tenant_id, n);
	run(admin, text);
}

static uint64_t in_journal(const struct bus_env *env)
{
	char text[100];

	snprintf(text, sizeof text, "SELECT COUNT(*) FROM journal WHERE tenant_id=%u",
	         env->tenant_id);
	return number(text);
}

static enum sql_outcome append_one(struct bus_env *env, uint32_t partition_id, unsigned first)
{
	struct batch *batch = suite_batch(env->tenant_id, partition_id, first, 1);
	enum sql_outcome o = suite_append(env, env->bus, 0, &batch, 1);

	batch_unref(batch);
	return o;
}

/* ---- tests --------------------------------------------------------------------------------------
 */

/* 100 heads, 300 batches: every size of insert, and end_bytes that add up. */
static void test_a_large_flush(void **state)
{
	struct bus_env *env = *state;
	static struct batch *batches[300];
	char text[300];

	for (unsigned h = 0; h < 100; h++) {
		snprintf(text, sizeof text,
		         "INSERT INTO head(tenant_id,partition_id,next_seq,bytes) VALUES "
		         "(%u,%u,1,0)",
		         env->tenant_id, 10 + h);
		run(admin, text);
		for (unsigned i = 0; i < 3; i++)
			batches[3 * h + i] = suite_batch(env->tenant_id, 10 + h, 1 + i * 5, 5);
	}
	assert_int_equal(sql_commit(admin), SQL_OK);
	assert_int_equal(suite_append(env, env->bus, 0, batches, 300), SQL_OK);
	for (unsigned i = 0; i < 300; i++) {
		assert_int_equal(batch_base_seq(batches[i]), 1 + i % 3 * 5);
		batch_unref(batches[i]);
	}
	suite_expect(env, env->bus, 10, 1, 1, 15);
	suite_expect(env, env->bus, 109, 1, 1, 15);
	snprintf(text, sizeof text,
	         "SELECT COUNT(*) FROM head h JOIN journal j ON j.tenant_id=h.tenant_id AND"
	         " j.partition_id=h.partition_id WHERE h.tenant_id=%u AND j.base_seq=11 AND"
	         " j.end_bytes=h.bytes",
	         env->tenant_id);
	assert_int_equal(number(text), 100);
	snprintf(text, sizeof text,
	         "SELECT SUM(LENGTH(attributes)+LENGTH(body))=(SELECT SUM(bytes) FROM head WHERE"
	         " tenant_id=%u) FROM journal WHERE tenant_id=%u",
	         env->tenant_id, env->tenant_id);
	assert_int_equal(number(text), 1);
}

/* What a read went past becomes durable by a commit of the reader's own. */
static void test_a_read_confirms(void **state)
{
	struct bus_env *env = *state;
	const char *reader = "SELECT SUM(flush_no) FROM writer WHERE writer_no=2";
	struct bus_read req = {.tenant_id = env->tenant_id, .from_seq = 1, .max_bytes = 1 << 20};
	uint64_t before;

	assert_int_equal(append_one(env, 0, 1), SQL_OK);
	before = number(reader);
	assert_int_equal(suite_read(env, env->bus, &req), SQL_OK);
	assert_int_equal(number(reader), before + 1);
	suite_read_done(&req);
	req.confirmed_seq = 2; /* all of it is known to be durable */
	assert_int_equal(suite_read(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.n, 1);
	assert_int_equal(number(reader), before + 1);
	suite_read_done(&req);
}

static void test_a_bad_row_is_refused(void **state)
{
	struct bus_env *env = *state;
	struct bus_read req = {.tenant_id = env->tenant_id, .from_seq = 1, .max_bytes = 1 << 20};
	char text[300];

	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(append_one(env, 0, 1 + i), SQL_OK);
	snprintf(text, sizeof text, "UPDATE journal SET body='' WHERE tenant_id=%u AND base_seq=2",
	         env->tenant_id);
	run(admin, text);
	assert_int_equal(sql_commit(admin), SQL_OK);
	assert_int_equal(suite_read(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.n, 1); /* up to it */
	suite_read_done(&req);
	req.from_seq = 2;
	assert_int_equal(suite_read(env, env->bus, &req), SQL_FATAL);
	suite_read_done(&req);
}

/* Nothing of a flush is stored when one of its heads belongs to nobody. */
static void test_poisonous_flush(void **state)
{
	struct bus_env *env = *state;
	struct batch *batches[2] = {suite_batch(env->tenant_id, 0, 1, 1),
	                            suite_batch(99999, 0, 1, 1)};

	assert_int_equal(suite_append(env, env->bus, 0, batches, 2), SQL_FATAL);
	assert_int_equal(in_journal(env), 0);
	assert_int_equal(number("SELECT COUNT(*) FROM head WHERE tenant_id=99999"), 0);
	assert_int_equal(suite_append(env, env->bus, 0, batches, 1), SQL_OK);
	batch_unref(batches[0]);
	batch_unref(batches[1]);
}

static void test_lock_wait_is_retry(void **state)
{
	struct bus_env *env = *state;
	char text[100];

	snprintf(text, sizeof text, "UPDATE head SET bytes=bytes WHERE tenant_id=%u",
	         env->tenant_id);
	run(admin, text);
	assert_int_equal(append_one(env, 0, 1), SQL_RETRY);
	sql_rollback(admin);
	assert_int_equal(in_journal(env), 0);
	assert_int_equal(append_one(env, 0, 1), SQL_OK);
}

static void on_append(struct bus_append *req)
{
	*(bool *)req->arg = true;
}

static void start_append(struct bus_env *env, struct bus_append *req, struct batch **batches,
                         size_t n, bool *done)
{
	*req = (struct bus_append){.done = on_append,
	                           .arg = done,
	                           .flush_no = env->writers[0][0].flush_no + 1,
	                           .fence = env->writers[0][0].fence,
	                           .n = n,
	                           .batches = batches};
	env->bus->ops->append(env->bus, req);
}

static void test_deadlock_is_retry(void **state)
{
	struct bus_env *env = *state;
	struct batch *batches[2] = {suite_batch(env->tenant_id, 0, 1, 1),
	                            suite_batch(env->tenant_id, 3, 1, 1)};
	struct bus_append req;
	bool done = false;
	char text[200];

	/* the admin has written more, so the flush is the one that is rolled back */
	for (unsigned i = 0; i < 100; i++) {
		snprintf(text, sizeof text,
		         "INSERT INTO head(tenant_id,partition_id,next_seq,bytes) VALUES "
		         "(%u,%u,1,0)",
		         env->tenant_id, 1000 + i);
		run(admin, text);
	}
	snprintf(text, sizeof text,
	         "UPDATE head SET bytes=bytes WHERE tenant_id=%u AND partition_id=3",
	         env->tenant_id);
	run(admin, text);
	start_append(env, &req, batches, 2, &done);
	for (int i = 0; i < 50; i++)
		turn();
	text[strlen(text) - 1] = '0';
	run(admin, text);
	while (!done)
		turn();
	sql_rollback(admin);
	assert_int_equal(req.outcome, SQL_RETRY);
	assert_int_equal(in_journal(env), 0);
	assert_int_equal(suite_append(env, env->bus, 0, batches, 2), SQL_OK);
	batch_unref(batches[0]);
	batch_unref(batches[1]);
}

/* BACKUP STAGE BLOCK_COMMIT holds every COMMIT; the connection is killed in it. */
static void test_connection_killed_in_commit(void **state)
{
	struct bus_env *env = *state;
	struct batch *batch = suite_batch(env->tenant_id, 0, 1, 1);
	struct bus_append req;
	struct bus_resolve resolve = {.writer_no = 0};
	struct sql_conn *root = connect_as("LEAT_TEST_ADMIN_DSN");
	unsigned downs = a.downs;
	uint64_t id = 0;
	bool done = false;
	char text[100];

	if (!sql_conn_server(root)->mariadb)
		skip();
	if (sql_conn_server(root)->galera) /* to look at what is held, not to wait for it */
		run(root, "SET SESSION wsrep_sync_wait=0");
	run(root, "BACKUP STAGE START;BACKUP STAGE FLUSH;BACKUP STAGE BLOCK_DDL;"
	          "BACKUP STAGE BLOCK_COMMIT");
	start_append(env, &req, &batch, 1, &done);
	for (int i = 0; i < 100; i++)
		turn();
	assert_false(done);
	/* renewals are held as well; the writer's is the one that has an append in it */
	id = number_on(root, "SELECT t.trx_mysql_thread_id FROM information_schema.innodb_trx t"
	                     " ORDER BY t.trx_rows_modified DESC LIMIT 1");
	assert_true(id != 0);
	snprintf(text, sizeof text, "KILL %" PRIu64, id);
	run(root, text);
	while (!done)
		turn();
	run(root, "BACKUP STAGE END");
	assert_int_equal(req.outcome, SQL_UNKNOWN);
	wait_for_state(&a, BUS_DOWN);
	wait_for_state(&a, BUS_UP);
	assert_true(a.downs > downs);
	assert_int_equal(suite_resolve(env, env->bus, &resolve), SQL_OK);
	assert_int_equal(resolve.fence, req.fence + 1);
	if (resolve.flush_no != req.flush_no)
		assert_int_equal(suite_append(env, env->bus, 0, &batch, 1), SQL_OK);
	suite_expect(env, env->bus, 0, 1, 1, 1);
	batch_unref(batch);
	sql_conn_free(root);
}

/* ---- sessions -----------------------------------------------------------------------------------
 */

static void test_ended_session_appends_nothing(void **state)
{
	struct bus_env *env = *state;
	struct id128 before = a.bus->session_id;
	unsigned downs = a.downs;

	a.paused = true;
	run(admin, "UPDATE writer w JOIN node_session n USING (session_id) SET w.state=0,n.state=0"
	           " WHERE n.name='a' AND n.state=1");
	assert_int_equal(sql_commit(admin), SQL_OK);
	assert_int_equal(append_one(env, 0, 1), SQL_LOST);
	assert_int_equal(in_journal(env), 0);
	a.paused = false;
	while (a.downs == downs)
		turn();
	wait_for_state(&a, BUS_UP);
	assert_false(id128_eq(&before, &a.bus->session_id));
	memcpy(env->writers[0], a.bus->writers, sizeof a.bus->writers);
	assert_int_equal(append_one(env, 0, 1), SQL_OK);
}

static struct bus_claim claim_of(struct bus_env *env)
{
	static const struct bus_cursor start = {.partition_id = 0};

	return (struct bus_claim){.tenant_id = env->tenant_id,
	                          .kind = BUS_SUB_SHARE,
	                          .name = slice_str("g/x"),
	                          .create = true,
	                          .expiry_s = UINT32_MAX,
	                          .filters = slice_str("[]"),
	                          .n_starts = 1,
	                          .starts = &start};
}

static void on_any_claim(struct bus_claim *req)
{
	*(bool *)req->arg = true;
}

/* One of many claims runs into a lock: it is to be tried again, and the others are through. */
static void test_a_locked_claim_is_alone(void **state)
{
	struct bus_env *env = *state;
	struct bus_claim *claims = xcalloc(4, sizeof *claims);
	bool done[4] = {false};
	char names[4][8];
	char text[200];

	for (size_t i = 0; i < 4; i++) {
		snprintf(names[i], sizeof names[i], "c%zu", i);
		claims[i] = claim_of(env);
		claims[i].name = slice_str(names[i]);
		assert_int_equal(suite_claim(env, a.bus, &claims[i]), SQL_OK);
		a.bus->ops->claim_release(a.bus, &claims[i]);
	}
	snprintf(text, sizeof text,
	         "SELECT 1 FROM subscription WHERE tenant_id=%u AND name='c2' FOR UPDATE",
	         env->tenant_id);
	run(admin, text);
	for (size_t i = 0; i < 4; i++) {
		claims[i].done = on_any_claim;
		claims[i].arg = &done[i];
		a.bus->ops->claim(a.bus, &claims[i]);
	}
	for (size_t i = 0; i < 4; i++) {
		while (!done[i])
			turn();
		assert_int_equal(claims[i].outcome, i == 2 ? SQL_RETRY : SQL_OK);
		a.bus->ops->claim_release(a.bus, &claims[i]);
		if (i != 2)
			assert_int_equal(claims[i].epoch, 2);
	}
	sql_rollback(admin);
	free(claims);
}

/* Subscriptions c0 .., with nobody's cursor moved, and a claim of each that was not sent yet. */
static struct bus_claim *make_claims(struct bus_env *env, char (*names)[24], bool *done, size_t n)
{
	struct bus_claim *claims = xcalloc(n, sizeof *claims);

	for (size_t i = 0; i < n; i++) {
		snprintf(names[i], sizeof *names, "c%zu", i);
		claims[i] = claim_of(env);
		claims[i].name = slice_str(names[i]);
		assert_int_equal(suite_claim(env, a.bus, &claims[i]), SQL_OK);
		a.bus->ops->claim_release(a.bus, &claims[i]);
		claims[i].create = false;
		claims[i].done = on_any_claim;
		claims[i].arg = &done[i];
	}
	return claims;
}

/* Others touch one of many between the look at it and the claim: that one is looked at again. */
static void test_who_is_quicker_with_one_of_many(void **state)
{
	struct bus_env *env = *state;
	bool done[4] = {false};
	char names[4][24];
	struct bus_claim *claims = make_claims(env, names, done, 4);
	char text[200];

	snprintf(
	        text, sizeof text,
	        "UPDATE subscription SET epoch=epoch+1,owner=NULL WHERE tenant_id=%u AND name='c2'",
	        env->tenant_id);
	run(admin, text);
	for (size_t i = 0; i < 4; i++)
		a.bus->ops->claim(a.bus, &claims[i]);
	while (!done[0])
		turn();
	for (uint64_t from = clock_now_ms(); clock_now_ms() < from + 200;)
		turn();
	assert_false(done[1] || done[2] || done[3]); /* they wait for it, together */
	assert_int_equal(sql_commit(admin), SQL_OK);
	for (size_t i = 0; i < 4; i++) {
		while (!done[i])
			turn();
		assert_int_equal(claims[i].outcome, i == 2 ? SQL_RETRY : SQL_OK);
		if (i != 2)
			assert_int_equal(claims[i].epoch, 2);
		a.bus->ops->claim_release(a.bus, &claims[i]);
	}
	assert_int_equal(suite_claim(env, a.bus, &claims[2]), SQL_OK);
	assert_int_equal(claims[2].epoch, 3);
	a.bus->ops->claim_release(a.bus, &claims[2]);
	free(claims);
}

static int on_status(void *arg, const struct sql_cell *cells, unsigned n)
{
	if (n == 2)
		*(uint64_t *)arg = strtoull(cells[1].bytes.p, NULL, 10);
	return 0;
}

static uint64_t statements_run(void)
{
	static const char text[] = "SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'";
	uint64_t v = 0;
	struct sql_text_sink sink = {.on_row = on_status, .arg = &v};

	assert_int_equal(sql_text(admin, text, sizeof text - 1, &sink, SQL_TEXT_PLAIN), SQL_OK);
	return v;
}

/* What an attempt found does not stand when the next one finds out nothing. */
static void test_claim_that_is_refused_after_none_was_there(void **state)
{
	struct bus_env *env = *state;
	struct bus_claim claim = {.tenant_id = env->tenant_id,
	                          .kind = BUS_SUB_SHARE,
	                          .name = slice_str("none/t"),
	                          .expiry_s = 60,
	                          .filters = slice_str("[]")};

	assert_int_equal(suite_claim(env, a.bus, &claim), SQL_FATAL);
	assert_true(claim.absent);
	run(admin, "RENAME TABLE subscription TO subscription_away");
	assert_int_equal(suite_claim(env, a.bus, &claim), SQL_FATAL);
	run(admin, "RENAME TABLE subscription_away TO subscription");
	assert_false(claim.absent);
	assert_non_null(strstr(claim.error, "SUB_FIND"));
}

/* A node that takes over has thousands, and each statement is a round trip. */
static void test_claims_share_statements(void **state)
{
	enum { N = 60 };
	struct bus_env *env = *state;
	bool done[N] = {false};
	char names[N][24];
	struct bus_claim *claims = make_claims(env, names, done, N);
	uint64_t before = statements_run();

	for (size_t i = 0; i < N; i++)
		a.bus->ops->claim(a.bus, &claims[i]);
	for (size_t i = 0; i < N; i++) {
		while (!done[i])
			turn();
		assert_int_equal(claims[i].outcome, SQL_OK);
		assert_int_equal(claims[i].epoch, 2);
		a.bus->ops->claim_release(a.bus, &claims[i]);
	}
	assert_true(statements_run() - before < N);
	free(claims);
}

static void on_any_change(struct bus_change *req)
{
	*(bool *)req->arg = true;
}

static void test_a_locked_release_is_alone(void **state)
{
	struct bus_env *env = *state;
	struct bus_change changes[4];
	bool done[4] = {false};
	char text[200];

	for (size_t i = 0; i < 4; i++) {
		struct bus_claim claim = claim_of(env);

		snprintf(text, sizeof text, "c%zu", i);
		claim.name = slice_str(text);
		assert_int_equal(suite_claim(env, a.bus, &claim), SQL_OK);
		changes[i] = (struct bus_change){.done = on_any_change,
		                                 .arg = &done[i],
		                                 .verb = BUS_CHANGE_RELEASE,
		                                 .tenant_id = env->tenant_id,
		                                 .subscription_id = claim.subscription_id,
		                                 .epoch = claim.epoch,
		                                 .expiry_s = 60};
		a.bus->ops->claim_release(a.bus, &claim);
	}
	snprintf(text, sizeof text,
	         "SELECT 1 FROM subscription WHERE tenant_id=%u AND name='c2' FOR UPDATE",
	         env->tenant_id);
	run(admin, text);
	for (size_t i = 0; i < 4; i++)
		a.bus->ops->change(a.bus, &changes[i]);
	for (size_t i = 0; i < 4; i++) {
		while (!done[i])
			turn();
		assert_int_equal(changes[i].outcome, i == 2 ? SQL_RETRY : SQL_OK);
	}
	sql_rollback(admin);
}

/* A session that stands still is ended by who looks, and its subscriptions are free then. */
static void test_a_dead_node_is_ended(void **state)
{
	struct bus_env *env = *state;
	struct bus_claim theirs = claim_of(env);
	struct bus_claim mine = claim_of(env);
	uint64_t began;

	assert_int_equal(suite_claim(env, b.bus, &theirs), SQL_OK);
	b.bus->ops->claim_release(b.bus, &theirs);
	node_kill(&b);
	began = clock_us();
	assert_int_equal(suite_claim(env, a.bus, &mine), SQL_LOST);
	do {
		for (int i = 0; i < 20; i++)
			turn();
		assert_true(clock_us() - began < WAIT_MAX_MS * 1000);
	} while (suite_claim(env, a.bus, &mine) == SQL_LOST);
	assert_int_equal(mine.outcome, SQL_OK);
	assert_false(mine.created);
	assert_int_equal(mine.epoch, theirs.epoch + 1);
	assert_true(clock_us() - began > TTL_MS * 1000 / 2);
	a.bus->ops->claim_release(a.bus, &mine);
	node_start(&b, "b");
	env->other = b.bus;
}

/* One of its name that is about to open cannot be seen yet: it is waited for, then replaced. */
static void test_two_of_a_name_at_once(void **state)
{
	struct bus_env *env = *state;

	node_kill(&b);
	run(admin, "UPDATE node_session SET state=0 WHERE name='b'");
	assert_int_equal(sql_commit(admin), SQL_OK);
	run(admin, "INSERT INTO node_session(session_id,name) VALUES (UNHEX(REPEAT('ab',16)),'b')");
	node_begin(&b, "b");
	for (int i = 0; i < 300; i++)
		turn();
	assert_int_equal(b.bus->state, BUS_DOWN);
	assert_int_equal(sql_commit(admin), SQL_OK);
	wait_for_state(&b, BUS_UP);
	assert_int_equal(
	        number("SELECT state FROM node_session WHERE session_id=UNHEX(REPEAT('ab',16))"),
	        2);
	assert_int_equal(number("SELECT COUNT(*) FROM node_session WHERE name='b' AND state=1"), 1);
	env->other = b.bus;
}

/* Renewals of a busy pair of nodes go on: nobody is ended by looks at a living session. */
static void test_living_nodes_stay(void **state)
{
	struct id128 ids[2] = {a.bus->session_id, b.bus->session_id};
	uint64_t until = clock_us() + 2 * TTL_MS * 1000;

	(void)state;
	while (clock_us() < until)
		turn();
	assert_true(id128_eq(&ids[0], &a.bus->session_id));
	assert_true(id128_eq(&ids[1], &b.bus->session_id));
	assert_int_equal(a.bus->state, BUS_UP);
	assert_int_equal(b.bus->state, BUS_UP);
}

static void wait_for_peers(const struct node *n, size_t n_peers)
{
	uint64_t until = clock_us() + WAIT_MAX_MS * 1000;

	while (n->n_peers != n_peers) {
		turn();
		assert_true(clock_us() < until);
	}
}

/* A node knows the others as it starts, and hears of those that come and go. */
static void test_peers_are_told(void **state)
{
	struct bus_env *env = *state;

	wait_for_peers(&a, 1);
	assert_true(id128_eq(&a.peer.session_id, &b.bus->session_id));
	assert_string_equal(a.peer.addr, "b.test:7883");
	node_stop(&b);
	wait_for_peers(&a, 0);
	node_start(&b, "b");
	env->other = b.bus;
	assert_int_equal(b.n_peers, 1); /* with its session, not with its first look */
	assert_string_equal(b.peer.addr, "a.test:7883");
	a.bus->ops->look(a.bus);
	wait_for_peers(&a, 1);
	assert_true(id128_eq(&a.peer.session_id, &b.bus->session_id));
}

/* Turns of a's loop: it looks several times. */
static unsigned told_of_others(unsigned before)
{
	uint64_t until = clock_us() + 300 * 1000;

	a.paused = false;
	while (clock_us() < until)
		turn();
	a.paused = true;
	for (int i = 0; i < 50; i++) /* a look under way comes back */
		turn();
	return a.others_stored - before;
}

static uint64_t append_at_b(struct bus_env *env)
{
	struct batch *batch = suite_batch(env->tenant_id, 2, 1, 1);

	assert_int_equal(suite_append(env, b.bus, 0, &batch, 1), SQL_OK);
	batch_unref(batch);
	return env->writers[1][0].flush_no;
}

/* What was told of over a link the looks keep quiet about, unless something is missing. */
static void test_hinted_flushes_are_known(void **state)
{
	struct bus_env *env = *state;
	struct id128 id = b.bus->session_id;
	uint64_t flush_no;

	memset(env->writers[1], 0, sizeof env->writers[1]); /* b lives anew */
	a.bus->events.on_others_stored = on_others_stored;
	told_of_others(0);
	append_at_b(env);
	assert_true(told_of_others(a.others_stored) > 0);
	for (int i = 0; i < 3; i++) {
		flush_no = append_at_b(env);
		a.bus->ops->hinted(a.bus, &id, 0, flush_no);
	}
	assert_int_equal(told_of_others(a.others_stored), 0);
	append_at_b(env); /* its hint is lost */
	flush_no = append_at_b(env);
	a.bus->ops->hinted(a.bus, &id, 0, flush_no);
	assert_true(told_of_others(a.others_stored) > 0);
	a.bus->ops->hinted(a.bus, &id, 0, flush_no + 7); /* a lie hides nothing */
	a.bus->ops->hinted(a.bus, &id, 0, flush_no - 1);
	append_at_b(env);
	assert_true(told_of_others(a.others_stored) > 0);
	a.bus->events.on_others_stored = NULL;
	a.paused = false;
}

static void on_role(struct bus_role_claim *req)
{
	*(bool *)req->arg = true;
}

static void on_retained(struct bus_retain *req)
{
	*(bool *)req->arg = true;
}

/* ---- what is due and cannot be stored
 * ------------------------------------------------------------
 */

/* A batch with scheduled events of these partitions, one second ago, and payloads 1, 2, … */
static struct batch *due_in(const struct bus_env *env, const uint32_t *partitions, size_t n)
{
	struct batch *batch = batch_new(env->tenant_id, BATCH_SCHEDULED);

	for (size_t i = 0; i < n; i++) {
		char payload[16];
		struct event ev = {.topic = slice_str("t"),
		                   .payload = {.p = payload},
		                   .qos = 1,
		                   .when = EVENT_AT,
		                   .when_ms = clock_wall_ms() - 1000 + i,
		                   .partition_id = partitions[i]};

		ev.payload.n = (size_t)snprintf(payload, sizeof payload, "%zu", i + 1);
		assert_int_equal(batch_append(batch, &ev, (struct publisher){0}), 0);
	}
	batch_seal(batch);
	return batch;
}

struct fired {
	unsigned calls, moved, refused;
};

/* Until nothing is due any more. */
static struct fired fire_all(struct bus_env *env, uint64_t epoch)
{
	struct fired sum = {0};
	struct bus_fire req;

	do {
		req = (struct bus_fire){.epoch = epoch, .limit = 1000};
		assert_int_equal(suite_fire(env, a.bus, &req), SQL_OK);
		sum.calls++;
		sum.moved += (unsigned)req.n_late;
		sum.refused += req.refused;
		suite_fire_done(&req);
		assert_true(sum.calls < 200);
	} while (req.next_in_ms == 0);
	return sum;
}

static uint64_t count_of(const struct bus_env *env, const char *table, const char *where)
{
	char text[200];

	snprintf(text, sizeof text, "SELECT COUNT(*) FROM %s WHERE tenant_id=%u AND %s", table,
	         env->tenant_id, where);
	return number(text);
}

/* A poisonous row, first, last or in the middle, and a poisonous tick: they alone stay behind. */
static void test_what_cannot_be_moved_is_set_aside(void **state)
{
	enum { N = 40, NO_HEAD = 77 };
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, a.bus);
	uint32_t partitions[N] = {[0] = NO_HEAD, [22] = NO_HEAD, [23] = NO_HEAD, [N - 1] = NO_HEAD};
	struct batch *batch;
	struct fired sum;
	char text[600];

	for (size_t i = 24; i < N - 1; i++)
		partitions[i] = 1;
	batch = due_in(env, partitions, N);

	assert_int_equal(suite_append(env, a.bus, 0, &batch, 1), SQL_OK);
	batch_unref(batch);
	last_tenant++;
	snprintf(text, sizeof text,
	         "INSERT INTO tenant(tenant_id,name) VALUES (%u,'headless');"
	         "INSERT INTO schedule(tenant_id,name,cron,next_at,topic,payload) VALUES"
	         " (%u,'poison','@every 1h',UTC_TIMESTAMP(3)-INTERVAL 1 MINUTE,'t','')",
	         last_tenant, last_tenant);
	run(admin, text);
	assert_int_equal(sql_commit(admin), SQL_OK);

	sum = fire_all(env, epoch);
	assert_int_equal(sum.moved, N - 4);
	assert_int_equal(sum.refused, 5);
	assert_true(sum.calls < 80);
	suite_expect(env, a.bus, 0, 1, 2, 21); /* in their order */
	suite_expect(env, a.bus, 1, 1, 25, N - 25);
	assert_int_equal(count_of(env, "timer", "due_at IS NULL AND refused='tenant is gone'"), 4);
	assert_int_equal(count_of(env, "timers", "state='refused'"), 4);
	assert_int_equal(count_of(env, "audit", "action='timer.refused'"), 4);
	assert_int_equal(number("SELECT COUNT(*) FROM schedule WHERE state=3 AND name='poison'"),
	                 1);
	assert_int_equal(number("SELECT COUNT(*) FROM audit WHERE action='schedule.error'"), 1);

	/* and they are as before: many at a time, ticks with them */
	batch = due_in(env, partitions + 1, 20);
	assert_int_equal(suite_append(env, a.bus, 0, &batch, 1), SQL_OK);
	batch_unref(batch);
	sum = fire_all(env, epoch);
	assert_int_equal(sum.moved, 20);
	assert_int_equal(sum.calls, 1);
	assert_int_equal(suite_release_role(env, a.bus, epoch), SQL_OK);
}

/* What a schedule that ticks every second, and has a payload of five bytes, comes to. */
static struct bus_ticked tick_with(struct bus_env *env, struct bus_fire req, size_t batches)
{
	struct bus_ticked of;
	char text[200];

	snprintf(
	        text, sizeof text,
	        "UPDATE schedule SET next_at=UTC_TIMESTAMP(3)-INTERVAL 1 MINUTE WHERE tenant_id=%u",
	        env->tenant_id);
	run(admin, text);
	assert_int_equal(sql_commit(admin), SQL_OK);
	assert_int_equal(suite_fire(env, a.bus, &req), SQL_OK);
	assert_int_equal(req.n, batches);
	assert_int_equal(req.n_late, batches);
	assert_int_equal(req.n_ticked, 1);
	of = req.ticked[0];
	free(req.ticked);
	suite_fire_done(&req);
	assert_int_equal(of.tenant_id, env->tenant_id);
	assert_int_equal(count_of(env, "schedule", "next_at>UTC_TIMESTAMP(3)-INTERVAL 1 SECOND"),
	                 1); /* it goes on either way */
	return of;
}

/* The owner says who is over its rate and how large a tick may be, and is told what became of them.
 */
static void test_ticks_are_told(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, a.bus);
	const uint32_t others[] = {env->tenant_id + 1, env->tenant_id + 2};
	const uint32_t over[] = {env->tenant_id + 1, env->tenant_id};
	struct bus_ticked of;
	char text[200];

	snprintf(text, sizeof text,
	         "INSERT INTO schedule(tenant_id,name,cron,topic,payload)"
	         " VALUES (%u,'told','@every 1s','t','12345')",
	         env->tenant_id);
	run(admin, text);
	of = tick_with(
	        env, (struct bus_fire){.epoch = epoch, .limit = 10, .over = over, .n_over = 2}, 0);
	assert_int_equal(of.left_out[BUS_LEFT_OUT_RATE], 1);
	assert_int_equal(of.ticks, 0);
	of = tick_with(env, (struct bus_fire){.epoch = epoch, .limit = 10, .max_event_bytes = 4},
	               0);
	assert_int_equal(of.left_out[BUS_LEFT_OUT_LARGE], 1);
	assert_int_equal(of.largest, 5);
	assert_int_equal(of.ticks, 0);
	assert_int_equal(count_of(env, "schedule", "ticks=0"), 1);
	of = tick_with(env,
	               (struct bus_fire){.epoch = epoch,
	                                 .limit = 10,
	                                 .over = others,
	                                 .n_over = 2,
	                                 .max_event_bytes = 5},
	               1);
	assert_int_equal(of.ticks, 1);
	assert_int_equal(of.bytes, 5);
	assert_int_equal(of.left_out[BUS_LEFT_OUT_RATE] + of.left_out[BUS_LEFT_OUT_LARGE], 0);
	assert_int_equal(count_of(env, "schedule", "ticks=1"), 1);
	snprintf(text, sizeof text, "DELETE FROM schedule WHERE tenant_id=%u", env->tenant_id);
	run(admin, text);
	assert_int_equal(sql_commit(admin), SQL_OK);
	assert_int_equal(suite_release_role(env, a.bus, epoch), SQL_OK);
}

/* ---- a crowd in the inbox -----------------------------------------------------------------------
 */

static void publish_on(struct sql_conn *c, uint32_t tenant_id, unsigned first, unsigned n)
{
	struct buf text = {0};

	for (unsigned i = first; i < first + n; i++)
		buf_printf(&text,
		           "%sINSERT INTO inbox(tenant_id,account,topic,payload) VALUES "
		           "(%u,'suite','t','%u')",
		           i > first ? ";" : "", tenant_id, i);
	run(c, text.data);
	buf_release(&text);
}

static size_t collect_up_to(struct bus_env *env, uint64_t epoch, uint32_t limit)
{
	struct bus_collect req = {.epoch = epoch, .limit = limit};
	size_t n;

	assert_int_equal(suite_collect(env, a.bus, &req), SQL_OK);
	assert_true(req.n_late <= limit);
	n = req.n_late;
	suite_collect_done(&req);
	return n;
}

static void expect_of(struct bus_env *env, uint32_t tenant_id, unsigned first, unsigned n)
{
	env->tenant_id = tenant_id;
	suite_expect(env, a.bus, 0, 1, first, n);
}

static void set_weight(uint32_t tenant_id, unsigned weight)
{
	char text[100];

	snprintf(text, sizeof text, "UPDATE tenant SET weight=%u WHERE tenant_id=%u", weight,
	         tenant_id);
	run(admin, text);
	assert_int_equal(sql_commit(admin), SQL_OK);
}

/* More tenants than one transaction has room for: who was not served is served next. */
static void test_a_crowd_goes_round(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, a.bus);
	uint32_t tenants[5];
	size_t moved = 0;

	for (size_t i = 0; i < 5; i++) {
		begin(state);
		tenants[i] = env->tenant_id;
		publish_on(admin, tenants[i], 1, 4);
	}
	assert_int_equal(sql_commit(admin), SQL_OK);
	for (unsigned round = 0; round < 10 && moved < 20; round++) {
		moved += collect_up_to(env, epoch, 3);
		for (size_t i = 0; round == 1 && i < 5; i++) {
			env->tenant_id = tenants[i];
			assert_true(in_journal(env) > 0);
		}
	}
	assert_int_equal(moved, 20);
	assert_int_equal(collect_up_to(env, epoch, 3), 0);
	for (size_t i = 0; i < 5; i++)
		expect_of(env, tenants[i], 1, 4);
	suite_release_inbox(env, a.bus, epoch);
}

/* Weight 3 has three times what weight 1 has. */
static void test_a_crowd_by_weight(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, a.bus);
	uint32_t light = env->tenant_id;

	publish_on(admin, light, 1, 40);
	begin(state);
	publish_on(admin, env->tenant_id, 1, 40);
	set_weight(env->tenant_id, 3);
	assert_int_equal(collect_up_to(env, epoch, 20), 20);
	suite_expect(env, a.bus, 0, 1, 1, 15);
	set_weight(env->tenant_id, 1);
	assert_int_equal(collect_up_to(env, epoch, 4), 4);
	assert_int_equal(collect_up_to(env, epoch, 20), 20);
	suite_expect(env, a.bus, 0, 1, 1, 15 + 3 + 10);
	expect_of(env, light, 1, 5 + 1 + 10);
	while (collect_up_to(env, epoch, 100))
		;
	expect_of(env, light, 1, 40);
	suite_release_inbox(env, a.bus, epoch);
}

/* A transaction that took a low id commits while there is a crowd, and its application's next one
 * right after it: looks that go on from where the last ended must not bring the second first. */
static void test_a_crowd_keeps_the_order(void **state)
{
	enum { OTHERS = 60, SHARE = 3, MANY = 700 };
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, a.bus);
	struct sql_conn *late = connect_as("LEAT_TEST_ADMIN_DSN");
	uint32_t other = env->tenant_id;
	uint32_t ours;

	run(late, "BEGIN");
	begin(state);
	ours = env->tenant_id;
	publish_on(late, ours, 11, 1);
	publish_on(admin, other, 1, MANY);
	publish_on(admin, ours, 1, 10);
	for (unsigned i = 0; i < OTHERS; i++) {
		begin(state);
		publish_on(admin, env->tenant_id, 1, 1);
	}
	assert_int_equal(sql_commit(admin), SQL_OK);
	assert_int_equal(collect_up_to(env, epoch, (OTHERS + 2) * SHARE), OTHERS + 2 * SHARE);
	expect_of(env, ours, 1, SHARE); /* and from now on it is looked at above them */
	assert_int_equal(sql_commit(late), SQL_OK);
	publish_on(late, ours, 12, 1);
	assert_int_equal(sql_commit(late), SQL_OK);
	while (collect_up_to(env, epoch, 100))
		;
	expect_of(env, ours, 1, 12);
	expect_of(env, other, 1, MANY);
	suite_release_inbox(env, a.bus, epoch);
	sql_conn_free(late);
}

static void set_moving(uint32_t tenant_id, bool moving)
{
	char text[120];

	snprintf(text, sizeof text,
	         moving ? "INSERT INTO tenant_move(tenant_id,direction,source) VALUES (%u,1,'')"
	                : "DELETE FROM tenant_move WHERE tenant_id=%u",
	         tenant_id);
	run(admin, text);
	assert_int_equal(sql_commit(admin), SQL_OK);
}

/* Nothing of a tenant that is being moved is touched, alone or in a crowd. */
static void test_who_is_moved_is_left_alone(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, a.bus);
	uint32_t moving = env->tenant_id;
	uint32_t other;

	set_moving(moving, true);
	publish_on(admin, moving, 1, 30);
	assert_int_equal(sql_commit(admin), SQL_OK);
	assert_int_equal(collect_up_to(env, epoch, 10), 0);
	assert_int_equal(collect_up_to(env, epoch, 10), 0);
	begin(state);
	other = env->tenant_id;
	publish_on(admin, other, 1, 30);
	assert_int_equal(sql_commit(admin), SQL_OK);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(collect_up_to(env, epoch, 10), 10);
	assert_int_equal(collect_up_to(env, epoch, 10), 0);
	expect_of(env, other, 1, 30);
	env->tenant_id = moving;
	assert_int_equal(in_journal(env), 0);
	assert_int_equal(count_of(env, "inbox", "state=1"), 30);
	set_moving(moving, false);
	while (collect_up_to(env, epoch, 100))
		;
	expect_of(env, moving, 1, 30);
	suite_release_inbox(env, a.bus, epoch);
}

/* It is moved when it is in the crowd already, and who it was is known. */
static void test_who_begins_to_be_moved_in_a_crowd(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, a.bus);
	uint32_t moving = env->tenant_id;

	publish_on(admin, moving, 1, 30);
	begin(state);
	publish_on(admin, env->tenant_id, 1, 30);
	assert_int_equal(sql_commit(admin), SQL_OK);
	assert_int_equal(collect_up_to(env, epoch, 10), 10);
	set_moving(moving, true);
	while (collect_up_to(env, epoch, 10))
		;
	suite_expect(env, a.bus, 0, 1, 1, 30);
	env->tenant_id = moving;
	assert_int_equal(count_of(env, "inbox", "state=1"), 25);
	set_moving(moving, false);
	while (collect_up_to(env, epoch, 10))
		;
	expect_of(env, moving, 1, 30);
	suite_release_inbox(env, a.bus, epoch);
}

/* ---- a crowd of timers --------------------------------------------------------------------------
 */

enum { FIRST_PACED = 200 }; /* rows of a transaction, until it is known how long one takes */

/* Payloads `first`, and so on, behind so many spaces. */
static void store_large(struct bus_env *env, uint64_t when_ms, unsigned first, unsigned n,
                        size_t bytes)
{
	struct batch *batch = batch_new(env->tenant_id, BATCH_SCHEDULED);
	char *payload = xcalloc(1, bytes + 16);

	memset(payload, ' ', bytes);
	for (unsigned i = first; i < first + n; i++) {
		struct event ev = {
		        .topic = slice_str("t"), .qos = 1, .when = EVENT_AT, .when_ms = when_ms};

		ev.payload = slice(payload, bytes + (size_t)sprintf(payload + bytes, "%u", i));
		assert_int_equal(batch_append(batch, &ev, (struct publisher){0}), 0);
	}
	batch_seal(batch);
	assert_int_equal(suite_append(env, a.bus, 0, &batch, 1), SQL_OK);
	batch_unref(batch);
	free(payload);
}

static void store_due(struct bus_env *env, uint64_t when_ms, unsigned first, unsigned n)
{
	store_large(env, when_ms, first, n, 0);
}

static size_t fire_once(struct bus_env *env, uint64_t epoch, uint32_t limit)
{
	struct bus_fire req = {.epoch = epoch, .limit = limit};
	size_t n;

	assert_int_equal(suite_fire(env, a.bus, &req), SQL_OK);
	n = req.n_late;
	suite_fire_done(&req);
	return n;
}

/* By weight; the rows are due at one moment, and each keeps its order. */
static void test_timers_of_a_crowd(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, a.bus);
	uint32_t light = env->tenant_id;
	uint32_t heavy;

	set_weight(light, 2);
	store_due(env, 1000, 1, 90);
	begin(state);
	heavy = env->tenant_id;
	set_weight(heavy, 6);
	store_due(env, 1000, 1, 90);
	assert_int_equal(fire_once(env, epoch, 40), 40);
	suite_expect(env, a.bus, 0, 1, 1, 30);
	expect_of(env, light, 1, 10);
	set_weight(light, 6);
	set_weight(heavy, 2);
	assert_int_equal(fire_once(env, epoch, 4), 4);
	begin(state); /* it has little, and is found among those who are known */
	store_due(env, 2000, 1, 2);
	assert_int_equal(fire_once(env, epoch, 34), 34);
	suite_expect(env, a.bus, 0, 1, 1, 2);
	expect_of(env, light, 1, 10 + 1 + 24);
	store_due(env, 500, 91, 1); /* before what was moved */
	assert_int_equal(fire_all(env, epoch).moved, 2 * 90 + 3 - 78);
	assert_int_equal(count_of(env, "timer", "1"), 0);
	expect_of(env, heavy, 1, 90);
	suite_release_role(env, a.bus, epoch);
}

static void test_timers_of_who_is_moved(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, a.bus);
	uint32_t moving = env->tenant_id;
	uint32_t later;

	store_due(env, 1000, 1, 30);
	set_moving(moving, true);
	assert_int_equal(fire_once(env, epoch, 10), 0);
	begin(state);
	store_due(env, 1000, 1, 1);
	assert_int_equal(fire_once(env, epoch, 100), 1);
	begin(state);
	later = env->tenant_id;
	store_due(env, 1000, 1, 30);
	begin(state);
	store_due(env, 1000, 1, 30);
	assert_int_equal(fire_once(env, epoch, 10), 10);
	set_moving(later, true);
	assert_int_equal(fire_all(env, epoch).moved, 25);
	expect_of(env, later, 1, 5);
	env->tenant_id = moving;
	assert_int_equal(in_journal(env), 0);
	set_moving(moving, false);
	set_moving(later, false);
	assert_int_equal(fire_all(env, epoch).moved, 55);
	expect_of(env, moving, 1, 30);
	expect_of(env, later, 1, 30);
	suite_release_role(env, a.bus, epoch);
}

/* Of 160 rows only some 50 fit, for their bytes: what is over is not the few of another. */
static void test_large_rows_of_a_crowd(void **state)
{
	enum { MANY = 180, AT_ONCE = 160, LARGE = 20000 };
	struct bus_env *env = *state;
	uint64_t role = suite_take_role(env, a.bus);
	uint64_t inbox = suite_take_inbox(env, a.bus);
	char text[300];
	size_t n;

	snprintf(text, sizeof text,
	         "INSERT INTO inbox(tenant_id,account,topic,payload) WITH RECURSIVE n(i) AS"
	         " (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<%d)"
	         " SELECT %u,'suite','t',REPEAT('x',%d) FROM n",
	         MANY, env->tenant_id, LARGE);
	run(admin, text);
	for (unsigned i = 0; i < MANY; i += 10)
		store_large(env, 1000, 1, 10, LARGE);
	begin(state);
	publish_on(admin, env->tenant_id, 1, 2);
	assert_int_equal(sql_commit(admin), SQL_OK);
	store_due(env, 2000, 3, 2);
	assert_in_range(collect_up_to(env, inbox, AT_ONCE), 10, AT_ONCE / 2);
	suite_expect(env, a.bus, 0, 1, 1, 2);
	n = fire_once(env, role, AT_ONCE);
	assert_in_range(n, 10, AT_ONCE / 2);
	suite_expect(env, a.bus, 0, 1, 1, 4);
	assert_int_equal(fire_all(env, role).moved, MANY + 2 - n);
	while (collect_up_to(env, inbox, AT_ONCE))
		;
	suite_release_role(env, a.bus, role);
	suite_release_inbox(env, a.bus, inbox);
}

/* ---- how much at once ---------------------------------------------------------------------------
 */

/* Of two there is much, and a transaction takes 100 ms: others wait for its end, so it gets
 * smaller. */
static void test_what_is_moved_at_once(void **state)
{
	enum { MANY = 700, TIMERS_LEAST = 100, INBOX_LEAST = 50 };
	struct bus_env *env = *state;
	struct sql_conn *root = connect_as("LEAT_TEST_ADMIN_DSN");
	uint64_t epoch = suite_take_role(env, a.bus);
	uint64_t inbox = suite_take_inbox(env, a.bus);
	size_t moved[2] = {0};

	for (unsigned i = 0; i < 2; i++) {
		begin(state);
		store_due(env, 1000, 1, MANY / 2);
		publish_on(admin, env->tenant_id, 1, MANY / 2);
	}
	assert_int_equal(sql_commit(admin), SQL_OK);
	run(root, "CREATE TRIGGER slow BEFORE INSERT ON journal FOR EACH ROW DO SLEEP(0.05)");
	moved[0] += fire_once(env, epoch, 1000);
	assert_int_equal(moved[0], FIRST_PACED);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(fire_once(env, epoch, 1000), TIMERS_LEAST);
		moved[0] += TIMERS_LEAST;
	}
	moved[1] += collect_up_to(env, inbox, 1000);
	assert_int_equal(moved[1], FIRST_PACED);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(collect_up_to(env, inbox, 1000), INBOX_LEAST);
		moved[1] += INBOX_LEAST;
	}
	run(root, "DROP TRIGGER slow");
	assert_int_equal(fire_all(env, epoch).moved, MANY - moved[0]);
	for (size_t n; (n = collect_up_to(env, inbox, 1000)) > 0;)
		moved[1] += n;
	assert_int_equal(moved[1], MANY);
	suite_release_role(env, a.bus, epoch);
	suite_release_inbox(env, a.bus, inbox);
	sql_conn_free(root);
}

/* ---- who is deleted ---------------------------------------------------------------------- */

static struct batch *scheduled_in_an_hour(const struct bus_env *env)
{
	struct batch *batch = batch_new(env->tenant_id, BATCH_SCHEDULED);
	struct event ev = {.topic = slice_str("t"),
	                   .payload = slice_str("1"),
	                   .qos = 1,
	                   .when = EVENT_AT,
	                   .when_ms = clock_wall_ms_now() + 3600 * 1000};

	assert_int_equal(batch_append(batch, &ev, (struct publisher){0}), 0);
	batch_seal(batch);
	return batch;
}

/* A node that has not heard of it yet: of what it stores together only theirs is refused. */
static void refused_of(struct bus_env *env, const struct bus_env *other)
{
	struct bus_claim claims[2] = {claim_of(env), claim_of(env)};
	struct batch *batches[2] = {scheduled_in_an_hour(other), scheduled_in_an_hour(env)};
	bool done[2] = {false};

	claims[0].tenant_id = other->tenant_id;
	for (size_t i = 0; i < 2; i++) {
		claims[i].done = on_any_claim;
		claims[i].arg = &done[i];
		a.bus->ops->claim(a.bus, &claims[i]);
	}
	for (size_t i = 0; i < 2; i++) {
		while (!done[i])
			turn();
		assert_int_equal(claims[i].outcome, i ? SQL_FATAL : SQL_OK);
		a.bus->ops->claim_release(a.bus, &claims[i]);
	}
	assert_string_equal(claims[1].error, "tenant is gone");
	assert_int_equal(suite_append(env, a.bus, 0, batches, 2), SQL_FATAL);
	assert_int_equal(count_of(other, "timer", "1=1"), 0);
	assert_int_equal(suite_append(env, a.bus, 0, batches, 1), SQL_OK);
	assert_int_equal(count_of(other, "timer", "1=1"), 1);
	batch_unref(batches[0]);
	batch_unref(batches[1]);
}

static void test_nothing_is_stored_for_who_is_gone(void **state)
{
	struct bus_env *env = *state;
	struct bus_env other = *env;
	char text[100];

	begin(state);
	snprintf(text, sizeof text, "UPDATE tenant SET state=3 WHERE tenant_id=%u", env->tenant_id);
	run(admin, text);
	assert_int_equal(sql_commit(admin), SQL_OK);
	refused_of(env, &other);
	assert_int_equal(count_of(env, "subscription", "1=1"), 0);
	assert_int_equal(count_of(env, "cursors", "1=1"), 0);
	assert_int_equal(count_of(env, "timer", "1=1"), 0);
}

/* ---- rows that do not fit ---------------------------------------------------------------- */

/* Stored when packets were larger than they are now. */
static void test_a_row_that_no_packet_holds(void **state)
{
	enum { BIG = 3 << 20 };
	struct bus_env *env = *state;
	uint32_t partitions[3] = {0};
	struct batch *batch = batch_new(env->tenant_id, BATCH_SCHEDULED);
	struct sql_conn *root = connect_as("LEAT_TEST_ADMIN_DSN");
	uint64_t before = number("SELECT @@GLOBAL.max_allowed_packet");
	char *payload = xcalloc(1, BIG);
	struct event ev = {.topic = slice_str("t"),
	                   .payload = slice(payload, BIG),
	                   .qos = 1,
	                   .when = EVENT_AT,
	                   .when_ms = 1000};
	struct fired sum;
	uint64_t epoch;
	char text[100];

	assert_int_equal(batch_append(batch, &ev, (struct publisher){0}), 0);
	batch_seal(batch);
	assert_int_equal(suite_append(env, a.bus, 0, &batch, 1), SQL_OK);
	batch_unref(batch);
	batch = due_in(env, partitions, 3);
	assert_int_equal(suite_append(env, a.bus, 0, &batch, 1), SQL_OK);
	batch_unref(batch);

	run(root, "SET GLOBAL max_allowed_packet=2097152");
	node_stop(&a);
	node_start(&a, "a");
	env->bus = a.bus;
	memcpy(env->writers[0], a.bus->writers, sizeof a.bus->writers);
	epoch = suite_take_role(env, a.bus);
	sum = fire_all(env, epoch);
	assert_int_equal(sum.moved, 3);
	assert_int_equal(sum.refused, 1);
	assert_int_equal(a.downs, 0);
	suite_expect(env, a.bus, 0, 1, 1, 3);

	snprintf(text, sizeof text, "SET GLOBAL max_allowed_packet=%" PRIu64, before);
	run(root, text);
	node_stop(&a);
	node_start(&a, "a");
	env->bus = a.bus;
	memcpy(env->writers[0], a.bus->writers, sizeof a.bus->writers);
	epoch = suite_take_role(env, a.bus);
	assert_int_equal(number("SELECT timer_id FROM timer WHERE refused IS NOT NULL AND"
	                        " LENGTH(body)>3000000") != 0,
	                 1);
	snprintf(text, sizeof text,
	         "UPDATE timer SET refused=NULL,due_at=created_at WHERE tenant_id=%u",
	         env->tenant_id); /* as CALL timer_retry does */
	run(admin, text);
	assert_int_equal(sql_commit(admin), SQL_OK);
	assert_int_equal(fire_all(env, epoch).moved, 1);
	assert_int_equal(suite_release_role(env, a.bus, epoch), SQL_OK);
	sql_conn_free(root);
	free(payload);
}

/* ---- what nodes say of tenants ------------------------------------------------------------------
 */

static uint64_t reported(const struct bus_env *env, const char *what)
{
	char text[300];

	snprintf(text, sizeof text,
	         "SELECT CAST(COALESCE(SUM(%s),0) AS UNSIGNED) FROM connections WHERE tenant_id=%u",
	         what, env->tenant_id);
	return number(text);
}

static void retain_round(struct bus_env *env, uint64_t epoch, bool minute)
{
	struct bus_retain req = {.done = on_retained, .epoch = epoch, .limit = 1, .minute = minute};

	do {
		bool done = false;

		req.arg = &done;
		a.bus->ops->retain(a.bus, &req);
		suite_wait(env, &done);
		assert_int_equal(req.outcome, SQL_OK);
		req.minute = false;
	} while (req.tenant_id);
}

/* The rows of all live nodes are what counts; those of ended ones are taken away by retention,
 * those of deleted tenants are not made. */
static void test_reports(void **state)
{
	static struct bus_usage rows[BUS_REPORT_MAX];
	struct bus_env *env = *state;
	bool done = false;
	struct bus_role_claim role = {.done = on_role, .arg = &done, .role = BUS_ROLE_RETENTION};
	struct bus_usage u = {.tenant_id = env->tenant_id,
	                      .connections = 3,
	                      .durable = 2,
	                      .subscriptions = 4,
	                      .ephemeral = 1,
	                      .events_in = UINT64_MAX / 4,
	                      .bytes_out = 7,
	                      .refused = 1};
	char text[200];

	assert_int_equal(suite_report(env, a.bus, &u, 1), SQL_OK);
	u.connections = 5;
	u.events_in++;
	assert_int_equal(suite_report(env, a.bus, &u, 1), SQL_OK);
	assert_int_equal(suite_report(env, b.bus, &u, 1), SQL_OK);
	assert_int_equal(reported(env, "connections"), 10);
	assert_int_equal(reported(env, "ephemeral"), 6);
	assert_int_equal(reported(env, "events_in"), 2 * (UINT64_MAX / 4 + 1));
	for (size_t i = 0; i < BUS_REPORT_MAX; i++)
		rows[i] = (struct bus_usage){.tenant_id = env->tenant_id, .connections = 1};
	assert_int_equal(suite_report(env, a.bus, rows, BUS_REPORT_MAX), SQL_OK);
	assert_int_equal(reported(env, "connections"), 6);

	node_stop(&b);
	assert_int_equal(reported(env, "connections"), 1); /* at once */
	a.bus->ops->role_claim(a.bus, &role);
	suite_wait(env, &done);
	retain_round(env, role.epoch, false);
	assert_int_equal(number("SELECT COUNT(DISTINCT session_id) FROM node_tenant"), 1);
	node_start(&b, "b");
	env->other = b.bus;

	snprintf(text, sizeof text, "UPDATE tenant SET state=3 WHERE tenant_id=%u", env->tenant_id);
	run(admin, text);
	run(admin, "DELETE FROM node_tenant");
	assert_int_equal(sql_commit(admin), SQL_OK);
	assert_int_equal(suite_report(env, a.bus, &u, 1), SQL_OK);
	assert_int_equal(number("SELECT COUNT(*) FROM node_tenant"), 0);
}

static uint64_t stored_bytes(const struct bus_env *env)
{
	char text[200];

	snprintf(text, sizeof text,
	         "SELECT CAST(SUM(bytes-removed_bytes) AS UNSIGNED) FROM head WHERE tenant_id=%u",
	         env->tenant_id);
	return number(text);
}

static void retain_within(struct bus_env *env, uint64_t epoch, uint64_t max_stored_bytes)
{
	for (int i = 0; i < 3; i++) {
		bool done = false;
		struct bus_retain req = {.done = on_retained,
		                         .arg = &done,
		                         .epoch = epoch,
		                         .limit = BUS_RETAIN_MAX,
		                         .max_stored_bytes = max_stored_bytes};

		a.bus->ops->retain(a.bus, &req);
		suite_wait(env, &done);
		assert_int_equal(req.outcome, SQL_OK);
	}
}

static void settle_through(struct bus_env *env, const struct bus_claim *claim, uint64_t commit_no,
                           uint64_t through)
{
	struct bus_cursor_row row = {
	        .tenant_id = env->tenant_id,
	        .subscription_id = claim->subscription_id,
	        .epoch = claim->epoch,
	        .to = {.acked_through = through, .commit_no = commit_no},
	};
	struct bus_commit req = {.n = 1, .rows = &row};

	assert_int_equal(suite_commit(env, a.bus, &req), SQL_OK);
	assert_false(row.fenced);
}

/* A tenant that a pinned queue has filled has room again when that is worked off, also where what
 * is removed for its limit ends above what relieves it: batches smaller than the part of the limit
 * that has to be free. */
static void test_a_full_tenant_gets_room(void **state)
{
	enum { N = 40, FIT = 32 };
	struct bus_env *env = *state;
	bool done = false;
	struct bus_role_claim role = {.done = on_role, .arg = &done, .role = BUS_ROLE_RETENTION};
	struct bus_cursor start = {0};
	struct bus_claim queue = {
	        .tenant_id = env->tenant_id,
	        .kind = BUS_SUB_QUEUE,
	        .name = slice_str("pinned"),
	        .create = true,
	        .expiry_s = UINT32_MAX,
	        .filters = slice_str("[]"),
	        .n_starts = 1,
	        .starts = &start,
	        .policy = BUS_POLICY_DEFAULT,
	};
	uint64_t max;

	a.bus->ops->role_claim(a.bus, &role);
	suite_wait(env, &done);
	retain_within(env, role.epoch, 1); /* what earlier tests left */
	queue.policy.pin = true;
	assert_int_equal(suite_claim(env, a.bus, &queue), SQL_OK);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(append_one(env, 0, 1 + i), SQL_OK);
	max = stored_bytes(env) * FIT / N;

	retain_within(env, role.epoch, max);
	assert_int_equal(count_of(env, "journal", "1"), N);
	assert_int_equal(count_of(env, "tenant", "full_since IS NOT NULL"), 1);
	settle_through(env, &queue, 0, 1); /* not enough: the rest is waited for */
	retain_within(env, role.epoch, max);
	assert_int_equal(count_of(env, "journal", "1"), N - 1);
	assert_int_equal(count_of(env, "tenant", "full_since IS NOT NULL"), 1);
	settle_through(env, &queue, 1, N);
	retain_within(env, role.epoch, max);
	assert_int_equal(count_of(env, "tenant", "full_since IS NOT NULL"), 0);
	assert_true(stored_bytes(env) <= max - max / 16);
	assert_true(count_of(env, "journal", "1") >= FIT - FIT / 16 - 1); /* no more than that */
	a.bus->ops->claim_release(a.bus, &queue);
}

static uint64_t left_of_old(void)
{
	return number("SELECT COUNT(*) FROM node_session n JOIN writer w USING (session_id)"
	              " WHERE n.name='old'");
}

/* What an ended session left is kept for an hour by the clocks of leaders, whatever the database's
 * says. */
static void test_ended_sessions_go_by_minutes(void **state)
{
	struct bus_env *env = *state;
	bool done = false;
	struct bus_role_claim role = {.done = on_role, .arg = &done, .role = BUS_ROLE_RETENTION};

	run(admin, "INSERT INTO node_session(session_id,name,state,ended_at,ended_minutes) VALUES"
	           " (UNHEX(REPEAT('cd',16)),'old',0,UTC_TIMESTAMP()-INTERVAL 1 YEAR,58)");
	run(admin, "INSERT INTO writer(session_id,writer_no,state) VALUES"
	           " (UNHEX(REPEAT('cd',16)),0,0)");
	assert_int_equal(sql_commit(admin), SQL_OK);
	a.bus->ops->role_claim(a.bus, &role);
	suite_wait(env, &done);
	retain_round(env, role.epoch, false);
	retain_round(env, role.epoch, true);
	retain_round(env, role.epoch, false);
	assert_int_equal(left_of_old(), 1);
	retain_round(env, role.epoch, true);
	retain_round(env, role.epoch, false);
	assert_int_equal(left_of_old(), 0);
}

static void on_heads(struct bus_heads *req)
{
	(void)req;
}

/* Who is freed after the pool may still ask: once that used what had been freed. */
static void test_who_asks_after_the_pool_ended(void **state)
{
	struct bus_head head = {.tenant_id = 1};
	struct bus_heads req = {.done = on_heads, .n = 1, .heads = &head, .outcome = SQL_OK};

	(void)state;
	bus_sql_end(b.bus);
	assert_int_equal(b.last, BUS_DOWN);
	sql_free(b.sql);
	b.bus->ops->heads(b.bus, &req);
	bus_sql_tick(b.bus);
	run_deferred(&b);
	assert_int_equal(req.outcome, SQL_RETRY);
	assert_int_equal(b.bus->state, BUS_DOWN);
	b.bus->ops->free(b.bus);
	node_start(&b, "b");
}

static void test_a_name_has_one_node(void **state)
{
	struct bus_env *env = *state;

	node_stop(&b);
	node_start(&b, "a");
	assert_int_equal(append_one(env, 0, 1), SQL_LOST);
	wait_for_state(&a, BUS_ENDED);
	assert_int_equal(a.last, BUS_ENDED);
	assert_int_equal(b.bus->state, BUS_UP);
}

#define TEST(f)                          \
	{                                \
#f, f, begin, NULL, &env \
	}

static struct bus_env env = {.pump = pump, .publish = publish, .set_partitions = set_partitions};

static int run_crowds(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_a_crowd_goes_round),
	        TEST(test_a_crowd_by_weight),
	        TEST(test_a_crowd_keeps_the_order),
	        TEST(test_who_is_moved_is_left_alone),
	        TEST(test_who_begins_to_be_moved_in_a_crowd),
	        TEST(test_timers_of_a_crowd),
	        TEST(test_timers_of_who_is_moved),
	        TEST(test_large_rows_of_a_crowd),
	        TEST(test_what_is_moved_at_once),
	};

	return cmocka_run_group_tests_name("crowds", tests, NULL, NULL);
}

int main(void)
{
	unsigned before;
	unsigned after;
	struct err e;
	int failed;
	const struct CMUnitTest tests[] = {
	        TEST(test_a_large_flush),
	        TEST(test_a_read_confirms),
	        TEST(test_a_bad_row_is_refused),
	        TEST(test_poisonous_flush),
	        TEST(test_lock_wait_is_retry),
	        TEST(test_deadlock_is_retry),
	        TEST(test_connection_killed_in_commit),
	        TEST(test_ended_session_appends_nothing),
	        TEST(test_a_locked_claim_is_alone),
	        TEST(test_who_is_quicker_with_one_of_many),
	        TEST(test_claim_that_is_refused_after_none_was_there),
	        TEST(test_claims_share_statements),
	        TEST(test_a_locked_release_is_alone),
	        TEST(test_a_dead_node_is_ended),
	        TEST(test_two_of_a_name_at_once),
	        TEST(test_living_nodes_stay),
	        TEST(test_peers_are_told),
	        TEST(test_hinted_flushes_are_known),
	        TEST(test_what_cannot_be_moved_is_set_aside),
	        TEST(test_ticks_are_told),

	        TEST(test_nothing_is_stored_for_who_is_gone),
	        TEST(test_a_row_that_no_packet_holds),
	        TEST(test_reports),
	        TEST(test_a_full_tenant_gets_room),
	        TEST(test_ended_sessions_go_by_minutes),
	        TEST(test_who_asks_after_the_pool_ended),
	        TEST(test_a_name_has_one_node),
	};

	sql_library_init();
	if (!getenv("LEAT_TEST_DSN"))
		fatal("no server: run this under with-server");
	if (dsn_load(&dsn, getenv("LEAT_TEST_DSN"), &e) ||
	    migrate_run(&dsn, NULL, &before, &after, &e))
		fatal("%s", e.text);
	admin = connect_as("LEAT_TEST_DSN");
	base = event_base_new();
	node_start(&a, "a");
	node_start(&b, "b");
	env.bus = a.bus;
	env.other = b.bus;
	failed = bus_suite_run(&env, begin);
	failed += run_crowds();
	failed += cmocka_run_group_tests_name("bus_sql", tests, NULL, NULL);
	node_stop(&a);
	node_stop(&b);
	sql_conn_free(admin);
	event_base_free(base);
	dsn_release(&dsn);
	sql_library_end();
	return failed;
}
