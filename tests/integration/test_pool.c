/* The worker pool against a real server: jobs, generations, crashes, shutdown. See with-server. */
#include "base/clock.h"
#include "base/mem.h"
#include "sql/sql.h"

#include <event2/event.h>
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct dsn dsn, admin_dsn;

struct pool {
	struct event_base *base;
	struct sql *sql;
	uint64_t generation; /* last told */
	bool up;
	unsigned downs, ups;
};

struct job {
	struct pool *pool;
	atomic_uint runs;
	unsigned dones;
	enum sql_outcome outcome;
	bool submitting;     /* done() must not be called while this is set */
	const char *text;    /* what the job runs; NULL = nothing */
	uint64_t generation; /* told to the loop when done() was called */
};

static void on_generation(void *arg, uint64_t generation, bool up)
{
	struct pool *p = arg;

	p->generation = generation;
	p->up = up;
	p->ups += up;
	p->downs += !up;
}

static enum sql_outcome work(struct sql_conn *c, void *arg)
{
	struct job *j = arg;
	enum sql_outcome o = SQL_OK;

	atomic_fetch_add(&j->runs, 1);
	if (j->text)
		o = sql_text(c, j->text, strlen(j->text), NULL, SQL_TEXT_PLAIN);
	return o == SQL_OK ? sql_commit(c) : o;
}

static void done(void *arg, enum sql_outcome outcome)
{
	struct job *j = arg;

	assert_false(j->submitting);
	j->dones++;
	j->outcome = outcome;
	j->generation = j->pool->generation;
}

static int submit(struct pool *p, enum sql_lane lane, struct job *j, enum sql_job_flags flags)
{
	int rc;

	j->pool = p;
	j->submitting = true;
	rc = sql_submit_flags(p->sql, lane, work, done, j, flags);
	j->submitting = false;
	return rc;
}

/* Run the loop until *value is at least that; dies after 20 s. */
static void run_until(struct pool *p, const unsigned *value, unsigned at_least)
{
	uint64_t end = clock_us() + 20 * 1000000ull;

	while (*value < at_least) {
		struct timeval tv = {.tv_usec = 10000};

		if (clock_us() > end)
			fatal("waited 20 s");
		event_base_loopexit(p->base, &tv);
		event_base_dispatch(p->base);
	}
}

static void pool_open(struct pool *p, unsigned queue_max)
{
	struct sql_settings s = SQL_SETTINGS_DEFAULT;
	struct err e;

	*p = (struct pool){.base = event_base_new(), .generation = 1};
	s.queue_max = queue_max;
	s.on_generation = on_generation;
	s.arg = p;
	p->sql = sql_new(p->base, &dsn, &s, &e);
	if (!p->sql)
		fatal("%s", e.text);
	run_until(p, &p->ups, 1);
}

static void pool_close(struct pool *p)
{
	sql_free(p->sql);
	event_base_free(p->base);
}

static void run_job(struct pool *p, enum sql_lane lane, struct job *j)
{
	assert_int_equal(submit(p, lane, j, SQL_THIS_GENERATION), 0);
	run_until(p, &j->dones, 1);
}

static void dev_server(const char *verb)
{
	char *argv[] = {(char *)"sql/dev-server", (char *)verb, getenv("LEAT_TEST_DIR"), NULL};
	int status = -1;
	pid_t pid;

	if (posix_spawn(&pid, argv[0], NULL, NULL, argv, environ) ||
	    waitpid(pid, &status, 0) != pid || status != 0)
		fatal("dev-server %s", verb);
}

/* Runs text as root on a connection of its own. */
static void as_root(const char *text)
{
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	struct sql_conn *c = sql_conn_new(&admin_dsn, &limits);
	struct err e;

	if (sql_conn_open(c, &e) ||
	    sql_text(c, text, strlen(text), NULL, SQL_TEXT_COMMITS) != SQL_OK)
		fatal("%s", sql_error(c));
	sql_conn_free(c);
}

struct ids {
	uint64_t id[16];
	unsigned n;
};

static int on_id(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct ids *ids = arg;

	(void)n;
	ids->id[ids->n++] = cells[0].u;
	return ids->n == sizeof ids->id / sizeof ids->id[0];
}

/* Ends the server's connections that `which` selects, at least one. */
static void kill_connections(const char *which)
{
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	struct sql_conn *c = sql_conn_new(&admin_dsn, &limits);
	struct ids ids = {0};
	struct sql_text_sink sink = {.on_row = on_id, .arg = &ids};
	char text[256];
	struct err e;
	int n = snprintf(text, sizeof text,
	                 "SELECT id FROM information_schema.processlist WHERE %s", which);

	if (sql_conn_open(c, &e) || sql_text(c, text, (size_t)n, &sink, SQL_TEXT_PLAIN) != SQL_OK ||
	    !ids.n)
		fatal("nobody to kill: %s", sql_error(c));
	for (unsigned i = 0; i < ids.n; i++) {
		n = snprintf(text, sizeof text, "KILL %llu", (unsigned long long)ids.id[i]);
		/* one that has ended by itself meanwhile is no error */
		sql_text(c, text, (size_t)n, NULL, SQL_TEXT_PLAIN);
	}
	sql_conn_free(c);
}

static void test_every_lane_runs_jobs(void **state)
{
	struct pool p;

	(void)state;
	pool_open(&p, 16);
	assert_true(sql_is_up(p.sql));
	assert_int_equal(sql_max_packet(p.sql), 64 << 20);
	for (int lane = 0; lane < SQL_LANE_COUNT; lane++) {
		struct job j = {.text = "SELECT 1"};

		run_job(&p, lane, &j);
		assert_int_equal(j.outcome, SQL_OK);
		assert_int_equal(j.runs, 1);
	}
	pool_close(&p);
}

static enum sql_outcome work_half(struct sql_conn *c, void *arg)
{
	struct job *j = arg;

	return sql_text(c, j->text, strlen(j->text), NULL, SQL_TEXT_PLAIN); /* and no commit */
}

static void test_open_transaction_is_rolled_back(void **state)
{
	struct pool p;
	struct job j = {.text = "INSERT INTO pool_test VALUES (99)", .pool = &p};
	struct job again = {.text = "INSERT INTO pool_test VALUES (99)", .pool = &p};

	(void)state;
	pool_open(&p, 16);
	assert_int_equal(sql_submit(p.sql, SQL_LANE_ADMIN, work_half, done, &j), 0);
	run_until(&p, &j.dones, 1);
	assert_int_equal(sql_submit(p.sql, SQL_LANE_CURSOR, work_half, done, &again), 0);
	run_until(&p, &again.dones, 1);
	assert_int_equal(again.outcome, SQL_OK); /* not DUP, not waiting for a lock */
	pool_close(&p);
}

static void test_full_queue_is_an_error_now(void **state)
{
	enum { MAX = 4 };
	struct pool p;
	struct job slow = {.text = "DO SLEEP(0.5)"}, waiting[MAX] = {0}, refused = {0};

	(void)state;
	pool_open(&p, MAX);
	assert_int_equal(submit(&p, SQL_LANE_ADMIN, &slow, SQL_THIS_GENERATION), 0);
	while (atomic_load(&slow.runs) == 0)
		;
	for (int i = 0; i < MAX; i++)
		assert_int_equal(submit(&p, SQL_LANE_ADMIN, &waiting[i], SQL_THIS_GENERATION), 0);
	assert_int_equal(sql_queued(p.sql, SQL_LANE_ADMIN), MAX);
	assert_int_equal(submit(&p, SQL_LANE_ADMIN, &refused, SQL_THIS_GENERATION), -1);
	run_until(&p, &waiting[MAX - 1].dones, 1);
	assert_int_equal(refused.dones, 0);
	pool_close(&p);
}

/* Killing one connection starts a new generation; everything that was submitted before does not run
 * in it, but what was asked to run in any. */
static void test_lost_connection_starts_a_generation(void **state)
{
	struct pool p;
	struct job slow = {.text = "SELECT SLEEP(10)"}, old = {0}, any = {0},
	           fresh = {.text = "SELECT 1"};

	(void)state;
	pool_open(&p, 16);
	assert_int_equal(submit(&p, SQL_LANE_ADMIN, &slow, SQL_THIS_GENERATION), 0);
	while (atomic_load(&slow.runs) == 0)
		;
	assert_int_equal(submit(&p, SQL_LANE_ADMIN, &old, SQL_THIS_GENERATION), 0);
	assert_int_equal(submit(&p, SQL_LANE_ADMIN, &any, SQL_ANY_GENERATION), 0);
	usleep(200000);
	kill_connections("info LIKE 'SELECT SLEEP%'");
	run_until(&p, &p.ups, 2);
	run_until(&p, &any.dones, 1);
	assert_int_equal(p.downs, 1);
	assert_int_equal(p.generation, 2);
	assert_int_equal(sql_generation(p.sql), 2);
	assert_int_equal(slow.outcome, SQL_RETRY); /* lost before COMMIT */
	assert_int_equal(slow.generation, 2);      /* the loss was told first */
	assert_int_equal(old.dones, 1);
	assert_int_equal(old.runs, 0);
	assert_int_equal(old.outcome, SQL_RETRY);
	assert_int_equal(any.runs, 1);
	assert_int_equal(any.outcome, SQL_OK);
	run_job(&p, SQL_LANE_ADMIN, &fresh);
	assert_int_equal(fresh.outcome, SQL_OK);
	pool_close(&p);
}

/* An idle pool notices by itself, within a third of its time-out, and says so. */
static void test_idle_pool_notices_a_loss(void **state)
{
	struct pool p;

	(void)state;
	pool_open(&p, 16);
	kill_connections("user='leat'");
	run_until(&p, &p.downs, 1);
	run_until(&p, &p.ups, 2);
	assert_int_equal(p.generation, 2); /* one loss, however many connections it took */
	pool_close(&p);
}

static void test_idle_connections_outlive_their_time_out(void **state)
{
	struct pool p;
	struct timeval tv = {.tv_sec = 8}; /* wait_timeout is 6 s */

	(void)state;
	pool_open(&p, 16);
	event_base_loopexit(p.base, &tv);
	event_base_dispatch(p.base);
	assert_int_equal(p.downs, 0);
	assert_true(sql_is_up(p.sql));
	pool_close(&p);
}

static void test_crashed_server(void **state)
{
	struct pool p;
	struct job now = {.text = "SELECT 1"}, any = {.text = "SELECT 1"},
	           after = {.text = "SELECT 1"};
	uint64_t start;

	(void)state;
	pool_open(&p, 16);
	dev_server("crash");
	run_until(&p, &p.downs, 1);
	start = clock_us();
	run_job(&p, SQL_LANE_WRITER0, &now); /* at once, not when the server is back */
	assert_true(clock_us() - start < 500000);
	assert_int_equal(now.outcome, SQL_RETRY);
	assert_int_equal(now.runs, 0);
	assert_int_equal(submit(&p, SQL_LANE_SESSION, &any, SQL_ANY_GENERATION), 0);
	dev_server("resume");
	run_until(&p, &p.ups, 2);
	run_until(&p, &any.dones, 1);
	assert_int_equal(any.outcome, SQL_OK);
	run_job(&p, SQL_LANE_WRITER0, &after);
	assert_int_equal(after.outcome, SQL_OK);
	pool_close(&p);
}

/* ---- several hosts --------------------------------------------------------------------------- */

/* The plain server behind a port that nobody listens on, and once more: the pool finds it, and
 * finds it again each time it was away. */
static void test_next_host_is_tried(void **state)
{
	struct dsn one = dsn;
	struct pool p;
	struct job j = {.text = "SELECT 1"}, after = {.text = "SELECT 1"};

	(void)state;
	dsn.hosts[0] = (struct dsn_host){(char *)"127.0.0.1", 1};
	dsn.hosts[1] = one.hosts[0];
	dsn.hosts[2] = (struct dsn_host){(char *)"127.0.0.1", 2};
	dsn.host_count = 3;
	dsn.socket = NULL;
	pool_open(&p, 16);
	run_job(&p, SQL_LANE_READ, &j);
	assert_int_equal(j.outcome, SQL_OK);
	assert_int_equal(p.generation, 1); /* going on to the next lost nothing */
	dev_server("crash");
	run_until(&p, &p.downs, 1);
	dev_server("resume");
	run_until(&p, &p.ups, 2);
	run_job(&p, SQL_LANE_READ, &after);
	assert_int_equal(after.outcome, SQL_OK);
	pool_close(&p);
	dsn = one;
}

/* Running, waiting, failed at once, in flight on every lane: each job's done() is called once. */
static void test_every_job_is_done_once_at_shutdown(void **state)
{
	enum { JOBS = 300 };
	struct job *jobs = xcalloc(JOBS, sizeof *jobs);
	unsigned accepted = 0, ran = 0;

	(void)state;
	for (int round = 0; round < 5; round++) {
		struct pool p;
		bool taken[JOBS];

		memset(jobs, 0, JOBS * sizeof *jobs);
		pool_open(&p, 20);
		for (int i = 0; i < JOBS; i++) {
			jobs[i].text = i % 3 ? "SELECT 1" : "DO SLEEP(0.02)";
			taken[i] = submit(&p, i % SQL_LANE_COUNT, &jobs[i],
			                  i % 5 ? SQL_THIS_GENERATION : SQL_ANY_GENERATION) == 0;
			if (i % 50 == 0)
				event_base_loop(p.base, EVLOOP_NONBLOCK);
			while (i == 50 && taken[0] && !jobs[0].dones) /* the workers have begun */
				event_base_loop(p.base, EVLOOP_ONCE);
		}
		pool_close(&p);
		for (int i = 0; i < JOBS; i++) {
			assert_int_equal(jobs[i].dones, taken[i]);
			assert_true(jobs[i].runs <= 1);
			assert_true(jobs[i].outcome == SQL_OK || jobs[i].outcome == SQL_RETRY);
			accepted += taken[i];
			ran += jobs[i].runs;
		}
	}
	assert_true(accepted > ran); /* some were still waiting: else this tests nothing */
	assert_true(ran > 0);
	free(jobs);
}

static void test_shutdown_while_the_server_is_away(void **state)
{
	struct pool p;
	struct job any = {0};
	uint64_t start;

	(void)state;
	pool_open(&p, 16);
	dev_server("crash");
	run_until(&p, &p.downs, 1);
	assert_int_equal(submit(&p, SQL_LANE_SESSION, &any, SQL_ANY_GENERATION), 0);
	start = clock_us();
	pool_close(&p);
	assert_true(clock_us() - start < 2000000);
	assert_int_equal(any.dones, 1);
	assert_int_equal(any.outcome, SQL_RETRY);
	dev_server("resume");
}

static struct dsn load(const char *variable)
{
	const char *text = getenv(variable);
	struct dsn d;
	struct err e;

	if (!text || dsn_load(&d, text, &e))
		fatal("%s: %s", variable, text ? e.text : "not set: run this under with-server");
	return d;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_every_lane_runs_jobs),
	        cmocka_unit_test(test_open_transaction_is_rolled_back),
	        cmocka_unit_test(test_full_queue_is_an_error_now),
	        cmocka_unit_test(test_lost_connection_starts_a_generation),
	        cmocka_unit_test(test_idle_pool_notices_a_loss),
	        cmocka_unit_test(test_idle_connections_outlive_their_time_out),
	        cmocka_unit_test(test_crashed_server),
	        cmocka_unit_test(test_next_host_is_tried),
	        cmocka_unit_test(test_every_job_is_done_once_at_shutdown),
	        cmocka_unit_test(test_shutdown_while_the_server_is_away),
	};
	int failed;

	sql_library_init();
	dsn = load("LEAT_TEST_DSN");
	admin_dsn = load("LEAT_TEST_ADMIN_DSN");
	as_root("CREATE TABLE leat.pool_test (id INT PRIMARY KEY)");
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	dsn_release(&dsn);
	dsn_release(&admin_dsn);
	sql_library_end();
	return failed;
}
