/* The loop's time, shared between accounts. */
#include "node/net/timeshare.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { TURN_US = 1000, PIECE_US = 100 };

static struct loop *loop;
static struct timeshare *shared;
static uint64_t now_us;
static uint32_t weights[4] = {1, 1, 1, 1};

static uint32_t weight_of(void *arg, uint32_t owner)
{
	(void)arg;
	return weights[owner];
}

static uint64_t now(void)
{
	return now_us;
}

static int setup(void **state)
{
	struct timeshare_settings s = {
	        .turn_us = TURN_US, .weight = weight_of, .bug = "", .now_us = now};

	(void)state;
	loop = loop_new();
	shared = timeshare_new(loop, &s);
	weights[1] = weights[2] = weights[3] = 1;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	timeshare_free(shared);
	loop_free(loop);
	return 0;
}

static void turn(void)
{
	loop_again(loop);
	loop_turn(loop);
}

/* Pieces of work that an account does in this turn, out of as many as it likes. */
static int pieces(struct timeshare_account *a, int wanted)
{
	int n = 0;

	while (n < wanted && timeshare_left(a)) {
		timeshare_spend(a, PIECE_US);
		n++;
	}
	return n;
}

static void test_alone(void **state)
{
	struct timeshare_account *a = timeshare_account(shared, 1);

	(void)state;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pieces(a, 1000), TURN_US / PIECE_US);
		turn();
	}
	timeshare_release(a);
}

/* Two that want all of it get half each; one that wants little gets that little. */
static void test_shared(void **state)
{
	struct timeshare_account *a = timeshare_account(shared, 1);
	struct timeshare_account *b = timeshare_account(shared, 2);
	struct timeshare_account *c = timeshare_account(shared, 3);

	(void)state;
	for (int i = 0; i < 5; i++) {
		int many = pieces(a, 1000);

		assert_int_equal(pieces(c, 1), 1);
		assert_true(i == 0 || many <= TURN_US / PIECE_US / 3 + 1);
		assert_true(i == 0 || pieces(b, 1000) == many);
		pieces(b, 1000);
		turn();
	}
	timeshare_release(a);
	timeshare_release(b);
	timeshare_release(c);
}

static void test_weight(void **state)
{
	struct timeshare_account *a = timeshare_account(shared, 1);
	struct timeshare_account *b = timeshare_account(shared, 2);

	(void)state;
	pieces(a, 1);
	pieces(b, 1);
	turn();
	weights[1] = 4; /* at once: the sum of the last turn is still 2 */
	pieces(a, 1);
	pieces(b, 1);
	turn();
	assert_int_equal(pieces(a, 1000), 8);
	assert_int_equal(pieces(b, 1000), 2);
	assert_int_equal(timeshare_weight(a), 4);
	assert_int_equal(timeshare_weight(NULL), 1);
	timeshare_release(a);
	timeshare_release(b);
}

/* Of many who share an account and always want more, each comes as often as the others. */
static void test_rounds(void **state)
{
	enum { ITEMS = 25, TURNS = 500 };
	struct timeshare_account *a = timeshare_account(shared, 1);
	uint64_t round[ITEMS] = {0};
	int served[ITEMS] = {0};
	int total = 0;

	(void)state;
	for (int t = 0; t < TURNS; t++) {
		for (int i = 0; i < ITEMS; i++) { /* the kernel's order never changes */
			if (!timeshare_turn(a, &round[i]))
				continue;
			timeshare_spend(a, PIECE_US);
			served[i]++;
			total++;
		}
		turn();
	}
	for (int i = 0; i < ITEMS; i++)
		assert_in_range(served[i], served[0] - 1, served[0] + 1);
	assert_true(total > TURNS * (TURN_US / PIECE_US) * 3 / 4); /* and little is wasted */
	timeshare_release(a);
}

/* Work that can be cut ends when its account's time does, and what it took is counted once. */
static void test_cut(void **state)
{
	struct timeshare_account *a = timeshare_account(shared, 1);
	struct timeshare_account *b = timeshare_account(shared, 2);
	int pieces_of_a = 0;
	uint64_t began_us;

	(void)state;
	for (int i = 0; i < 3; i++) {
		pieces(b, 1);
		assert_true(timeshare_left(a));
		began_us = timeshare_begin(a);
		pieces_of_a = 0;
		do {
			now_us += PIECE_US;
			pieces_of_a++;
		} while (timeshare_go_on(a, &began_us));
		timeshare_end(a, began_us);
		assert_false(timeshare_left(a));
		turn();
	}
	assert_int_equal(pieces_of_a, TURN_US / PIECE_US / 2);
	timeshare_release(a);
	timeshare_release(b);
}

/* Turns are short while more than one is active, and long again a while after. */
static void test_short_turns(void **state)
{
	struct timeshare_settings s = {
	        .turn_us = TURN_US, .shared_us = TURN_US / 4, .bug = "", .now_us = now};
	struct timeshare *of = timeshare_new(loop, &s);
	struct timeshare_account *a = timeshare_account(of, 1);
	struct timeshare_account *b = timeshare_account(of, 2);

	(void)state;
	clock_set(1000, 1000);
	assert_int_equal(pieces(a, 1000), TURN_US / PIECE_US);
	pieces(b, 1);
	turn();
	clock_set(1050, 1050); /* turns set it right */
	pieces(a, 1);
	turn();
	clock_set(1100, 1100); /* b is idle, and may come back at any moment */
	assert_int_equal(pieces(a, 1000), TURN_US / 4 / PIECE_US + 1);
	turn();
	clock_set(5000, 5000);
	assert_int_equal(pieces(a, 1000), TURN_US / PIECE_US);
	timeshare_release(a);
	timeshare_release(b);
	timeshare_free(of);
}

/* A piece longer than a turn: it was not cut, and nobody else pays for it. */
static void test_long_piece(void **state)
{
	struct timeshare_account *a = timeshare_account(shared, 1);
	struct timeshare_account *b = timeshare_account(shared, 2);

	(void)state;
	assert_true(timeshare_left(a));
	timeshare_spend(a, 10 * TURN_US);
	assert_false(timeshare_left(a));
	assert_true(timeshare_left(b));
	timeshare_release(a);
	timeshare_release(b);
}

static void test_nobody(void **state)
{
	uint64_t round = 0;

	(void)state;
	assert_null(timeshare_account(NULL, 1));
	assert_true(timeshare_left(NULL));
	assert_true(timeshare_turn(NULL, &round));
	timeshare_spend(NULL, 1);
	timeshare_release(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_alone, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_shared, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_weight, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_rounds, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_cut, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_short_turns, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_long_piece, setup, teardown),
	        cmocka_unit_test(test_nobody),
	};

	return cmocka_run_group_tests_name("timeshare", tests, NULL, NULL);
}
