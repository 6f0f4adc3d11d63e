#include "cluster/inbox_event.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct inbox_row row(const char *attributes)
{
	return (struct inbox_row){.tenant_id = 7,
	                          .layout = {0, 4},
	                          .topic = slice_str("orders/new"),
	                          .content_type = slice_str("application/json"),
	                          .attributes = slice_str(attributes),
	                          .payload = slice_str("{}")};
}

static struct batch *make(const struct inbox_row *r)
{
	struct err e = {0};
	struct batch *b = inbox_event_new(r, &e);

	if (!b)
		fail_msg("%s", e.text);
	return b;
}

static bool has(struct slice text, const char *what)
{
	return memmem(text.p, text.n, what, strlen(what)) != NULL;
}

static void test_an_event(void **state)
{
	struct inbox_row r = row("{\"type\":\"t\",\"key\":\"k\\\"1\",\"mine\":\"yes\"}");
	struct batch *b = make(&r);
	struct event ev;

	(void)state;
	batch_event(b, 0, &ev);
	assert_int_equal(batch_tenant(b), 7);
	assert_int_equal(batch_partition(b), event_partition(&ev, 4));
	assert_true(slice_eq(ev.topic, slice_str("orders/new")));
	assert_true(slice_eq(ev.payload, slice_str("{}")));
	assert_true(slice_eq(ev.key, slice_str("k\"1")));
	assert_int_equal(ev.qos, 1);
	assert_true(has(batch_attributes(b), "\"type\":\"t\""));
	assert_true(has(batch_attributes(b), "\"ct\":\"application/json\""));
	assert_true(has(batch_attributes(b), "[\"type\",\"t\"],[\"leat-key\",\"k\\\"1\"],"
	                                     "[\"mine\",\"yes\"],[\"specversion\",\"1.0\"]"));
	batch_unref(b);
}

static void test_no_cloud_event(void **state)
{
	struct inbox_row r = row("{\"a\":\"1\"}");
	struct batch *b = make(&r);

	(void)state;
	assert_false(has(batch_attributes(b), "specversion"));
	batch_unref(b);
	r = row("{\"id\":\"1\",\"specversion\":\"1.1\"}");
	b = make(&r);
	assert_true(has(batch_attributes(b), "\"1.1\""));
	assert_false(has(batch_attributes(b), "\"1.0\""));
	batch_unref(b);
}

static void test_to_be_delivered_later(void **state)
{
	struct inbox_row r = row("");
	struct batch *b;
	struct event ev;

	(void)state;
	r.deliver_ms = 1234567;
	b = make(&r);
	batch_event(b, 0, &ev);
	assert_true(batch_partition(b) == BATCH_SCHEDULED);
	assert_int_equal(ev.when, EVENT_AT);
	assert_int_equal(ev.when_ms, 1234567);
	assert_int_equal(ev.partition_id, event_partition(&ev, 4));
	batch_unref(b);
}

static void refused(const struct inbox_row *r, const char *words)
{
	struct err e = {0};

	assert_null(inbox_event_new(r, &e));
	if (!strstr(e.text, words))
		fail_msg("%s: not %s", e.text, words);
}

static void test_what_is_no_event(void **state)
{
	static const char *const objects[] = {"[]",
	                                      "x",
	                                      "{\"a\":\"1\"",
	                                      "\"a\"",
	                                      "null",
	                                      "{\"a\":\"\\u0000\"}",
	                                      "{\"a\":\"\xff\"}"};
	static const char *const values[] = {"{\"a\":1}", "{\"a\":null}", "{\"a\":{\"b\":\"c\"}}"};
	static const char *const topics[] = {"", "a/+", "#", "$SYS/a", "a\xff", "\xed\xa0\x80"};
	struct inbox_row r;

	(void)state;
	for (size_t i = 0; i < sizeof objects / sizeof *objects; i++) {
		r = row(objects[i]);
		refused(&r, "not a JSON object");
	}
	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		r = row(values[i]);
		refused(&r, "is not a text");
	}
	for (size_t i = 0; i < sizeof topics / sizeof *topics; i++) {
		r = row("");
		r.topic = slice_str(topics[i]);
		refused(&r, "is no topic");
	}
	r = row("");
	r.topic = slice("a\0b", 3);
	refused(&r, "is no topic");
	r = row("");
	r.content_type = slice_str("\xff");
	refused(&r, "content type");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_an_event),
	        cmocka_unit_test(test_no_cloud_event),
	        cmocka_unit_test(test_to_be_delivered_later),
	        cmocka_unit_test(test_what_is_no_event),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
