/* Whose request is next. */
#include "cluster/turns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static int marks[4000];

static void add(struct turns *t, uint32_t tenant_id, int mark)
{
	turns_add(t, tenant_id, "kind", &marks[mark], 7);
}

static void take(struct turns *t, size_t n)
{
	void *reqs[4000];

	assert_int_equal(turns_take(t, reqs, n), n);
}

static int next(struct turns *t)
{
	void *req;

	assert_true(t->n > 0);
	assert_int_equal(t->waiting[0].generation, 7);
	assert_int_equal(turns_take(t, &req, 1), 1);
	return (int)((int *)req - marks);
}

static void test_one_tenant_keeps_its_order(void **state)
{
	struct turns t = {0};

	(void)state;
	for (int i = 0; i < 1000; i++)
		add(&t, 1, i);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(next(&t), i);
	turns_release(&t);
}

/* Whoever has one is second, though thousands came before. */
static void test_few_before_many(void **state)
{
	struct turns t = {0};

	(void)state;
	for (int i = 0; i < 3000; i++)
		add(&t, 1, i);
	take(&t, 64);
	add(&t, 2, 3001);
	add(&t, 3, 3002);
	add(&t, 2, 3003);
	assert_int_equal(next(&t), 64);
	assert_int_equal(next(&t), 3001);
	assert_int_equal(next(&t), 3002);
	assert_int_equal(next(&t), 65);
	assert_int_equal(next(&t), 3003);
	for (int i = 66; i < 3000; i++)
		assert_int_equal(next(&t), i);
	assert_int_equal(t.n, 0);
	turns_release(&t);
}

/* Who was away gains nothing, and loses nothing. */
static void test_coming_back(void **state)
{
	struct turns t = {0};

	(void)state;
	for (int i = 0; i < 100; i++)
		add(&t, 1, i);
	for (int i = 0; i < 50; i++)
		next(&t);
	for (int i = 0; i < 10; i++)
		add(&t, 2, 1000 + i);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(next(&t), 50 + i);
		assert_int_equal(next(&t), 1000 + i);
	}
	turns_release(&t);
}

/* How many at least share a transaction: one of each tenant. */
static void test_first_round(void **state)
{
	struct turns t = {0};

	(void)state;
	assert_false(turns_of_one_tenant(&t));
	for (int i = 0; i < 100; i++)
		add(&t, 1, i);
	assert_true(turns_of_one_tenant(&t));
	assert_int_equal(turns_in_first_round(&t), 1);
	for (int i = 0; i < 20; i++)
		add(&t, (uint32_t)(2 + i), 1000 + i);
	add(&t, 2, 2000);
	assert_false(turns_of_one_tenant(&t));
	assert_int_equal(turns_in_first_round(&t), 21);
	take(&t, 5);
	assert_int_equal(turns_in_first_round(&t), 16);
	take(&t, t.n);
	assert_false(turns_of_one_tenant(&t));
	add(&t, 9, 0);
	assert_true(turns_of_one_tenant(&t));
	turns_release(&t);
}

/* Like ones are taken together, whoever's turn it is first; what is left out keeps its turn. */
static void test_kinds(void **state)
{
	static const char claim[] = "claim";
	static const char change[] = "change";
	struct turns t = {0};
	void *reqs[8];

	(void)state;
	for (int i = 0; i < 10; i++) {
		turns_add(&t, 1, claim, &marks[2 * i], 7);
		turns_add(&t, 1, change, &marks[2 * i + 1], 7);
	}
	turns_add(&t, 2, claim, &marks[100], 7);
	turns_add(&t, 3, change, &marks[101], 7);
	turns_add(&t, 4, claim, &marks[102], 8);
	assert_int_equal(turns_in_first_round(&t), 2);
	assert_int_equal(turns_take(&t, reqs, 5), 5);
	assert_ptr_equal(reqs[0], &marks[0]);
	assert_ptr_equal(reqs[1], &marks[100]);
	assert_ptr_equal(reqs[2], &marks[2]);
	assert_ptr_equal(reqs[4], &marks[6]);
	turns_add(&t, 5, change, &marks[103], 7);
	assert_int_equal(turns_take(&t, reqs, 3), 3);
	assert_ptr_equal(reqs[0], &marks[101]);
	assert_ptr_equal(reqs[1], &marks[1]);
	assert_ptr_equal(reqs[2], &marks[103]);
	assert_int_equal(turns_take(&t, reqs, 8), 1); /* of its generation */
	assert_ptr_equal(reqs[0], &marks[102]);
	turns_release(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_one_tenant_keeps_its_order),
	        cmocka_unit_test(test_few_before_many),
	        cmocka_unit_test(test_coming_back),
	        cmocka_unit_test(test_first_round),
	        cmocka_unit_test(test_kinds),
	};

	return cmocka_run_group_tests_name("turns", tests, NULL, NULL);
}
