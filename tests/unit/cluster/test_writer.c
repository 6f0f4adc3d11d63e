#include "cluster/writer.h"

#include "base/clock.h"
#include "base/mem.h"
#include "cluster/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { CALLS_MAX = 64, EVENTS_MAX = 256 };

/* What the database does with one append or resolve. */
enum act {
	ACT_DO,           /* the store decides */
	ACT_RETRY,        /* RETRY, nothing done */
	ACT_UNKNOWN_DONE, /* UNKNOWN, and it is stored */
	ACT_UNKNOWN_LOST, /* UNKNOWN, and it never will be */
	ACT_UNKNOWN_END,  /* the same, and the session is replaced meanwhile */
	ACT_UNKNOWN_DONE_END,
};

/* A bus that follows a script, one loop turn at a time. */
struct fixture {
	struct bus bus; /* first */
	struct store *store;
	struct writer *writer;
	const enum act *acts; /* for append and resolve; beyond the end ACT_DO */
	size_t n_acts;
	size_t calls;
	size_t sizes[CALLS_MAX]; /* batches of each append */
	size_t appends;
	size_t resolves;
	const char *poison; /* an append with this payload is FATAL */
	bool tell_culprit;

	struct bus_append *append; /* waiting for its answer */
	struct bus_resolve *resolve;
	void (*later)(void *); /* the writer's pause */
	void *later_arg;
	uint32_t later_ms;

	char stored[EVENTS_MAX]; /* payloads, one letter each, in the order reported */
	char refused[EVENTS_MAX];
	uint64_t last_base;
	size_t idle;
};

static enum act next_act(struct fixture *f)
{
	return f->calls < f->n_acts ? f->acts[f->calls++] : ACT_DO;
}

static bool poisoned(const struct fixture *f, const struct bus_append *req, size_t *culprit)
{
	for (size_t i = 0; f->poison && i < req->n; i++) {
		for (uint32_t k = 0; k < batch_count(req->batches[i]); k++) {
			struct event ev;

			batch_event(req->batches[i], k, &ev);
			*culprit = i;
			if (slice_eq(ev.payload, slice_str(f->poison)))
				return true;
		}
	}
	return false;
}

static void replace_session(struct fixture *f)
{
	f->bus.session_id.b[0]++;
	store_session_open(f->store, &f->bus.session_id, "node");
}

/* The store keeps copies: what a batch was given in an UNKNOWN append is not seen by the writer. */
static void store_copies(struct fixture *f, struct bus_append *req)
{
	struct batch *copies[8];
	struct bus_append copy = *req;

	copy.batches = copies;
	for (size_t i = 0; i < req->n; i++)
		copies[i] = batch_split(req->batches[i], 0, batch_count(req->batches[i]));
	assert_int_equal(store_append(f->store, &f->bus.session_id, &copy), SQL_OK);
	for (size_t i = 0; i < req->n; i++)
		batch_unref(copies[i]);
}

static void fake_append(struct bus *bus, struct bus_append *req)
{
	struct fixture *f = (struct fixture *)bus;
	enum act act = next_act(f);
	size_t culprit;

	assert_true(bus->state == BUS_UP);
	f->sizes[f->appends++] = req->n;
	f->append = req;
	if (poisoned(f, req, &culprit)) {
		req->outcome = SQL_FATAL;
		req->culprit = f->tell_culprit ? culprit : SIZE_MAX;
		snprintf(req->error, sizeof req->error, "poison");
		return;
	}
	req->outcome = act == ACT_RETRY ? SQL_RETRY : SQL_UNKNOWN;
	if (act == ACT_DO)
		req->outcome = store_append(f->store, &bus->session_id, req);
	if (act == ACT_UNKNOWN_DONE || act == ACT_UNKNOWN_DONE_END)
		store_copies(f, req);
	if (act == ACT_UNKNOWN_END || act == ACT_UNKNOWN_DONE_END)
		replace_session(f);
}

static void fake_resolve(struct bus *bus, struct bus_resolve *req)
{
	struct fixture *f = (struct fixture *)bus;

	f->resolves++;
	f->resolve = req;
	req->outcome = next_act(f) == ACT_RETRY ? SQL_RETRY : store_resolve(f->store, req);
}

static void note(char *list, struct batch *take)
{
	for (uint32_t i = 0; i < batch_count(take); i++) {
		struct event ev;

		batch_event(take, i, &ev);
		strncat(list, ev.payload.p, 1);
	}
	batch_unref(take);
}

static void on_stored(void *arg, struct batch *take)
{
	struct fixture *f = arg;

	f->last_base = batch_base_seq(take);
	note(f->stored, take);
}

static void on_refused(void *arg, struct batch *take, const char *reason)
{
	struct fixture *f = arg;

	assert_string_equal(reason, "poison");
	note(f->refused, take);
}

static void on_idle(void *arg, uint32_t writer_no)
{
	struct fixture *f = arg;

	assert_int_equal(writer_no, 1);
	f->idle++;
}

static void after(void *arg, uint32_t delay_ms, void (*fn)(void *), void *fn_arg)
{
	struct fixture *f = arg;

	assert_null(f->later);
	f->later = fn;
	f->later_arg = fn_arg;
	f->later_ms = delay_ms;
}

static bool turn(struct fixture *f)
{
	struct bus_append *append = f->append;
	struct bus_resolve *resolve = f->resolve;
	void (*later)(void *) = f->later;

	f->append = NULL;
	f->resolve = NULL;
	f->later = NULL;
	if (append)
		append->done(append);
	if (resolve)
		resolve->done(resolve);
	if (later)
		later(f->later_arg);
	return append || resolve || later;
}

static void run(struct fixture *f)
{
	int turns = 0;

	while (turn(f))
		assert_true(turns++ < 1000);
}

static int setup(void **state)
{
	static const struct bus_ops ops = {.append = fake_append, .resolve = fake_resolve};
	struct fixture *f = xcalloc(1, sizeof *f);
	struct writer_events events = {.on_stored = on_stored,
	                               .on_refused = on_refused,
	                               .on_idle = on_idle,
	                               .after = after,
	                               .arg = f};

	f->bus.ops = &ops;
	f->bus.state = BUS_UP;
	f->bus.session_id.b[0] = 1;
	f->store = store_new(1 << 20);
	store_session_open(f->store, &f->bus.session_id, "node");
	f->writer = writer_new(&f->bus, 1, &events);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	writer_free(f->writer);
	run(f); /* what was pending when it was freed */
	store_free(f->store);
	free(f);
	return 0;
}

static struct batch *letters(uint32_t tenant_id, const char *text)
{
	struct batch *b = batch_new(tenant_id, 0);

	for (; *text; text++) {
		struct event ev = {.topic = slice_str("t"), .payload = slice(text, 1)};

		assert_int_equal(batch_append(b, &ev, (struct publisher){0}), 0);
	}
	batch_seal(b);
	return b;
}

/* Tenant 1 publishes abc and d, tenant 2 ef, tenant 3 g: one flush of four batches. */
static void flush(struct fixture *f)
{
	struct batch *b[4] = {letters(1, "abc"), letters(1, "d"), letters(2, "ef"),
	                      letters(3, "g")};

	writer_flush(f->writer, b, 4);
	assert_true(writer_busy(f->writer));
}

/* Every event is in the journal once, in order. */
static void assert_journal(struct fixture *f, uint32_t tenant_id, const char *want)
{
	struct bus_read req = {.tenant_id = tenant_id, .from_seq = 1, .max_bytes = 1 << 30};
	char got[EVENTS_MAX] = "";

	assert_int_equal(store_read(f->store, &req), SQL_OK);
	for (size_t i = 0; i < req.n; i++)
		note(got, req.batches[i]);
	free(req.batches);
	assert_string_equal(got, want);
}

static void assert_all_stored_once(struct fixture *f)
{
	assert_string_equal(f->stored, "abcdefg");
	assert_string_equal(f->refused, "");
	assert_int_equal(f->idle, 1);
	assert_false(writer_busy(f->writer));
	assert_journal(f, 1, "abcd");
	assert_journal(f, 2, "ef");
	assert_journal(f, 3, "g");
}

#define SCRIPT(f, ...)                                \
	static const enum act acts[] = {__VA_ARGS__}; \
	(f)->acts = acts;                             \
	(f)->n_acts = sizeof acts / sizeof *acts

static void test_stored(void **state)
{
	struct fixture *f = *state;

	flush(f);
	run(f);
	assert_all_stored_once(f);
	assert_int_equal(f->appends, 1);
	assert_int_equal(f->last_base, 1);
}

static void test_retry_pauses_then_splits_by_tenant(void **state)
{
	struct fixture *f = *state;
	uint32_t first_ms;
	SCRIPT(f, ACT_RETRY, ACT_RETRY, ACT_RETRY);

	flush(f);
	turn(f);
	assert_true(f->later != NULL);
	first_ms = f->later_ms;
	assert_true(first_ms > 0);
	run(f);
	assert_true(f->later_ms > first_ms);
	assert_all_stored_once(f);
	assert_int_equal(f->sizes[0], 4);
	assert_int_equal(f->sizes[1], 4); /* the first repeat is whole */
	assert_int_equal(f->sizes[2], 2); /* then a tenant at a time */
	assert_int_equal(f->sizes[3], 2);
	assert_int_equal(f->sizes[4], 1);
	assert_int_equal(f->sizes[5], 1);
	assert_int_equal(f->appends, 6);
}

static void test_unknown_but_stored(void **state)
{
	struct fixture *f = *state;
	SCRIPT(f, ACT_UNKNOWN_DONE);

	flush(f);
	run(f);
	assert_all_stored_once(f);
	assert_int_equal(f->appends, 1);
	assert_int_equal(f->resolves, 1);
	assert_int_equal(f->last_base, 0); /* only the fact is known */
}

static void test_unknown_and_not_stored(void **state)
{
	struct fixture *f = *state;
	SCRIPT(f, ACT_UNKNOWN_LOST, ACT_RETRY, ACT_DO, ACT_UNKNOWN_LOST);

	flush(f);
	run(f);
	assert_all_stored_once(f);
	assert_int_equal(f->appends, 3);
	assert_int_equal(f->resolves, 3);
	assert_int_equal(f->last_base, 1);
}

/* The old flush commits after all, but only after the fence was raised: it must find no match. */
static void test_ghost_commit_is_fenced(void **state)
{
	struct fixture *f = *state;
	struct bus_append ghost;
	struct batch *copy = letters(1, "x");
	SCRIPT(f, ACT_UNKNOWN_LOST);

	flush(f);
	ghost = *f->append;
	ghost.n = 1;
	ghost.batches = &copy;
	turn(f);
	assert_int_equal(f->resolves, 1);
	assert_int_equal(store_append(f->store, &f->bus.session_id, &ghost), SQL_LOST);
	run(f);
	assert_all_stored_once(f);
	batch_unref(copy);
}

static void test_unknown_of_a_replaced_session(void **state)
{
	struct fixture *f = *state;
	SCRIPT(f, ACT_UNKNOWN_END);

	flush(f);
	run(f);
	assert_all_stored_once(f);
	assert_int_equal(f->appends, 2);
}

static void test_unknown_but_stored_by_a_replaced_session(void **state)
{
	struct fixture *f = *state;
	struct batch *b = letters(1, "z");
	SCRIPT(f, ACT_UNKNOWN_DONE_END);

	flush(f);
	run(f);
	assert_all_stored_once(f);
	assert_int_equal(f->appends, 1);
	writer_flush(f->writer, &b, 1); /* goes on with the new session's numbers */
	run(f);
	assert_journal(f, 1, "abcdz");
}

static void test_lost_waits_for_the_next_session(void **state)
{
	struct fixture *f = *state;

	store_session_end(f->store, &f->bus.session_id);
	flush(f);
	for (int i = 0; i < 20; i++)
		turn(f);
	assert_string_equal(f->stored, "");
	assert_string_equal(f->refused, "");
	replace_session(f);
	run(f);
	assert_all_stored_once(f);
}

static void test_nothing_is_sent_while_down(void **state)
{
	struct fixture *f = *state;

	f->bus.state = BUS_DOWN;
	flush(f);
	run(f);
	assert_int_equal(f->appends, 0);
	assert_true(writer_busy(f->writer));
	f->bus.state = BUS_UP;
	writer_on_state(f->writer, BUS_UP);
	run(f);
	assert_all_stored_once(f);
}

static void assert_only_refused(struct fixture *f, const char *poison, const char *stored)
{
	assert_string_equal(f->refused, poison);
	assert_string_equal(f->stored, stored);
	assert_int_equal(f->idle, 1);
	assert_journal(f, 2, "ef");
	assert_journal(f, 3, "g");
}

static void test_fatal_refuses_the_culprit_alone(void **state)
{
	struct fixture *f = *state;

	f->poison = "b";
	flush(f);
	run(f);
	assert_only_refused(f, "b", "acdefg");
	assert_journal(f, 1, "acd");
}

static void test_fatal_with_a_known_culprit(void **state)
{
	struct fixture *f = *state;

	f->poison = "d";
	f->tell_culprit = true;
	flush(f);
	run(f);
	assert_only_refused(f, "d", "abcefg");
	assert_journal(f, 1, "abc");
	assert_int_equal(f->appends, 5); /* all; abc; d ef g: fatal; d: fatal; ef g */
}

static void test_freed_while_a_request_is_out(void **state)
{
	struct fixture *f = *state;

	flush(f);
	writer_free(f->writer);
	f->writer = NULL;
	run(f);
	assert_string_equal(f->stored, "");
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(test_stored),
	        TEST(test_retry_pauses_then_splits_by_tenant),
	        TEST(test_unknown_but_stored),
	        TEST(test_unknown_and_not_stored),
	        TEST(test_ghost_commit_is_fenced),
	        TEST(test_unknown_of_a_replaced_session),
	        TEST(test_unknown_but_stored_by_a_replaced_session),
	        TEST(test_lost_waits_for_the_next_session),
	        TEST(test_nothing_is_sent_while_down),
	        TEST(test_fatal_refuses_the_culprit_alone),
	        TEST(test_fatal_with_a_known_culprit),
	        TEST(test_freed_while_a_request_is_out),
	};

	clock_tick();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
