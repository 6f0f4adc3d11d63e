/* A subscription's filters: slots and the trie, and the text that keeps them in its row. */
#include "base/buf.h"
#include "base/mem.h"
#include "node/delivery/delivery.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct dispatch dispatch; /* as much of one as filters need */
static struct space space;
static struct subscription sub;

static int setup(void **state)
{
	(void)state;
	dispatch = (struct dispatch){.trie_cache = trie_cache_new(16)};
	space = (struct space){.dispatch = &dispatch, .layout = {0, 2}};
	space.trie = trie_new(dispatch.trie_cache);
	sub = (struct subscription){.space = &space, .kind = BUS_SUB_SESSION};
	return 0;
}

static void drop_all(void)
{
	for (size_t i = 0; i < sub.n_filters; i++) {
		free(sub.filters[i].text);
		free(sub.filters[i].since);
		free(sub.filters[i].until);
	}
	free(sub.filters);
	sub.filters = NULL;
	sub.n_filters = 0;
}

static int teardown(void **state)
{
	(void)state;
	drop_all();
	trie_free(space.trie);
	trie_cache_free(dispatch.trie_cache);
	return 0;
}

static void assert_stored(const char *json)
{
	struct buf out = {0};

	filters_encode(&sub, &out);
	buf_u8(&out, '\0');
	assert_string_equal(out.data, json);
	buf_release(&out);
}

static void test_there_and_back(void **state)
{
	const char *json =
	        "[{\"filter\":\"a/+\",\"qos\":1,\"nl\":true,\"rap\":true,\"rh\":1,\"id\":7,"
	        "\"since\":[12,40],\"until\":[90,77]},{\"filter\":\"$share/g/b/#\",\"qos\":0},"
	        "{\"filter\":\"quote\\\"d/\xc3\xa4\",\"qos\":1,\"id\":268435455}]";
	struct filter *f;

	(void)state;
	assert_int_equal(filters_decode(&sub, slice_str(json)), 0);
	assert_int_equal(filter_count(&sub), 3);
	assert_stored(json);
	f = filter_find(&sub, slice_str("a/+"));
	assert_true(f->no_local && f->retain_as_published && f->qos == 1);
	assert_int_equal(f->retain_handling, 1);
	assert_int_equal(f->subscription_id, 7);
	assert_int_equal(f->since->seqs[1], 40);
	assert_int_equal(f->until->seqs[0], 90);
	f = filter_find(&sub, slice_str("$share/g/b/#"));
	assert_true(slice_eq(f->match, slice_str("b/#")));
	assert_null(f->since);
}

/* Somebody edited the row: what cannot be is left out, and the node lives. */
static void test_edited_rows(void **state)
{
	static const char *const bad[] = {
	        "[{\"filter\":\"\",\"qos\":1}]",
	        "[{\"filter\":\"a/#/b\",\"qos\":1}]",
	        "[{\"filter\":\"$share/g\",\"qos\":1}]",
	        "[{\"filter\":\"$queue\",\"qos\":1}]",
	        "[{\"filter\":7,\"qos\":1}]",
	        "[{\"qos\":1}]",
	        "[{\"filter\":\"a\",\"qos\":9}]",
	        "[null]",
	        "{}",
	        "",
	        "[",
	};
	const char *twice = "[{\"filter\":\"a\",\"qos\":1},{\"filter\":\"a\",\"qos\":0}]";
	struct buf many = {0};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(filters_decode(&sub, slice_str(bad[i])), -1);
		assert_int_equal(filter_count(&sub), 0);
	}
	assert_int_equal(filters_decode(&sub, slice_str(twice)), -1);
	assert_stored("[{\"filter\":\"a\",\"qos\":1}]");
	drop_all();
	for (int i = 0; i < 2 * SESSION_FILTERS_MAX; i++)
		buf_printf(&many, "%s{\"filter\":\"f/%d\",\"qos\":1}", i ? "," : "[", i);
	buf_u8(&many, ']');
	assert_int_equal(filters_decode(&sub, buf_slice(&many)), -1);
	assert_int_equal(filter_count(&sub), SESSION_FILTERS_MAX);
	buf_release(&many);
}

static size_t hits(const char *topic, uint32_t *index)
{
	const struct trie_hit *h;
	size_t n = trie_match(space.trie, slice_str(topic), &h);

	if (n)
		*index = h[0].index;
	return n;
}

/* A slot is used again: the trie never points at the filter that was there before. */
static void test_slots(void **state)
{
	uint32_t at = 99;

	(void)state;
	filter_plant(&sub, filter_add(&sub, slice_str("a")));
	filter_plant(&sub, filter_add(&sub, slice_str("b")));
	filter_plant(&sub, filter_add(&sub, slice_str("c")));
	filter_remove(&sub, filter_find(&sub, slice_str("b")));
	assert_int_equal(hits("b", &at), 0);
	filter_plant(&sub, filter_add(&sub, slice_str("d")));
	assert_int_equal(sub.n_filters, 3);
	assert_int_equal(hits("b", &at), 0);
	assert_int_equal(hits("d", &at), 1);
	assert_string_equal(sub.filters[at].text, "d");
	assert_int_equal(hits("c", &at), 1);
	assert_string_equal(sub.filters[at].text, "c");
}

static void test_applies(void **state)
{
	struct session me = {.key = (char *)"alice\0c1", .key_len = 8, .subject_len = 5};
	struct event ev = {.client = slice_str("c1")};
	struct positions *since = positions_new((struct layout){0, 2});
	struct positions *until = positions_new((struct layout){0, 2});
	struct filter f = {.since = since};

	(void)state;
	since->seqs[0] = 10;
	since->seqs[1] = until->seqs[1] = 20;
	until->seqs[0] = 30;
	assert_false(filter_applies(&f, &sub, 0, 9, &ev));
	assert_true(filter_applies(&f, &sub, 0, 10, &ev));
	assert_false(filter_applies(&f, &sub, 1, 19, &ev));
	f.until = until;
	assert_true(filter_applies(&f, &sub, 0, 29, &ev));
	assert_false(filter_applies(&f, &sub, 0, 30, &ev));
	assert_false(filter_applies(&f, &sub, 1, 20, &ev)); /* it ends where it begins */
	f.no_local = true;
	assert_true(filter_applies(&f, &sub, 0, 10, &ev)); /* no session: nobody's own */
	sub.session = &me;
	assert_false(filter_applies(&f, &sub, 0, 10, &ev));
	ev.client = slice_str("c2");
	assert_true(filter_applies(&f, &sub, 0, 10, &ev));
	sub.session = NULL;
	free(since);
	free(until);
}

/* Whole layouts lie before a position, or after it. */
static void test_applies_in_other_layouts(void **state)
{
	const char *json = "[{\"filter\":\"a\",\"qos\":1,\"since\":[5,6],\"since_at\":3,"
	                   "\"until\":[9],\"until_at\":7}]";
	struct event ev = {.client = slice_str("c1")};
	struct filter *f;

	(void)state;
	assert_int_equal(filters_decode(&sub, slice_str(json)), 0);
	assert_stored(json);
	f = filter_find(&sub, slice_str("a"));
	assert_false(filter_applies(f, &sub, 2, 1000, &ev)); /* of the layout before 3, 4 */
	assert_false(filter_applies(f, &sub, 4, 5, &ev));
	assert_true(filter_applies(f, &sub, 4, 6, &ev));
	assert_true(filter_applies(f, &sub, 5, 1, &ev));
	assert_true(filter_applies(f, &sub, 7, 8, &ev));
	assert_false(filter_applies(f, &sub, 7, 9, &ev));
	assert_false(filter_applies(f, &sub, 8, 1, &ev)); /* of a layout after 7 */
}

/* All identifiers of a session's filters, each once per filter, and the highest QoS. */
static void test_matches_add_up(void **state)
{
	struct match m;

	(void)state;
	match_clear(&m);
	for (uint32_t i = 1; i <= SESSION_FILTERS_MAX; i++)
		match_add(&m, &(struct filter){.qos = i == 50, .subscription_id = i});
	match_add(&m, &(struct filter){.qos = 0});
	assert_int_equal(m.qos, 1);
	assert_int_equal(m.n_ids, SESSION_FILTERS_MAX);
	assert_int_equal(m.ids[SESSION_FILTERS_MAX - 1], SESSION_FILTERS_MAX);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(test_there_and_back), TEST(test_edited_rows),
	        TEST(test_slots),          TEST(test_applies),
	        TEST(test_matches_add_up), TEST(test_applies_in_other_layouts),
	        TEST(test_matches_add_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
