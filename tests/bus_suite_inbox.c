/* What applications publish in SQL and the leader who moves it, of every backend. */
#include "base/clock.h"
#include "tests/bus_suite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { HOUR_MS = 3600 * 1000 };

static int (*begin_test)(void **state);

/* ---- requests -----------------------------------------------------------------------------------
 */

static void on_claimed(struct bus_role_claim *req)
{
	*(bool *)req->arg = true;
}

static enum sql_outcome ask_role(struct bus_env *env, struct bus *bus, bool release,
                                 uint64_t *epoch)
{
	bool done = false;
	struct bus_role_claim req = {.done = on_claimed,
	                             .arg = &done,
	                             .role = BUS_ROLE_INBOX,
	                             .release = release,
	                             .epoch = *epoch};

	bus->ops->role_claim(bus, &req);
	suite_wait(env, &done);
	*epoch = req.epoch;
	return req.outcome;
}

uint64_t suite_take_inbox(struct bus_env *env, struct bus *bus)
{
	uint64_t epoch = 0;

	assert_int_equal(ask_role(env, bus, false, &epoch), SQL_OK);
	return epoch;
}

void suite_release_inbox(struct bus_env *env, struct bus *bus, uint64_t epoch)
{
	assert_int_equal(ask_role(env, bus, true, &epoch), SQL_OK);
}

static void on_collected(struct bus_collect *req)
{
	*(bool *)req->arg = true;
}

enum sql_outcome suite_collect(struct bus_env *env, struct bus *bus, struct bus_collect *req)
{
	bool done = false;

	req->done = on_collected;
	req->arg = &done;
	bus->ops->collect(bus, req);
	assert_false(done);
	suite_wait(env, &done);
	return req->outcome;
}

void suite_collect_done(struct bus_collect *req)
{
	for (size_t i = 0; i < req->n; i++)
		batch_unref(req->batches[i]);
	free(req->batches);
	free(req->late_ms);
	free(req->tenants);
}

static void collect_ok(struct bus_env *env, uint64_t epoch, size_t want)
{
	struct bus_collect req = {.epoch = epoch, .limit = 100};

	assert_int_equal(suite_collect(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.n_late, want);
	suite_collect_done(&req);
}

static void publish(struct bus_env *env, uint64_t in_ms, unsigned payload)
{
	char text[12];
	struct event ev = {.topic = slice_str("t"),
	                   .qos = 1,
	                   .when = in_ms ? EVENT_AT : EVENT_NOW,
	                   .when_ms = in_ms ? clock_wall_ms() + in_ms : 0};
	struct batch *one = batch_new(env->tenant_id, in_ms ? BATCH_SCHEDULED : 0);

	snprintf(text, sizeof text, "%u", payload);
	ev.payload = slice_str(text);
	batch_append(one, &ev, (struct publisher){0});
	batch_seal(one);
	env->publish(env, one);
	batch_unref(one);
}

/* ---- tests --------------------------------------------------------------------------------------
 */

static void test_collect_moves_what_is_there(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, env->bus);
	struct bus_collect req = {.epoch = epoch, .limit = 100};

	collect_ok(env, epoch, 0);
	for (unsigned i = 1; i <= 70; i++)
		publish(env, 0, i);
	assert_int_equal(suite_collect(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.n, 1);
	assert_int_equal(req.n_late, 70);
	assert_true(req.late_ms[0] < 60000);
	assert_true(req.due_in_ms == UINT64_MAX);
	assert_false(req.more);
	assert_int_equal(batch_count(req.batches[0]), 70);
	assert_int_equal(batch_base_seq(req.batches[0]), 1);
	assert_true(batch_stamp(req.batches[0]) ==
	            batch_stamp_of(env->bus->session_id.b, req.writer_no, req.flush_no));
	suite_collect_done(&req);
	suite_expect(env, env->bus, 0, 1, 1, 70);
	collect_ok(env, epoch, 0);
	publish(env, 0, 71);
	collect_ok(env, epoch, 1);
	suite_expect(env, env->bus, 0, 1, 1, 71);
	suite_release_inbox(env, env->bus, epoch);
}

static void test_collect_is_for_who_holds_the_role(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, env->bus);
	struct bus_collect late = {.epoch = epoch, .limit = 10};
	struct bus_collect theirs = {.epoch = epoch + 1, .limit = 10};
	uint64_t none = 0;

	if (!env->other) {
		suite_release_inbox(env, env->bus, epoch);
		return;
	}
	assert_int_equal(ask_role(env, env->other, false, &none), SQL_LOST);
	suite_release_inbox(env, env->bus, epoch);
	assert_int_equal(suite_take_inbox(env, env->other), epoch + 1);
	publish(env, 0, 1);
	assert_int_equal(suite_collect(env, env->bus, &late), SQL_LOST);
	assert_int_equal(suite_collect(env, env->bus, &theirs),
	                 SQL_LOST); /* it is another session's */
	theirs.epoch = epoch + 1;
	assert_int_equal(suite_collect(env, env->other, &theirs), SQL_OK);
	assert_int_equal(theirs.n_late, 1);
	suite_collect_done(&theirs);
	suite_expect(env, env->bus, 0, 1, 1, 1);
	suite_release_inbox(env, env->other, epoch + 1);
}

static void test_collect_schedules(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, env->bus);
	struct bus_collect req = {.epoch = epoch, .limit = 100};

	publish(env, 2 * HOUR_MS, 8);
	publish(env, 0, 1);
	publish(env, HOUR_MS, 9);
	assert_int_equal(suite_collect(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.n, 1);
	assert_int_equal(req.n_late, 3);
	assert_true(req.due_in_ms > HOUR_MS / 2 && req.due_in_ms <= HOUR_MS);
	suite_collect_done(&req);
	suite_expect(env, env->bus, 0, 1, 1, 1);
	collect_ok(env, epoch, 0);
	suite_release_inbox(env, env->bus, epoch);
}

static bool has_tenant(const struct bus_collect *req, uint32_t tenant_id)
{
	for (size_t i = 0; i < req->n; i++) {
		if (batch_tenant(req->batches[i]) == tenant_id)
			return true;
	}
	return false;
}

static void test_collect_is_fair(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, env->bus);
	struct bus_collect first = {.epoch = epoch, .limit = 10};
	uint32_t flood = env->tenant_id;
	uint32_t quiet;
	size_t moved = 0;

	for (unsigned i = 1; i <= 35; i++)
		publish(env, 0, i);
	begin_test(state);
	quiet = env->tenant_id;
	publish(env, 0, 1);
	publish(env, 0, 2);
	assert_int_equal(suite_collect(env, env->bus, &first), SQL_OK);
	assert_true(has_tenant(&first, flood));
	assert_true(has_tenant(&first, quiet));
	assert_true(first.more);
	assert_true(first.n_late <= 10);
	assert_true(first.waiting >= 25);
	suite_expect(env, env->bus, 0, 1, 1, 2);
	moved = first.n_late;
	suite_collect_done(&first);
	while (moved < 37) {
		struct bus_collect next = {.epoch = epoch, .limit = 10};

		assert_int_equal(suite_collect(env, env->bus, &next), SQL_OK);
		assert_true(next.n_late > 0 && next.n_late <= 10);
		moved += next.n_late;
		suite_collect_done(&next);
	}
	collect_ok(env, epoch, 0);
	env->tenant_id = flood;
	suite_expect(env, env->bus, 0, 1, 1, 35);
	env->tenant_id = quiet;
	suite_release_inbox(env, env->bus, epoch);
}

/* ---- rates --------------------------------------------------------------------------------------
 */

enum { ALLOWED_MAX = 4 };

/* What is allowed now; of who is not in it, all. */
static struct {
	struct bus_allowance may;
	uint32_t tenant_id;
	unsigned asked;
} allowed[ALLOWED_MAX];

static void allow(void *arg, uint32_t tenant_id, bool later, struct bus_allowance *out)
{
	(void)arg;
	(void)later;
	*out = BUS_ALLOWANCE_ALL;
	for (size_t i = 0; i < ALLOWED_MAX; i++) {
		if (allowed[i].tenant_id == tenant_id) {
			*out = allowed[i].may;
			allowed[i].asked++;
		}
	}
}

static void allow_only(size_t no, uint32_t tenant_id, uint64_t events, uint64_t bytes)
{
	allowed[no].tenant_id = tenant_id;
	allowed[no].may = (struct bus_allowance){events, bytes, UINT64_MAX, UINT64_MAX};
}

static const struct bus_collected *of(const struct bus_collect *req, uint32_t tenant_id)
{
	for (size_t i = 0; i < req->n_tenants; i++) {
		if (req->tenants[i].tenant_id == tenant_id)
			return &req->tenants[i];
	}
	return NULL;
}

/* Collect at most `limit`; `want` events are moved. */
static struct bus_collect collect_some(struct bus_env *env, uint64_t epoch, uint32_t limit,
                                       size_t want)
{
	struct bus_collect req = {.epoch = epoch, .limit = limit, .allow = allow};

	assert_int_equal(suite_collect(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.n_late, want);
	return req;
}

/* Who is at its rate is held, whatever else is there, and the rest of it comes in its order. */
static void test_collect_at_a_rate(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, env->bus);
	uint32_t slow = env->tenant_id;
	uint32_t quiet;
	struct bus_collect req;

	memset(allowed, 0, sizeof allowed);
	for (unsigned i = 1; i <= 35; i++)
		publish(env, 0, i);
	begin_test(state);
	quiet = env->tenant_id;
	allow_only(0, slow, 5, UINT64_MAX);
	publish(env, 0, 1);
	req = collect_some(env, epoch, 100, 6);
	assert_int_equal(of(&req, slow)->events, 5);
	assert_true(of(&req, slow)->held && !of(&req, quiet)->held);
	assert_int_equal(req.held, 1);
	assert_int_equal(req.waiting, 30);
	assert_false(req.more);
	suite_collect_done(&req);
	suite_expect(env, env->bus, 0, 1, 1, 1);

	allow_only(0, slow, 0, UINT64_MAX);
	for (unsigned i = 2; i <= 4; i++) { /* others go on */
		publish(env, 0, i);
		req = collect_some(env, epoch, 100, 1);
		assert_true(!of(&req, slow) || of(&req, slow)->events == 0);
		assert_int_equal(req.held, 1);
		suite_collect_done(&req);
	}
	suite_expect(env, env->bus, 0, 1, 1, 4);

	allow_only(0, slow, 21, UINT64_MAX);
	req = collect_some(env, epoch, 10, 10); /* there is more than one takes */
	assert_true(req.more);
	suite_collect_done(&req);
	req = collect_some(env, epoch, 100, 20);
	suite_collect_done(&req);
	req = collect_some(env, epoch, 100, 0);
	assert_int_equal(req.held, 0);
	suite_collect_done(&req);
	env->tenant_id = slow;
	suite_expect(env, env->bus, 0, 1, 1, 35);
	env->tenant_id = quiet;
	suite_release_inbox(env, env->bus, epoch);
}

/* An event is moved whole while any bytes are left: "1" to "9" have one, "10" has two. */
static void test_collect_by_bytes(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, env->bus);
	struct bus_collect req;

	memset(allowed, 0, sizeof allowed);
	allow_only(0, env->tenant_id, UINT64_MAX, 10);
	for (unsigned i = 1; i <= 12; i++)
		publish(env, 0, i);
	req = collect_some(env, epoch, 100, 10);
	assert_int_equal(of(&req, env->tenant_id)->bytes, 11);
	assert_int_equal(req.held, 1);
	suite_collect_done(&req);
	allow_only(0, env->tenant_id, UINT64_MAX, UINT64_MAX);
	req = collect_some(env, epoch, 100, 2);
	assert_int_equal(req.held, 0);
	suite_collect_done(&req);
	suite_expect(env, env->bus, 0, 1, 1, 12);
	suite_release_inbox(env, env->bus, epoch);
}

/* What is larger than an event may be is out of the way, and holds up nobody: "10" to "12" are. */
static void test_collect_too_large(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_inbox(env, env->bus);
	struct bus_collect req;

	memset(allowed, 0, sizeof allowed);
	allow_only(0, env->tenant_id, 9, 9);
	allowed[0].may.event_bytes = 1;
	for (unsigned i = 1; i <= 12; i++)
		publish(env, 0, i);
	req = collect_some(env, epoch, 100, 9);
	assert_int_equal(of(&req, env->tenant_id)->events, 9);
	suite_collect_done(&req);
	req = collect_some(env, epoch, 100, 0);
	assert_int_equal(req.set_aside, 3);
	assert_int_equal(of(&req, env->tenant_id)->too_large, 3);
	assert_int_equal(of(&req, env->tenant_id)->largest, 2);
	assert_int_equal(req.held, 0);
	suite_collect_done(&req);
	suite_expect(env, env->bus, 0, 1, 1, 9);
	suite_release_inbox(env, env->bus, epoch);
}

int bus_suite_inbox_run(struct bus_env *env, int (*begin)(void **state))
{
#define TEST(f)                         \
	{                               \
#f, f, begin, NULL, env \
	}
	const struct CMUnitTest tests[] = {
	        TEST(test_collect_moves_what_is_there),
	        TEST(test_collect_is_for_who_holds_the_role),
	        TEST(test_collect_schedules),
	        TEST(test_collect_is_fair),
	};
	const struct CMUnitTest rates[] = {
	        TEST(test_collect_at_a_rate),
	        TEST(test_collect_by_bytes),
	        TEST(test_collect_too_large),
	};

	begin_test = begin;
	return cmocka_run_group_tests_name("inbox", tests, NULL, NULL) +
	       (env->allows_all ? 0
	                        : cmocka_run_group_tests_name("inbox rates", rates, NULL, NULL));
}
