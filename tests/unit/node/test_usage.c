/* What a node tells of its tenants: what has changed, in turn, and nothing else. */
#include "node/delivery/usage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MANY = BUS_REPORT_MAX + 100 };

static struct {
	struct bus bus; /* first */
	struct bus_report *req;
	unsigned reports;
	unsigned rows; /* in all of them */
	struct bus_usage last;
} stub;

static struct loop *loop;
static struct loop_timer *tick;
static struct usage *usage;

static void take(struct bus *bus, struct bus_report *req)
{
	(void)bus;
	stub.req = req;
	stub.reports++;
	stub.rows += (unsigned)req->n;
	stub.last = req->rows[req->n - 1];
}

static void nothing(void *arg)
{
	(void)arg;
}

static void answer(enum sql_outcome outcome)
{
	struct bus_report *req = stub.req;

	stub.req = NULL;
	req->outcome = outcome;
	req->done(req);
}

/* Until the next report, or for longer than one takes. */
static bool next_report(void)
{
	for (int i = 0; i < 60; i++) {
		if (stub.req)
			return true;
		loop_turn(loop);
	}
	return false;
}

static int setup(void **state)
{
	static struct bus_ops ops;

	(void)state;
	ops.report = take;
	memset(&stub, 0, sizeof stub);
	stub.bus.ops = &ops;
	stub.bus.state = BUS_UP;
	stub.bus.session_id = id128_random();
	loop = loop_new();
	tick = loop_every(loop, 1, nothing, NULL);
	usage = usage_new(loop, &stub.bus, 20);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	usage_free(usage);
	loop_timer_free(tick);
	loop_free(loop);
	return 0;
}

static void test_says_what_changed(void **state)
{
	struct usage_row *row = usage_of(usage, 7);

	(void)state;
	usage_connected(row, 1, true);
	usage_in(row, 1, 10);
	usage_in(row, 1, 5);
	usage_of(usage, 8); /* of which there is nothing to say */
	assert_true(next_report());
	assert_int_equal(stub.rows, 1);
	assert_int_equal(stub.last.tenant_id, 7);
	assert_int_equal(stub.last.connections, 1);
	assert_int_equal(stub.last.durable, 1);
	assert_int_equal(stub.last.events_in, 2);
	assert_int_equal(stub.last.bytes_in, 15);
	usage_refused(row, 1); /* while the report is out: in the next */
	assert_int_equal(stub.reports, 1);
	answer(SQL_OK);
	assert_true(next_report());
	assert_int_equal(stub.last.refused, 1);
	answer(SQL_OK);
	assert_false(next_report());
	assert_int_equal(stub.reports, 2);
}

static void test_in_turn(void **state)
{
	(void)state;
	for (uint32_t i = 1; i <= MANY; i++)
		usage_out(usage_of(usage, i), 1);
	assert_true(next_report());
	assert_int_equal(stub.rows, BUS_REPORT_MAX);
	assert_int_equal(stub.last.tenant_id, BUS_REPORT_MAX);
	for (uint32_t i = 1; i <= 50; i++) /* again: they wait behind those that were not told */
		usage_out(usage_of(usage, i), 1);
	answer(SQL_OK);
	assert_true(next_report());
	assert_int_equal(stub.rows, MANY + 50);
	assert_int_equal(stub.last.tenant_id, 50);
	answer(SQL_OK);
}

static void test_what_failed_is_said_again(void **state)
{
	(void)state;
	usage_subscribed(usage_of(usage, 7), 1, 1);
	assert_true(next_report());
	answer(SQL_RETRY);
	stub.bus.state = BUS_DOWN;
	assert_false(next_report());
	stub.bus.state = BUS_UP;
	usage_on_state(usage, BUS_UP);
	assert_true(next_report());
	assert_int_equal(stub.rows, 2);
	assert_int_equal(stub.last.ephemeral, 1);
	answer(SQL_OK);
}

/* A new session counts from 0, and says what is there now. */
static void test_a_new_session(void **state)
{
	(void)state;
	usage_connected(usage_of(usage, 7), 1, false);
	usage_in(usage_of(usage, 7), 1, 10);
	usage_in(usage_of(usage, 8), 1, 10);
	assert_true(next_report());
	answer(SQL_OK);
	stub.rows = 0;
	stub.bus.session_id = id128_random();
	usage_on_state(usage, BUS_UP);
	assert_true(next_report());
	assert_int_equal(stub.rows, 1);
	assert_int_equal(stub.last.connections, 1);
	assert_int_equal(stub.last.events_in, 0);
	answer(SQL_OK);
	assert_int_equal(usage_get(usage_of(usage, 8))->events_in, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(test_says_what_changed),
	        TEST(test_in_turn),
	        TEST(test_what_failed_is_said_again),
	        TEST(test_a_new_session),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
