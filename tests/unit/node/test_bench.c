#include "node/cli/bench_event.h"
#include "node/cli/histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct histogram h;

static int empty(void **state)
{
	(void)state;
	h = (struct histogram){0};
	return 0;
}

static void test_histogram_empty(void **state)
{
	(void)state;
	assert_int_equal(histogram_quantile(&h, 0.99), 0);
	assert_true(histogram_mean(&h) == 0);
}

/* Below 128 every value has its own bucket, so quantiles are exact. */
static void test_histogram_small_values_exact(void **state)
{
	(void)state;
	for (uint64_t v = 1; v <= 100; v++)
		histogram_add(&h, v);
	assert_int_equal(histogram_quantile(&h, 0), 1);
	assert_int_equal(histogram_quantile(&h, 0.5), 50);
	assert_int_equal(histogram_quantile(&h, 0.9), 90);
	assert_int_equal(histogram_quantile(&h, 0.99), 99);
	assert_int_equal(histogram_quantile(&h, 0.991), 100);
	assert_int_equal(histogram_quantile(&h, 1), 100);
	assert_true(histogram_mean(&h) == 50.5);
}

/* Any single value comes back from below by nothing and from above by at most 1/64. */
static void test_histogram_precision(void **state)
{
	(void)state;
	for (uint64_t v = 1; v < UINT64_MAX / 3; v = v * 3 + 1) {
		uint64_t q;

		h = (struct histogram){0};
		histogram_add(&h, v);
		histogram_add(&h, UINT64_MAX); /* else max would cut the bucket */
		q = histogram_quantile(&h, 0.5);
		assert_true(q >= v && q - v <= v / 64);
	}
	assert_true(histogram_quantile(&h, 1) == UINT64_MAX);
}

static void test_histogram_never_above_max(void **state)
{
	(void)state;
	histogram_add(&h, 1000001);
	assert_int_equal(histogram_quantile(&h, 0.5), 1000001);
	assert_int_equal(h.max, 1000001);
}

enum { SIZE = 100 };

static void test_event(void **state)
{
	char whole[SIZE];
	char payload[SIZE];
	const struct bench_event in = {
	        .run = 1, .due_us = 2, .seq = UINT64_MAX, .topic = 3, .size = SIZE};
	struct bench_event out;

	(void)state;
	bench_event_fill(whole, SIZE);
	bench_event_fill(payload, SIZE);
	bench_event_stamp(payload, &in);
	assert_int_equal(bench_event_read(slice(payload, SIZE), whole, &out), 0);
	assert_memory_equal(&in, &out, sizeof in);
	assert_int_equal(bench_event_read(slice(payload, SIZE - 1), whole, &out), -1);
	assert_int_equal(bench_event_read(slice(payload, BENCH_EVENT_MIN - 1), whole, &out), -1);
	for (size_t i = BENCH_EVENT_MIN; i < SIZE; i++) {
		payload[i] ^= 1;
		assert_int_equal(bench_event_read(slice(payload, SIZE), whole, &out), -1);
		payload[i] ^= 1;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup(test_histogram_empty, empty),
	        cmocka_unit_test_setup(test_histogram_small_values_exact, empty),
	        cmocka_unit_test_setup(test_histogram_precision, empty),
	        cmocka_unit_test_setup(test_histogram_never_above_max, empty),
	        cmocka_unit_test(test_event),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
