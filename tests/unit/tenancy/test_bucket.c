/* How much passes a second, and how nodes share that: with a clock of the test's own. */
#include "tenancy/bucket.h"
#include "tenancy/budget.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define ONE UINT64_C(1000) /* a unit a second */

/* Units that pass in so many milliseconds when somebody always wants more. */
static uint64_t pass(struct bucket *b, uint64_t *now_ms, uint64_t ms, uint64_t units)
{
	uint64_t passed = 0;

	for (uint64_t end = *now_ms + ms; *now_ms < end; (*now_ms)++) {
		while (bucket_open(b, *now_ms)) {
			bucket_take(b, units);
			passed += units;
		}
	}
	return passed;
}

static void test_bucket_holds_the_rate(void **state)
{
	static const uint64_t rates[] = {1, 5, 333, 1000, 150000};
	(void)state;

	for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
		struct bucket b = {0};
		uint64_t now = 5000, rate = rates[i], most = rate / 5 ? rate / 5 : 1, n;

		bucket_set(&b, rate * ONE, now);
		n = pass(&b, &now, 10000, 1);
		assert_in_range(n, 10 * rate, 10 * rate + most + 1);
		now += 3600 * 1000; /* an hour of rest saves up no more than a burst */
		n = pass(&b, &now, 1000, 1);
		assert_in_range(n, rate, rate + most + 1);
	}
}

static void test_bucket_lets_a_large_one_pass_and_makes_good(void **state)
{
	struct bucket b = {0};
	uint64_t now = 0;
	(void)state;

	bucket_set(&b, 1000 * ONE, now);
	assert_true(bucket_open(&b, now));
	bucket_take(&b, 10200); /* the burst is 200 */
	assert_false(bucket_open(&b, now));
	assert_int_equal(bucket_wait_ms(&b, now), 10001);
	assert_false(bucket_open(&b, now + 10000));
	assert_true(bucket_open(&b, now + 10001));
}

static void test_bucket_without_a_limit(void **state)
{
	struct bucket b = {0};
	(void)state;

	bucket_take(&b, 1000000);
	assert_true(bucket_open(&b, 1));
	assert_int_equal(bucket_wait_ms(&b, 1), 0);
	bucket_set(&b, (BUCKET_RATE_MAX + 1) * 1000, 1);
	assert_int_equal(b.rate, 0);
	bucket_set(&b, BUCKET_RATE_MAX * 1000, 1); /* the most there is does not overflow */
	bucket_take(&b, (UINT64_C(1) << 40) - 1);
	assert_false(bucket_open(&b, 2));
	assert_true(bucket_open(&b, 1000 * 1000));
}

static void test_bucket_changed_keeps_its_debt(void **state)
{
	struct bucket b = {0};
	(void)state;

	bucket_set(&b, 100 * ONE, 0);
	bucket_take(&b, 120); /* 100 beyond the burst of 20 */
	bucket_set(&b, 1000 * ONE, 0);
	assert_int_equal(bucket_wait_ms(&b, 0), 101);
	bucket_set(&b, 0, 0);
	assert_true(bucket_open(&b, 0));
	bucket_set(&b, 10 * ONE, 0); /* limited anew: a burst is there */
	assert_true(bucket_open(&b, 0));
}

static uint64_t part2(uint64_t rate, uint64_t used, uint32_t waiting, uint64_t used2,
                      uint32_t waiting2)
{
	struct budget_claim c[2] = {{used, waiting}, {used2, waiting2}};

	return budget_part(rate, c, 2);
}

static void test_budget_goes_where_the_traffic_is(void **state)
{
	const uint64_t rate = 1000 * ONE;
	struct budget_claim alone = {0, 3};
	(void)state;

	assert_int_equal(budget_part(rate, &alone, 1), rate);
	assert_int_equal(part2(rate, 0, 1, 0, 1), rate / 2); /* both want all */
	assert_int_equal(part2(rate, 0, 9, 0, 1), rate * 9 / 10);
	assert_int_equal(part2(rate, 0, 1, 100 * ONE, 0), rate - 150 * ONE); /* 125 and a 40th */
	assert_int_equal(part2(rate, 100 * ONE, 0, 0, 1), 150 * ONE);
	/* nobody waits: what is left is divided */
	assert_int_equal(part2(rate, 100 * ONE, 0, 100 * ONE, 0), rate / 2);
	/* who uses more than its part and does not wait yet has no more than that */
	assert_int_equal(part2(rate, 900 * ONE, 0, 0, 1), rate / 2);
	assert_int_equal(part2(ONE, 0, 1, 0, 1), ONE / 2); /* one event in two seconds */
	assert_int_equal(part2(0, 0, 1, 0, 1), 0);
	assert_int_equal(part2(1, 0, 1, 0, 9), 1); /* never nothing */
}

/* Whatever each of them claims, the parts are never more than there is. */
static void test_budget_adds_up(void **state)
{
	uint32_t seed = 1;
	(void)state;

	for (int round = 0; round < 20000; round++) {
		struct budget_claim c[5];
		uint64_t rate = 1 + seed % 1000000, sum = 0;
		size_t n = 1 + round % 5;

		for (size_t i = 0; i < n; i++) {
			seed = seed * 1664525 + 1013904223;
			c[i].used = (seed >> 8) % (2 * rate);
			c[i].waiting = seed >> 30 ? (seed >> 4) % 7 : 0;
		}
		for (size_t i = 0; i < n; i++) {
			struct budget_claim mine = c[0];

			sum += budget_part(rate, c, n);
			memmove(c, c + 1, (n - 1) * sizeof *c);
			c[n - 1] = mine;
		}
		assert_in_range(sum, rate > 2 * n ? rate - 2 * n : 0, rate + n);
	}
}

/* Two nodes that tell each other ten times a second: traffic moves from one to the other. */
struct sim_node {
	struct bucket b;
	uint64_t ring[10]; /* units that passed, of the last ten ticks */
	bool wants;
	struct budget_claim told;
};

static uint64_t sim_tick(struct sim_node *me, const struct sim_node *other, uint64_t rate,
                         uint64_t *now, size_t tick)
{
	struct budget_claim c[2] = {{0, me->wants}, other->told};
	uint64_t at = *now;

	for (size_t i = 0; i < 10; i++)
		c[0].used += me->ring[i] * 1000;
	bucket_set(&me->b, budget_part(rate, c, other->told.used || other->told.waiting ? 2 : 1),
	           *now);
	me->ring[tick % 10] = me->wants ? pass(&me->b, &at, 100, 1) : 0;
	me->told = c[0];
	return me->ring[tick % 10];
}

static void test_budget_shift(void **state)
{
	struct sim_node a = {0}, b = {0};
	uint64_t now = 1000, rate = 1000 * ONE, second = 0, got_b = 0;
	(void)state;

	for (size_t tick = 0; tick < 100; tick++, now += 100) {
		uint64_t na, nb;

		a.wants = tick < 70;
		b.wants = tick >= 30;
		na = sim_tick(&a, &b, rate, &now, tick);
		nb = sim_tick(&b, &a, rate, &now, tick);
		second += na + nb;
		got_b += nb;
		if (tick % 10 != 9)
			continue;
		assert_in_range(second, 620, 1200); /* while it shifts, and */
		if (tick > 49 && tick < 69)
			assert_in_range(got_b, 480, 520);
		if ((tick > 19 && tick < 29) || (tick > 39 && tick < 69) || tick > 89)
			assert_in_range(second, 970, 1030); /* else */
		second = got_b = 0;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_bucket_holds_the_rate),
	        cmocka_unit_test(test_bucket_lets_a_large_one_pass_and_makes_good),
	        cmocka_unit_test(test_bucket_without_a_limit),
	        cmocka_unit_test(test_bucket_changed_keeps_its_debt),
	        cmocka_unit_test(test_budget_goes_where_the_traffic_is),
	        cmocka_unit_test(test_budget_adds_up),
	        cmocka_unit_test(test_budget_shift),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
