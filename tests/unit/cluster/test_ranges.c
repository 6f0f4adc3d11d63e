#include "cluster/ranges.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SPACE = 200 };

static void assert_ranges(const struct ranges *r, const struct range *want, size_t n)
{
	assert_int_equal(r->n, n);
	for (size_t i = 0; i < n; i++) {
		assert_true(r->items[i].first == want[i].first);
		assert_true(r->items[i].last == want[i].last);
	}
}

static void test_add_merges(void **state)
{
	struct ranges r = {0};

	(void)state;
	ranges_add(&r, 10, 12);
	ranges_add(&r, 20, 20);
	ranges_add(&r, 5, 5);
	assert_ranges(&r, (struct range[]){{5, 5}, {10, 12}, {20, 20}}, 3);
	ranges_add(&r, 13, 13); /* touches */
	ranges_add(&r, 6, 9);   /* fills the gap */
	assert_ranges(&r, (struct range[]){{5, 13}, {20, 20}}, 2);
	ranges_add(&r, 1, 30);
	assert_ranges(&r, (struct range[]){{1, 30}}, 1);
	ranges_add(&r, UINT64_MAX, UINT64_MAX);
	assert_true(ranges_contain(&r, UINT64_MAX));
	ranges_release(&r);
}

/* Against a plain array of marks. */
static void test_add_against_marks(void **state)
{
	struct ranges r = {0};
	bool marks[SPACE + 2] = {false};

	(void)state;
	srand(1);
	for (int round = 0; round < 2000; round++) {
		uint64_t first = 1 + (uint64_t)(rand() % SPACE);
		uint64_t last = first + (uint64_t)(rand() % 4);

		if (round % 40 == 0) {
			ranges_trim(&r, first);
			for (uint64_t i = 1; i <= first; i++)
				marks[i] = false;
			if (round % 400 == 0) {
				ranges_clear(&r);
				memset(marks, 0, sizeof marks);
			}
		}
		last = last > SPACE ? SPACE : last;
		ranges_add(&r, first, last);
		for (uint64_t i = first; i <= last; i++)
			marks[i] = true;
		for (uint64_t i = 1; i <= SPACE; i++)
			assert_int_equal(ranges_contain(&r, i), marks[i]);
		for (size_t i = 1; i < r.n; i++)
			assert_true(r.items[i - 1].last + 1 < r.items[i].first);
	}
	ranges_release(&r);
}

static void test_encode_decode(void **state)
{
	struct ranges r = {0};
	struct ranges back = {0};
	struct buf text = {0};

	(void)state;
	ranges_add(&r, 3, 4);
	ranges_add(&r, 102, 400);
	ranges_add(&r, 1ull << 60, (1ull << 60) + 1);
	ranges_encode(&r, 100, 4096, &text); /* what lies below 100 is left out */
	assert_int_equal(ranges_decode(&back, 100, buf_slice(&text)), 0);
	assert_ranges(&back, (struct range[]){{102, 400}, {1ull << 60, (1ull << 60) + 1}}, 2);

	buf_clear(&text);
	ranges_encode(&r, 100, 4, &text); /* no room for the far one */
	assert_int_equal(ranges_decode(&back, 100, buf_slice(&text)), 0);
	assert_ranges(&back, (struct range[]){{102, 400}}, 1);

	buf_clear(&text);
	ranges_encode(&r, 100, 0, &text);
	assert_int_equal(text.len, 0);
	assert_int_equal(ranges_decode(&back, 100, buf_slice(&text)), 0);
	assert_int_equal(back.n, 0);
	buf_release(&text);
	ranges_release(&r);
	ranges_release(&back);
}

static void test_decode_refuses(void **state)
{
	static const struct {
		const char *p;
		size_t n;
		uint64_t at;
	} rows[] = {
	        {"\x01", 1, 0},                                          /* half a pair */
	        {"\x80", 1, 0},                                          /* half a number */
	        {"\x01\x01\x00\x01", 4, 0},                              /* touching ranges */
	        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x00", 11, 0}, /* 65 bits */
	        {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", 11, 5}, /* beyond the end */
	        {"\x00\x05", 2, UINT64_MAX - 3},
	        {"\x00\x00", 2, UINT64_MAX},
	};
	struct ranges r = {0};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		ranges_add(&r, 1, 2);
		if (ranges_decode(&r, rows[i].at, slice(rows[i].p, rows[i].n)) != -1)
			fail_msg("row %zu accepted", i);
		assert_int_equal(r.n, 0);
	}
	ranges_release(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_add_merges),
	        cmocka_unit_test(test_add_against_marks),
	        cmocka_unit_test(test_encode_decode),
	        cmocka_unit_test(test_decode_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
