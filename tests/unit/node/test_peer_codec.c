/* Every message through bytes and back, and what is no message refused. */
#include "node/peer/peer_codec.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { FIRST = PEER_STORED, LAST = PEER_OPENED };

static const struct peer_use uses[2] = {
        {.tenant_id = 7,
         .connections = 3,
         .subscriptions = 2,
         .events = 1500,
         .bytes = 1ull << 40,
         .waiting = 1,
         .told = 5,
         .watched = true},
        {.tenant_id = 4000000000, .subject = UINT64_MAX},
};
static struct peer_decoder decoder;
static struct buf out;

/* A message with something in every field; which of it the type carries is the codec's matter. */
static struct peer_message sample(enum peer_type type, const struct peer_delivery *deliveries,
                                  const struct bus_head *heads)
{
	struct peer_message m = {
	        .type = type,
	        .tenant_id = 7,
	        .kind = BUS_SUB_QUEUE,
	        .name = slice_str("orders"),
	        .subscription_id = 0x123456789abcdef0,
	        .epoch = 42,
	        .filters = slice_str("[{\"f\":\"a/#\"}]"),
	        .policy = BUS_POLICY_DEFAULT,
	        .consumers = 3,
	        .credit = 1000,
	        .expiry_s = UINT32_MAX,
	        .attributes = slice_str("[{\"t\":\"a/b\"}]"),
	        .body = slice("pay\0load", 8),
	        .n_deliveries = type == PEER_DELIVER ? 1 : 2,
	        .deliveries = deliveries,
	        .session_id = {{1, 2, 3}},
	        .writer_no = 1,
	        .flush_no = UINT64_MAX,
	        .n_heads = 2,
	        .heads = heads,
	        .due_in_ms = 12345,
	        .gap_from = 17,
	        .gap_to = 1ull << 41,
	        .n_uses = 2,
	        .uses = uses,
	};

	m.policy.ordered = true;
	return m;
}

static const struct peer_delivery two[2] = {
        {.partition_id = 3,
         .seq = 1ull << 40,
         .stamp = 99,
         .attempt = 2,
         .result = PEER_NACKED,
         .reason = {.p = "no disk", .n = 7}},
        {.partition_id = 65535, .seq = 1, .timer_id = 5, .attempt = 1, .result = PEER_FLYING},
};
static const struct bus_head heads[2] = {{1, 0, 10}, {4000000000, 65535, UINT64_MAX}};

static struct peer_frame cut(void)
{
	struct peer_frame f;

	assert_int_equal(peer_frame_cut(buf_slice(&out), PEER_FRAME_MAX, &f), PEER_CUT_OK);
	return f;
}

static struct peer_frame encode(enum peer_type type)
{
	struct peer_message m = sample(type, two, heads);

	buf_clear(&out);
	peer_encode(&out, &m);
	return cut();
}

static int decode(const struct peer_frame *f, struct peer_message *m)
{
	struct err e = {0};
	int rc = peer_decode(&decoder, f, m, &e);

	assert_true((rc < 0) == (e.text[0] != '\0'));
	return rc;
}

/* What was decoded encodes to the same bytes: nothing was lost, nothing was made up. */
static void test_round_trip(void **state)
{
	(void)state;
	for (int type = FIRST; type <= LAST; type++) {
		struct peer_frame f = encode((enum peer_type)type);
		struct buf again = {0};
		struct peer_message m;

		assert_int_equal(f.type, type);
		assert_int_equal(f.size, out.len);
		assert_int_equal(decode(&f, &m), 0);
		assert_int_equal(m.type, type);
		peer_encode(&again, &m);
		assert_true(slice_eq(buf_slice(&out), buf_slice(&again)));
		buf_release(&again);
	}
}

static void test_fields(void **state)
{
	struct peer_frame f = encode(PEER_SETTLE);
	struct peer_message m;

	(void)state;
	assert_int_equal(decode(&f, &m), 0);
	assert_int_equal(m.tenant_id, 7);
	assert_int_equal(m.subscription_id, 0x123456789abcdef0);
	assert_int_equal(m.epoch, 42);
	assert_int_equal(m.n_deliveries, 2);
	assert_int_equal(m.deliveries[0].seq, 1ull << 40);
	assert_int_equal(m.deliveries[0].result, PEER_NACKED);
	assert_true(slice_eq(m.deliveries[0].reason, slice_str("no disk")));
	assert_int_equal(m.deliveries[1].partition_id, 65535);
	assert_int_equal(m.deliveries[1].timer_id, 5);
	assert_int_equal(m.n_heads, 0); /* not of this type */
	assert_int_equal(m.credit, 0);
	f = encode(PEER_STORED);
	assert_int_equal(decode(&f, &m), 0);
	assert_int_equal(m.n_heads, 2);
	assert_int_equal(m.heads[1].tenant_id, 4000000000);
	assert_int_equal(m.heads[1].next_seq, UINT64_MAX);
	assert_int_equal(m.session_id.b[2], 3);
	f = encode(PEER_USE);
	assert_int_equal(decode(&f, &m), 0);
	assert_int_equal(m.n_uses, 2);
	assert_int_equal(m.uses[0].connections, 3);
	assert_int_equal(m.uses[0].bytes, 1ull << 40);
	assert_true(m.uses[0].watched);
	assert_int_equal(m.uses[1].subject, UINT64_MAX);
	out.data[out.len - 1] = 2; /* neither watched nor not */
	assert_int_equal(decode(&f, &m), -1);
	f = encode(PEER_ATTACHED);
	assert_int_equal(decode(&f, &m), 0);
	assert_int_equal(m.kind, BUS_SUB_QUEUE);
	assert_true(slice_eq(m.name, slice_str("orders")));
	assert_int_equal(m.policy.max_failed, 1000);
	assert_true(m.policy.ordered && !m.policy.pin);
	f = encode(PEER_DELIVER);
	assert_int_equal(decode(&f, &m), 0);
	assert_int_equal(m.n_deliveries, 1);
	assert_true(slice_eq(m.body, slice("pay\0load", 8)));
}

/* Cut anywhere, or with a byte too many, it is refused; the bytes are in memory of their own, so
 * that a sanitizer sees a read past their end. */
static void test_wrong_length(void **state)
{
	(void)state;
	for (int type = FIRST; type <= LAST; type++) {
		struct peer_frame f = encode((enum peer_type)type);
		size_t whole = f.payload.n;

		for (size_t n = 0; n <= whole + 1; n++) {
			char *copy = xcalloc(1, n + 1);
			struct peer_frame g = {.type = (uint8_t)type, .payload = slice(copy, n)};
			struct peer_message m;

			memcpy(copy, f.payload.p, n < whole ? n : whole);
			copy = xrealloc(copy, n ? n : 1);
			g.payload.p = copy;
			assert_int_equal(decode(&g, &m), n == whole ? 0 : -1);
			free(copy);
		}
	}
}

/* A count is believed only as far as bytes for it are there. */
static void test_lying_count(void **state)
{
	struct peer_frame f = encode(PEER_SETTLE);
	struct peer_message m;
	size_t at = 4 + 16; /* behind tenant and epoch */

	(void)state;
	memset((char *)f.payload.p + at, 0xff, 4);
	assert_int_equal(decode(&f, &m), -1);
	memset((char *)f.payload.p + at, 0, 4);
	((char *)f.payload.p)[at + 3] = 3;
	assert_int_equal(decode(&f, &m), -1);
	assert_true(decoder.cap_deliveries <= 3);
	f = encode(PEER_STORED);
	memset((char *)f.payload.p + 16 + 4 + 8, 0xff, 4);
	assert_int_equal(decode(&f, &m), -1);
}

static void test_impossible_values(void **state)
{
	struct peer_frame f = encode(PEER_OWNER);
	struct peer_message m;

	(void)state;
	((char *)f.payload.p)[4] = 9; /* kind */
	assert_int_equal(decode(&f, &m), -1);
	f = encode(PEER_SETTLE);
	((char *)f.payload.p)[4 + 16 + 4 + 32] = 77; /* the first one's result */
	assert_int_equal(decode(&f, &m), -1);
	f = encode(PEER_ATTACHED);
	((char *)f.payload.p)[f.payload.n - 1] = 0x40; /* the policy's flags */
	assert_int_equal(decode(&f, &m), -1);
	f.type = 0;
	assert_int_equal(decode(&f, &m), -1);
	f.type = LAST + 1;
	assert_int_equal(decode(&f, &m), -1);
	f.type = PEER_FRAME_HELLO;
	assert_int_equal(decode(&f, &m), -1);
}

static void test_frames(void **state)
{
	struct peer_frame f = encode(PEER_DUE);
	size_t n = out.len;

	(void)state;
	for (size_t i = 0; i < n; i++)
		assert_int_equal(peer_frame_cut(slice(out.data, i), PEER_FRAME_MAX, &f),
		                 PEER_CUT_MORE);
	assert_int_equal(peer_frame_cut(slice(out.data, n), 8, &f), PEER_CUT_OK);
	/* known from the head alone, before anything is kept of it */
	assert_int_equal(peer_frame_cut(slice(out.data, PEER_FRAME_HEAD), 7, &f), PEER_CUT_BAD);
	memset(out.data, 0, 4); /* not even a type */
	assert_int_equal(peer_frame_cut(slice(out.data, n), PEER_FRAME_MAX, &f), PEER_CUT_BAD);
	memset(out.data, 0xff, 4);
	assert_int_equal(peer_frame_cut(slice(out.data, n), PEER_FRAME_MAX, &f), PEER_CUT_BAD);
	buf_clear(&out);
	peer_ping_encode(&out);
	f = cut();
	assert_int_equal(f.type, PEER_FRAME_PING);
	assert_int_equal(f.payload.n, 0);
	assert_int_equal(out.len, PEER_FRAME_HEAD);
}

static void test_hello(void **state)
{
	struct peer_hello h = {
	        .version = 9, .session_id = {{5}}, .addr = slice_str("10.0.0.1:7883")};
	struct peer_hello got;
	struct peer_frame f;
	struct err e;

	(void)state;
	buf_clear(&out);
	peer_hello_encode(&out, &h);
	buf_u8(&out, 'x'); /* what a later version may add */
	out.data[3]++;
	f = cut();
	assert_int_equal(f.type, PEER_FRAME_HELLO);
	assert_int_equal(peer_hello_decode(f.payload, &got, &e), 0);
	assert_int_equal(got.version, 9);
	assert_true(id128_eq(&got.session_id, &h.session_id));
	assert_true(slice_eq(got.addr, h.addr));
	for (size_t n = 0; n < f.payload.n - 1; n++)
		assert_int_equal(peer_hello_decode(slice(f.payload.p, n), &got, &e), -1);
	((char *)f.payload.p)[4 + 2] = 0; /* no session */
	assert_int_equal(peer_hello_decode(f.payload, &got, &e), -1);
	((char *)f.payload.p)[4 + 2] = 5;
	((char *)f.payload.p)[f.payload.n - 3] = 0; /* a NUL in the address */
	assert_int_equal(peer_hello_decode(f.payload, &got, &e), -1);
	((char *)f.payload.p)[0] = 'G';
	assert_int_equal(peer_hello_decode(f.payload, &got, &e), -1);
}

static void test_names(void **state)
{
	(void)state;
	assert_string_equal(peer_type_name(PEER_DELIVER), "deliver");
	assert_string_equal(peer_type_name(0), "unknown");
	assert_string_equal(peer_type_name(200), "unknown");
}

static int release(void **state)
{
	(void)state;
	buf_release(&out);
	peer_decoder_release(&decoder);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_round_trip),
	        cmocka_unit_test(test_fields),
	        cmocka_unit_test(test_wrong_length),
	        cmocka_unit_test(test_lying_count),
	        cmocka_unit_test(test_impossible_values),
	        cmocka_unit_test(test_frames),
	        cmocka_unit_test(test_hello),
	        cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, release);
}
