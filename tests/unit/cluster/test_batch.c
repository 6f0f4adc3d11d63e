#include "cluster/batch.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define LIT(s) slice("" s, sizeof(s) - 1)

/* content type "text/plain", two user properties of one name, correlation 00 ff, a third one, utf-8
 */
#define PROPS                                                                  \
	"\x03\x00\x0atext/plain\x26\x00\x01k\x00\x02v1\x26\x00\x01k\x00\x02v2" \
	"\x09\x00\x02\x00\xff\x26\x00\x01z\x00\x03\"\\\x07\x01\x01"

/* the same in the order a decoded batch has them */
#define PROPS_SORTED                                                                \
	"\x01\x01\x03\x00\x0atext/plain\x09\x00\x02\x00\xff\x26\x00\x01k\x00\x02v1" \
	"\x26\x00\x01k\x00\x02v2\x26\x00\x01z\x00\x03\"\\\x07"

static void assert_slice(struct slice got, struct slice want)
{
	if (!slice_eq(got, want))
		fail_msg("got %zu bytes '%.*s', want %zu '%.*s'", got.n, (int)got.n, got.p, want.n,
		         (int)want.n, want.p);
}

static struct batch *decode(const struct batch *b, struct err *e)
{
	return batch_decode(batch_tenant(b), batch_partition(b), 7, batch_count(b),
	                    batch_attributes(b), batch_body(b), e);
}

static void assert_same_event(const struct batch *a, uint32_t i, const struct batch *b, uint32_t j)
{
	struct event x;
	struct event y;

	batch_event(a, i, &x);
	batch_event(b, j, &y);
	assert_slice(y.topic, x.topic);
	assert_slice(y.payload, x.payload);
	assert_slice(y.client, x.client);
	assert_slice(y.key, x.key);
	assert_int_equal(y.qos, x.qos);
	assert_true(y.expires_ms == x.expires_ms);
}

static struct batch *three_events(void)
{
	struct batch *b = batch_new(3, 1);
	struct event plain = {.topic = LIT("a/b"), .payload = LIT("hello"), .qos = 1};
	struct event full = {
	        .topic = LIT("say \"hi\"\n"),
	        .payload = LIT("\x00\xff\x80"),
	        .props = LIT(PROPS),
	        .client = LIT("c\\1"),
	        .key = LIT("a key longer than eight bytes"),
	        .id = LIT("id-1"),
	        .source = LIT("/s"),
	        .type = LIT("t"),
	        .time = LIT("2026-01-01T00:00:00Z"),
	        .subject = LIT("sub"),
	        .correlation_id = LIT("corr"),
	        .causation_id = LIT("caus"),
	        .expires_ms = 1767225600000,
	        .qos = 0,
	};
	struct event empty = {.topic = LIT("\xc3\xa9"), .client = LIT("c"), .qos = 1};

	assert_int_equal(batch_append(b, &plain, (struct publisher){1, 10}), 0);
	assert_int_equal(batch_append(b, &full, (struct publisher){2, 20}), 0);
	assert_int_equal(batch_append(b, &empty, (struct publisher){0, 0}), 0);
	return b;
}

static void test_attributes_text(void **state)
{
	struct batch *b = three_events();

	(void)state;
	batch_seal(b);
	assert_slice(batch_attributes(b),
	             LIT("[{\"topic\":\"a/b\",\"o\":0,\"l\":5},"
	                 "{\"topic\":\"say \\\"hi\\\"\\u000a\",\"q\":0,\"client\":\"c\\\\1\","
	                 "\"key\":\"a key longer than eight bytes\",\"id\":\"id-1\","
	                 "\"source\":\"/s\",\"type\":\"t\",\"time\":\"2026-01-01T00:00:00Z\","
	                 "\"subject\":\"sub\",\"corr\":\"corr\",\"caus\":\"caus\","
	                 "\"ct\":\"text/plain\",\"cd\":\"AP8=\",\"pf\":1,"
	                 "\"up\":[[\"k\",\"v1\"],[\"k\",\"v2\"],[\"z\",\"\\\"\\\\\\u0007\"]],"
	                 "\"exp\":1767225600000,\"o\":5,\"l\":3},"
	                 "{\"topic\":\"\xc3\xa9\",\"client\":\"c\",\"o\":8,\"l\":0}]"));
	assert_slice(batch_body(b), LIT("hello\x00\xff\x80"));
	assert_int_equal(batch_bytes(b), batch_attributes(b).n + batch_body(b).n);
	batch_unref(b);
}

static void test_decode_gives_the_events_back(void **state)
{
	struct batch *b = three_events();
	struct err e = {0};
	struct batch *back;
	struct event ev;

	(void)state;
	batch_seal(b);
	back = decode(b, &e);
	if (!back)
		fail_msg("%s", e.text);
	assert_int_equal(batch_count(back), 3);
	assert_true(batch_base_seq(back) == 7);
	for (uint32_t i = 0; i < 3; i++)
		assert_same_event(b, i, back, i);
	batch_event(b, 1, &ev);
	assert_slice(ev.props, LIT(PROPS));
	batch_event(back, 1, &ev);
	assert_slice(ev.props, LIT(PROPS_SORTED));
	assert_slice(batch_attributes(back), batch_attributes(b));
	batch_unref(back);
	batch_unref(b);
}

/* A part must be what would have been written for these events alone. */
static void test_split(void **state)
{
	struct batch *b = three_events();
	struct batch *part;
	struct batch *back;
	struct event ev;
	struct err e = {0};

	(void)state;
	batch_seal(b);
	part = batch_split(b, 1, 3);
	assert_int_equal(batch_count(part), 2);
	assert_int_equal(batch_tenant(part), 3);
	assert_same_event(b, 1, part, 0);
	assert_same_event(b, 2, part, 1);
	batch_event(part, 0, &ev);
	assert_slice(ev.props, LIT(PROPS));
	assert_slice(batch_body(part), LIT("\x00\xff\x80"));
	assert_true(batch_publisher(part, 0).conn_id == 2);
	assert_int_equal(batch_publisher(part, 0).packet_id, 20);
	back = decode(part, &e);
	if (!back)
		fail_msg("%s", e.text);
	assert_same_event(b, 1, back, 0);
	assert_same_event(b, 2, back, 1);
	batch_unref(back);
	batch_unref(part);
	batch_unref(b);
}

/* One event out of a row of the journal is what it would be as a row of its own, whichever reader
 * read it. */
static void test_split_of_a_decoded_row(void **state)
{
	struct batch *b = three_events();
	struct buf spaced = {0};
	struct err e = {0};
	struct batch *rows[2];

	(void)state;
	batch_seal(b);
	buf_u8(&spaced, ' ');
	buf_append_slice(&spaced, batch_attributes(b));
	rows[0] = decode(b, &e);
	rows[1] = batch_decode(3, 1, 7, 3, buf_slice(&spaced), batch_body(b), &e);
	for (size_t r = 0; r < 2; r++) {
		for (uint32_t i = 0; i < 3; i++) {
			struct batch *want = batch_split(b, i, i + 1);
			struct batch *one = batch_split(rows[r], i, i + 1);
			struct batch *back = decode(one, &e);

			if (!back)
				fail_msg("%s", e.text);
			assert_same_event(b, i, one, 0);
			assert_same_event(b, i, back, 0);
			assert_slice(batch_body(one), batch_body(want));
			if (i != 1) /* whose \u000a jansson writes as \n */
				assert_slice(batch_attributes(one), batch_attributes(want));
			batch_unref(back);
			batch_unref(one);
			batch_unref(want);
		}
		batch_unref(rows[r]);
	}
	buf_release(&spaced);
	batch_unref(b);
}

static void test_take(void **state)
{
	struct batch *b = three_events();
	struct batch *to = batch_new(3, 2);
	struct err e = {0};
	struct batch *back;

	(void)state;
	batch_seal(b);
	assert_int_equal(batch_take(to, b, 2, 0), 0);
	assert_int_equal(batch_take(to, b, 1, 0), 0);
	batch_seal(to);
	back = decode(to, &e);
	if (!back)
		fail_msg("%s", e.text);
	assert_same_event(b, 2, back, 0);
	assert_same_event(b, 1, back, 1);
	batch_unref(back);
	batch_unref(to);
	to = batch_new(3, 2);
	for (int i = 0; i < BATCH_MAX_EVENTS; i++)
		assert_int_equal(batch_take(to, b, 0, 0), 0);
	assert_int_equal(batch_take(to, b, 0, 0), -1);
	batch_unref(to);
	batch_unref(b);
}

static void test_scheduled(void **state)
{
	struct batch *b = batch_new(3, BATCH_SCHEDULED);
	struct event ev = {.topic = LIT("t"),
	                   .payload = LIT("x"),
	                   .qos = 1,
	                   .when = EVENT_AT,
	                   .when_ms = 1767225600000,
	                   .partition_id = 2,
	                   .owner = LIT("me"),
	                   .name = LIT("n1")};
	struct batch *part;
	struct event got;

	(void)state;
	assert_int_equal(batch_append(b, &ev, (struct publisher){0}), 0);
	ev.when = EVENT_CANCEL;
	ev.name = LIT("n2");
	assert_int_equal(batch_append(b, &ev, (struct publisher){0}), 0);
	batch_seal(b);
	assert_slice(batch_attributes(b),
	             LIT("[{\"topic\":\"t\",\"o\":0,\"l\":1},{\"topic\":\"t\",\"o\":1,\"l\":1}]"));
	part = batch_split(b, 1, 2);
	batch_event(part, 0, &got);
	assert_int_equal(got.when, EVENT_CANCEL);
	assert_true(got.when_ms == 1767225600000 && got.partition_id == 2);
	assert_slice(got.owner, LIT("me"));
	assert_slice(got.name, LIT("n2"));
	assert_false(batch_missing(part, 0));
	batch_set_missing(part, 0);
	assert_true(batch_missing(part, 0));
	batch_unref(part);
	batch_unref(b);
}

/* The reader of our own form and the JSON parser, which a space in front brings in, agree. */
static void test_both_readers_agree(void **state)
{
	static const char *const rows[] = {
	        "[{\"topic\":\"a/b\",\"o\":0,\"l\":3}]",
	        "[{\"topic\":\"\xc3\xa9\",\"q\":0,\"client\":\"c\",\"key\":\"k\",\"exp\":123,"
	        "\"o\":1,\"l\":2}]",
	        "[{\"topic\":\"t\",\"o\":3,\"l\":0}]",
	        /* and both refuse */
	        "[{\"topic\":\"\xc3\",\"o\":0,\"l\":3}]",
	        "[{\"topic\":\"t\",\"o\":00,\"l\":3}]",
	        "[{\"topic\":\"t\",\"o\":1,\"l\":3}]",
	        "[{\"topic\":\"t\",\"o\":0,\"l\":3}] x",
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		char spaced[128];
		struct batch *ours;
		struct batch *theirs;

		snprintf(spaced, sizeof spaced, " %s", rows[i]);
		ours = batch_decode(1, 0, 1, 1, slice_str(rows[i]), LIT("abc"), NULL);
		theirs = batch_decode(1, 0, 1, 1, slice_str(spaced), LIT("abc"), NULL);
		assert_int_equal(ours != NULL, i < 3);
		assert_int_equal(theirs != NULL, i < 3);
		if (ours)
			assert_same_event(theirs, 0, ours, 0);
		batch_unref(ours);
		batch_unref(theirs);
	}
}

static void test_bounds(void **state)
{
	static char big[BATCH_MAX_BYTES + 1];
	struct event small = {.topic = LIT("t"), .payload = LIT("x"), .qos = 1};
	struct event huge = {.topic = LIT("t"), .payload = slice(big, sizeof big), .qos = 1};
	struct event most = {
	        .topic = LIT("t"), .payload = slice(big, BATCH_MAX_BYTES - 50), .qos = 1};
	struct publisher nobody = {0};
	struct batch *b = batch_new(1, 0);

	(void)state;
	for (int i = 0; i < BATCH_MAX_EVENTS; i++)
		assert_int_equal(batch_append(b, &small, nobody), 0);
	assert_int_equal(batch_append(b, &small, nobody), -1);
	batch_unref(b);

	b = batch_new(1, 0);
	assert_int_equal(batch_append(b, &huge, nobody), 0); /* alone it is taken */
	assert_int_equal(batch_append(b, &small, nobody), -1);
	batch_unref(b);

	b = batch_new(1, 0);
	assert_int_equal(batch_append(b, &small, nobody), 0);
	assert_int_equal(batch_append(b, &most, nobody), -1); /* only its attributes tell */
	assert_int_equal(batch_append(b, &small, nobody), 0); /* and nothing of it is left */
	batch_seal(b);
	assert_slice(batch_attributes(b), LIT("[{\"topic\":\"t\",\"o\":0,\"l\":1},"
	                                      "{\"topic\":\"t\",\"o\":1,\"l\":1}]"));
	assert_true(batch_memory(b) >= batch_bytes(b));
	batch_unref(b);
}

static void test_decode_refuses(void **state)
{
	static const struct {
		const char *attributes;
		uint32_t count;
		const char *why;
	} rows[] = {
	        {"", 1, "JSON"},
	        {"{}", 1, "JSON"},
	        {"[1]", 1, "not an object"},
	        {"[]", 1, "the row says 1"},
	        {"[{\"topic\":\"t\",\"o\":0,\"l\":1}]", 2, "the row says 2"},
	        {"[{\"topic\":\"t\",\"o\":0,\"l\":1}]", 0, "out of range"},
	        {"[{\"topic\":\"t\",\"o\":0,\"l\":1}]", 1001, "out of range"},
	        {"[{\"topic\":\"\",\"o\":0,\"l\":1}]", 1, "no topic"},
	        {"[{\"o\":0,\"l\":1}]", 1, "no topic"},
	        {"[{\"topic\":1,\"o\":0,\"l\":1}]", 1, "topic is not a text"},
	        {"[{\"topic\":\"t\",\"topic\":\"u\",\"o\":0,\"l\":1}]", 1, "JSON"},
	        {"[{\"topic\":\"t\",\"l\":1}]", 1, "outside"},
	        {"[{\"topic\":\"t\",\"o\":0,\"l\":4}]", 1, "outside"},
	        {"[{\"topic\":\"t\",\"o\":4,\"l\":0}]", 1, "outside"},
	        {"[{\"topic\":\"t\",\"o\":2147483647,\"l\":2147483647}]", 1, "outside"},
	        {"[{\"topic\":\"t\",\"o\":-1,\"l\":1}]", 1, "o is not a number"},
	        {"[{\"topic\":\"t\",\"q\":3,\"o\":0,\"l\":1}]", 1, "q is not"},
	        {"[{\"topic\":\"t\",\"pf\":2,\"o\":0,\"l\":1}]", 1, "pf is not"},
	        {"[{\"topic\":\"t\",\"cd\":\"A\",\"o\":0,\"l\":1}]", 1, "base64"},
	        {"[{\"topic\":\"t\",\"cd\":\"****\",\"o\":0,\"l\":1}]", 1, "base64"},
	        {"[{\"topic\":\"t\",\"up\":[[\"a\"]],\"o\":0,\"l\":1}]", 1, "pairs"},
	        {"[{\"topic\":\"t\",\"up\":{},\"o\":0,\"l\":1}]", 1, "array"},
	        {"[{\"topic\":\"t\",\"up\":[[\"a\",1]],\"o\":0,\"l\":1}]", 1, "pairs"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct err e = {0};

		assert_null(batch_decode(1, 0, 1, rows[i].count, slice_str(rows[i].attributes),
		                         LIT("abc"), &e));
		if (!strstr(e.text, rows[i].why))
			fail_msg("row %zu: '%s' does not say '%s'", i, e.text, rows[i].why);
	}
}

static void test_stamps_differ(void **state)
{
	uint8_t a[16] = {1};
	uint8_t b[16] = {2};

	(void)state;
	assert_true(batch_stamp_of(a, 0, 1) == batch_stamp_of(a, 0, 1));
	assert_false(batch_stamp_of(a, 0, 1) == batch_stamp_of(b, 0, 1));
	assert_false(batch_stamp_of(a, 0, 1) == batch_stamp_of(a, 1, 1));
	assert_false(batch_stamp_of(a, 0, 1) == batch_stamp_of(a, 0, 2));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_attributes_text),
	        cmocka_unit_test(test_decode_gives_the_events_back),
	        cmocka_unit_test(test_split),
	        cmocka_unit_test(test_split_of_a_decoded_row),
	        cmocka_unit_test(test_take),
	        cmocka_unit_test(test_scheduled),
	        cmocka_unit_test(test_both_readers_agree),
	        cmocka_unit_test(test_bounds),
	        cmocka_unit_test(test_decode_refuses),
	        cmocka_unit_test(test_stamps_differ),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
