/* Host names looked up beside the loop. "localhost" is in every machine's hosts file; names below
 * "invalid" are nowhere (RFC 6761). */
#include "node/net/resolve.h"

#include "base/clock.h"
#include "node/net/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { PATIENCE_MS = 60000 };

static struct loop *loop;
static struct resolver *resolver;

struct answer {
	int calls;
	bool found;
	struct addr at;
	char error[256];
};

static void on_done(void *arg, const struct addr *found, const char *error)
{
	struct answer *a = arg;

	a->calls++;
	a->found = found != NULL;
	if (found)
		a->at = *found;
	else
		snprintf(a->error, sizeof a->error, "%s", error);
}

static int ask(const char *text, struct answer *a)
{
	struct addr addr;
	struct err e;

	assert_int_equal(addr_parse(&addr, text, &e), 0);
	return resolver_ask(resolver, &addr, on_done, a, &e);
}

static void on_tick(void *arg)
{
	(void)arg;
}

static void wait_for(const struct answer *a)
{
	struct loop_timer *t = loop_every(loop, 10, on_tick, NULL);
	uint64_t end = clock_us() + PATIENCE_MS * 1000;

	while (!a->calls && clock_us() < end)
		loop_turn(loop);
	loop_timer_free(t);
}

static int setup(void **state)
{
	(void)state;
	loop = loop_new();
	resolver = resolver_new(loop);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	resolver_free(resolver);
	loop_free(loop);
	return 0;
}

static void test_found(void **state)
{
	struct answer a = {0};

	(void)state;
	assert_int_equal(ask("localhost:7883", &a), 0);
	assert_int_equal(a.calls, 0); /* never from inside the call */
	wait_for(&a);
	assert_int_equal(a.calls, 1);
	assert_true(a.found);
	assert_true(addr_is_numeric(&a.at) && addr_is_loopback(&a.at));
	assert_int_equal(a.at.port, 7883);
}

static void test_not_found(void **state)
{
	struct answer a = {0};

	(void)state;
	assert_int_equal(ask("no-such-host.invalid:1", &a), 0);
	wait_for(&a);
	assert_int_equal(a.calls, 1);
	assert_false(a.found);
	assert_non_null(strstr(a.error, "no-such-host.invalid"));
}

static void test_forgotten(void **state)
{
	struct answer gone = {0};
	struct answer a = {0};

	(void)state;
	assert_int_equal(ask("localhost:1", &gone), 0);
	assert_int_equal(ask("localhost:2", &a), 0);
	resolver_forget(resolver, &gone);
	wait_for(&a);
	assert_int_equal(a.at.port, 2);
	assert_int_equal(gone.calls, 0);
}

/* No more threads than that, and room again when they are done. */
static void test_bounded(void **state)
{
	struct answer a[RESOLVE_MAX + 1] = {{0}};

	(void)state;
	for (int i = 0; i < RESOLVE_MAX; i++)
		assert_int_equal(ask("localhost:1", &a[i]), 0);
	assert_int_equal(ask("localhost:1", &a[RESOLVE_MAX]), -1);
	for (int i = 0; i < RESOLVE_MAX; i++) {
		wait_for(&a[i]);
		assert_true(a[i].found);
	}
	assert_int_equal(ask("localhost:1", &a[RESOLVE_MAX]), 0);
	wait_for(&a[RESOLVE_MAX]);
	assert_int_equal(a[RESOLVE_MAX].calls, 1);
}

/* The resolver goes, the thread may still be at work: the teardown must not wait or crash. */
static void test_freed_meanwhile(void **state)
{
	static struct answer a;

	(void)state;
	assert_int_equal(ask("localhost:1", &a), 0);
	assert_int_equal(ask("no-such-host.invalid:1", &a), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_found),   TEST(test_not_found),       TEST(test_forgotten),
	        TEST(test_bounded), TEST(test_freed_meanwhile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
