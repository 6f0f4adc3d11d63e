/* When a leader's trouble is said: not at once, not always, and when it is over. */
#include "node/leader/trouble.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static uint64_t now = 1000;

static void fail_for(struct trouble *t, uint64_t ms)
{
	for (uint64_t until = now + ms; now < until; now += 100) {
		clock_set(now, now);
		trouble_note(t, SQL_RETRY, "deadlock");
	}
}

static void test_one_that_failed_is_no_trouble(void **state)
{
	struct trouble t = {.module = "test", .what = "nothing is done"};

	(void)state;
	fail_for(&t, TROUBLE_AFTER_MS);
	assert_int_equal(t.said_ms, 0);
	trouble_note(&t, SQL_OK, "");
	fail_for(&t, TROUBLE_AFTER_MS);
	assert_int_equal(t.said_ms, 0);
	assert_int_equal(t.total, 2 * TROUBLE_AFTER_MS / 100);
}

static void test_it_is_said_now_and_then(void **state)
{
	struct trouble t = {.module = "test", .what = "nothing is done"};
	uint64_t first;

	(void)state;
	fail_for(&t, TROUBLE_AFTER_MS + 100);
	first = t.said_ms;
	assert_true(first > 0);
	fail_for(&t, TROUBLE_AGAIN_MS - 100);
	assert_int_equal(t.said_ms, first);
	fail_for(&t, 200);
	assert_int_equal(t.said_ms, first + TROUBLE_AGAIN_MS);
	trouble_note(&t, SQL_LOST, ""); /* somebody else's now */
	assert_int_equal(t.said_ms, 0);
	assert_int_equal(t.failed, 0);
}

static void test_fatal_is_said_at_once(void **state)
{
	struct trouble t = {.module = "test", .what = "nothing is done"};

	(void)state;
	clock_set(now, now);
	trouble_note(&t, SQL_FATAL, "denied");
	assert_int_equal(t.said_ms, now);
	now += 100;
	clock_set(now, now);
	trouble_note(&t, SQL_FATAL, "denied");
	assert_int_equal(t.said_ms, now - 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_one_that_failed_is_no_trouble),
	        cmocka_unit_test(test_it_is_said_now_and_then),
	        cmocka_unit_test(test_fatal_is_said_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
