#include "tenancy/trie.h"

#include "base/clock.h"
#include "tenancy/topic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { FILTERS = 600, STEPS = 20000 };

static uint64_t seed;

static uint32_t rnd(uint32_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)((seed >> 11) % below);
}

/* A random topic or filter, few enough levels and words that they meet. */
static struct slice random_text(char *out, bool filter)
{
	static const char *const words[] = {"a", "b", "c", "", "$s", "+"};
	uint32_t depth = 1 + rnd(4);
	char *o = out;

	for (uint32_t i = 0; i < depth; i++)
		o += sprintf(o, "%s%s", i ? "/" : "", words[rnd(filter ? 6 : 5)]);
	if (filter && rnd(4) == 0)
		o += sprintf(o, "%s#", o == out ? "" : "/");
	if (o == out)
		o += sprintf(o, "a");
	return slice(out, (size_t)(o - out));
}

struct fixture {
	struct trie_cache *cache;
	struct trie *trie;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	f->cache = trie_cache_new(256);
	f->trie = trie_new(f->cache);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	trie_free(f->trie);
	trie_cache_free(f->cache);
	free(f);
	return 0;
}

static size_t match(struct trie *t, const char *topic, const struct trie_hit **hits)
{
	return trie_match(t, slice_str(topic), hits);
}

static void test_trie_basics(void **state)
{
	struct fixture *f = *state;
	const struct trie_hit *h;
	int a, b;

	assert_int_equal(match(f->trie, "x", &h), 0);
	trie_add(f->trie, slice_str("x/+"), &a, 0);
	trie_add(f->trie, slice_str("x/#"), &b, 7);
	assert_int_equal(match(f->trie, "x", &h), 1);
	assert_ptr_equal(h[0].value, &b);
	assert_int_equal(h[0].index, 7);
	assert_int_equal(match(f->trie, "x/y", &h), 2);
	assert_int_equal(match(f->trie, "x/y/z", &h), 1);
	assert_int_equal(match(f->trie, "y", &h), 0);
	assert_false(trie_remove(f->trie, slice_str("x/+"), &b, 0));
	assert_false(trie_remove(f->trie, slice_str("x/+"), &a, 1));
	assert_false(trie_remove(f->trie, slice_str("x"), &a, 0));
	assert_true(trie_remove(f->trie, slice_str("x/+"), &a, 0));
	assert_false(trie_remove(f->trie, slice_str("x/+"), &a, 0));
	assert_int_equal(match(f->trie, "x/y", &h), 1);
	assert_true(trie_remove(f->trie, slice_str("x/#"), &b, 7));
	assert_int_equal(trie_nodes(f->trie), 0);
	assert_int_equal(trie_count(f->trie), 0);
}

/* A cached answer must not survive a change, nor leak into a trie that shares the cache. */
static void test_trie_cache_is_invalidated(void **state)
{
	struct fixture *f = *state;
	struct trie *other = trie_new(f->cache);
	const struct trie_hit *h;
	int a, b;

	trie_add(f->trie, slice_str("t"), &a, 0);
	trie_add(other, slice_str("u"), &b, 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(match(f->trie, "t", &h), 1);
		assert_int_equal(match(other, "t", &h), 0);
	}
	trie_add(other, slice_str("#"), &b, 1);
	assert_int_equal(match(other, "t", &h), 1);
	assert_ptr_equal(h[0].value, &b);
	assert_int_equal(match(f->trie, "t", &h), 1);
	trie_free(other);
	other = trie_new(f->cache); /* likely at the same address */
	trie_add(other, slice_str("v"), &b, 0);
	assert_int_equal(match(other, "t", &h), 0);
	trie_free(other);
}

struct model {
	char text[64];
	struct slice filter;
	bool live;
};

static void assert_same(struct trie *t, const struct model *m, struct slice topic)
{
	const struct trie_hit *h;
	size_t n = trie_match(t, topic, &h), expected = 0;
	bool seen[FILTERS] = {false};

	for (size_t i = 0; i < n; i++) {
		size_t at = (size_t)((const struct model *)h[i].value - m);

		assert_int_equal(h[i].index, at);
		if (seen[at] || !m[at].live || !topic_match(m[at].filter, topic))
			fail_msg("hit %s for %.*s", m[at].text, (int)topic.n, topic.p);
		seen[at] = true;
	}
	for (size_t i = 0; i < FILTERS; i++)
		expected += m[i].live && topic_match(m[i].filter, topic);
	assert_int_equal(n, expected);
}

static void test_trie_against_topic_match(void **state)
{
	struct fixture *f = *state;
	static struct model m[FILTERS];
	char topic[64];

	seed = UINT64_C(0x1234567);
	for (int step = 0; step < STEPS; step++) {
		uint32_t i = rnd(FILTERS);

		if (rnd(4) == 0 && m[i].live) {
			assert_true(trie_remove(f->trie, m[i].filter, &m[i], i));
			m[i].live = false;
		} else if (rnd(4) == 0 && !m[i].live) {
			m[i].filter = random_text(m[i].text, true);
			trie_add(f->trie, m[i].filter, &m[i], i);
			m[i].live = true;
		}
		assert_same(f->trie, m, random_text(topic, false));
	}
	for (uint32_t i = 0; i < FILTERS; i++) {
		if (m[i].live)
			assert_true(trie_remove(f->trie, m[i].filter, &m[i], i));
	}
	assert_int_equal(trie_nodes(f->trie), 0);
}

/* 100,000 filters; prints the figures for the record. */
static void test_trie_many_filters(void **state)
{
	struct fixture *f = *state;
	enum { MANY = 100000, ROUNDS = 1000000 };
	char text[64];
	const struct trie_hit *h;
	size_t sum = 0;
	uint64_t t0 = clock_us(), t1, t2, t3;

	for (uint32_t i = 0; i < MANY; i++) {
		snprintf(text, sizeof text, "site/%u/device/%u/+", i % 100, i);
		trie_add(f->trie, slice_str(text), f, i);
	}
	t1 = clock_us();
	for (uint32_t i = 0; i < MANY; i++) {
		snprintf(text, sizeof text, "site/%u/device/%u/temperature", i % 100, i);
		sum += match(f->trie, text, &h);
		assert_int_equal(h[0].index, i);
	}
	t2 = clock_us();
	for (uint32_t i = 0; i < ROUNDS; i++)
		sum += trie_match(f->trie, slice_str(text), &h);
	t3 = clock_us();
	assert_int_equal(sum, MANY + ROUNDS);
	print_message("add %.0f ns, match uncached %.0f ns, cached %.0f ns\n",
	              1e3 * (double)(t1 - t0) / MANY, 1e3 * (double)(t2 - t1) / MANY,
	              1e3 * (double)(t3 - t2) / ROUNDS);
	for (uint32_t i = 0; i < MANY; i++) {
		snprintf(text, sizeof text, "site/%u/device/%u/+", i % 100, i);
		assert_true(trie_remove(f->trie, slice_str(text), f, i));
	}
	assert_int_equal(trie_nodes(f->trie), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_trie_basics, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_trie_cache_is_invalidated, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_trie_against_topic_match, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_trie_many_filters, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
