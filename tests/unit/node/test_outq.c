#include "base/buf.h"
#include "node/net/outq.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/uio.h>

#include <cmocka.h>

static void count_release(void *owner)
{
	++*(int *)owner;
}

static void test_order_of_copies_and_references(void **state)
{
	struct outq q = {0};
	char all[32];
	int released = 0;

	(void)state;
	outq_copy(&q, "ab", 2);
	outq_ref(&q, "REF", 3, &released, count_release);
	outq_copy(&q, "cd", 2);
	outq_copy(&q, "ef", 2);
	assert_int_equal(q.bytes, 9);
	assert_int_equal(outq_gather(&q, all, sizeof all), 9);
	assert_memory_equal(all, "abREFcdef", 9);
	assert_int_equal(outq_front(&q).n, 2);
	outq_consume(&q, 4);
	assert_int_equal(released, 0);
	assert_memory_equal(outq_front(&q).p, "F", 1);
	outq_consume(&q, 1);
	assert_int_equal(released, 1);
	assert_int_equal(outq_front(&q).n, 4); /* the second copy joined the first */
	outq_consume(&q, 4);
	assert_null(q.head);
	assert_int_equal(q.bytes, 0);
}

static void test_release_drops_every_reference_once(void **state)
{
	struct outq q = {0};
	int released = 0;

	(void)state;
	for (int i = 0; i < 5; i++)
		outq_ref(&q, "x", 1, &released, count_release);
	outq_consume(&q, 2);
	outq_release(&q);
	assert_int_equal(released, 5);
	outq_release(&q);
	assert_int_equal(released, 5);
}

static size_t expected_iovec(const struct outq *q, char *out)
{
	struct iovec v[1024];
	int n = outq_iovec(q, v, 1024);
	size_t len = 0;

	for (int i = 0; i < n; i++) {
		for (size_t k = 0; k < v[i].iov_len; k++)
			out[len++] = ((const char *)v[i].iov_base)[k];
	}
	return len;
}

static void test_random_sizes_equal_a_plain_buffer(void **state)
{
	static char source[100000];
	static char seen[1 << 21];
	struct outq q = {0};
	struct buf model = {0};
	int released = 0;
	int referenced = 0;

	(void)state;
	srandom(7);
	for (size_t i = 0; i < sizeof source; i++)
		source[i] = (char)random();
	for (int i = 0; i < 3000; i++) {
		size_t n = (size_t)random() % (i % 10 ? 700 : 40000) + 1;
		size_t at = (size_t)random() % (sizeof source - n);

		if (random() % 4 == 0) {
			outq_ref(&q, source + at, n, &released, count_release);
			referenced++;
		} else {
			outq_copy(&q, source + at, n);
		}
		buf_append(&model, source + at, n);
		n = (size_t)random() % (model.len + 1);
		if (random() % 2 && model.len > 1000) {
			outq_consume(&q, n);
			buf_consume(&model, n);
		}
		assert_int_equal(q.bytes, model.len);
		if (i % 50 == 0 && model.len < sizeof seen) {
			assert_int_equal(outq_gather(&q, seen, sizeof seen), model.len);
			assert_memory_equal(seen, model.data, model.len);
			assert_int_equal(expected_iovec(&q, seen), model.len);
			assert_memory_equal(seen, model.data, model.len);
		}
	}
	outq_release(&q);
	assert_int_equal(released, referenced);
	buf_release(&model);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_order_of_copies_and_references),
	        cmocka_unit_test(test_release_drops_every_reference_once),
	        cmocka_unit_test(test_random_sizes_equal_a_plain_buffer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
