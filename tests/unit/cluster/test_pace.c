/* How many share a transaction. */
#include "cluster/pace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { LEAST = 4, MOST = 64, TARGET_US = 5000, COMMIT_US = 1500 };

/* Thousands wait, and one takes so long: it settles where a transaction takes as long as it may. */
static size_t settles(struct pace *p, uint64_t each_us)
{
	size_t n = 0;

	for (int i = 0; i < 50; i++) {
		n = pace_take(p, TARGET_US, LEAST, MOST);
		pace_took(p, n, COMMIT_US + n * each_us, LEAST);
	}
	return n;
}

static void test_as_long_as_it_may(void **state)
{
	struct pace p = {0};

	(void)state;
	assert_int_equal(pace_take(&p, TARGET_US, LEAST, MOST), MOST);
	assert_in_range(settles(&p, 300), 8, 12);
	assert_in_range(settles(&p, 100), 30, 36);
}

static void test_bounds(void **state)
{
	struct pace p = {0};

	(void)state;
	assert_int_equal(settles(&p, 10000), LEAST); /* a slow database */
	assert_int_equal(settles(&p, 1), MOST);
	assert_int_equal(pace_take(&p, TARGET_US, LEAST, 2), 2);
}

/* One alone is a commit, and says nothing of many. */
static void test_few_are_no_measure(void **state)
{
	struct pace p = {0};
	size_t n = settles(&p, 100);

	(void)state;
	pace_took(&p, 1, COMMIT_US, LEAST);
	pace_took(&p, 0, COMMIT_US, LEAST);
	assert_int_equal(pace_take(&p, TARGET_US, LEAST, MOST), n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_as_long_as_it_may),
	        cmocka_unit_test(test_bounds),
	        cmocka_unit_test(test_few_are_no_measure),
	};

	return cmocka_run_group_tests_name("pace", tests, NULL, NULL);
}
