/* The order of keys and the circuit breaker of a queue, by themselves. */
#include "node/delivery/breaker.h"
#include "node/delivery/ordering.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct ordering o;
static char place_bytes[2];
static struct place *const pl = (struct place *)&place_bytes[0];
static uint64_t woken[8];
static size_t n_woken;

static int begin(void **state)
{
	(void)state;
	ordering_release(&o);
	n_woken = 0;
	return 0;
}

static int end(void **state)
{
	(void)state;
	ordering_release(&o);
	return 0;
}

static void wake(struct place *p, uint64_t seq)
{
	assert_ptr_equal(p, pl);
	woken[n_woken++] = seq;
}

static void test_one_at_a_time(void **state)
{
	struct place *next;
	uint64_t seq;

	(void)state;
	assert_int_equal(ordering_admit(&o, pl, 1, 7), ORDERING_GO);
	assert_int_equal(ordering_admit(&o, pl, 2, 7), ORDERING_WAIT);
	assert_int_equal(ordering_admit(&o, pl, 3, 8), ORDERING_GO); /* another key */
	assert_int_equal(ordering_admit(&o, pl, 4, 7), ORDERING_WAIT);
	assert_int_equal(ordering_admit(&o, pl, 1, 7), ORDERING_GO); /* it came back */
	assert_false(ordering_left(&o, pl, 3, &next, &seq));
	assert_true(ordering_left(&o, pl, 1, &next, &seq));
	assert_int_equal(seq, 2);
	assert_int_equal(ordering_admit(&o, pl, 2, 7), ORDERING_GO);
	assert_true(ordering_left(&o, pl, 2, &next, &seq));
	assert_int_equal(seq, 4);
	assert_false(ordering_left(&o, pl, 4, &next, &seq));
	assert_int_equal(o.keys.count + o.entries.count, 0); /* nothing is kept */
}

static void test_failed_parks_those_behind(void **state)
{
	(void)state;
	ordering_admit(&o, pl, 1, 7);
	ordering_admit(&o, pl, 2, 7);
	ordering_admit(&o, pl, 3, 7);
	assert_int_equal(ordering_failed(&o, pl, 1, wake), 7);
	assert_int_equal(n_woken, 2);
	assert_int_equal(woken[0], 2);
	for (uint64_t seq = 2; seq <= 3; seq++) {
		assert_int_equal(ordering_admit(&o, pl, seq, 7), ORDERING_PARK);
		ordering_parking(&o, 7);
	}
	ordering_parked(&o, 7, 102);
	ordering_parked(&o, 7, 103);
	assert_int_equal(ordering_next_row(&o, 7), 0); /* the first is tried again */
	ordering_row_left(&o, 7);
	assert_int_equal(ordering_next_row(&o, 7), 102);
	assert_int_equal(ordering_next_row(&o, 7), 0);
	assert_int_equal(ordering_admit(&o, pl, 4, 7), ORDERING_PARK);
	ordering_row_left(&o, 7);
	assert_int_equal(ordering_next_row(&o, 7), 103);
	ordering_row_left(&o, 7);
	assert_int_equal(o.keys.count, 0);
	assert_int_equal(ordering_admit(&o, pl, 4, 7), ORDERING_GO);
}

/* Done before those behind it were written: they do not overtake each other. */
static void test_parking_holds_back(void **state)
{
	(void)state;
	ordering_admit(&o, pl, 1, 7);
	ordering_failed(&o, pl, 1, wake);
	assert_int_equal(ordering_admit(&o, pl, 2, 7), ORDERING_PARK);
	ordering_parking(&o, 7);
	ordering_row_left(&o, 7);
	assert_int_equal(ordering_admit(&o, pl, 3, 7), ORDERING_PARK);
	ordering_parking(&o, 7);
	ordering_parked(&o, 7, 102);
	assert_int_equal(ordering_next_row(&o, 7), 102);
}

/* In flight since before an earlier one of its key, whose answer was forgotten, was found in a row
 * again: the later ones wait for it, and if it comes back it goes behind that row, before them. */
static void test_in_flight_before_rows(void **state)
{
	struct place *next;
	uint64_t seq;

	(void)state;
	ordering_in_flight(&o, pl, 2, 7);
	ordering_found(&o, 7, 101, false);
	assert_int_equal(ordering_admit(&o, pl, 3, 7), ORDERING_WAIT);
	assert_int_equal(ordering_admit(&o, pl, 2, 7), ORDERING_PARK);
	assert_true(ordering_left(&o, pl, 2, &next, &seq));
	assert_int_equal(seq, 3);
	ordering_parking(&o, 7);
	ordering_parked(&o, 7, 102);
	assert_int_equal(ordering_admit(&o, pl, 3, 7), ORDERING_PARK);
	ordering_left(&o, pl, 3, &next, &seq);
	ordering_parking(&o, 7);
	ordering_parked(&o, 7, 103);
	ordering_row_left(&o, 7);
	assert_int_equal(ordering_next_row(&o, 7), 102);
	ordering_row_left(&o, 7);
	assert_int_equal(ordering_next_row(&o, 7), 103);
	ordering_row_left(&o, 7);
	assert_int_equal(o.keys.count + o.entries.count, 0);
}

static void test_rows_found(void **state)
{
	uint64_t key = 0;

	(void)state;
	ordering_found(&o, 7, 101, false);
	ordering_found(&o, 7, 102, true);
	ordering_found(&o, 8, 103, true); /* somebody removed what it waits for */
	assert_int_equal(ordering_next_of_any(&o, &key), 103);
	assert_int_equal(key, 8);
	assert_int_equal(ordering_next_of_any(&o, &key), 0);
}

static void test_breaker(void **state)
{
	struct breaker b = {0};
	int place = 0;

	(void)state;
	assert_false(breaker_failed(&b, &place, 1, false));
	assert_true(breaker_allows(&b, 0));
	assert_true(breaker_failed(&b, &place, 2, true)); /* as many wait as may: it opens */
	b.probe_at_ms = 100;
	assert_false(breaker_allows(&b, 99));
	assert_true(breaker_allows(&b, 100));
	breaker_sent(&b, &place, 3);
	assert_false(breaker_allows(&b, 200));             /* one at a time */
	assert_false(breaker_failed(&b, &place, 1, true)); /* went out before it opened */
	assert_false(breaker_allows(&b, 200));
	breaker_returned(&b, &place, 3);
	assert_true(breaker_allows(&b, 200));
	breaker_sent(&b, &place, 3);
	assert_true(breaker_failed(&b, &place, 3, false));
	assert_int_equal(b.failures, 2);
	assert_true(breaker_succeeded(&b));
	assert_false(breaker_succeeded(&b));
	assert_true(breaker_allows(&b, 0));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, begin, end)
	const struct CMUnitTest tests[] = {
	        TEST(test_one_at_a_time),      TEST(test_failed_parks_those_behind),
	        TEST(test_parking_holds_back), TEST(test_in_flight_before_rows),
	        TEST(test_rows_found),         TEST(test_breaker),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
