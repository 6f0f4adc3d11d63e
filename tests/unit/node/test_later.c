/* Calls after a pause, on behalf of objects that may go away first. */
#include "node/net/later.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct loop *loop;
static struct laters laters;

static void count(void *arg)
{
	++*(int *)arg;
}

static void again(void *arg)
{
	if (++*(int *)arg < 3)
		later_call(&laters, 0, again, arg);
}

static int *victim;

static void forget_victim(void *arg)
{
	count(arg);
	later_forget(&laters, victim);
}

static void turns(int n)
{
	struct loop_timer *tick = loop_every(loop, 1, count, &(int){0});

	while (n--)
		loop_turn(loop);
	loop_timer_free(tick);
}

static int setup(void **state)
{
	(void)state;
	loop = loop_new();
	laters_init(&laters, loop);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	laters_release(&laters); /* frees what still waits */
	loop_free(loop);
	return 0;
}

static void test_once(void **state)
{
	int calls = 0;

	(void)state;
	later_call(&laters, 2, count, &calls);
	assert_int_equal(calls, 0);
	turns(30);
	assert_int_equal(calls, 1);
}

static void test_again_from_inside(void **state)
{
	int calls = 0;

	(void)state;
	later_call(&laters, 0, again, &calls);
	turns(30);
	assert_int_equal(calls, 3);
}

/* Several calls of one object: each fires by itself, whatever the order of their ends. */
static void test_many_of_one(void **state)
{
	int calls = 0;

	(void)state;
	later_call(&laters, 9, count, &calls);
	later_call(&laters, 1, count, &calls);
	later_call(&laters, 5, count, &calls);
	turns(60);
	assert_int_equal(calls, 3);
}

static void test_forget(void **state)
{
	int gone = 0;
	int stays = 0;

	(void)state;
	for (uint32_t i = 0; i < 4; i++)
		later_call(&laters, i, count, &gone);
	later_call(&laters, 1, count, &stays);
	later_forget(&laters, &gone);
	later_forget(&laters, &gone); /* nothing there: nothing happens */
	turns(30);
	assert_int_equal(gone, 0);
	assert_int_equal(stays, 1);
}

/* Due in the same turn, and forgotten by the one that fires first. */
static void test_forget_from_inside(void **state)
{
	int first = 0;
	int second = 0;

	(void)state;
	victim = &second;
	later_call(&laters, 1, forget_victim, &first);
	later_call(&laters, 1, count, &second);
	later_call(&laters, 2, count, &second);
	turns(30);
	assert_int_equal(first, 1);
	assert_true(second <= 1); /* it may have been the first to fire */
}

static void test_release_forgets(void **state)
{
	static int calls;

	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		later_call(&laters, 60000, count, &calls);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(test_once),   TEST(test_again_from_inside),  TEST(test_many_of_one),
	        TEST(test_forget), TEST(test_forget_from_inside), TEST(test_release_forgets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
