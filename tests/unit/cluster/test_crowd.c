/* Who has something, and whose part is how large. */
#include "cluster/crowd.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { TENANTS = 400 };

/* A table: how many rows each tenant has, and what it was asked. */
struct table {
	struct crowd crowd;
	uint64_t rows[TENANTS];
	uint64_t served[TENANTS];
	unsigned asked[TENANTS]; /* a listing came by its rows */
	uint32_t stop;           /* at this tenant a listing gives up; 0 = never */
};

static enum sql_outcome find(struct sql_conn *c, void *arg, uint32_t above, uint32_t upto)
{
	struct table *t = arg;

	(void)c;
	for (uint32_t id = above + 1; id <= upto && id < TENANTS; id++) {
		if (t->stop == id) {
			crowd_stop(&t->crowd, id);
			return SQL_OK;
		}
		t->asked[id]++;
		if (t->rows[id] && !crowd_add(&t->crowd, id, 1))
			return SQL_OK;
	}
	return SQL_OK;
}

static void list(struct table *t)
{
	assert_int_equal(crowd_list(&t->crowd, NULL, find, t), SQL_OK);
}

/* A transaction; true: there is more. */
static bool serve(struct table *t, uint64_t limit)
{
	struct crowd_round round;
	struct crowd_turn *turn;
	uint64_t part;

	crowd_begin(&round, &t->crowd, limit);
	while ((turn = crowd_next(&round, &part))) {
		uint64_t *has = &t->rows[turn->tenant_id];
		uint64_t n = *has < part ? *has : part;

		assert_true(part > 0);
		*has -= n;
		t->served[turn->tenant_id] += n;
		crowd_took(&round, n, n == part);
	}
	return crowd_end(&round);
}

static void test_by_weight(void **state)
{
	struct table t = {.rows = {[3] = 1000, [7] = 1000, [9] = 1000}};

	(void)state;
	list(&t);
	assert_int_equal(t.crowd.n, 3);
	crowd_add(&t.crowd, 7, 1)->weight = 3;
	assert_true(serve(&t, 50));
	assert_int_equal(t.served[3], 10);
	assert_int_equal(t.served[7], 30);
	assert_int_equal(t.served[9], 10);
	assert_int_equal(crowd_add(&t.crowd, 5, 0)->weight, 1); /* a tenant without a row */
}

/* Who has little takes nothing from the others, and comes first. */
static void test_what_is_left_goes_to_the_others(void **state)
{
	struct table t = {.rows = {[3] = 1000, [7] = 1, [9] = 1000}};
	struct crowd_round round;
	uint64_t part;

	(void)state;
	list(&t);
	assert_true(serve(&t, 30));
	assert_int_equal(t.served[3], 10);
	assert_int_equal(t.served[7], 1);
	assert_int_equal(t.served[9], 19);
	assert_false(crowd_knows(&t.crowd, 7));
	assert_true(crowd_knows(&t.crowd, 3) && crowd_knows(&t.crowd, 9));
	t.rows[7] = 1;
	list(&t);
	crowd_begin(&round, &t.crowd, 30);
	assert_int_equal(crowd_next(&round, &part)->tenant_id, 7);
	assert_int_equal(part, 10);
	assert_true(serve(&t, 41));
	assert_int_equal(t.served[7], 2);
	assert_int_equal(t.served[3] + t.served[9], 29 + 40);
	while (serve(&t, 100))
		;
	assert_int_equal(t.served[3] + t.served[9], 2000);
	assert_int_equal(t.crowd.n, 0);
}

/* A quiet tenant has something now and then. */
static void test_shared_a_moment_ago(void **state)
{
	struct table t = {.rows = {[3] = 1000}};

	(void)state;
	list(&t);
	assert_false(crowd_is_shared(&t.crowd, 5000));
	t.rows[7] = 1;
	list(&t);
	assert_true(crowd_is_shared(&t.crowd, 6000));
	serve(&t, 10);
	assert_int_equal(t.crowd.n, 1);
	crowd_forget(&t.crowd);
	assert_true(crowd_is_shared(&t.crowd, 6900));
	assert_false(crowd_is_shared(&t.crowd, 7100));
}

/* Fewer rows than tenants: who had none is first next time. */
static void test_goes_round(void **state)
{
	struct table t = {.rows = {[1] = 9, [2] = 9, [3] = 9, [4] = 9, [5] = 9}};

	(void)state;
	list(&t);
	for (unsigned i = 1; i <= 15; i++) {
		assert_true(serve(&t, 2));
		for (uint32_t id = 1; id <= 5; id++)
			assert_in_range(t.served[id], 2 * i / 5, (2 * i + 4) / 5);
	}
}

/* The rows of those who are known are not met by a listing. */
static void test_lists_between_the_known(void **state)
{
	struct table t = {.rows = {[3] = 100, [4] = 100, [9] = 100}};

	(void)state;
	list(&t);
	serve(&t, 30);
	t.rows[1] = t.rows[6] = t.rows[TENANTS - 1] = 1;
	list(&t);
	assert_int_equal(t.crowd.n, 6);
	for (size_t i = 1; i < t.crowd.n; i++)
		assert_true(t.crowd.turns[i - 1].tenant_id < t.crowd.turns[i].tenant_id);
	assert_int_equal(t.asked[3] + t.asked[4] + t.asked[9], 3);
	assert_int_equal(t.asked[1] + t.asked[5] + t.asked[10], 6);
}

/* More tenants than are kept: listings go round, and everybody has a part now and then. */
static void test_more_than_are_kept(void **state)
{
	struct table t = {0};

	(void)state;
	for (uint32_t id = 1; id < TENANTS; id++)
		t.rows[id] = 1000;
	for (int i = 0; i < 4; i++) {
		list(&t);
		assert_int_equal(t.crowd.n, CROWD_MAX);
		assert_true(serve(&t, 1000));
	}
	for (uint32_t id = 1; id < TENANTS; id++)
		assert_in_range(t.served[id], 10, 20);
}

/* Full with those whose rows were found before anybody was listed. */
static void test_full_at_once(void **state)
{
	struct table t = {0};

	(void)state;
	for (uint32_t id = 1; id < TENANTS; id++)
		t.rows[id] = 1000;
	for (uint32_t id = 200; id < 200 + CROWD_MAX; id++)
		assert_non_null(crowd_add(&t.crowd, id, 1));
	assert_null(crowd_add(&t.crowd, 100, 1));
	for (int i = 0; i < 5; i++) {
		list(&t);
		assert_true(serve(&t, 1000));
	}
	for (uint32_t id = 1; id < TENANTS; id++)
		assert_true(t.served[id] > 0);
}

/* A listing that gave up goes on behind that place, and there is more until one came round. */
static void test_goes_on_where_it_stopped(void **state)
{
	struct table t = {.rows = {[3] = 1, [9] = 1}, .stop = 6};

	(void)state;
	list(&t);
	assert_true(serve(&t, 10));
	t.stop = 0;
	list(&t);
	assert_int_equal(t.asked[7], 1);
	assert_int_equal(t.asked[3], 2); /* and round */
	assert_false(serve(&t, 10));
	assert_int_equal(t.served[3] + t.served[9], 2);
}

static void test_passes_what_was_moved(void **state)
{
	static const struct lead_row rows[] = {
	        {.tenant_id = 3, .at = 50, .id = 8, .moved = true},
	        {.tenant_id = 4, .at = 10, .id = 1, .moved = true},
	        {.tenant_id = 3, .at = 50, .id = 9, .moved = true},
	        {.tenant_id = 4, .at = 10, .id = 2},
	        {.tenant_id = 4, .at = 11, .id = 3, .moved = true},
	};
	struct table t = {.rows = {[3] = 100, [4] = 100, [5] = 1}};
	struct lead_rows list_of = {.size = sizeof(struct lead_row)};

	(void)state;
	list(&t);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		*(struct lead_row *)lead_rows_add(&list_of) = rows[i];
	crowd_passed(&t.crowd, &list_of);
	lead_rows_release(&list_of);
	assert_int_equal(t.crowd.turns[0].from_at, 50);
	assert_int_equal(t.crowd.turns[0].from_id, 9);
	assert_int_equal(t.crowd.turns[1].from_at, 10);
	assert_int_equal(t.crowd.turns[1].from_id, 1); /* what was left is looked at again */
	assert_int_equal(t.crowd.turns[2].from_id, 0);
	crowd_anew(&t.crowd);
	assert_int_equal(t.crowd.turns[0].from_at + t.crowd.turns[0].from_id, 0);
	crowd_forget(&t.crowd);
	assert_int_equal(t.crowd.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_by_weight),
	        cmocka_unit_test(test_what_is_left_goes_to_the_others),
	        cmocka_unit_test(test_shared_a_moment_ago),
	        cmocka_unit_test(test_goes_round),
	        cmocka_unit_test(test_lists_between_the_known),
	        cmocka_unit_test(test_more_than_are_kept),
	        cmocka_unit_test(test_full_at_once),
	        cmocka_unit_test(test_goes_on_where_it_stopped),
	        cmocka_unit_test(test_passes_what_was_moved),
	};

	return cmocka_run_group_tests_name("crowd", tests, NULL, NULL);
}
