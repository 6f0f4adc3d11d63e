/* The appender over the memory backend, whose appends are held, failed or refused when told to. */
#include "base/mem.h"
#include "cluster/bus_memory.h"
#include "node/delivery/appender.h"
#include "node/net/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX_ANSWERS = 200000, TENANTS = 200 };

static struct loop *loop;
static struct bus *bus;
static struct appender *appender;
static const struct bus_ops *real_ops;
static struct bus_ops held_ops;
static struct loop_timer *tick;

static bool hold;
static bool mixed;  /* an append held tenant 4 and others */
static char poison; /* a payload that begins with it is refused */
static struct bus_append *held[BUS_WRITERS];
static size_t n_appends;
static size_t largest_append; /* bytes */
static size_t most_heads;

static struct publisher *answers;
static enum append_result *results;
static size_t n_answers;
static size_t n_rooms;
static uint64_t last_room;
static uint64_t last_seq[TENANTS + 1][4];

static void defer(void *l, void (*fn)(void *), void *arg)
{
	loop_defer(l, fn, arg);
}

static void on_answer(void *arg, struct publisher to, enum append_result r, const char *reason)
{
	(void)arg;
	assert_true((r == APPEND_REFUSED) == (reason != NULL));
	results[n_answers] = r;
	answers[n_answers++] = to;
}

static void on_room(void *arg, uint64_t conn_id)
{
	(void)arg;
	n_rooms++;
	last_room = conn_id;
}

static void on_stored(void *arg, struct batch *b)
{
	uint64_t *last = &last_seq[batch_tenant(b)][batch_partition(b)];

	(void)arg;
	assert_int_equal(batch_base_seq(b), *last + 1); /* per head in order, no hole */
	*last += batch_count(b);
}

static void finish(void *arg)
{
	struct bus_append *req = arg;

	req->done(req);
}

static bool refuses(struct bus_append *req)
{
	struct event ev;

	for (size_t i = 0; i < req->n; i++) {
		for (uint32_t k = 0; k < batch_count(req->batches[i]); k++) {
			batch_event(req->batches[i], k, &ev);
			if (poison && ev.payload.n && ev.payload.p[0] == poison)
				return true;
		}
	}
	return false;
}

static void held_append(struct bus *b, struct bus_append *req)
{
	size_t bytes = 0;
	size_t heads = 0;

	n_appends++;
	for (size_t i = 0; i < req->n; i++) {
		const struct batch *this = req->batches[i];
		const struct batch *before = i ? req->batches[i - 1] : NULL;

		bytes += batch_bytes(this);
		mixed = mixed || (batch_tenant(this) == 4) != (batch_tenant(req->batches[0]) == 4);
		heads += !before || batch_tenant(before) != batch_tenant(this) ||
		         batch_partition(before) != batch_partition(this);
		assert_true(!before || batch_tenant(before) < batch_tenant(this) ||
		            (batch_tenant(before) == batch_tenant(this) &&
		             batch_partition(before) <= batch_partition(this)));
	}
	largest_append = bytes > largest_append ? bytes : largest_append;
	most_heads = heads > most_heads ? heads : most_heads;
	if (refuses(req)) {
		req->outcome = SQL_FATAL;
		req->culprit = SIZE_MAX;
		snprintf(req->error, sizeof req->error, "no");
		loop_defer(loop, finish, req);
	} else if (hold) {
		assert_null(held[req->writer_no]);
		held[req->writer_no] = req;
	} else {
		real_ops->append(b, req);
	}
}

static void release_held(void)
{
	hold = false;
	for (int w = 0; w < BUS_WRITERS; w++) {
		if (held[w])
			real_ops->append(bus, held[w]);
		held[w] = NULL;
	}
}

static void on_state(void *arg, enum bus_state state)
{
	(void)arg;
	appender_on_state(appender, state);
}

static void nothing(void *arg)
{
	(void)arg;
}

static int setup(void **state)
{
	struct bus_memory_settings ms = {.retention_bytes = 64 << 20, .defer = defer};
	struct appender_events ae = {
	        .on_answer = on_answer, .on_room = on_room, .on_stored = on_stored};

	(void)state;
	loop = loop_new();
	tick = loop_every(loop, 1, nothing, NULL);
	ms.loop = loop;
	bus = bus_memory_new(&ms);
	bus->events = (struct bus_events){.on_state = on_state};
	real_ops = bus->ops;
	held_ops = *real_ops;
	held_ops.append = held_append;
	bus->ops = &held_ops;
	appender = appender_new(loop, bus, &ae);
	hold = false;
	poison = 0;
	n_appends = largest_append = most_heads = n_answers = n_rooms = 0;
	answers = xcalloc(MAX_ANSWERS, sizeof *answers);
	results = xcalloc(MAX_ANSWERS, sizeof *results);
	memset(last_seq, 0, sizeof last_seq);
	while (bus->state != BUS_UP)
		loop_turn(loop);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < 10; i++)
		loop_turn(loop);
	assert_int_equal(appender_pending(appender), 0);
	appender_free(appender);
	bus->ops->free(bus);
	loop_timer_free(tick);
	loop_free(loop);
	free(answers);
	free(results);
	return 0;
}

static bool publish(uint32_t tenant, uint16_t partitions, const char *topic, size_t payload,
                    size_t props, struct publisher from)
{
	static char bytes[1 << 20];
	static char property[1 << 16];
	struct tenant t = {.id = tenant, .weight = 1, .partitions = partitions};
	struct event ev = {.topic = slice_str(topic), .qos = 1};

	if (!bytes[0])
		memset(bytes, 'x', sizeof bytes);
	ev.payload = slice(bytes, payload);
	if (props) { /* one user property */
		memset(property, 'x', sizeof property);
		memcpy(property, "\x26\0\1k", 4);
		property[4] = (char)((props - 6) >> 8);
		property[5] = (char)(props - 6);
		ev.props = slice(property, props);
	}
	return appender_publish(appender, &t, &ev, from);
}

#define until(condition)                                                 \
	do {                                                             \
		for (int turns_ = 0; !(condition); turns_++) {           \
			if (turns_ == 5000)                              \
				fail_msg("never happened: " #condition); \
			loop_turn(loop);                                 \
		}                                                        \
	} while (0)

static void test_one_turn_is_one_flush_and_answers_keep_their_order(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		assert_false(publish(2, 1, "t", 100, 0, (struct publisher){1, i}));
	publish(2, 1, "t", 100, 0, (struct publisher){0, 0}); /* nobody waits for this one */
	assert_int_equal(n_answers, 0);                       /* not before COMMIT */
	until(n_answers == 100);
	assert_int_equal(n_appends, 1);
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(answers[i].packet_id, i);
	assert_int_equal(last_seq[2][0], 101);
}

static void test_bounds(void **state)
{
	char topic[16];

	(void)state;
	hold = true;
	publish(2, 1, "t", 1, 0, (struct publisher){9, 0});
	loop_turn(loop);
	for (uint32_t i = 0; i < 30000; i++) { /* 150 heads of one writer */
		snprintf(topic, sizeof topic, "t/%u", i);
		publish(2 + 2 * (i % 75), 2, topic, 200, 0, (struct publisher){1, i});
	}
	release_held();
	until(n_answers == 30001);
	assert_true(largest_append <= BUS_FLUSH_MAX_BYTES);
	assert_true(most_heads <= BUS_FLUSH_MAX_HEADS);
}

/* While one writer is busy with a flood, a quiet tenant goes through the other, at once. */
static void test_a_flood_does_not_hold_up_others(void **state)
{
	(void)state;
	hold = true;
	for (uint32_t i = 0; i < 3000; i++)
		publish(2, 1, "flood", 1000, 0, (struct publisher){1, i});
	loop_turn(loop);
	loop_turn(loop);
	assert_non_null(held[0]);
	assert_null(held[1]);
	publish(4, 1, "quiet", 100, 0, (struct publisher){2, 7});
	loop_turn(loop);
	loop_turn(loop);
	assert_non_null(held[1]);
	assert_int_equal(held[1]->n, 1);
	assert_int_equal(batch_tenant(held[1]->batches[0]), 4);
	release_held();
	until(n_answers == 3001);
}

/* With floods on both writers it waits for a flush under way, not for one that a flood shares. */
static void test_much_and_little_do_not_share_a_flush(void **state)
{
	(void)state;
	hold = true;
	for (uint32_t i = 0; i < 3000; i++) {
		publish(2, 1, "flood", 1000, 0, (struct publisher){1, i});
		publish(3, 1, "flood", 1000, 0, (struct publisher){1, i});
		if (i == 500)
			loop_turn(loop);
	}
	loop_turn(loop);
	loop_turn(loop);
	assert_non_null(held[0]);
	assert_non_null(held[1]);
	publish(4, 1, "quiet", 100, 0, (struct publisher){2, 7});
	mixed = false;
	release_held();
	until(n_answers == 6001);
	assert_false(mixed);
}

/* Enough of one tenant for both writers; of two topics it has two partitions. */
static void flood(uint32_t tenant, uint32_t topics)
{
	char topic[16];

	for (uint32_t i = 0; i < 3000; i++) {
		snprintf(topic, sizeof topic, "f/%u", i % topics);
		publish(tenant, 4, topic, 1000, 0, (struct publisher){1, i});
	}
}

static void publish_and_wait(uint32_t tenant)
{
	size_t before = n_answers;

	publish(tenant, 1, "little", 100, 0, (struct publisher){2, 1});
	until(n_answers == before + 1);
}

static void release_one(uint32_t writer)
{
	struct bus_append *req = held[writer];

	assert_non_null(req);
	held[writer] = NULL;
	real_ops->append(bus, req);
}

static uint32_t held_tenant(uint32_t writer)
{
	assert_non_null(held[writer]);
	return batch_tenant(held[writer]->batches[0]);
}

static void turns(int n)
{
	for (int i = 0; i < n; i++)
		loop_turn(loop);
}

static void test_who_has_much_alone_has_both_writers(void **state)
{
	(void)state;
	publish_and_wait(2); /* its own little holds nothing back */
	hold = true;
	flood(2, 2);
	turns(2);
	assert_non_null(held[0]);
	assert_non_null(held[1]);
	release_held();
	until(n_answers == 3001);
}

/* Also where the flood was on both writers before: a quiet tenant waits for no flush of it. */
static void test_where_others_publish_little_a_writer_is_left_to_them(void **state)
{
	(void)state;
	hold = true;
	flood(2, 2);
	turns(2);
	publish(4, 1, "little", 100, 0, (struct publisher){2, 1});
	release_one(1);
	turns(3);
	assert_int_equal(held_tenant(1), 4);
	release_one(1);
	turns(3); /* nothing of what is left of the flood goes there any more */
	assert_int_equal(held_tenant(0), 2);
	assert_null(held[1]);
	for (uint32_t i = 0; i < 30; i++) { /* nor what is new of it, in other partitions */
		char topic[16];

		snprintf(topic, sizeof topic, "new/%u", i);
		publish(2, 4, topic, 1000, 0, (struct publisher){1, 3000 + i});
	}
	turns(3);
	assert_null(held[1]);
	publish(4, 1, "little", 100, 0, (struct publisher){2, 2});
	turns(3);
	assert_int_equal(held_tenant(1), 4);
	release_held();
	until(n_answers == 3032);
}

static void test_much_comes_after_little(void **state)
{
	(void)state;
	publish_and_wait(4);
	hold = true;
	flood(2, 2);
	turns(2);
	assert_int_equal(held_tenant(0), 2);
	assert_null(held[1]);
	release_held();
	until(n_answers == 3001);
}

/* It had something in flight there when the flood came, and always had again. */
static void test_little_does_not_stay_behind_much(void **state)
{
	(void)state;
	hold = true;
	publish(4, 1, "little", 100, 0, (struct publisher){2, 1});
	turns(2);
	assert_non_null(held[0]);
	publish(3, 1, "little", 100, 0, (struct publisher){2, 1});
	turns(2);
	assert_non_null(held[1]);
	flood(2, 2);
	publish(4, 1, "little", 100, 0, (struct publisher){2, 2}); /* behind its first */
	release_one(1);
	turns(3);
	release_one(0);
	turns(3);
	assert_int_equal(held_tenant(0), 2);
	assert_int_equal(held_tenant(1), 4);
	release_held();
	until(n_answers == 3003);
}

static void check_order(uint32_t conns)
{
	uint32_t *last = xcalloc(conns, sizeof *last);

	for (size_t i = 0; i < n_answers; i++) {
		uint32_t *of = &last[answers[i].conn_id];

		assert_true(answers[i].packet_id > *of);
		*of = answers[i].packet_id;
	}
	free(last);
}

/* Heads change their writers all the time; of none the order changes. Tenant 2 has much, three
 * others little, and each topic is a connection. */
static void test_order_holds_while_heads_change_their_writer(void **state)
{
	enum { ROUNDS = 1000, TOPICS = 40 };
	uint32_t next[4 * TOPICS] = {0};
	uint32_t random = 12345;
	char topic[16];
	size_t n = 0;

	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < 12; i++, n++) {
			uint32_t tenant = (random >> 16) % 16 < 12 ? 0 : (random >> 20) % 4;
			uint32_t which = tenant * TOPICS + (random >> 8) % TOPICS;

			snprintf(topic, sizeof topic, "t/%u", which);
			publish(2 + tenant, 4, topic, tenant ? 100 : 2000, 0,
			        (struct publisher){1 + which, ++next[which]});
			random = random * 1103515245 + 12345;
		}
		hold = (random >> 24) % 2;
		turns(1);
		if (held[0] && (random >> 25) % 2)
			release_one(0);
		if (held[1] && (random >> 26) % 2)
			release_one(1);
	}
	while (held[0] || held[1] || n_answers < n) {
		release_held();
		turns(1);
	}
	check_order(1 + 4 * TOPICS);
}

static void test_backpressure(void **state)
{
	uint32_t n = 0;

	(void)state;
	hold = true;
	while (!publish(2, 1, "t", 1000, 0, (struct publisher){5, n++}))
		assert_true(n < 10000);
	assert_true(appender_pending(appender) >= APPENDER_TENANT_MAX);
	assert_false(publish(4, 1, "t", 1000, 0, (struct publisher){6, 0})); /* others may */
	loop_turn(loop);
	release_held();
	until(n_rooms == 1);
	assert_int_equal(last_room, 5);
	until(n_answers == n + 1);
}

/* User properties are the client's to size: they counted nothing, and filled the memory. */
static void test_properties_count(void **state)
{
	uint32_t n = 0;

	(void)state;
	hold = true;
	while (!publish(2, 1, "t", 0, 60000, (struct publisher){5, n++}))
		assert_true(n < 100);
	loop_turn(loop);
	release_held();
	until(n_answers == n && n_rooms == 1);
}

/* All tenants together reached the node's bound: one that had nothing under way any more by the
 * time there was room was never told. */
static void test_room_after_the_node_was_full(void **state)
{
	uint32_t paused = 0;
	uint32_t n = 0;

	(void)state;
	hold = true;
	publish(3, 1, "small", 10, 0, (struct publisher){3, 0}); /* the other writer */
	loop_turn(loop);
	for (uint32_t t = 2; appender_pending(appender) < APPENDER_NODE_MAX; t += 2) {
		assert_true(t < TENANTS);
		while (!publish(t, 1, "t", 500000, 0, (struct publisher){t, n++}))
			;
		paused++;
	}
	assert_true(publish(3, 1, "small", 10, 0, (struct publisher){3, 1}));
	paused++;
	loop_turn(loop);                /* the others' first flush is under way, and stays so */
	real_ops->append(bus, held[1]); /* the small tenant is done while the node is full */
	held[1] = NULL;
	hold = false;
	until(n_answers == 2);
	assert_int_equal(n_rooms, 0);
	release_held();
	until(n_answers == n + 2);
	assert_int_equal(n_rooms, paused);
}

static void test_refused_alone(void **state)
{
	struct tenant t = {.id = 2, .weight = 1, .partitions = 1};

	(void)state;
	poison = '!';
	for (uint32_t i = 0; i < 50; i++) {
		struct event ev = {.topic = slice_str("t"), .qos = 1};

		ev.payload = slice_str(i == 31 ? "!bad" : "good");
		appender_publish(appender, &t, &ev, (struct publisher){1, i});
	}
	until(n_answers == 50);
	for (size_t i = 0; i < 50; i++)
		assert_int_equal(results[i],
		                 answers[i].packet_id == 31 ? APPEND_REFUSED : APPEND_STORED);
	assert_int_equal(last_seq[2][0], 49);
}

static void test_one_key_one_partition(void **state)
{
	struct tenant t = {.id = 2, .weight = 1, .partitions = 4};
	uint64_t used = 0;

	(void)state;
	for (uint32_t i = 0; i < 400; i++) {
		char topic[16];
		struct event ev = {.qos = 1, .payload = slice_str("p")};

		snprintf(topic, sizeof topic, "t/%u", i);
		ev.topic = slice_str(topic);
		if (i < 200)
			ev.key = slice_str("same");
		appender_publish(appender, &t, &ev, (struct publisher){1, i});
		if (i == 199) {
			until(n_answers == 200);
			for (int p = 0; p < 4; p++)
				used += last_seq[2][p] != 0;
			assert_int_equal(used, 1);
		}
	}
	until(n_answers == 400);
	for (int p = 0; p < 4; p++)
		assert_true(last_seq[2][p] > 10);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(test_one_turn_is_one_flush_and_answers_keep_their_order),
	        TEST(test_bounds),
	        TEST(test_a_flood_does_not_hold_up_others),
	        TEST(test_much_and_little_do_not_share_a_flush),
	        TEST(test_who_has_much_alone_has_both_writers),
	        TEST(test_where_others_publish_little_a_writer_is_left_to_them),
	        TEST(test_much_comes_after_little),
	        TEST(test_little_does_not_stay_behind_much),
	        TEST(test_order_holds_while_heads_change_their_writer),
	        TEST(test_backpressure),
	        TEST(test_properties_count),
	        TEST(test_room_after_the_node_was_full),
	        TEST(test_refused_alone),
	        TEST(test_one_key_one_partition),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
