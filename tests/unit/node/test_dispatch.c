/* Dispatch, sessions and the appender over the memory backend, with connections of our own. */
#include "tests/unit/node/rig.h"

/* ---- tests -------------------------------------------------------------------------------------
 */

static void test_live(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", true, 0, 100);
	assert_false(c.present);
	assert_int_equal(subscribe(&c, "a/+", 1), 1);
	publish_many(&n, "a/b", 0, 500);
	publish_many(&n, "other", 0, 10);
	until(&n, c.n_got == 500);
	assert_got(&c, 0, 500);
	free(c.got);
	node_release(&n);
}

static void test_slow_consumer_lags_and_catches_up(void **state)
{
	struct node n;
	struct client slow = {0};
	struct client fast = {0};

	(void)state;
	node_init_with(&n, 200 * 1000,
	               0); /* far less than what is published: the journal is read */
	connect_as(&n, &slow, "slow", true, 0, 10);
	connect_as(&n, &fast, "fast", true, 0, 1000);
	subscribe(&slow, "#", 1);
	subscribe(&fast, "#", 1);
	slow.deaf = true;
	publish_many(&n, "t", 0, 20000);
	until(&n, fast.n_got == 20000);
	assert_got(&fast, 0, 20000);
	assert_int_equal(slow.n_got, 0);
	slow.deaf = false;
	session_writable(slow.session);
	until(&n, slow.n_got == 20000);
	assert_got(&slow, 0, 20000);
	free(slow.got);
	free(fast.got);
	node_release(&n);
}

/* A clock that moves on at every look: a delivery's share of the time between two is 1 / 32. */
static uint64_t ticking_us(void)
{
	static uint64_t now_us;

	return now_us += 1000;
}

/* One event may go to thousands, and a batch has a thousand events: no turn is longer than it may
 * be for that, and everybody gets everything in order. */
static void test_wide_fan_out_is_cut(void **state)
{
	enum { CLIENTS = 100, EVENTS = 30, MOST = 32 };
	struct client *c = xcalloc(CLIENTS, sizeof *c);
	struct node n;
	size_t got = 0;
	char id[16];

	(void)state;
	node_init_with(&n, 0, 0);
	node_share_time(&n, 1000, ticking_us);
	for (int i = 0; i < CLIENTS; i++) {
		snprintf(id, sizeof id, "c%d", i);
		connect_as(&n, &c[i], id, true, 0, 100);
		subscribe(&c[i], "#", i % 2);
	}
	for (unsigned i = 0; i < EVENTS; i++)
		publish(&n, "t", i);
	while (got < (size_t)CLIENTS * EVENTS) {
		size_t before = got;

		loop_turn(n.loop);
		got = 0;
		for (int i = 0; i < CLIENTS; i++)
			got += c[i].n_got;
		assert_in_range(got - before, 0, MOST);
	}
	for (int i = 0; i < CLIENTS; i++) {
		assert_got(&c[i], 0, EVENTS);
		free(c[i].got);
	}
	node_release(&n);
	free(c);
}

static void test_window(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", true, 0, 5);
	c.auto_ack = false;
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 20);
	assert_int_equal(c.n_got, 5);
	assert_true(session_puback(c.session, c.got[2].packet_id, 0));
	assert_int_equal(c.n_got, 6);
	assert_false(session_puback(c.session, 999, 0));
	c.auto_ack = true;
	for (int i = 0; i < 6; i++)
		session_puback(c.session, c.got[i].packet_id, 0);
	until(&n, c.n_got == 20);
	assert_got(&c, 0, 20);
	free(c.got);
	node_release(&n);
}

static void resume(uint32_t linger_ms, bool same_ids)
{
	struct node n;
	struct client c = {0};
	uint16_t second;
	int turns = 60;

	node_init_with(&n, 0, linger_ms);
	connect_as(&n, &c, "c", false, 3600, 5);
	assert_false(c.present);
	c.auto_ack = false;
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 10);
	until(&n, c.n_got == 5);
	session_puback(c.session, c.got[0].packet_id, 0);
	session_puback(c.session, c.got[2].packet_id, 0);
	second = c.got[1].packet_id;
	while (turns--) /* the cursor is committed */
		loop_turn(n.loop);
	disconnect(&c, 3600);
	publish_many(&n, "t", 10, 30);
	for (turns = 0; turns < 60; turns++)
		loop_turn(n.loop);
	connect_as(&n, &c, "c", false, 3600, 100);
	assert_true(c.present);
	until(&n, c.n_got == 28);
	assert_int_equal(c.got[0].n, 1);
	assert_int_equal(c.got[0].dup, same_ids);
	if (same_ids)
		assert_int_equal(c.got[0].packet_id, second);
	for (unsigned i = 1; i < 28; i++)
		assert_int_equal(c.got[i].n, i + 2);
	/* Clean Start forgets it all */
	connect_as(&n, &c, "c", true, 3600, 100);
	assert_false(c.present);
	publish_many(&n, "t", 30, 40);
	assert_int_equal(c.n_got, 0);
	free(c.got);
	node_release(&n);
}

static void test_resume_in_memory(void **state)
{
	(void)state;
	resume(60000, true);
}

static void test_resume_from_the_bus(void **state)
{
	(void)state;
	resume(1, false);
}

static void test_takeover(void **state)
{
	struct node n;
	struct client old = {0};
	struct client new = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &old, "c", false, 3600, 5);
	old.auto_ack = false;
	subscribe(&old, "#", 1);
	publish_many(&n, "t", 0, 10);
	connect_as(&n, &new, "c", false, 3600, 100);
	assert_int_equal(old.kicked, 0x8e);
	assert_true(new.present);
	until(&n, new.n_got == 10);
	assert_got(&new, 0, 10);
	assert_true(new.got[4].dup);
	assert_false(new.got[5].dup);
	free(old.got);
	free(new.got);
	node_release(&n);
}

static void test_share(void **state)
{
	struct node n;
	struct client a = {0};
	struct client b = {0};
	bool *seen = xcalloc(2000, 1);

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &a, "a", true, 0, 50);
	connect_as(&n, &b, "b", true, 0, 50);
	assert_int_equal(subscribe(&a, "$share/g/t/#", 1), 1);
	assert_int_equal(subscribe(&b, "$share/g/t/#", 1), 1);
	publish_many(&n, "t/x", 0, 1000);
	until(&n, a.n_got + b.n_got == 1000);
	assert_true(a.n_got > 300 && b.n_got > 300);
	b.auto_ack = false;
	publish_many(&n, "t/x", 1000, 1400);
	until(&n, b.n_got >= 50);
	for (int i = 0; i < 50; i++)
		loop_turn(n.loop);
	disconnect(&b, 0); /* its deliveries go to the other */
	until(&n, a.n_got + b.n_got >= 1450);
	for (size_t i = 0; i < a.n_got; i++) {
		assert_false(seen[a.got[i].n]);
		seen[a.got[i].n] = true;
	}
	for (unsigned i = 1000; i < 1400; i++)
		assert_true(seen[i]);
	free(a.got);
	free(b.got);
	free(seen);
	node_release(&n);
}

static void test_generation(void **state)
{
	struct node n;
	struct client c = {0};
	struct client e = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "durable", false, 3600, 10);
	connect_as(&n, &e, "ephemeral", true, 0, 10);
	c.auto_ack = e.auto_ack = false;
	subscribe(&c, "#", 1);
	subscribe(&e, "#", 1);
	publish_many(&n, "t", 0, 30);
	assert_int_equal(c.n_got, 10);
	n.bus->generation++;
	dispatch_on_state(n.dispatch, BUS_DOWN);
	session_puback(c.session, c.got[3].packet_id, 0); /* while the database is away */
	session_puback(e.session, e.got[3].packet_id, 0);
	for (int i = 0; i < 20; i++)
		loop_turn(n.loop);
	dispatch_on_state(n.dispatch, BUS_UP);
	c.auto_ack = e.auto_ack = true;
	for (int i = 0; i < 10; i++) {
		if (i != 3) {
			session_puback(c.session, c.got[i].packet_id, 0);
			session_puback(e.session, e.got[i].packet_id, 0);
		}
	}
	until(&n, c.n_got >= 30 && e.n_got >= 30);
	publish_many(&n, "t", 30, 60);
	until(&n, c.n_got >= 60 && e.n_got >= 60);
	assert_got(&c, 0, 60); /* nothing twice on a live connection, nothing lost */
	assert_got(&e, 0, 60);
	free(c.got);
	free(e.got);
	node_release(&n);
}

/* What was acknowledged and not yet written when the database went away was written only with the
 * next acknowledgement, or by the sweep: a node that died before delivered it all again. */
static void cursors_are_written_after_an_outage(bool acked_before)
{
	struct node n;
	struct client c = {0};
	struct dispatch_stats before, now;

	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "durable", false, 3600, 10);
	c.auto_ack = false;
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 5);
	until(&n, c.n_got == 5);
	dispatch_get_stats(n.dispatch, &before);
	for (int i = 0; i < 5 && acked_before; i++)
		session_puback(c.session, c.got[i].packet_id, 0);
	n.bus->generation++;
	dispatch_on_state(n.dispatch, BUS_DOWN);
	for (int i = 0; i < 5 && !acked_before; i++)
		session_puback(c.session, c.got[i].packet_id, 0);
	for (int i = 0; i < 20; i++)
		loop_turn(n.loop);
	dispatch_on_state(n.dispatch, BUS_UP);
	for (int i = 0; i < 500; i++) { /* far less than a sweep */
		loop_turn(n.loop);
		dispatch_get_stats(n.dispatch, &now);
		if (now.cursor_commits > before.cursor_commits)
			break;
	}
	assert_true(now.cursor_commits > before.cursor_commits);
	free(c.got);
	node_release(&n);
}

static void test_cursors_after_an_outage(void **state)
{
	(void)state;
	cursors_are_written_after_an_outage(true);
	cursors_are_written_after_an_outage(false);
}

/* A backend whose read answers late: what it saw of the head is old by then. */
static struct bus_ops slow_ops;
static const struct bus_ops *real_ops;
static struct bus_read *held_read;
static void (*held_done)(struct bus_read *);
static bool hold_reads;

static void on_slow_read(struct bus_read *req)
{
	req->done = held_done;
	if (hold_reads)
		held_read = req;
	else
		req->done(req);
}

static void slow_read(struct bus *bus, struct bus_read *req)
{
	held_done = req->done;
	req->done = on_slow_read;
	real_ops->read(bus, req);
}

/* An event that was stored while the first read was under way, and after that read had seen the
 * head, was delivered only when another one followed it. */
static void test_stored_during_the_first_read(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	real_ops = n.bus->ops;
	slow_ops = *real_ops;
	slow_ops.read = slow_read;
	n.bus->ops = &slow_ops;
	publish_many(&n, "t", 0, 10);
	hold_reads = true;
	connect_as(&n, &c, "c", true, 0, 1000);
	subscribe(&c, "#", 1);
	until(&n, held_read);
	publish_many(&n, "t", 10, 11);
	hold_reads = false;
	held_read->done(held_read);
	until(&n, c.n_got == 1);
	assert_got(&c, 10, 11);
	free(c.got);
	node_release(&n);
}

/* A node tells of events that are not there, in partitions that are not there: who waits for events
 * goes on getting them. */
static void test_wrong_hints(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", true, 0, 100);
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 10);
	until(&n, c.n_got == 10);
	for (unsigned i = 10; i < 50; i += 10) {
		struct bus_head heads[] = {{n.tenant.id, 0, UINT64_MAX - 50 + i},
		                           {n.tenant.id, 60000, 7},
		                           {n.tenant.id + 1, 0, 7},
		                           {n.tenant.id, 0, 1}};

		assert_true(dispatch_hinted(n.dispatch, heads, 4));
		publish_many(&n, "t", i, i + 10);
		until(&n, c.n_got == i + 10);
	}
	assert_got(&c, 0, 50);
	free(c.got);
	node_release(&n);
}

static void test_start_positions(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	publish_many(&n, "t", 1, 101);
	connect_as(&n, &c, "earliest", true, 0, 1000);
	subscribe_from(&c, "#", 1, SESSION_START_EARLIEST, 0);
	until(&n, c.n_got == 100);
	assert_got(&c, 1, 101);
	disconnect(&c, 0);
	connect_as(&n, &c, "seq", true, 0, 1000);
	subscribe_from(&c, "#", 1, SESSION_START_SEQ, 51);
	until(&n, c.n_got == 50);
	assert_got(&c, 51, 101);
	disconnect(&c, 0);
	connect_as(&n, &c, "new", true, 0, 1000);
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 101, 111);
	until(&n, c.n_got == 10);
	assert_got(&c, 101, 111);
	free(c.got);
	node_release(&n);
}

static void test_unsubscribe(void **state)
{
	struct node n;
	struct client c = {0};
	struct slice gone = slice_str("a");
	struct session_unsubscribe req = {.filters = &gone, .n = 1, .done = on_answered};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", false, 60, 1000);
	subscribe(&c, "a", 1);
	subscribe(&c, "b", 0);
	publish_many(&n, "a", 0, 5);
	publish_many(&n, "b", 5, 10);
	until(&n, c.n_got == 10);
	assert_int_equal(c.got[9].qos, 0);
	c.answered = false;
	session_unsubscribe(c.session, &req);
	until(&n, c.answered);
	assert_int_equal(c.reason, 0);
	publish_many(&n, "a", 10, 15);
	publish_many(&n, "b", 15, 20);
	until(&n, c.n_got == 15);
	assert_int_equal(c.got[10].n, 15);
	c.answered = false;
	session_unsubscribe(c.session, &req);
	until(&n, c.answered);
	assert_int_equal(c.reason, 0x11);
	free(c.got);
	node_release(&n);
}

static void test_drain_releases(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", false, 3600, 1000);
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 50);
	until(&n, c.n_got == 50);
	dispatch_drain(n.dispatch, on_drained, &n.drained);
	until(&n, n.drained);
	assert_int_equal(c.kicked, 0x8b);
	free(c.got);
	node_release(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_live),
	        cmocka_unit_test(test_slow_consumer_lags_and_catches_up),
	        cmocka_unit_test(test_wide_fan_out_is_cut),
	        cmocka_unit_test(test_window),
	        cmocka_unit_test(test_resume_in_memory),
	        cmocka_unit_test(test_resume_from_the_bus),
	        cmocka_unit_test(test_takeover),
	        cmocka_unit_test(test_share),
	        cmocka_unit_test(test_generation),
	        cmocka_unit_test(test_cursors_after_an_outage),
	        cmocka_unit_test(test_stored_during_the_first_read),
	        cmocka_unit_test(test_wrong_hints),
	        cmocka_unit_test(test_start_positions),
	        cmocka_unit_test(test_unsubscribe),
	        cmocka_unit_test(test_drain_releases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
