/* How many rows a leader moves at once. */
#include "cluster/stint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { LEAST = 10, MOST = 10000, ROW_US = 20 };

/* Thousands wait, and commits take so long: what a transaction takes in the end. */
static uint64_t settles(struct stint *s, uint64_t commit_us)
{
	size_t n = 0;

	for (int i = 0; i < 100; i++) {
		n = stint_take(s, STINT_US, LEAST, MOST);
		stint_took(s, n, n * ROW_US, commit_us, LEAST);
	}
	return commit_us + n * ROW_US;
}

static void test_rows_have_what_the_commit_leaves(void **state)
{
	struct stint s = {0};

	(void)state;
	assert_in_range(settles(&s, 1000), STINT_US * 9 / 10, STINT_US);
	s = (struct stint){0};
	assert_in_range(settles(&s, 0), STINT_US * 9 / 10, STINT_US);
}

/* Many in one are twice as slow as few, and no more; they are not so few that nothing gets on. */
static void test_slow_commits(void **state)
{
	struct stint s = {0};

	(void)state;
	assert_in_range(settles(&s, 20000), 20000 * 19 / 10, 20000 * 2);
}

static void test_one_slow_commit_says_nothing(void **state)
{
	struct stint s = {0};
	size_t n;

	(void)state;
	settles(&s, 1000);
	n = stint_take(&s, STINT_US, LEAST, MOST);
	stint_took(&s, n, n * ROW_US, 30000, LEAST);
	assert_in_range(stint_take(&s, STINT_US, LEAST, MOST), n / 2, n);
	stint_took(&s, n, n * ROW_US, 1000, LEAST);
	assert_in_range(stint_take(&s, STINT_US, LEAST, MOST), n - 2, n + 2);
}

static void test_before_anything_is_known(void **state)
{
	struct stint s = STINT_NEW;

	(void)state;
	assert_int_equal(stint_take(&s, STINT_US, LEAST, MOST), STINT_US / STINT_EACH_US);
	assert_int_equal(stint_take(&s, STINT_US, LEAST, LEAST), LEAST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_rows_have_what_the_commit_leaves),
	        cmocka_unit_test(test_slow_commits),
	        cmocka_unit_test(test_one_slow_commit_says_nothing),
	        cmocka_unit_test(test_before_anything_is_known),
	};

	return cmocka_run_group_tests_name("stint", tests, NULL, NULL);
}
