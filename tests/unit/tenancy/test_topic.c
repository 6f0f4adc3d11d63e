#include "tenancy/topic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct check_row {
	const char *text;
	const char *why; /* NULL = accepted; else part of the reason */
};

static void assert_answer(const char *text, int rc, const struct err *e, const char *why)
{
	if (!why && rc != 0)
		fail_msg("'%s' refused: %s", text, e->text);
	if (why && rc == 0)
		fail_msg("'%s' accepted", text);
	if (why && !strstr(e->text, why))
		fail_msg("'%s': reason is '%s', not '%s'", text, e->text, why);
}

static void test_topic_names(void **state)
{
	static const struct check_row rows[] = {
	        {"a", NULL},
	        {"a/b/c", NULL},
	        {"/", NULL},
	        {"a//b", NULL},
	        {"a b/c$", NULL},
	        {"", "topic is empty"},
	        {"a/+", "contains a wildcard"},
	        {"#", "contains a wildcard"},
	        {"a#", "contains a wildcard"},
	        {"$SYS/x", "starts with $"},
	        {"$share/g/a", "starts with $"},
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct err e = {0};
		int rc = topic_check(slice_str(rows[i].text), &e);

		assert_answer(rows[i].text, rc, &e, rows[i].why);
	}
}

static void test_topic_filters(void **state)
{
	static const struct check_row rows[] = {
	        {"a", NULL},
	        {"#", NULL},
	        {"+", NULL},
	        {"+/+/#", NULL},
	        {"/", NULL},
	        {"/#", NULL},
	        {"$leat/limits", NULL},
	        {"$SYS/#", NULL},
	        {"", "filter is empty"},
	        {"a#", "# must be a whole level"},
	        {"a/b+/c", "+ must be a whole level"},
	        {"##", "# must be a whole level"},
	        {"#/a", "# must be the last level"},
	        {"a/#/", "# must be the last level"},
	        {"$share/g/a/+", NULL},
	        {"$share/g//", NULL},
	        {"$share", "NAME is missing"},
	        {"$share/", "NAME is missing"},
	        {"$share//a", "NAME is missing"},
	        {"$share/g", "FILTER is missing"},
	        {"$share/g/", "filter is empty"},
	        {"$share/+/a", "may not contain"},
	        {"$share/g#/a", "may not contain"},
	        {"$share/g/a#", "# must be a whole level"},
	        {"$share/g/$share/h/a", "not allowed here"},
	        {"$share/g/$queue/h", "not allowed here"},
	        {"$queue/jobs", NULL},
	        {"$queue/jobs/a/#", NULL},
	        {"$queue", "NAME is missing"},
	        {"$queue/jobs/", "filter is empty"},
	        {"$sharex/g", NULL},
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct topic_filter f;
		struct err e = {0};
		int rc = topic_filter_parse(slice_str(rows[i].text), &f, &e);

		assert_answer(rows[i].text, rc, &e, rows[i].why);
	}
}

static void test_topic_filter_parts(void **state)
{
	struct topic_filter f;
	(void)state;

	assert_int_equal(topic_filter_parse(slice_str("$share/g/a/+"), &f, NULL), 0);
	assert_int_equal(f.kind, FILTER_SHARED);
	assert_true(slice_eq(f.share, slice_str("g")));
	assert_true(slice_eq(f.filter, slice_str("a/+")));
	assert_int_equal(topic_filter_parse(slice_str("$queue/jobs"), &f, NULL), 0);
	assert_int_equal(f.kind, FILTER_QUEUE);
	assert_true(slice_eq(f.share, slice_str("jobs")));
	assert_int_equal(f.filter.n, 0);
	assert_int_equal(topic_filter_parse(slice_str("x/#"), &f, NULL), 0);
	assert_int_equal(f.kind, FILTER_PLAIN);
	assert_true(slice_eq(f.filter, slice_str("x/#")));
}

static void test_topic_limits(void **state)
{
	char long_name[TOPIC_MAX_BYTES + 1];
	char deep[2 * TOPIC_MAX_LEVELS];
	struct err e;
	(void)state;

	memset(long_name, 'x', sizeof long_name);
	assert_int_equal(topic_check(slice(long_name, TOPIC_MAX_BYTES), &e), 0);
	assert_int_equal(topic_check(slice(long_name, TOPIC_MAX_BYTES + 1), &e), -1);
	assert_string_equal(e.text, "topic has 1025 bytes; at most 1024 are allowed");
	memset(deep, '/', sizeof deep);
	assert_int_equal(topic_filter_check(slice(deep, TOPIC_MAX_LEVELS - 1), &e), 0);
	assert_int_equal(topic_filter_check(slice(deep, TOPIC_MAX_LEVELS), &e), -1);
	assert_string_equal(e.text, "filter has 33 levels; at most 32 are allowed");
	assert_int_equal(topic_check(slice("a\0b", 3), &e), -1);
	assert_string_equal(e.text, "topic contains U+0000");
}

struct pair_row {
	const char *a, *b;
	bool answer;
};

static void test_topic_match(void **state)
{
	static const struct pair_row rows[] = {
	        {"a/b", "a/b", true},
	        {"a/b", "a/c", false},
	        {"a/+", "a/b", true},
	        {"a/+", "a/", true},
	        {"a/+", "a", false},
	        {"a/+", "a/b/c", false},
	        {"a/#", "a", true},
	        {"a/#", "a/b/c", true},
	        {"a/#", "ab", false},
	        {"#", "a", true},
	        {"#", "/", true},
	        {"+", "a", true},
	        {"+", "/a", false},
	        {"+/+", "/a", true},
	        {"/+", "/a", true},
	        {"#", "$SYS/a", false},
	        {"+/a", "$SYS/a", false},
	        {"$SYS/#", "$SYS/a", true},
	        {"$SYS/+", "$SYS/a", true},
	        {"a/$x", "a/$x", true},
	        {"a/+", "a/$x", true},
	        {"sport/tennis/+/#", "sport/tennis/p1", true},
	        {"sport/+", "sport", false},
	        {"A", "a", false},
	        {"a/+/c", "a/b/c", true},
	        {"a/+/c", "a/b/d", false},
	        {"a/+/#", "a", false},
	        {"a//b", "a//b", true},
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		if (topic_match(slice_str(rows[i].a), slice_str(rows[i].b)) != rows[i].answer)
			fail_msg("match(%s, %s) is not %d", rows[i].a, rows[i].b, rows[i].answer);
	}
}

static void test_topic_filter_covers(void **state)
{
	static const struct pair_row rows[] = {
	        {"#", "a/b", true},     {"#", "#", true},       {"#", "$SYS/#", false},
	        {"+/#", "#", true},     {"#", "+/#", true},     {"+/+/#", "#", false},
	        {"a/#", "a", true},     {"a/#", "a/+/c", true}, {"a/+/#", "a/#", false},
	        {"a/+", "a/#", false},  {"a/+", "a/+", true},   {"a/b", "a/+", false},
	        {"+/b", "$x/b", false}, {"$x/+", "$x/b", true}, {"a/+", "a/b", true},
	        {"a", "a/b", false},    {"a/b", "a", false},    {"+", "#", false},
	};
	(void)state;

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		if (topic_filter_covers(slice_str(rows[i].a), slice_str(rows[i].b)) !=
		    rows[i].answer)
			fail_msg("covers(%s, %s) is not %d", rows[i].a, rows[i].b, rows[i].answer);
	}
}

/* All topics and filters of up to three levels from a small alphabet, against the definition.
 * The empty name counts as a topic: it is what + and /# have in common. */
enum { ALPHABET = 6, MAX_TEXTS = 400 };

static size_t all_texts(char out[][16], bool filters)
{
	static const char *const levels[ALPHABET] = {"a", "b", "", "$c", "+", "#"};
	size_t n = 0, use = filters ? ALPHABET : ALPHABET - 2;

	for (size_t depth = 1; depth <= 3; depth++) {
		for (size_t i = 0; i < use * use * use; i++) {
			const char *l[3] = {levels[i % use], levels[i / use % use],
			                    levels[i / use / use]};
			char text[16];

			if ((depth < 3 && i / use / use) || (depth < 2 && i / use))
				continue;
			snprintf(text, sizeof text, "%s%s%s%s%s", l[0], depth > 1 ? "/" : "",
			         depth > 1 ? l[1] : "", depth > 2 ? "/" : "",
			         depth > 2 ? l[2] : "");
			if (filters && topic_filter_check(slice_str(text), NULL) < 0)
				continue;
			assert_true(n < MAX_TEXTS);
			memcpy(out[n++], text, sizeof text);
		}
	}
	return n;
}

static void test_topic_relations_exhaustively(void **state)
{
	static char topics[MAX_TEXTS][16], filters[MAX_TEXTS][16];
	size_t topic_count = all_texts(topics, false), filter_count = all_texts(filters, true);
	(void)state;

	assert_true(filter_count > 100);
	for (size_t i = 0; i < filter_count; i++) {
		for (size_t j = 0; j < filter_count; j++) {
			struct slice a = slice_str(filters[i]), b = slice_str(filters[j]);
			bool covers = true, overlaps = false;

			for (size_t k = 0; k < topic_count; k++) {
				bool in_a = topic_match(a, slice_str(topics[k]));
				bool in_b = topic_match(b, slice_str(topics[k]));

				covers = covers && (in_a || !in_b);
				overlaps = overlaps || (in_a && in_b);
			}
			/* "x/y/#" and "x/y/+" … differ only in topics of four levels */
			if (topic_filter_overlaps(a, b) != overlaps)
				fail_msg("overlaps(%s, %s) is not %d", filters[i], filters[j],
				         overlaps);
			if (topic_filter_covers(a, b) && !covers)
				fail_msg("covers(%s, %s) is wrong", filters[i], filters[j]);
			if (!topic_filter_covers(a, b) && covers && !strchr(filters[j], '#'))
				fail_msg("covers(%s, %s) should hold", filters[i], filters[j]);
		}
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_topic_names),
	        cmocka_unit_test(test_topic_filters),
	        cmocka_unit_test(test_topic_filter_parts),
	        cmocka_unit_test(test_topic_limits),
	        cmocka_unit_test(test_topic_match),
	        cmocka_unit_test(test_topic_filter_covers),
	        cmocka_unit_test(test_topic_relations_exhaustively),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
