/* Work queues over the memory backend: attempts, pauses, dead letters, order, the breaker. */
#include "tests/unit/node/rig.h"

#include "base/clock.h"
#include "cluster/bus_memory.h"

static struct node node;
static struct client a, b, c;

static int begin(void **state)
{
	(void)state;
	a = b = c = (struct client){0};
	node_init_with(&node, 0, 50);
	node.policy = (struct bus_policy){.max_attempts = 3,
	                                  .ack_timeout_ms = 30000,
	                                  .backoff_ms = 20,
	                                  .backoff_max_ms = 40,
	                                  .max_failed = 100};
	return 0;
}

static int end(void **state)
{
	struct client *all[] = {&a, &b, &c};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		if (all[i]->session)
			disconnect(all[i], 0);
	}
	node_release(&node);
	for (size_t i = 0; i < 3; i++)
		free(all[i]->got);
	return 0;
}

static void turn_for(uint64_t ms)
{
	uint64_t until_ms = clock_now_ms() + ms;

	while (clock_now_ms() < until_ms)
		loop_turn(node.loop);
}

static struct dispatch_stats stats(void)
{
	struct dispatch_stats out;

	dispatch_get_stats(node.dispatch, &out);
	return out;
}

static size_t times_got(const struct client *x, unsigned n)
{
	size_t times = 0;

	for (size_t i = 0; i < x->n_got; i++)
		times += x->got[i].n == n;
	return times;
}

/* ---- joining -----------------------------------------------------------------------------------
 */

static void test_events_are_shared(void **state)
{
	(void)state;
	connect_as(&node, &a, "a", true, 0, 4);
	connect_as(&node, &b, "b", true, 0, 4);
	assert_int_equal(subscribe(&a, "$queue/q/t/#", 1), 1);
	assert_int_equal(subscribe(&b, "$queue/q", 1), 1);
	publish_many(&node, "t/1", 0, 100);
	until(&node, a.n_got + b.n_got == 100);
	assert_true(a.n_got > 20 && b.n_got > 20);
	assert_int_equal(a.got[0].attempt, 1);
	assert_false(a.got[0].dup);
	until(&node, stats().settled == 100);
	assert_int_equal(stats().failed, 0);
}

static void test_what_cannot_be_joined(void **state)
{
	(void)state;
	connect_as(&node, &a, "a", true, 0, 4);
	assert_int_equal(subscribe(&a, "$queue/q", 1), 0x8f);
	assert_non_null(strstr(a.text, "$queue/q/FILTER"));
	assert_int_equal(subscribe(&a, "$queue/q/t/#", 1), 1);
	connect_as(&node, &b, "b", true, 0, 4);
	assert_int_equal(subscribe(&b, "$queue/q/u", 1), 0x8f);
	assert_non_null(strstr(b.text, "t/#"));
	b.denied = "t/#";
	connect_as(&node, &b, "b", true, 0, 4);
	assert_int_equal(subscribe(&b, "$queue/q", 1), 0x87);
	publish_many(&node, "t/1", 0, 10);
	until(&node, a.n_got == 10);
	assert_int_equal(b.n_got, 0);
}

/* It outlives its consumers; what they acknowledged before they left stays acknowledged. */
static void test_outlives_its_consumers(void **state)
{
	(void)state;
	connect_as(&node, &a, "a", true, 0, 4);
	subscribe(&a, "$queue/q/t/#", 1);
	publish_many(&node, "t/1", 0, 4);
	until(&node, stats().settled == 4);
	disconnect(&a, 0); /* its acknowledgements are not in the cursor yet */
	turn_for(30);
	publish_many(&node, "t/1", 4, 8);
	connect_as(&node, &a, "a", true, 0, 4);
	assert_int_equal(subscribe(&a, "$queue/q", 1), 1);
	until(&node, a.n_got >= 4);
	turn_for(20);
	assert_got(&a, 4, 8);
}

static void test_a_session_comes_back(void **state)
{
	(void)state;
	connect_as(&node, &a, "a", true, 600, 4);
	assert_int_equal(subscribe(&a, "$queue/q/t/#", 1), 1);
	disconnect(&a, 600);
	turn_for(100); /* longer than it lingers */
	publish_many(&node, "t/1", 0, 4);
	connect_as(&node, &a, "a", false, 600, 4);
	assert_true(a.present);
	until(&node, a.n_got == 4);
	disconnect(&a, 600);
	turn_for(100);
	publish_many(&node, "t/1", 4, 8);
	a.denied = "t/#"; /* its token does not allow it any more */
	connect_as(&node, &a, "a", false, 600, 4);
	turn_for(50);
	assert_int_equal(a.n_got, 0);
}

/* Its client is away for a moment while the queue is claimed again: who could be asked? */
static void test_claimed_while_its_client_is_away(void **state)
{
	(void)state;
	connect_as(&node, &a, "a", true, 600, 4);
	subscribe(&a, "$queue/q/t/#", 1);
	connect_as(&node, &b, "b", true, 600, 4);
	subscribe(&b, "$queue/q", 1);
	disconnect(&a, 600);
	dispatch_on_state(node.dispatch, BUS_DOWN);
	dispatch_on_state(node.dispatch, BUS_UP);
	publish_many(&node, "t/1", 0, 4);
	until(&node, b.n_got == 4);
	a.denied = "t/#";
	connect_as(&node, &a, "a", false, 600, 4);
	disconnect(&b, 0);
	publish_many(&node, "t/1", 4, 8);
	turn_for(50);
	assert_int_equal(a.n_got, 0);
}

/* ---- failing -----------------------------------------------------------------------------------
 */

static uint8_t refuse_2(unsigned n)
{
	return n == 2 ? 0x80 : 0;
}

static void test_failed_is_tried_again(void **state)
{
	(void)state;
	a.answer = refuse_2;
	connect_as(&node, &a, "a", true, 0, 10);
	subscribe(&a, "$queue/q/t", 1);
	publish_many(&node, "t", 0, 10);
	until(&node, stats().dead_lettered == 1);
	assert_int_equal(times_got(&a, 2), 3);
	assert_int_equal(a.n_got, 12);
	assert_int_equal(a.got[10].n, 2);
	assert_int_equal(a.got[10].attempt, 2);
	assert_false(a.got[10].dup);
	assert_int_equal(a.got[11].attempt, 3);
	assert_int_equal(stats().failed, 3);
	assert_int_equal(stats().retried, 2);
	assert_int_equal(stats().retries_waiting, 0);
}

static uint8_t refuse_for_good(unsigned n)
{
	return n == 3 ? 0x99 : 0;
}

static void test_given_up_at_once(void **state)
{
	(void)state;
	a.answer = refuse_for_good;
	connect_as(&node, &a, "a", true, 0, 10);
	subscribe(&a, "$queue/q/t", 1);
	publish_many(&node, "t", 0, 10);
	until(&node, stats().dead_lettered == 1);
	turn_for(50);
	assert_int_equal(a.n_got, 10);
}

/* Where there is no room for more dead letters, it is tried again, whatever its attempts, until
 * there is. */
static void test_no_room_for_dead_letters(void **state)
{
	(void)state;
	node.few_graves = true;
	a.answer = refuse_2;
	connect_as(&node, &a, "a", true, 0, 10);
	subscribe(&a, "$queue/q/t", 1);
	publish_many(&node, "t", 0, 3);
	until(&node, times_got(&a, 2) >= 6);
	assert_int_equal(stats().dead_lettered, 0);
	assert_true(node.denied_graves >= 3);
	assert_int_equal(times_got(&a, 1), 1);
	node.graves = 1;
	until(&node, stats().dead_lettered == 1);
	assert_int_equal(node.graves, 0);
	assert_int_equal(stats().retries_waiting, 0);
}

/* One that was let in and could not be written after all gives its place back. */
static void test_dead_letter_that_was_not_written(void **state)
{
	(void)state;
	node.few_graves = true;
	node.graves = 1;
	a.answer = refuse_for_good;
	connect_as(&node, &a, "a", true, 0, 10);
	subscribe(&a, "$queue/q/t", 1);
	publish_many(&node, "t", 0, 4);
	until(&node, node.graves == 0);
	dispatch_on_state(node.dispatch, BUS_DOWN); /* before it is settled: a new generation */
	turn_for(20);
	dispatch_on_state(node.dispatch, BUS_UP);
	until(&node, stats().dead_lettered == 1);
	assert_int_equal(node.graves, 0);
	turn_for(50);
	assert_int_equal(stats().dead_lettered, 1);
}

static void test_retry_comes_after_its_consumer_left(void **state)
{
	(void)state;
	node.policy.backoff_ms = node.policy.backoff_max_ms = 60;
	a.answer = refuse_2;
	connect_as(&node, &a, "a", true, 0, 10);
	subscribe(&a, "$queue/q/t", 1);
	publish_many(&node, "t", 2, 3);
	until(&node, stats().failed == 1);
	disconnect(&a, 0);
	turn_for(150);
	connect_as(&node, &b, "b", true, 0, 10);
	subscribe(&b, "$queue/q", 1);
	until(&node, b.n_got == 1);
	assert_int_equal(b.got[0].attempt, 2);
}

/* A consumer that goes away has not failed: all it had comes again at once, in order. */
static void test_lost_is_not_failed(void **state)
{
	(void)state;
	a.never_ack = true;
	connect_as(&node, &a, "a", true, 0, 5);
	subscribe(&a, "$queue/q/t", 1);
	publish_many(&node, "t", 0, 10);
	until(&node, a.n_got == 5);
	connect_as(&node, &b, "b", true, 0, 1);
	disconnect(&a, 0);
	subscribe(&b, "$queue/q", 1);
	until(&node, b.n_got == 10);
	assert_got(&b, 0, 10);
	assert_int_equal(b.got[0].attempt, 1);
	assert_false(b.got[0].dup);
	assert_int_equal(stats().failed, 0);
}

/* One that crashes its consumers is found out in the end. */
static void test_lost_many_times(void **state)
{
	(void)state;
	a.never_ack = true;
	connect_as(&node, &c, "c", true, 0, 5); /* keeps the queue here, takes nothing */
	c.deaf = true;
	subscribe(&c, "$queue/q/t", 1);
	publish_many(&node, "t", 0, 1);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(stats().failed, 0);
		connect_as(&node, &a, "a", true, 0, 5);
		subscribe(&a, "$queue/q", 1);
		until(&node, a.n_got == 1);
		disconnect(&a, 0);
	}
	assert_int_equal(stats().failed, 1);
	connect_as(&node, &b, "b", true, 0, 5);
	subscribe(&b, "$queue/q", 1);
	until(&node, b.n_got == 1);
	assert_int_equal(b.got[0].attempt, 2);
}

static void test_ack_timeout(void **state)
{
	(void)state;
	node.policy.ack_timeout_ms = 100;
	a.never_ack = true;
	connect_as(&node, &a, "a", true, 0, 3);
	subscribe(&a, "$queue/q/t", 1);
	publish_many(&node, "t", 0, 1);
	until(&node, a.n_got == 1);
	turn_for(60);
	publish_many(&node, "t", 1, 3);
	connect_as(&node, &b, "b", true, 0, 10);
	subscribe(&b, "$queue/q", 1);
	until(&node, a.kicked);
	assert_int_equal(a.kicked, 0x83);
	until(&node, b.n_got == 3);
	assert_int_equal(stats().failed, 1); /* the others were not too late */
	assert_int_equal(b.got[0].n, 1);
	assert_int_equal(b.got[1].n, 2);
	assert_int_equal(b.got[2].n, 0);
	assert_int_equal(b.got[2].attempt, 2);
	assert_int_equal(b.got[0].attempt, 1);
}

static void test_generation_change(void **state)
{
	(void)state;
	node.policy.backoff_ms = node.policy.backoff_max_ms = 400;
	a.answer = refuse_2;
	connect_as(&node, &a, "a", true, 0, 10);
	subscribe(&a, "$queue/q/t", 1);
	b.never_ack = true;
	publish_many(&node, "t", 0, 5);
	until(&node, stats().retries_waiting == 1);
	dispatch_on_state(node.dispatch, BUS_DOWN);
	turn_for(20);
	dispatch_on_state(node.dispatch, BUS_UP);
	publish_many(&node, "t", 5, 10);
	until(&node, times_got(&a, 9) == 1);
	assert_int_equal(times_got(&a, 2), 1);
	until(&node, stats().dead_lettered == 1);
	assert_int_equal(times_got(&a, 2), 3);
	assert_int_equal(a.n_got, 12);
}

static void on_stolen(struct bus_claim *req)
{
	assert_int_equal(req->outcome, SQL_OK);
	node.bus->ops->claim_release(node.bus, req);
	*(bool *)req->arg = true;
}

/* What is processed while nobody owns the queue is written down by who owns it next. */
static void test_done_while_not_ours(void **state)
{
	bool stolen = false;
	struct bus_claim claim = {.done = on_stolen,
	                          .arg = &stolen,
	                          .tenant_id = node.tenant.id,
	                          .kind = BUS_SUB_QUEUE,
	                          .name = slice_str("q"),
	                          .force = true};

	(void)state;
	a.answer = refuse_2;
	connect_as(&node, &a, "a", true, 0, 10);
	subscribe(&a, "$queue/q/t", 1);
	publish_many(&node, "t", 2, 3);
	until(&node, stats().retries_waiting == 1);
	disconnect(&a, 0);
	b.never_ack = true;
	connect_as(&node, &b, "b", true, 0, 10);
	subscribe(&b, "$queue/q", 1);
	until(&node, b.n_got == 1);
	node.bus->ops->claim(node.bus, &claim);
	until(&node, stolen);
	dispatch_on_taken(node.dispatch);
	until(&node, stats().retries_waiting == 0);
	session_answer(b.session, b.got[0].packet_id, 0, slice_str(""));
	publish_many(&node, "t", 3, 4);
	until(&node, b.n_got == 2); /* it is ours again */
	assert_int_equal(b.got[1].n, 3);
	turn_for(200);
	assert_int_equal(stats().retries_waiting, 0);
	assert_int_equal(b.n_got, 2);
}

static const struct bus_ops *real_ops;
static unsigned n_claims;

static void refuse_later(void *arg)
{
	struct bus_claim *req = arg;

	req->outcome = SQL_FATAL;
	req->done(req);
}

static void claim_refused(struct bus *bus, struct bus_claim *req)
{
	if (req->kind != BUS_SUB_QUEUE) {
		real_ops->claim(bus, req);
		return;
	}
	n_claims++;
	loop_defer(node.loop, refuse_later, req);
}

/* A database that does not let a queue be made is not asked again and again without a pause. */
static void test_refused_by_the_database(void **state)
{
	struct session_filter f = {.filter = slice_str("$queue/q/t"), .qos = 1};
	struct session_subscribe sub = {
	        .filters = &f, .n = 1, .policy = node.policy, .done = on_answered};
	struct bus_ops ops = *node.bus->ops;

	(void)state;
	real_ops = node.bus->ops;
	n_claims = 0;
	ops.claim = claim_refused;
	connect_as(&node, &a, "a", true, 0, 10);
	node.bus->ops = &ops;
	session_subscribe(a.session, &sub);
	turn_for(250);
	node.bus->ops = real_ops;
	assert_in_range(n_claims, 2, 4);
	until(&node, a.answered);
	assert_int_equal(a.reason, 1);
}

/* ---- the cap and the breaker -------------------------------------------------------------------
 */

static uint8_t refuse_first(unsigned n)
{
	static unsigned asked;

	(void)n;
	return asked++ ? 0 : 0x80;
}

/* A queue's events are acknowledged, and so may fail, whatever QoS they were published at, and
 * whatever a filter says that somebody wrote into a session's row. */
static void test_qos_0_goes_out_at_1(void **state)
{
	struct event ev = {.topic = slice_str("t/1"), .qos = 0};
	char text[16];

	(void)state;
	node.policy.ordered = true;
	a.never_ack = true;
	connect_as(&node, &a, "a", true, 0, 3);
	subscribe(&a, "$queue/q/t/#", 0);
	for (unsigned i = 0; i < 5; i++) {
		ev.payload = slice(text, (size_t)snprintf(text, sizeof text, "%u...", i));
		appender_publish(node.appender, &node.tenant, &ev, (struct publisher){1, 1});
	}
	until(&node, node.stored == 5 && a.n_got == 1);
	turn_for(30);
	assert_int_equal(a.n_got, 1); /* ordered: one at a time */
	assert_int_equal(a.got[0].qos, 1);
	assert_true(a.got[0].packet_id);
	disconnect(&a, 0);
	b.answer = refuse_first;
	connect_as(&node, &b, "b", true, 0, 3);
	subscribe(&b, "$queue/q", 1);
	until(&node, b.n_got == 6);
	assert_int_equal(b.got[0].n, 0);
	until(&node, stats().settled == 5);
	assert_int_equal(stats().failed, 1);
}

static uint8_t refuse_all(unsigned n)
{
	(void)n;
	return 0x80;
}

static void test_breaker(void **state)
{
	size_t before;

	(void)state;
	node.policy.max_failed = 5;
	node.policy.max_attempts = 50;
	node.policy.backoff_ms = 30;
	node.policy.backoff_max_ms = 60;
	a.answer = refuse_all;
	connect_as(&node, &a, "a", true, 0, 1);
	subscribe(&a, "$queue/q/t", 1);
	publish_many(&node, "t", 0, 200);
	until(&node, stats().breakers_open == 1);
	until(&node, stats().retries_waiting == 5);
	before = a.n_got;
	turn_for(400);
	assert_in_range(a.n_got - before, 4, 30); /* one probe at a time */
	assert_int_equal(stats().dead_lettered, 0);
	assert_int_equal(stats().retries_waiting, 5);
	for (unsigned i = 10; i < 200; i++)
		assert_int_equal(times_got(&a, i), 0); /* the cursor waits */
	a.answer = NULL;
	until(&node, stats().breakers_open == 0);
	until(&node, stats().retries_waiting == 0);
	until(&node, times_got(&a, 199) == 1);
	assert_int_equal(stats().dead_lettered, 0);
}

/* ---- order -------------------------------------------------------------------------------------
 */

static unsigned refusals;

/* The first event of topic "bad" fails twice. */
static uint8_t refuse_100_twice(unsigned n)
{
	return n == 100 && refusals++ < 2 ? 0x80 : 0;
}

/* Numbers of [from, to) in the order they were last got. */
static void assert_in_order(const struct client *x, unsigned from, unsigned to)
{
	unsigned next = from;

	for (size_t i = 0; i < x->n_got; i++) {
		unsigned n = x->got[i].n;

		if (n < from || n >= to)
			continue;
		if (n + 1 == next)
			continue; /* again */
		assert_int_equal(n, next);
		next++;
	}
	assert_int_equal(next, to);
}

static size_t first_at(const struct client *x, unsigned n)
{
	for (size_t i = 0; i < x->n_got; i++) {
		if (x->got[i].n == n)
			return i;
	}
	fail_msg("never came");
	return 0;
}

static void test_ordered(void **state)
{
	(void)state;
	refusals = 0;
	node.policy.ordered = true;
	node.policy.backoff_ms = node.policy.backoff_max_ms = 50;
	a.answer = refuse_100_twice;
	connect_as(&node, &a, "a", true, 0, 20);
	subscribe(&a, "$queue/q/#", 1);
	for (unsigned i = 0; i < 10; i++) {
		publish(&node, "bad", 100 + i);
		publish(&node, "good", 200 + i);
		publish(&node, "fine", 300 + i);
	}
	until(&node, times_got(&a, 109) == 1);
	until(&node, times_got(&a, 209) == 1 && times_got(&a, 309) == 1);
	assert_in_order(&a, 100, 110);
	assert_in_order(&a, 200, 210);
	assert_in_order(&a, 300, 310);
	assert_int_equal(times_got(&a, 100), 3);
	assert_int_equal(times_got(&a, 101), 1);
	assert_true(first_at(&a, 209) < first_at(&a, 101)); /* the others did not wait */
	assert_int_equal(a.got[first_at(&a, 101)].attempt, 1);
	until(&node, stats().retries_waiting == 0);
}

/* At most one of a key is in flight, also when its consumer goes. */
static void test_ordered_one_at_a_time(void **state)
{
	(void)state;
	node.policy.ordered = true;
	a.never_ack = true;
	connect_as(&node, &a, "a", true, 0, 20);
	subscribe(&a, "$queue/q/#", 1);
	for (unsigned i = 0; i < 10; i++) {
		publish(&node, "x", 100 + i);
		publish(&node, "y", 200 + i);
	}
	until(&node, a.n_got == 2);
	turn_for(30);
	assert_int_equal(a.n_got, 2);
	connect_as(&node, &b, "b", true, 0, 20);
	subscribe(&b, "$queue/q", 1);
	turn_for(30);
	assert_int_equal(b.n_got, 0);
	disconnect(&a, 0);
	until(&node, b.n_got == 20);
	assert_in_order(&b, 100, 110);
	assert_in_order(&b, 200, 210);
}

static void test_ordered_survives_its_owner(void **state)
{
	(void)state;
	refusals = 0;
	node.policy.ordered = true;
	node.policy.backoff_ms = node.policy.backoff_max_ms = 100;
	a.answer = refuse_100_twice;
	connect_as(&node, &a, "a", true, 0, 20);
	subscribe(&a, "$queue/q/#", 1);
	for (unsigned i = 0; i < 10; i++)
		publish(&node, "bad", 100 + i);
	until(&node, stats().retries_waiting == 10);
	disconnect(&a, 0);
	turn_for(150); /* let go of */
	assert_int_equal(stats().subscriptions, 0);
	b.answer = refuse_100_twice;
	connect_as(&node, &b, "b", true, 0, 20);
	subscribe(&b, "$queue/q", 1);
	until(&node, times_got(&b, 109) == 1);
	assert_in_order(&b, 100, 110);
	until(&node, stats().retries_waiting == 0);
}

static uint8_t refuse_100_for_good(unsigned n)
{
	return n == 100 ? 0x99 : 0;
}

static void test_ordered_dead_letter_lets_go(void **state)
{
	(void)state;
	node.policy.ordered = true;
	a.answer = refuse_100_for_good;
	connect_as(&node, &a, "a", true, 0, 20);
	subscribe(&a, "$queue/q/#", 1);
	for (unsigned i = 0; i < 10; i++)
		publish(&node, "bad", 100 + i);
	until(&node, times_got(&a, 109) == 1);
	assert_got(&a, 100, 110);
	assert_int_equal(stats().dead_lettered, 1);
}

static struct bus_settle *held_settle;

static void hold_settle(struct bus *bus, struct bus_settle *req)
{
	(void)bus;
	held_settle = req;
}

static void answer_last(struct client *x)
{
	session_answer(x->session, x->got[x->n_got - 1].packet_id, 0, slice_str(""));
}

/* The database is lost before it was written that a second attempt is done, when the next of its
 * key is out already: that one is still before all that come later, also when it comes back. */
static void test_ordered_after_a_forgotten_answer(void **state)
{
	struct bus_ops ops = *node.bus->ops;

	(void)state;
	real_ops = node.bus->ops;
	ops.settle = hold_settle;
	refusals = 1;
	node.policy.ordered = true;
	a.answer = refuse_100_twice;
	b.never_ack = true;
	connect_as(&node, &a, "a", true, 0, 20);
	subscribe(&a, "$queue/q/#", 1);
	connect_as(&node, &b, "b", true, 0, 20);
	b.deaf = true;
	subscribe(&b, "$queue/q", 1);
	publish(&node, "bad", 100);
	until(&node, stats().retries_waiting == 1);
	node.bus->ops = &ops;
	until(&node, held_settle != NULL);
	assert_int_equal(times_got(&a, 100), 2);
	a.auto_ack = false;
	publish(&node, "bad", 101);
	until(&node, times_got(&a, 101) == 1);

	dispatch_on_state(node.dispatch, BUS_DOWN);
	node.bus->ops = real_ops;
	held_settle->outcome = SQL_RETRY;
	held_settle->done(held_settle);
	disconnect(&a, 0);
	b.deaf = false;
	publish(&node, "bad", 102);
	dispatch_on_state(node.dispatch, BUS_UP);
	until(&node, times_got(&b, 100) == 1);
	turn_for(30);
	assert_int_equal(b.n_got, 1);
	answer_last(&b);
	until(&node, times_got(&b, 101) == 1);
	turn_for(30);
	assert_int_equal(b.n_got, 2);
	answer_last(&b);
	until(&node, times_got(&b, 102) == 1);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
	const struct CMUnitTest tests[] = {
	        TEST(test_events_are_shared),
	        TEST(test_what_cannot_be_joined),
	        TEST(test_outlives_its_consumers),
	        TEST(test_a_session_comes_back),
	        TEST(test_claimed_while_its_client_is_away),
	        TEST(test_failed_is_tried_again),
	        TEST(test_given_up_at_once),
	        TEST(test_no_room_for_dead_letters),
	        TEST(test_dead_letter_that_was_not_written),
	        TEST(test_retry_comes_after_its_consumer_left),
	        TEST(test_lost_is_not_failed),
	        TEST(test_lost_many_times),
	        TEST(test_ack_timeout),
	        TEST(test_generation_change),
	        TEST(test_done_while_not_ours),
	        TEST(test_refused_by_the_database),
	        TEST(test_qos_0_goes_out_at_1),
	        TEST(test_breaker),
	        TEST(test_ordered),
	        TEST(test_ordered_one_at_a_time),
	        TEST(test_ordered_survives_its_owner),
	        TEST(test_ordered_dead_letter_lets_go),
	        TEST(test_ordered_after_a_forgotten_answer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
