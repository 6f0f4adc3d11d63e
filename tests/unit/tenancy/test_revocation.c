#include "tenancy/revocation.h"

#include "base/clock.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void add(struct revocation_set *s, uint32_t tenant, enum revocation_kind kind,
                const char *name, uint64_t before_s)
{
	struct revocation_row row = {
	        .tenant_id = tenant, .kind = kind, .name = slice_str(name), .before_s = before_s};

	assert_true(revocation_set_add(s, &row));
}

static bool has(const struct revocation_set *s, uint32_t tenant, const char *subject,
                const char *id, uint64_t issued_s)
{
	struct revocation_token t = {.tenant_id = tenant,
	                             .subject = slice_str(subject),
	                             .token_id = slice_str(id),
	                             .issued_s = issued_s};

	return revocation_set_has(s, &t);
}

static void test_revocation_kinds(void **state)
{
	struct revocation_set *s = revocation_set_new();
	(void)state;

	add(s, 1, REVOCATION_SUBJECT, "ann", 1000);
	add(s, 1, REVOCATION_TOKEN_ID, "t-1", UINT64_MAX);
	add(s, 2, REVOCATION_TENANT, "", 500);
	revocation_set_seal(s);
	assert_int_equal(revocation_set_count(s), 3);
	assert_true(has(s, 1, "ann", "", 999));
	assert_false(has(s, 1, "ann", "", 1000)); /* issued at the moment is not before it */
	assert_true(has(s, 1, "ann", "", 0));     /* it does not say when */
	assert_true(has(s, 1, "bob", "t-1", 2000));
	assert_false(has(s, 1, "bob", "t-2", 2000));
	assert_false(has(s, 1, "t-1", "ann", 1)); /* a subject is no id */
	assert_false(has(s, 1, "bob", "", 0));
	assert_true(has(s, 2, "bob", "", 499));
	assert_false(has(s, 2, "bob", "t-1", 500));
	assert_false(has(s, 3, "ann", "t-1", 1)); /* another tenant's */
	revocation_set_free(s);
}

static void test_revocation_refuses_rows(void **state)
{
	char name[REVOCATION_NAME_MAX + 2];
	struct revocation_set *s = revocation_set_new();
	struct revocation_row row = {
	        .tenant_id = 1, .kind = REVOCATION_SUBJECT, .before_s = 1, .name = slice(name, 0)};
	(void)state;

	memset(name, 'x', sizeof name);
	row.name.n = REVOCATION_NAME_MAX + 1;
	assert_false(revocation_set_add(s, &row));
	row.name.n = REVOCATION_NAME_MAX;
	row.kind = (enum revocation_kind)4;
	assert_false(revocation_set_add(s, &row));
	row.kind = REVOCATION_SUBJECT;
	assert_true(revocation_set_add(s, &row));
	revocation_set_seal(s);
	name[sizeof name - 1] = '\0';
	assert_false(has(s, 1, name, "", 0)); /* longer than any row's name */
	revocation_set_free(s);
}

static void test_revocation_none(void **state)
{
	struct revocation_set *s = revocation_set_new();
	(void)state;

	revocation_set_seal(s);
	assert_false(has(s, 1, "ann", "t-1", 0));
	assert_false(has(NULL, 1, "ann", "t-1", 0));
	assert_int_equal(revocation_set_count(NULL), 0);
	revocation_set_free(s);
	revocation_set_free(NULL);
}

/* 100,000 rows: bounded memory, and a look at them is as quick as at three. */
static void test_revocation_many(void **state)
{
	enum { ROWS = 100000 };
	size_t before = mallinfo2().uordblks + mallinfo2().hblkhd, used;
	struct revocation_set *s = revocation_set_new();
	uint64_t start;
	char name[64];
	unsigned hits = 0;
	(void)state;

	for (int i = 0; i < ROWS; i++) {
		snprintf(name, sizeof name, "5f0c2b1e-0000-4000-8000-%012d", i);
		add(s, 1 + (uint32_t)i % 100, REVOCATION_TOKEN_ID, name, UINT64_MAX);
	}
	revocation_set_seal(s);
	used = mallinfo2().uordblks + mallinfo2().hblkhd - before;
	assert_true(used < (size_t)ROWS * 200);
	start = clock_us();
	for (int i = 0; i < ROWS; i++) {
		snprintf(name, sizeof name, "5f0c2b1e-0000-4000-8000-%012d", i);
		hits += has(s, 1 + (uint32_t)i % 100, "ann", name, 5);
		hits += has(s, 2 + (uint32_t)i % 100, "ann", name, 5);
	}
	assert_int_equal(hits, ROWS);
	printf("%d rows: %zu bytes each, %.0f ns a look\n", ROWS, used / ROWS,
	       (double)(clock_us() - start) * 1000 / (2 * ROWS));
	revocation_set_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_revocation_kinds),
	        cmocka_unit_test(test_revocation_refuses_rows),
	        cmocka_unit_test(test_revocation_none),
	        cmocka_unit_test(test_revocation_many),
	};

	return cmocka_run_group_tests_name("revocation", tests, NULL, NULL);
}
