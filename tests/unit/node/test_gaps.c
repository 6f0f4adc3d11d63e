/* What consumers have to be told of, by itself. */
#include "node/delivery/gaps.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void assert_gap(struct gap gap, uint64_t from, uint64_t to)
{
	assert_int_equal(gap.from, from);
	assert_int_equal(gap.to, to);
}

static void note(struct gaps *g, uint64_t from, uint64_t to)
{
	gap_add(&g->next, (struct gap){from, to});
}

static void test_told_once(void **state)
{
	struct gaps g = {0};

	(void)state;
	assert_gap(gaps_tell(&g, 1), 0, 0);
	assert_gap(gaps_open(&g), 0, 0);
	note(&g, 5, 9);
	note(&g, 3, 6);
	note(&g, 12, 13);
	assert_gap(gaps_open(&g), 3, 13);
	assert_gap(gaps_tell(&g, 20), 3, 13);
	assert_gap(gaps_tell(&g, 21), 0, 0);
	assert_gap(gaps_open(&g), 3, 13); /* nobody has answered */
	assert_false(gaps_heard(&g, 21));
	assert_true(gaps_heard(&g, 20));
	assert_false(gaps_heard(&g, 20));
	assert_gap(gaps_open(&g), 0, 0);
}

/* What was lost with its delivery is told with the next; what another told stays as it is. */
static void test_told_again(void **state)
{
	struct gaps g = {0};

	(void)state;
	note(&g, 3, 6);
	assert_gap(gaps_tell(&g, 6), 3, 6);
	note(&g, 10, 20);
	assert_gap(gaps_tell(&g, 20), 10, 20);
	gaps_unheard(&g, 7); /* it told nothing */
	gaps_unheard(&g, 20);
	assert_gap(gaps_tell(&g, 21), 10, 20);
	gaps_unheard(&g, 6);
	note(&g, 30, 40);
	assert_gap(gaps_open(&g), 3, 40);
	assert_gap(gaps_tell(&g, 40), 3, 40);
	assert_gap(gaps_tell(&g, 40), 3, 40); /* it goes out again itself */
	assert_true(gaps_heard(&g, 21));
	assert_gap(gaps_open(&g), 3, 40);
	assert_true(gaps_heard(&g, 40));
	assert_gap(gaps_open(&g), 0, 0);
}

static void test_release(void **state)
{
	struct gaps g = {0};

	(void)state;
	note(&g, 3, 6);
	gaps_tell(&g, 6);
	note(&g, 7, 8);
	gaps_release(&g);
	assert_gap(gaps_open(&g), 0, 0);
	assert_gap(gaps_tell(&g, 9), 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_told_once),
	        cmocka_unit_test(test_told_again),
	        cmocka_unit_test(test_release),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
