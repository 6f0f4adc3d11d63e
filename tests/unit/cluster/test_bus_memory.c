#include "cluster/bus_memory.h"

#include "base/clock.h"
#include "tests/bus_suite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { QUEUE = 256, RETENTION = 64 * 1024 };

/* A loop that has nothing but what was deferred. */
struct queue {
	struct {
		void (*fn)(void *);
		void *arg;
	} items[QUEUE];
	size_t n;
};

static void queue_defer(void *loop, void (*fn)(void *), void *arg)
{
	struct queue *q = loop;

	assert_true(q->n < QUEUE);
	q->items[q->n].fn = fn;
	q->items[q->n++].arg = arg;
}

static void queue_run(struct queue *q)
{
	for (size_t i = 0; i < q->n; i++)
		q->items[i].fn(q->items[i].arg);
	q->n = 0;
}

static void pump(struct bus_env *env)
{
	queue_run(env->arg);
}

static void publish(struct bus_env *env, const struct batch *one)
{
	bus_memory_publish(env->bus, one);
}

static int begin(void **state)
{
	struct bus_env *env = *state;

	clock_tick();
	env->tenant_id++;
	return 0;
}

static void test_retention_drops_the_oldest(void **state)
{
	struct bus_env *env = *state;
	static char payload[4000];
	struct bus_read req = {.tenant_id = 900, .from_seq = 1, .max_bytes = 1 << 30};
	size_t kept = 0;

	for (int i = 0; i < 100; i++) {
		struct event ev = {.topic = slice_str("t"),
		                   .payload = slice(payload, sizeof payload)};
		struct batch *b = batch_new(900, 0);

		batch_append(b, &ev, (struct publisher){0});
		batch_seal(b);
		assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_OK);
		batch_unref(b);
	}
	assert_int_equal(suite_read(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.next_seq, 101);
	assert_true(req.n > 5 && req.n < 20);
	for (size_t i = 0; i < req.n; i++)
		kept += batch_memory(req.batches[i]);
	assert_true(kept <= RETENTION);
	assert_int_equal(batch_base_seq(req.batches[req.n - 1]), 100);
	suite_read_done(&req);
}

static void on_state(void *arg, enum bus_state state)
{
	*(int *)arg = (int)state;
}

/* Its owner hears of it, and never that it is up after all. */
static void test_it_ends_for_good(void **state)
{
	for (int early = 0; early < 2; early++) {
		struct queue q = {.n = 0};
		struct bus_memory_settings settings = {
		        .retention_bytes = RETENTION, .defer = queue_defer, .loop = &q};
		struct bus *bus = bus_memory_new(&settings);
		int told = -1;

		(void)state;
		bus->events = (struct bus_events){.on_state = on_state, .arg = &told};
		if (!early)
			queue_run(&q);
		assert_int_equal(told, early ? -1 : BUS_UP);
		bus_memory_end(bus);
		assert_int_equal(told, early ? -1 : BUS_DOWN);
		queue_run(&q);
		assert_int_equal(bus->state, BUS_DOWN);
		bus->ops->free(bus);
	}
}

int main(void)
{
	struct queue q = {.n = 0};
	struct bus_memory_settings settings = {
	        .retention_bytes = RETENTION, .defer = queue_defer, .loop = &q};
	struct bus_env env = {
	        .bus = bus_memory_new(&settings), .pump = pump, .publish = publish, .arg = &q};
	const struct CMUnitTest tests[] = {
	        {"test_retention_drops_the_oldest", test_retention_drops_the_oldest, NULL, NULL,
	         &env},
	        {"test_it_ends_for_good", test_it_ends_for_good, NULL, NULL, NULL},
	};
	int failed;

	queue_run(&q);
	failed = env.bus->state != BUS_UP;
	failed += bus_suite_run(&env, begin);
	failed += cmocka_run_group_tests(tests, NULL, NULL);
	env.bus->ops->free(env.bus);
	return failed;
}
