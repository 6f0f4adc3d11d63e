/* How far behind a subscription may be: the oldest events are given up, and that is told. */
#include "tests/unit/node/rig.h"

#include "base/clock.h"

#include <string.h>

static struct {
	uint64_t rows; /* in the audit */
} heard;

static void (*real_note)(struct bus *, struct bus_note *);

static void count_note(struct bus *bus, struct bus_note *req)
{
	assert_true(slice_eq(req->action, slice_str("backlog.gap")));
	heard.rows++;
	real_note(bus, req);
}

static void begin(struct node *n)
{
	static struct bus_ops ops;

	node_init_with(n, 0, 0);
	memset(&heard, 0, sizeof heard);
	ops = *n->bus->ops;
	real_note = ops.note;
	ops.note = count_note;
	n->bus->ops = &ops;
}

static uint64_t gap_events(const struct node *n)
{
	struct dispatch_stats stats;

	dispatch_get_stats(n->dispatch, &stats);
	return stats.gap_events;
}

static void wait_ms(struct node *n, uint64_t ms)
{
	for (uint64_t end = clock_now_ms() + ms; clock_now_ms() < end;)
		loop_turn(n->loop);
}

/* Who comes back is told of what is beyond its limit before it is sent anything. */
static void test_events(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	begin(&n);
	n.tenant.limits.max_backlog_events = 10;
	connect_as(&n, &c, "c", false, 60, 100);
	assert_int_equal(subscribe(&c, "a/#", 1), 1);
	disconnect(&c, 60);
	publish_many(&n, "a/1", 1, 101);
	connect_as(&n, &c, "c", false, 60, 100);
	until(&n, c.n_got == 10);
	assert_int_equal(c.got[0].n, 91);
	assert_int_equal(c.got[0].gap, 90);
	assert_int_equal(c.got[1].gap, 0);
	assert_int_equal(c.got[9].n, 100);
	assert_int_equal(gap_events(&n), 90);
	assert_int_equal(heard.rows, 1);
	free(c.got);
	node_release(&n);
}

/* The largest number that the column holds is no limit. */
static void test_no_limit(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	begin(&n);
	n.tenant.limits.max_backlog_events = UINT64_MAX;
	connect_as(&n, &c, "c", false, 60, 100);
	assert_int_equal(subscribe(&c, "a/#", 1), 1);
	disconnect(&c, 60);
	publish_many(&n, "a/1", 1, 6);
	connect_as(&n, &c, "c", false, 60, 100);
	until(&n, c.n_got == 5);
	assert_int_equal(c.got[0].n, 1);
	assert_int_equal(gap_events(&n), 0);
	free(c.got);
	node_release(&n);
}

/* What is in flight stays; what waits behind it is given up from the oldest on. */
static void test_events_of_a_slow_consumer(void **state)
{
	struct node n;
	struct client c = {.never_ack = true};

	(void)state;
	begin(&n);
	n.tenant.limits.max_backlog_events = 10;
	connect_as(&n, &c, "c", true, 0, 5);
	assert_int_equal(subscribe(&c, "a/#", 1), 1);
	publish_many(&n, "a/1", 1, 6);
	until(&n, c.n_got == 5);
	publish_many(&n, "a/1", 6, 101);
	until(&n, gap_events(&n) == 85); /* with the next look, within a second */
	assert_int_equal(c.n_got, 5);
	session_puback(c.session, c.got[0].packet_id, 0);
	until(&n, c.n_got == 6);
	assert_int_equal(c.got[5].n, 91);
	assert_int_equal(c.got[5].gap, 85);
	assert_int_equal(heard.rows, 0); /* it has no row, and nobody to ask about it later */
	free(c.got);
	node_release(&n);
}

static void test_age(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	begin(&n);
	connect_as(&n, &c, "c", false, 60, 100);
	assert_int_equal(subscribe(&c, "a/#", 1), 1);
	disconnect(&c, 60);
	publish_many(&n, "a/1", 1, 6);
	wait_ms(&n, 1200);
	publish_many(&n, "a/1", 6, 8);
	n.tenant.limits.max_backlog_s = 1;
	connect_as(&n, &c, "c", false, 60, 100);
	until(&n, c.n_got == 2);
	assert_int_equal(c.got[0].n, 6);
	assert_int_equal(c.got[0].gap, 5);
	free(c.got);
	node_release(&n);
}

/* A pinned queue is waited for by everybody. */
static void test_pinned(void **state)
{
	struct node n;
	struct client c = {.never_ack = true};

	(void)state;
	begin(&n);
	n.policy = BUS_POLICY_DEFAULT;
	n.policy.pin = true;
	n.tenant.limits.max_backlog_events = 10;
	connect_as(&n, &c, "c", true, 0, 5);
	assert_int_equal(subscribe(&c, "$queue/q/a/#", 1), 1);
	publish_many(&n, "a/1", 1, 101);
	wait_ms(&n, 1200);
	assert_int_equal(gap_events(&n), 0);
	free(c.got);
	node_release(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_events),
	        cmocka_unit_test(test_no_limit),
	        cmocka_unit_test(test_events_of_a_slow_consumer),
	        cmocka_unit_test(test_age),
	        cmocka_unit_test(test_pinned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
