/* The sql backend of the bus against a real server: the suite of every backend, then what only a
 * database can do to it. See with-server. */
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
	run(admin, "INSERT INTO node_session(session_id,name) VALUES (UNHEX(MD5('twin')),'b')");
	node_begin(&b, "b");
	for (int i = 0; i < 300; i++)
		turn();
	assert_int_equal(b.bus->state, BUS_DOWN);
	assert_int_equal(sql_commit(admin), SQL_OK);
	wait_for_state(&b, BUS_UP);
	assert_int_equal(
	        number("SELECT state FROM node_session WHERE session_id=UNHEX(MD5('twin'))"), 2);
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

int main(void)
{
	struct bus_env env = {.pump = pump};
	unsigned before;
	unsigned after;
	struct err e;
	int failed;
#define TEST(f)                          \
	{                                \
#f, f, begin, NULL, &env \
	}
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
	        TEST(test_a_dead_node_is_ended),
	        TEST(test_two_of_a_name_at_once),
	        TEST(test_living_nodes_stay),
	        TEST(test_peers_are_told),
	        TEST(test_hinted_flushes_are_known),
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
	failed += cmocka_run_group_tests_name("bus_sql", tests, NULL, NULL);
	node_stop(&a);
	node_stop(&b);
	sql_conn_free(admin);
	event_base_free(base);
	dsn_release(&dsn);
	sql_library_end();
	return failed;
}
