#include "tests/bus_suite.h"

#include "base/clock.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PUMPS_MAX = 20000 };

/* ---- requests -----------------------------------------------------------------------------------
 */

static void pump_until(struct bus_env *env, const bool *done)
{
	for (int i = 0; i < PUMPS_MAX && !*done; i++)
		env->pump(env);
	if (!*done)
		fail_msg("a request was never answered");
}

void suite_wait(struct bus_env *env, const bool *done)
{
	pump_until(env, done);
}

/* done() of every kind of request: sets the bool that its arg points to. */
#define WAIT_FOR(verb)                                                            \
	static void on_##verb(struct bus_##verb *req)                             \
	{                                                                         \
		bool *done = req->arg;                                            \
                                                                                  \
		assert_false(*done);                                              \
		*done = true;                                                     \
	}                                                                         \
                                                                                  \
	static enum sql_outcome call_##verb(struct bus_env *env, struct bus *bus, \
	                                    struct bus_##verb *req)               \
	{                                                                         \
		bool done = false;                                                \
                                                                                  \
		req->done = on_##verb;                                            \
		req->arg = &done;                                                 \
		bus->ops->verb(bus, req);                                         \
		assert_false(done); /* never before the call returned */          \
		pump_until(env, &done);                                           \
		return req->outcome;                                              \
	}

WAIT_FOR(append)
WAIT_FOR(resolve)
WAIT_FOR(read)
WAIT_FOR(locate)
WAIT_FOR(claim)
WAIT_FOR(change)
WAIT_FOR(commit)
WAIT_FOR(expire)
WAIT_FOR(settle)
WAIT_FOR(retries)

static struct bus_writer_state *writer_of(struct bus_env *env, const struct bus *bus, uint32_t no)
{
	return &env->writers[bus == env->other][no];
}

enum sql_outcome suite_append(struct bus_env *env, struct bus *bus, uint32_t writer_no,
                              struct batch **batches, size_t n)
{
	struct bus_writer_state *w = writer_of(env, bus, writer_no);
	struct bus_append req = {
	        .writer_no = writer_no,
	        .flush_no = w->flush_no + 1,
	        .fence = w->fence,
	        .n = n,
	        .batches = batches,
	};
	enum sql_outcome o = call_append(env, bus, &req);

	if (o == SQL_OK)
		w->flush_no++;
	return o;
}

enum sql_outcome suite_resolve(struct bus_env *env, struct bus *bus, struct bus_resolve *req)
{
	enum sql_outcome o;

	req->session_id = bus->session_id;
	o = call_resolve(env, bus, req);
	if (o == SQL_OK)
		*writer_of(env, bus, req->writer_no) =
		        (struct bus_writer_state){.fence = req->fence, .flush_no = req->flush_no};
	return o;
}

enum sql_outcome suite_read(struct bus_env *env, struct bus *bus, struct bus_read *req)
{
	return call_read(env, bus, req);
}

enum sql_outcome suite_claim(struct bus_env *env, struct bus *bus, struct bus_claim *req)
{
	return call_claim(env, bus, req);
}

enum sql_outcome suite_change(struct bus_env *env, struct bus *bus, struct bus_change *req)
{
	return call_change(env, bus, req);
}

enum sql_outcome suite_commit(struct bus_env *env, struct bus *bus, struct bus_commit *req)
{
	return call_commit(env, bus, req);
}

void suite_read_done(struct bus_read *req)
{
	for (size_t i = 0; i < req->n; i++)
		batch_unref(req->batches[i]);
	free(req->batches);
	req->batches = NULL;
	req->n = 0;
}

struct batch *suite_batch(uint32_t tenant_id, uint32_t partition_id, unsigned first, unsigned n)
{
	struct batch *b = batch_new(tenant_id, partition_id);

	for (unsigned i = 0; i < n; i++) {
		char text[16];
		struct event ev = {.topic = slice_str("t"), .qos = 1};

		snprintf(text, sizeof text, "%u", first + i);
		ev.payload = slice_str(text);
		assert_int_equal(batch_append(b, &ev, (struct publisher){0}), 0);
	}
	batch_seal(b);
	return b;
}

static unsigned number_of(const struct batch *b, uint32_t i)
{
	struct event ev;
	char text[16] = "";

	batch_event(b, i, &ev);
	assert_true(ev.payload.n > 0 && ev.payload.n < sizeof text);
	memcpy(text, ev.payload.p, ev.payload.n);
	return (unsigned)strtoul(text, NULL, 10);
}

void suite_expect(struct bus_env *env, struct bus *bus, uint32_t partition_id, uint64_t from_seq,
                  unsigned first, unsigned n)
{
	struct bus_read req = {.tenant_id = env->tenant_id,
	                       .partition_id = partition_id,
	                       .from_seq = from_seq,
	                       .max_bytes = 1 << 30};
	uint64_t seq = from_seq;

	assert_int_equal(suite_read(env, bus, &req), SQL_OK);
	for (size_t i = 0; i < req.n; i++) {
		const struct batch *b = req.batches[i];

		for (uint32_t k = 0; k < batch_count(b); k++) {
			if (batch_base_seq(b) + k < from_seq)
				continue;
			assert_int_equal(batch_base_seq(b) + k, seq);
			assert_int_equal(number_of(b, k), first + (seq - from_seq));
			seq++;
		}
	}
	assert_int_equal(seq - from_seq, n);
	assert_int_equal(req.next_seq, seq);
	suite_read_done(&req);
}

static void append_ok(struct bus_env *env, uint32_t partition_id, unsigned first, unsigned n)
{
	struct batch *b = suite_batch(env->tenant_id, partition_id, first, n);

	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_OK);
	batch_unref(b);
}

/* ---- journal ------------------------------------------------------------------------------------
 */

static void test_numbers_are_dense(void **state)
{
	struct bus_env *env = *state;
	struct batch *b[4] = {
	        suite_batch(env->tenant_id, 0, 3, 2),
	        suite_batch(env->tenant_id, 0, 5, 3),
	        suite_batch(env->tenant_id, 1, 100, 1),
	        suite_batch(env->tenant_id, 3, 200, 5),
	};

	append_ok(env, 0, 1, 2);
	assert_int_equal(suite_append(env, env->bus, 1, b, 4), SQL_OK);
	assert_int_equal(batch_base_seq(b[0]), 3);
	assert_int_equal(batch_base_seq(b[1]), 5);
	assert_int_equal(batch_base_seq(b[2]), 1);
	assert_int_equal(batch_base_seq(b[3]), 1);
	assert_true(batch_stamp(b[0]) ==
	            batch_stamp_of(env->bus->session_id.b, 1, env->writers[0][1].flush_no));
	append_ok(env, 0, 8, 1);
	suite_expect(env, env->bus, 0, 1, 1, 8);
	suite_expect(env, env->bus, 1, 1, 100, 1);
	suite_expect(env, env->bus, 3, 1, 200, 5);
	for (int i = 0; i < 4; i++)
		batch_unref(b[i]);
}

static void test_append_is_fenced(void **state)
{
	struct bus_env *env = *state;
	struct batch *b = suite_batch(env->tenant_id, 0, 2, 1);
	struct bus_writer_state *w = &env->writers[0][0];
	struct bus_resolve resolve = {.writer_no = 0};

	append_ok(env, 0, 1, 1);
	w->flush_no--; /* a number that was used */
	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_LOST);
	w->flush_no += 2; /* one that is not due */
	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_LOST);
	w->flush_no--;
	resolve.fence = w->fence;
	assert_int_equal(suite_resolve(env, env->bus, &resolve), SQL_OK);
	assert_true(w->fence > resolve.fence - 1 && w->fence == resolve.fence);
	w->fence--; /* what a late COMMIT of before comes with */
	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_LOST);
	w->fence++;
	suite_expect(env, env->bus, 0, 1, 1, 1);
	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_OK);
	suite_expect(env, env->bus, 0, 1, 1, 2);
	batch_unref(b);
}

static void test_resolve_tells_the_last_flush(void **state)
{
	struct bus_env *env = *state;
	struct bus_resolve before = {.writer_no = 1};
	struct bus_resolve after = {.writer_no = 1};
	struct batch *b = suite_batch(env->tenant_id, 0, 1, 1);

	assert_int_equal(suite_resolve(env, env->bus, &before), SQL_OK);
	assert_int_equal(suite_append(env, env->bus, 1, &b, 1), SQL_OK);
	assert_int_equal(suite_resolve(env, env->bus, &after), SQL_OK);
	assert_int_equal(after.flush_no, before.flush_no + 1);
	assert_int_equal(after.fence, before.fence + 1);
	batch_unref(b);
}

static void test_read_from_the_middle(void **state)
{
	struct bus_env *env = *state;
	struct bus_read req = {.tenant_id = env->tenant_id, .from_seq = 7, .max_bytes = 1};

	for (unsigned i = 0; i < 5; i++)
		append_ok(env, 0, 1 + 3 * i, 3); /* 1-3, 4-6, 7-9, 10-12, 13-15 */
	suite_expect(env, env->bus, 0, 8, 8, 8);
	suite_expect(env, env->bus, 0, 16, 0, 0);
	suite_expect(env, env->bus, 2, 1, 0, 0);
	assert_int_equal(suite_read(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.n, 1); /* max_bytes: stops after the batch that reaches it */
	assert_int_equal(batch_base_seq(req.batches[0]), 7);
	assert_int_equal(req.next_seq, 16);
	suite_read_done(&req);
}

static uint64_t locate(struct bus_env *env, enum bus_position position, uint64_t time_ms)
{
	struct bus_locate req = {
	        .tenant_id = env->tenant_id, .position = position, .time_ms = time_ms};

	assert_int_equal(call_locate(env, env->bus, &req), SQL_OK);
	return req.seq;
}

static void test_locate(void **state)
{
	struct bus_env *env = *state;
	uint64_t hour = 3600 * 1000;

	assert_int_equal(locate(env, BUS_AT_HEAD, 0), 1);
	assert_int_equal(locate(env, BUS_AT_EARLIEST, 0), 1);
	append_ok(env, 0, 1, 3);
	append_ok(env, 0, 4, 1);
	assert_int_equal(locate(env, BUS_AT_HEAD, 0), 5);
	assert_int_equal(locate(env, BUS_AT_EARLIEST, 0), 1);
	assert_int_equal(locate(env, BUS_AT_TIME, clock_wall_ms() - hour), 1);
	assert_int_equal(locate(env, BUS_AT_TIME, clock_wall_ms() + hour), 5);
}

/* ---- subscriptions ------------------------------------------------------------------------------
 */

static struct bus_claim claim_of(struct bus_env *env, const struct bus_cursor *starts, uint32_t n)
{
	return (struct bus_claim){
	        .tenant_id = env->tenant_id,
	        .kind = BUS_SUB_SESSION,
	        .subject = slice_str("alice"),
	        .name = slice_str("client-1"),
	        .create = true,
	        .expiry_s = 60,
	        .filters = slice_str("[\"a/#\"]"),
	        .n_starts = n,
	        .starts = starts,
	};
}

static void release(struct bus_env *env, struct bus_claim *req)
{
	env->bus->ops->claim_release(env->bus, req);
}

static void test_claim(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor starts[2] = {{.partition_id = 0, .acked_through = 4},
	                               {.partition_id = 1, .acked_through = 0}};
	struct bus_claim first = claim_of(env, starts, 2);
	struct bus_claim again = claim_of(env, NULL, 0);
	struct bus_claim fresh = claim_of(env, starts, 1);

	first.create = false;
	assert_int_equal(suite_claim(env, env->bus, &first), SQL_FATAL);
	assert_true(first.absent);
	first.create = true;
	assert_int_equal(suite_claim(env, env->bus, &first), SQL_OK);
	assert_false(first.absent);
	assert_true(first.created);
	assert_int_equal(first.n_cursors, 2);
	assert_int_equal(first.cursors[0].acked_through, 4);
	assert_int_equal(first.cursors[0].commit_no, 0);

	again.filters = slice_str("[]");
	assert_int_equal(suite_claim(env, env->bus, &again), SQL_OK);
	assert_false(again.created);
	assert_true(again.subscription_id == first.subscription_id);
	assert_int_equal(again.epoch, first.epoch + 1);
	assert_int_equal(again.n_cursors, 2);
	assert_int_equal(again.stored_expiry_s, 60);
	assert_true(slice_eq(again.stored_filters, slice_str("[\"a/#\"]")));

	starts[0].acked_through = 9;
	fresh.fresh = true;
	assert_int_equal(suite_claim(env, env->bus, &fresh), SQL_OK);
	assert_true(fresh.created);
	assert_true(fresh.epoch > again.epoch || fresh.subscription_id != again.subscription_id);
	assert_int_equal(fresh.n_cursors, 1);
	assert_int_equal(fresh.cursors[0].acked_through, 9);
	release(env, &first);
	release(env, &again);
	release(env, &fresh);
}

enum { MANY = 150 };

/* Many at once, more than go into a transaction: what is wrong with some is not the others' loss.
 */
static void test_many_claims(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor start = {.partition_id = 0, .acked_through = 7};
	struct bus_claim taken = claim_of(env, &start, 1);
	struct bus_claim *claims = xcalloc(MANY, sizeof *claims);
	bool done[MANY] = {false};
	char names[MANY][16];

	taken.name = slice_str("c10");
	if (env->other)
		assert_int_equal(suite_claim(env, env->other, &taken), SQL_OK);
	for (size_t i = 0; i < MANY; i++) {
		snprintf(names[i], sizeof names[i], "c%zu", i % 100 ? i : 0);
		claims[i] = claim_of(env, &start, 1);
		claims[i].name = slice_str(names[i]);
		claims[i].create = i % 10 != 3;
		claims[i].done = on_claim;
		claims[i].arg = &done[i];
		env->bus->ops->claim(env->bus, &claims[i]);
	}
	for (size_t i = 0; i < MANY; i++) {
		enum sql_outcome want = i % 10 == 3 ? SQL_FATAL : SQL_OK;

		pump_until(env, &done[i]);
		if (i == 10 && env->other)
			want = SQL_LOST;
		assert_int_equal(claims[i].outcome, want);
		if (want == SQL_OK) {
			assert_int_equal(claims[i].epoch, i == 100 ? 2 : 1); /* c0 again */
			assert_int_equal(claims[i].created, i != 100);
			assert_int_equal(claims[i].n_cursors, 1);
			assert_int_equal(claims[i].cursors[0].acked_through, 7);
		}
		release(env, &claims[i]);
	}
	if (env->other)
		release(env, &taken);
	free(claims);
}

/* The same client id under another subject or kind is another subscription. */
static void test_names_are_apart(void **state)
{
	struct bus_env *env = *state;
	struct bus_claim a = claim_of(env, NULL, 0);
	struct bus_claim b = claim_of(env, NULL, 0);
	struct bus_claim c = claim_of(env, NULL, 0);

	b.subject = slice_str("Alice");
	c.kind = BUS_SUB_SHARE;
	assert_int_equal(suite_claim(env, env->bus, &a), SQL_OK);
	assert_int_equal(suite_claim(env, env->bus, &b), SQL_OK);
	assert_int_equal(suite_claim(env, env->bus, &c), SQL_OK);
	assert_true(a.created && b.created && c.created);
	assert_true(a.subscription_id != b.subscription_id);
	assert_true(a.subscription_id != c.subscription_id);
	release(env, &a);
	release(env, &b);
	release(env, &c);
}

static struct bus_cursor_row row_of(struct bus_env *env, const struct bus_claim *claim,
                                    uint32_t partition_id, uint64_t acked, uint64_t commit_no)
{
	return (struct bus_cursor_row){
	        .tenant_id = env->tenant_id,
	        .subscription_id = claim->subscription_id,
	        .epoch = claim->epoch,
	        .to = {.partition_id = partition_id,
	               .acked_through = acked,
	               .commit_no = commit_no,
	               .acked_ahead = slice("\x01\x00\xff\x27", 4),
	               .gap_from = acked / 2,
	               .gap_to = acked},
	};
}

static void test_cursor_commit_is_fenced(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor starts[3] = {
	        {.partition_id = 0}, {.partition_id = 1}, {.partition_id = 2}};
	struct bus_claim claim = claim_of(env, starts, 3);
	struct bus_claim again = claim_of(env, NULL, 0);
	struct bus_cursor_row rows[3];
	struct bus_commit req = {.n = 3, .rows = rows};

	assert_int_equal(suite_claim(env, env->bus, &claim), SQL_OK);
	for (uint32_t i = 0; i < 3; i++)
		rows[i] = row_of(env, &claim, i, 10 + i, 0);
	assert_int_equal(suite_commit(env, env->bus, &req), SQL_OK);
	assert_false(rows[0].fenced || rows[1].fenced || rows[2].fenced);

	rows[0] = row_of(env, &claim, 0, 20, 1);
	rows[1] = row_of(env, &claim, 1, 5, 0); /* an old one comes late */
	rows[2] = row_of(env, &claim, 2, 20, 1);
	rows[2].epoch--;
	assert_int_equal(suite_commit(env, env->bus, &req), SQL_OK);
	assert_false(rows[0].fenced);
	assert_true(rows[1].fenced && rows[2].fenced);

	assert_int_equal(suite_claim(env, env->bus, &again), SQL_OK);
	assert_int_equal(again.cursors[0].acked_through, 20);
	assert_int_equal(again.cursors[0].commit_no, 2);
	assert_true(slice_eq(again.cursors[0].acked_ahead, slice("\x01\x00\xff\x27", 4)));
	assert_int_equal(again.cursors[0].gap_from, 10);
	assert_int_equal(again.cursors[0].gap_to, 20);
	assert_int_equal(again.cursors[1].gap_from, 5); /* of many at once */
	assert_int_equal(again.cursors[1].gap_to, 11);
	assert_int_equal(again.cursors[1].acked_through, 11);
	assert_int_equal(again.cursors[2].acked_through, 12);
	req.n = 1; /* the epoch before this claim is worth nothing now */
	rows[0] = row_of(env, &claim, 0, 30, 2);
	assert_int_equal(suite_commit(env, env->bus, &req), SQL_OK);
	assert_true(rows[0].fenced);
	rows[0] = row_of(env, &again, 0, 30, 2);
	assert_int_equal(suite_commit(env, env->bus, &req), SQL_OK);
	assert_false(rows[0].fenced);
	release(env, &claim);
	release(env, &again);
}

static enum sql_outcome change(struct bus_env *env, const struct bus_claim *claim,
                               enum bus_change_verb verb, uint32_t expiry_s)
{
	struct bus_cursor more = {.partition_id = 3, .acked_through = 7};
	struct bus_change req = {
	        .verb = verb,
	        .tenant_id = env->tenant_id,
	        .subscription_id = claim->subscription_id,
	        .epoch = claim->epoch,
	        .expiry_s = expiry_s,
	        .filters = slice_str("[\"b\"]"),
	        .n_starts = verb == BUS_CHANGE_FILTERS,
	        .starts = &more,
	};

	return suite_change(env, env->bus, &req);
}

static uint32_t expire(struct bus_env *env)
{
	struct bus_expire req = {.limit = 100};

	assert_int_equal(call_expire(env, env->bus, &req), SQL_OK);
	return req.removed;
}

/* All that a node has, at once: what is not its own any more is not the others' loss. */
static void test_many_releases(void **state)
{
	struct bus_env *env = *state;
	struct bus_claim *claims = xcalloc(MANY, sizeof *claims);
	struct bus_change *changes = xcalloc(MANY, sizeof *changes);
	bool done[MANY] = {false};
	char name[16];

	for (size_t i = 0; i < MANY; i++) {
		claims[i] = claim_of(env, NULL, 0);
		snprintf(name, sizeof name, "r%zu", i);
		claims[i].name = slice_str(name);
		assert_int_equal(suite_claim(env, env->bus, &claims[i]), SQL_OK);
	}
	for (size_t i = MANY; i-- > 0;) {
		changes[i] = (struct bus_change){.done = on_change,
		                                 .arg = &done[i],
		                                 .verb = BUS_CHANGE_RELEASE,
		                                 .tenant_id = env->tenant_id,
		                                 .subscription_id = claims[i].subscription_id,
		                                 .epoch = claims[i].epoch - (i % 10 == 7),
		                                 .expiry_s = i % 10 ? 3600 : UINT32_MAX,
		                                 .idle_s = i % 10 ? 3600 * (i % 10 == 1) : 0};
		env->bus->ops->change(env->bus, &changes[i]);
	}
	for (size_t i = 0; i < MANY; i++) {
		pump_until(env, &done[i]);
		assert_int_equal(changes[i].outcome, i % 10 == 7 ? SQL_LOST : SQL_OK);
		release(env, &claims[i]);
		if (i > 20 || !env->other)
			continue;
		snprintf(name, sizeof name, "r%zu", i);
		claims[i] = claim_of(env, NULL, 0);
		claims[i].name = slice_str(name);
		assert_int_equal(suite_claim(env, env->other, &claims[i]),
		                 i % 10 == 7 ? SQL_LOST : SQL_OK);
		if (i % 10 != 7)
			assert_int_equal(claims[i].created, i % 10 == 1); /* it had expired */
		if (i % 10 == 0)
			assert_int_equal(claims[i].stored_expiry_s, UINT32_MAX);
		release(env, &claims[i]);
	}
	expire(env);
	free(changes);
	free(claims);
}

static void test_change(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor start = {.partition_id = 0, .acked_through = 2};
	struct bus_claim claim = claim_of(env, &start, 1);
	struct bus_claim again = claim_of(env, NULL, 0);
	struct bus_claim last = claim_of(env, NULL, 0);

	assert_int_equal(suite_claim(env, env->bus, &claim), SQL_OK);
	assert_int_equal(change(env, &claim, BUS_CHANGE_FILTERS, 99), SQL_OK);
	assert_int_equal(change(env, &claim, BUS_CHANGE_FILTERS, 99), SQL_OK); /* nothing new */
	assert_int_equal(suite_claim(env, env->bus, &again), SQL_OK);
	assert_true(slice_eq(again.stored_filters, slice_str("[\"b\"]")));
	assert_int_equal(again.stored_expiry_s, 99);
	assert_int_equal(again.n_cursors, 2);
	assert_int_equal(again.cursors[0].acked_through, 2);
	assert_int_equal(again.cursors[1].acked_through, 7);

	for (int verb = BUS_CHANGE_FILTERS; verb <= BUS_CHANGE_DELETE; verb++)
		assert_int_equal(change(env, &claim, (enum bus_change_verb)verb, 0), SQL_LOST);
	assert_int_equal(change(env, &again, BUS_CHANGE_RELEASE, 60), SQL_OK);
	assert_int_equal(change(env, &again, BUS_CHANGE_RELEASE, 60), SQL_OK); /* it is free */
	assert_int_equal(change(env, &again, BUS_CHANGE_FILTERS, 60), SQL_LOST);
	last.create = false;
	assert_int_equal(suite_claim(env, env->bus, &last), SQL_OK);
	assert_int_equal(change(env, &last, BUS_CHANGE_DELETE, 0), SQL_OK);
	release(env, &last);
	assert_int_equal(suite_claim(env, env->bus, &last), SQL_FATAL);
	release(env, &claim);
	release(env, &again);
}

static void test_expiry(void **state)
{
	struct bus_env *env = *state;
	struct bus_claim claim = claim_of(env, NULL, 0);
	struct bus_claim again = claim_of(env, NULL, 0);
	struct bus_claim last = claim_of(env, NULL, 0);

	assert_int_equal(suite_claim(env, env->bus, &claim), SQL_OK);
	assert_int_equal(change(env, &claim, BUS_CHANGE_RELEASE, 3600), SQL_OK);
	assert_int_equal(expire(env), 0);
	assert_int_equal(suite_claim(env, env->bus, &again), SQL_OK);
	assert_false(again.created); /* in time */
	assert_int_equal(again.stored_expiry_s, 3600);
	assert_int_equal(change(env, &again, BUS_CHANGE_RELEASE, UINT32_MAX), SQL_OK);
	assert_int_equal(expire(env), 0);
	release(env, &again);
	assert_int_equal(suite_claim(env, env->bus, &again), SQL_OK);
	assert_int_equal(again.stored_expiry_s, UINT32_MAX);
	assert_int_equal(change(env, &again, BUS_CHANGE_RELEASE, 0), SQL_OK);
	assert_int_equal(suite_claim(env, env->bus, &last), SQL_OK);
	assert_true(last.created); /* what has expired is not there, removed or not */
	assert_int_equal(change(env, &last, BUS_CHANGE_RELEASE, 0), SQL_OK);
	assert_int_equal(expire(env), 1);
	assert_int_equal(change(env, &last, BUS_CHANGE_RELEASE, 0), SQL_LOST);
	release(env, &claim);
	release(env, &again);
	release(env, &last);
}

/* ---- two nodes ----------------------------------------------------------------------------------
 */

static void test_one_owner_at_a_time(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor start = {.partition_id = 0, .acked_through = 0};
	struct bus_claim mine = claim_of(env, &start, 1);
	struct bus_claim theirs = claim_of(env, &start, 1);
	struct bus_cursor_row row;
	struct bus_commit req = {.n = 1, .rows = &row};

	if (!env->other)
		skip();
	assert_int_equal(suite_claim(env, env->bus, &mine), SQL_OK);
	assert_int_equal(suite_claim(env, env->other, &theirs), SQL_LOST);
	assert_true(id128_eq(&theirs.holder.session_id, &env->bus->session_id));
	assert_int_equal(change(env, &mine, BUS_CHANGE_RELEASE, 60), SQL_OK);
	assert_int_equal(suite_claim(env, env->other, &theirs), SQL_OK);
	assert_false(theirs.created);
	assert_int_equal(theirs.epoch, mine.epoch + 1);
	row = row_of(env, &mine, 0, 9, 0);
	assert_int_equal(suite_commit(env, env->bus, &req), SQL_OK);
	assert_true(row.fenced);
	row = row_of(env, &theirs, 0, 9, 0);
	assert_int_equal(suite_commit(env, env->bus, &req), SQL_OK); /* not the owner */
	assert_true(row.fenced);
	assert_int_equal(suite_commit(env, env->other, &req), SQL_OK);
	assert_false(row.fenced);
	release(env, &mine);
	release(env, &theirs);
}

static void test_two_nodes_append_to_one_head(void **state)
{
	struct bus_env *env = *state;

	if (!env->other)
		skip();
	for (unsigned i = 0; i < 6; i++) {
		struct batch *b = suite_batch(env->tenant_id, 0, 1 + 2 * i, 2);

		assert_int_equal(suite_append(env, i % 2 ? env->other : env->bus, 0, &b, 1),
		                 SQL_OK);
		batch_unref(b);
	}
	suite_expect(env, env->bus, 0, 1, 1, 12);
	suite_expect(env, env->other, 0, 1, 1, 12);
}

/* ---- failed deliveries --------------------------------------------------------------------------
 */

static struct bus_claim queue_claim(struct bus_env *env, const struct bus_cursor *start)
{
	struct bus_claim claim = claim_of(env, start, 1);

	claim.kind = BUS_SUB_QUEUE;
	claim.subject = slice_str("");
	claim.name = slice_str("work");
	claim.expiry_s = UINT32_MAX;
	claim.policy = (struct bus_policy){.max_attempts = 3,
	                                   .ack_timeout_ms = 4000,
	                                   .backoff_ms = 50,
	                                   .backoff_max_ms = 600,
	                                   .max_failed = 7,
	                                   .ordered = true,
	                                   .pin = true};
	return claim;
}

static void test_policy_is_kept(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor start = {.partition_id = 0};
	struct bus_claim claim = queue_claim(env, &start);
	struct bus_claim again = queue_claim(env, NULL);
	struct bus_policy want = claim.policy;

	again.n_starts = 0;
	again.policy = BUS_POLICY_DEFAULT;
	assert_int_equal(suite_claim(env, env->bus, &claim), SQL_OK);
	assert_int_equal(suite_claim(env, env->bus, &again), SQL_OK);
	assert_memory_equal(&again.policy, &want, sizeof want);
	release(env, &claim);
	release(env, &again);
}

/* What a settlement says of events 1.. of one batch. */
struct settling {
	struct bus_settle req;
	struct bus_cursor cursor;
	struct bus_failure failures[4];
};

static void settling_init(struct settling *s, struct bus_env *env, const struct bus_claim *claim,
                          uint64_t acked, uint64_t commit_no)
{
	*s = (struct settling){
	        .req = {.tenant_id = env->tenant_id,
	                .subscription_id = claim->subscription_id,
	                .epoch = claim->epoch,
	                .n_cursors = 1,
	                .cursors = &s->cursor,
	                .failures = s->failures},
	        .cursor = {.acked_through = acked, .commit_no = commit_no},
	};
}

static struct bus_failure *failing(struct settling *s, enum bus_failure_kind kind, struct batch *b,
                                   uint64_t seq, uint64_t timer_id, uint32_t attempt)
{
	struct bus_failure *f = &s->failures[s->req.n_failures++];

	*f = (struct bus_failure){
	        .kind = kind,
	        .timer_id = timer_id,
	        .seq = seq,
	        .attempt = attempt,
	        .reason = slice_str("it \"broke\""),
	        .batch = b,
	        .index = b ? (uint32_t)(seq - batch_base_seq(b)) : 0,
	};
	return f;
}

static struct bus_retries retries(struct bus_env *env, const struct bus_claim *claim,
                                  const uint64_t *known, size_t n_known)
{
	struct bus_retries req = {.tenant_id = env->tenant_id,
	                          .subscription_id = claim->subscription_id,
	                          .limit = 2,
	                          .n_known = n_known,
	                          .known = known,
	                          .list = true};

	assert_int_equal(call_retries(env, env->bus, &req), SQL_OK);
	return req;
}

static void on_stock(struct bus_stock *req)
{
	*(bool *)req->arg = true;
}

static struct bus_stock stock_of(struct bus_env *env)
{
	bool done = false;
	struct bus_stock req = {.done = on_stock, .arg = &done, .tenant_id = env->tenant_id};

	env->bus->ops->stock(env->bus, &req);
	assert_false(done);
	suite_wait(env, &done);
	assert_int_equal(req.outcome, SQL_OK);
	return req;
}

static void retries_release(struct bus_retries *req)
{
	for (size_t i = 0; i < req->n; i++)
		batch_unref(req->retries[i].batch);
	free(req->retries);
	free(req->rows);
}

static void test_failed_events_wait(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor start = {.partition_id = 0};
	struct bus_claim claim = queue_claim(env, &start);
	struct batch *b = suite_batch(env->tenant_id, 0, 1, 5);
	struct settling s;
	struct bus_retries r;
	uint64_t known;
	uint64_t dead = stock_of(env).dead_letters;

	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_OK);
	assert_int_equal(suite_claim(env, env->bus, &claim), SQL_OK);
	settling_init(&s, env, &claim, 4, 0);
	failing(&s, BUS_FAILED_RETRY, b, 1, 0, 1)->delay_ms = 3600000;
	failing(&s, BUS_FAILED_RETRY, b, 2, 0, 1);
	failing(&s, BUS_FAILED_PARKED, b, 3, 0, 0);
	failing(&s, BUS_FAILED_DEAD, b, 4, 0, 1);
	assert_int_equal(call_settle(env, env->bus, &s.req), SQL_OK);
	assert_true(s.failures[0].made && s.failures[1].made && s.failures[2].made);
	assert_int_equal(s.failures[3].made, 0);
	assert_int_equal(stock_of(env).dead_letters, dead + 1);
	known = s.failures[1].made;

	r = retries(env, &claim, NULL, 0);
	assert_int_equal(r.n, 1);
	assert_true(r.retries[0].timer_id == known);
	assert_int_equal(r.retries[0].seq, 2);
	assert_int_equal(r.retries[0].attempt, 1);
	assert_int_equal(batch_base_seq(r.retries[0].batch), 2);
	assert_int_equal(number_of(r.retries[0].batch, 0), 2);
	assert_int_equal(r.waiting, 3);
	assert_true(r.next_in_ms > 3500000 && r.next_in_ms <= 3600000);
	assert_int_equal(r.n_list, 3);
	assert_int_equal(r.rows[2].kind, BUS_FAILED_PARKED);
	assert_int_equal(r.rows[2].seq, 3);
	assert_true(r.rows[0].key == r.rows[2].key);
	retries_release(&r);

	r = retries(env, &claim, &known, 1); /* the caller has it */
	assert_int_equal(r.n, 0);
	assert_int_equal(r.waiting, 3);
	retries_release(&r);
	batch_unref(b);
	release(env, &claim);
}

static void test_failed_again(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor start = {.partition_id = 0};
	struct bus_claim claim = queue_claim(env, &start);
	struct batch *b = suite_batch(env->tenant_id, 0, 1, 3);
	struct settling s;
	struct bus_retries r;
	uint64_t first;
	uint64_t parked;

	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_OK);
	assert_int_equal(suite_claim(env, env->bus, &claim), SQL_OK);
	settling_init(&s, env, &claim, 3, 0);
	failing(&s, BUS_FAILED_RETRY, b, 1, 0, 1);
	failing(&s, BUS_FAILED_PARKED, b, 2, 0, 0);
	failing(&s, BUS_FAILED_PARKED, b, 3, 0, 0);
	assert_int_equal(call_settle(env, env->bus, &s.req), SQL_OK);
	first = s.failures[0].made;
	parked = s.failures[1].made;

	/* the first fails again and is not due for long; doing it twice does no harm */
	for (int i = 0; i < 2; i++) {
		settling_init(&s, env, &claim, 0, 0);
		s.req.n_cursors = 0;
		failing(&s, BUS_FAILED_RETRY, NULL, 1, first, 2)->delay_ms = 3600000;
		assert_int_equal(call_settle(env, env->bus, &s.req), SQL_OK);
	}
	r = retries(env, &claim, NULL, 0);
	assert_int_equal(r.n, 0);
	retries_release(&r);

	/* it is given up, and its turn comes to the one behind it */
	settling_init(&s, env, &claim, 0, 0);
	s.req.n_cursors = 0;
	failing(&s, BUS_FAILED_DEAD, NULL, 1, first, 3);
	failing(&s, BUS_FAILED_DUE, NULL, 2, parked, 0);
	assert_int_equal(call_settle(env, env->bus, &s.req), SQL_OK);
	r = retries(env, &claim, NULL, 0);
	assert_int_equal(r.n, 1);
	assert_true(r.retries[0].timer_id == parked);
	assert_int_equal(r.retries[0].attempt, 0);
	assert_int_equal(r.waiting, 2);
	retries_release(&r);

	settling_init(&s, env, &claim, 0, 0);
	s.req.n_cursors = 0;
	s.req.n_done = 1;
	s.req.done_timers = &parked;
	assert_int_equal(call_settle(env, env->bus, &s.req), SQL_OK);
	assert_int_equal(call_settle(env, env->bus, &s.req), SQL_OK);
	r = retries(env, &claim, NULL, 0);
	assert_int_equal(r.waiting, 1);
	retries_release(&r);
	batch_unref(b);
	release(env, &claim);
}

static void test_settle_is_fenced(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor start = {.partition_id = 0};
	struct bus_claim claim = queue_claim(env, &start);
	struct bus_claim again = queue_claim(env, NULL);
	struct batch *b = suite_batch(env->tenant_id, 0, 1, 2);
	struct settling s;
	struct bus_retries r;

	again.n_starts = 0;
	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_OK);
	assert_int_equal(suite_claim(env, env->bus, &claim), SQL_OK);
	settling_init(&s, env, &claim, 1, 9); /* not the commit number that is due */
	failing(&s, BUS_FAILED_RETRY, b, 1, 0, 1);
	assert_int_equal(call_settle(env, env->bus, &s.req), SQL_LOST);
	assert_int_equal(suite_claim(env, env->bus, &again), SQL_OK);
	s.cursor.commit_no = 0; /* the epoch before is worth nothing */
	assert_int_equal(call_settle(env, env->bus, &s.req), SQL_LOST);
	assert_int_equal(again.cursors[0].acked_through, 0);
	r = retries(env, &claim, NULL, 0);
	assert_int_equal(r.waiting, 0);
	retries_release(&r);
	s.req.epoch = again.epoch;
	assert_int_equal(call_settle(env, env->bus, &s.req), SQL_OK);
	batch_unref(b);
	release(env, &claim);
	release(env, &again);
	again = queue_claim(env, NULL);
	again.n_starts = 0;
	assert_int_equal(suite_claim(env, env->bus, &again), SQL_OK);
	assert_int_equal(again.cursors[0].acked_through, 1);
	assert_int_equal(again.cursors[0].commit_no, 1);
	release(env, &again);
}

static void on_reported(struct bus_report *req)
{
	*(bool *)req->arg = true;
}

enum sql_outcome suite_report(struct bus_env *env, struct bus *bus, const struct bus_usage *rows,
                              size_t n)
{
	bool done = false;
	struct bus_report req = {.done = on_reported, .arg = &done, .n = n, .rows = rows};

	bus->ops->report(bus, &req);
	assert_false(done);
	suite_wait(env, &done);
	return req.outcome;
}

/* Taken from everybody, as often as it is said; of a tenant that is not there it is no mistake. */
static void test_report(void **state)
{
	struct bus_env *env = *state;
	struct bus_usage rows[2] = {{.tenant_id = env->tenant_id, .connections = 1},
	                            {.tenant_id = 88888, .connections = 1}};

	assert_int_equal(suite_report(env, env->bus, rows, 2), SQL_OK);
	assert_int_equal(suite_report(env, env->bus, rows, 1), SQL_OK);
	if (env->other)
		assert_int_equal(suite_report(env, env->other, rows, 1), SQL_OK);
}

/* What a tenant has: bytes, subscriptions, and nothing of another's. */
static void test_stock(void **state)
{
	struct bus_env *env = *state;
	struct bus_stock before = stock_of(env);
	struct bus_stock after;
	struct bus_claim claim = queue_claim(env, NULL);

	claim.n_starts = 0;
	assert_int_equal(suite_claim(env, env->bus, &claim), SQL_OK);
	after = stock_of(env);
	assert_int_equal(after.subscriptions, before.subscriptions + claim.created);
	assert_int_equal(after.stored_bytes, before.stored_bytes);
	assert_int_equal(after.scheduled, before.scheduled);
	env->tenant_id += 100000;
	after = stock_of(env);
	assert_int_equal(
	        after.subscriptions + after.stored_bytes + after.scheduled + after.dead_letters, 0);
	env->tenant_id -= 100000;
	release(env, &claim);
}

static void on_note(struct bus_note *req)
{
	*(bool *)req->arg = true;
}

static void test_note(void **state)
{
	struct bus_env *env = *state;
	bool done = false;
	struct bus_note req = {.done = on_note,
	                       .arg = &done,
	                       .tenant_id = env->tenant_id,
	                       .action = slice_str("test.note"),
	                       .target = slice_str("7"),
	                       .detail = slice_str("{\"partition\":0}")};

	env->bus->ops->note(env->bus, &req);
	assert_false(done);
	suite_wait(env, &done);
	assert_int_equal(req.outcome, SQL_OK);
}

int bus_suite_run(struct bus_env *env, int (*begin)(void **state))
{
#define TEST(f)                         \
	{                               \
#f, f, begin, NULL, env \
	}
	const struct CMUnitTest tests[] = {
	        TEST(test_numbers_are_dense),
	        TEST(test_append_is_fenced),
	        TEST(test_resolve_tells_the_last_flush),
	        TEST(test_read_from_the_middle),
	        TEST(test_locate),
	        TEST(test_claim),
	        TEST(test_many_claims),
	        TEST(test_names_are_apart),
	        TEST(test_cursor_commit_is_fenced),
	        TEST(test_change),
	        TEST(test_many_releases),
	        TEST(test_expiry),
	        TEST(test_policy_is_kept),
	        TEST(test_failed_events_wait),
	        TEST(test_failed_again),
	        TEST(test_settle_is_fenced),
	        TEST(test_one_owner_at_a_time),
	        TEST(test_two_nodes_append_to_one_head),
	        TEST(test_report),
	        TEST(test_stock),
	        TEST(test_note),
	};

	return cmocka_run_group_tests_name("bus", tests, NULL, NULL) +
	       bus_suite_leader_run(env, begin) + bus_suite_inbox_run(env, begin) +
	       bus_suite_retention_run(env, begin) + bus_suite_layouts_run(env, begin);
}
