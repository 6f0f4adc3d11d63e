/* Who is alone, and who is not any more. */
#include "cluster/company.h"
#include "cluster/together_sql.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX = 64 };

static const struct together_kind kind = {.no = TOGETHER_CHANGE, .max = MAX};

static void test_who_comes_again_and_again_is_alone(void **state)
{
	struct company c = {0};

	(void)state;
	for (uint64_t now = 0; now < 5000; now += 10) {
		company_came(&c, 7, now);
		assert_false(company_is_there(&c, now));
	}
}

static void test_company_is_expected_again_for_a_while(void **state)
{
	struct company c = {0};

	(void)state;
	company_came(&c, 7, 1000);
	company_came(&c, 8, 1001);
	for (uint64_t now = 1002; now < 1001 + COMPANY_LATELY_MS; now++) {
		company_came(&c, 8, now);
		assert_true(company_is_there(&c, now));
	}
	assert_false(company_is_there(&c, 1001 + COMPANY_LATELY_MS));
	company_came(&c, 7, 9000);
	assert_true(company_is_there(&c, 9000));
}

static void add(struct together *t, uint32_t tenant_id, size_t n)
{
	static int req;

	while (n--)
		turns_add(&t->turns, tenant_id, &kind, &req, 1);
}

/* 100 us each: so many are done in the time that those of other tenants may have to wait. */
static void test_one_tenant_in_company_has_short_transactions(void **state)
{
	struct together t = {.paces[TOGETHER_CHANGE].each_us = 100};

	(void)state;
	add(&t, 7, 1000);
	assert_int_equal(together_most(&t, false), MAX);
	assert_int_equal(together_most(&t, true), 20);
	t.paces[TOGETHER_CHANGE].each_us = 100000;
	assert_int_equal(together_most(&t, true), 8); /* however long it takes */
	together_release(&t);
}

static void test_one_of_each_tenant(void **state)
{
	struct together t = {.paces[TOGETHER_CHANGE].each_us = 100};

	(void)state;
	for (uint32_t tenant = 1; tenant <= 30; tenant++)
		add(&t, tenant, 100);
	assert_int_equal(together_most(&t, true), 30);
	for (uint32_t tenant = 31; tenant <= 100; tenant++)
		add(&t, tenant, 1);
	assert_int_equal(together_most(&t, true), MAX);
	together_release(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_who_comes_again_and_again_is_alone),
	        cmocka_unit_test(test_company_is_expected_again_for_a_while),
	        cmocka_unit_test(test_one_tenant_in_company_has_short_transactions),
	        cmocka_unit_test(test_one_of_each_tenant),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
