/* Roles, scheduled events and the leader who moves them, of every backend. */
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

static enum sql_outcome ask_role(struct bus_env *env, struct bus *bus, struct bus_role_claim *req)
{
	bool done = false;

	req->done = on_claimed;
	req->arg = &done;
	req->role = BUS_ROLE_TIMERS;
	bus->ops->role_claim(bus, req);
	assert_false(done);
	suite_wait(env, &done);
	return req->outcome;
}

uint64_t suite_take_role(struct bus_env *env, struct bus *bus)
{
	struct bus_role_claim req = {0};

	assert_int_equal(ask_role(env, bus, &req), SQL_OK);
	return req.epoch;
}

enum sql_outcome suite_release_role(struct bus_env *env, struct bus *bus, uint64_t epoch)
{
	struct bus_role_claim req = {.release = true, .epoch = epoch};

	return ask_role(env, bus, &req);
}

static void on_fired(struct bus_fire *req)
{
	*(bool *)req->arg = true;
}

enum sql_outcome suite_fire(struct bus_env *env, struct bus *bus, struct bus_fire *req)
{
	bool done = false;

	req->done = on_fired;
	req->arg = &done;
	req->early = true;
	bus->ops->fire(bus, req);
	assert_false(done);
	suite_wait(env, &done);
	return req->outcome;
}

void suite_fire_done(struct bus_fire *req)
{
	for (size_t i = 0; i < req->n; i++)
		batch_unref(req->batches[i]);
	free(req->batches);
	free(req->late_ms);
}

static void fire_ok(struct bus_env *env, uint64_t epoch, size_t want)
{
	struct bus_fire req = {.epoch = epoch, .limit = 100};

	assert_int_equal(suite_fire(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.n_late, want);
	suite_fire_done(&req);
}

static struct event timed(uint8_t when, uint64_t when_ms, const char *name, const char *payload)
{
	return (struct event){.topic = slice_str("t"),
	                      .payload = slice_str(payload),
	                      .qos = 1,
	                      .when = when,
	                      .when_ms = when_ms,
	                      .owner = slice_str("alice"),
	                      .name = slice_str(name)};
}

static void add(struct batch *b, uint8_t when, uint64_t when_ms, const char *name,
                const char *payload)
{
	struct event ev = timed(when, when_ms, name, payload);

	assert_int_equal(batch_append(b, &ev, (struct publisher){0}), 0);
}

static void store(struct bus_env *env, struct batch *take)
{
	batch_seal(take);
	assert_int_equal(suite_append(env, env->bus, 0, &take, 1), SQL_OK);
	assert_true(batch_base_seq(take) == 0);
	batch_unref(take);
}

static struct batch *scheduled(const struct bus_env *env)
{
	return batch_new(env->tenant_id, BATCH_SCHEDULED);
}

/* ---- tests --------------------------------------------------------------------------------------
 */

static void test_role_has_one_holder(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, env->bus);
	struct bus_role_claim theirs = {0};
	struct bus_fire late = {.epoch = epoch, .limit = 10};
	struct bus_fire old = {.epoch = epoch, .limit = 10};

	assert_true(epoch > 0);
	assert_true(suite_take_role(env, env->bus) > epoch); /* its own again: a new generation */
	epoch++;
	if (!env->other) {
		assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
		return;
	}
	assert_int_equal(ask_role(env, env->other, &theirs), SQL_LOST);
	assert_true(id128_eq(&theirs.holder.session_id, &env->bus->session_id));
	assert_int_equal(suite_release_role(env, env->other, epoch), SQL_LOST);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_LOST);
	assert_int_equal(suite_take_role(env, env->other), epoch + 1);
	{ /* who held it before moves nothing any more */
		struct batch *b = scheduled(env);

		add(b, EVENT_AFTER, 0, NULL, "1");
		store(env, b);
	}
	assert_int_equal(suite_fire(env, env->bus, &late), SQL_LOST);
	late.epoch = epoch + 1;
	assert_int_equal(suite_fire(env, env->bus, &late), SQL_LOST);
	old.epoch = epoch + 1;
	assert_int_equal(suite_fire(env, env->other, &old), SQL_OK);
	assert_int_equal(old.n_late, 1);
	suite_fire_done(&old);
	suite_expect(env, env->bus, 0, 1, 1, 1);
	assert_int_equal(suite_release_role(env, env->other, epoch + 1), SQL_OK);
}

static void test_fire_moves_what_is_due(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, env->bus);
	uint64_t now = clock_wall_ms();
	struct bus_fire req = {.epoch = epoch, .limit = 100};
	struct batch *b = scheduled(env);
	struct event other = timed(EVENT_AT, now - 500, NULL, "1");

	add(b, EVENT_AT, now - 1000, NULL, "2");
	add(b, EVENT_AT, now - 2000, "first", "1");
	add(b, EVENT_AFTER, 0, NULL, "3");
	add(b, EVENT_AT, now + HOUR_MS, "later", "4");
	add(b, EVENT_AFTER, 2 * HOUR_MS, "much later", "5");
	other.partition_id = 3;
	batch_append(b, &other, (struct publisher){0});
	store(env, b);

	assert_int_equal(suite_fire(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.n, 2);
	assert_int_equal(req.n_late, 4);
	assert_true(req.late_ms[0] >= 1900 && req.late_ms[0] < 60000);
	assert_int_equal(batch_partition(req.batches[0]), 0);
	assert_int_equal(batch_count(req.batches[0]), 3);
	assert_int_equal(batch_base_seq(req.batches[0]), 1);
	assert_int_equal(batch_base_seq(req.batches[1]), 1);
	assert_true(batch_stamp(req.batches[0]) ==
	            batch_stamp_of(env->bus->session_id.b, req.writer_no, req.flush_no));
	assert_true(req.next_in_ms > HOUR_MS / 2 && req.next_in_ms <= HOUR_MS);
	suite_fire_done(&req);
	suite_expect(env, env->bus, 0, 1, 1, 3);
	suite_expect(env, env->bus, 3, 1, 1, 1);
	fire_ok(env, epoch, 0);

	b = scheduled(env);
	add(b, EVENT_CANCEL, 0, "later", "");
	add(b, EVENT_CANCEL, 0, "much later", "");
	store(env, b);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
}

static void test_cancel_and_replace(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, env->bus);
	struct batch *b = scheduled(env);
	struct event bob = timed(EVENT_CANCEL, 0, "n1", "");

	add(b, EVENT_AFTER, HOUR_MS, "n1", "8");
	add(b, EVENT_AFTER, 0, "n2", "9");
	add(b, EVENT_AFTER, 0, "n1", "1"); /* in its place, in one flush */
	add(b, EVENT_CANCEL, 0, "n2", "");
	add(b, EVENT_AFTER, HOUR_MS, "n3", "9");
	batch_seal(b);
	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_OK);
	assert_false(batch_missing(b, 3));
	batch_unref(b);

	b = scheduled(env);
	add(b, EVENT_AFTER, 0, "n3", "2"); /* and in another */
	add(b, EVENT_CANCEL, 0, "n2", "");
	bob.owner = slice_str("bob"); /* whose names are not alice's */
	batch_append(b, &bob, (struct publisher){0});
	batch_seal(b);
	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_OK);
	assert_true(batch_missing(b, 1));
	assert_true(batch_missing(b, 2));
	batch_unref(b);
	fire_ok(env, epoch, 2);
	suite_expect(env, env->bus, 0, 1, 1, 2);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
}

/* One flush with batches of both kinds. */
static void test_mixed_flush(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, env->bus);
	struct batch *batches[3] = {suite_batch(env->tenant_id, 0, 1, 2),
	                            suite_batch(env->tenant_id, 2, 1, 1), scheduled(env)};

	for (int i = 0; i < 150; i++) /* several sizes of insert */
		add(batches[2], EVENT_AT, 1000 + (uint64_t)i, NULL, "3");
	batch_seal(batches[2]);
	assert_int_equal(suite_append(env, env->bus, 1, batches, 3), SQL_OK);
	assert_int_equal(batch_base_seq(batches[0]), 1);
	assert_int_equal(batch_base_seq(batches[1]), 1);
	assert_int_equal(batch_base_seq(batches[2]), 0);
	for (int i = 0; i < 3; i++)
		batch_unref(batches[i]);
	suite_expect(env, env->bus, 0, 1, 1, 2);
	suite_expect(env, env->bus, 2, 1, 1, 1);
	fire_ok(env, epoch, 100);
	fire_ok(env, epoch, 50);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
}

static bool has_tenant(const struct bus_fire *req, uint32_t tenant_id)
{
	for (size_t i = 0; i < req->n; i++) {
		if (batch_tenant(req->batches[i]) == tenant_id)
			return true;
	}
	return false;
}

/* Much that is due of one tenant, and a little of another that was due later. */
static void test_fire_is_fair(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, env->bus);
	struct bus_fire first = {.epoch = epoch, .limit = 10};
	struct bus_fire second = {.epoch = epoch, .limit = 10};
	struct batch *b = scheduled(env);
	uint32_t flood = env->tenant_id;

	for (int i = 0; i < 35; i++)
		add(b, EVENT_AT, 1000 + (uint64_t)i, NULL, "1");
	store(env, b);
	begin_test(state);
	b = scheduled(env);
	add(b, EVENT_AT, 100000, NULL, "1");
	add(b, EVENT_AT, 100001, NULL, "2");
	store(env, b);

	assert_int_equal(suite_fire(env, env->bus, &first), SQL_OK);
	assert_true(has_tenant(&first, flood));
	assert_true(has_tenant(&first, env->tenant_id));
	assert_int_equal(first.next_in_ms, 0);
	assert_true(first.n_late <= 10);
	suite_expect(env, env->bus, 0, 1, 1, 2);
	assert_int_equal(suite_fire(env, env->bus, &second), SQL_OK);
	assert_true(second.n_late > 0 && second.n_late <= 10);
	fire_ok(env, epoch, 37 - first.n_late - second.n_late);
	fire_ok(env, epoch, 0);
	suite_fire_done(&first);
	suite_fire_done(&second);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
}

/* ---- wills --------------------------------------------------------------------------------------
 */

/* One word about a will of alice's client; `payload` and the times are of EVENT_WILL. */
static void say_will(struct bus_env *env, enum event_when when, const char *client, uint64_t id,
                     uint64_t delay_ms, const char *payload)
{
	struct batch *b = scheduled(env);
	struct event ev = timed((uint8_t)when, delay_ms, client, payload);

	ev.will_id = id;
	assert_int_equal(batch_append(b, &ev, (struct publisher){0}), 0);
	store(env, b);
}

/* Lost, it is due; after a delay, if it has one. Of one that took its leave there is nothing. */
static void test_will_of_a_lost_client(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, env->bus);
	struct bus_fire req = {.epoch = epoch, .limit = 100};

	say_will(env, EVENT_WILL, "a", 1, 0, "1");
	say_will(env, EVENT_WILL, "b", 2, HOUR_MS, "9");
	say_will(env, EVENT_WILL, "c", 3, 0, "9");
	fire_ok(env, epoch, 0); /* they are connected */
	say_will(env, EVENT_WILL_LOST, "a", 1, 0, "");
	say_will(env, EVENT_WILL_LOST, "b", 2, HOUR_MS, "");
	say_will(env, EVENT_WILL_LOST, "c", 7, 0, ""); /* of an earlier one: late, and of no use */
	say_will(env, EVENT_WILL_DROP, "c", 3, 0, "");
	assert_int_equal(suite_fire(env, env->bus, &req), SQL_OK);
	assert_int_equal(req.n_late, 1);
	assert_true(req.next_in_ms > HOUR_MS / 2 && req.next_in_ms <= HOUR_MS);
	suite_fire_done(&req);
	suite_expect(env, env->bus, 0, 1, 1, 1);
	say_will(env, EVENT_WILL_CANCEL, "b", 0, 0, ""); /* it is back in time */
	req = (struct bus_fire){.epoch = epoch, .limit = 100};
	assert_int_equal(suite_fire(env, env->bus, &req), SQL_OK);
	assert_true(req.n_late == 0 && req.next_in_ms > HOUR_MS);
	suite_fire_done(&req);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
}

/* Its session ends sooner than was thought when the will was stored, and with it the delay: one
 * that is cut to nothing is nobody's to take away any more. */
static void test_will_with_its_delay_cut_short(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, env->bus);

	say_will(env, EVENT_WILL, "a", 1, HOUR_MS, "1");
	say_will(env, EVENT_WILL, "b", 2, HOUR_MS, "2");
	say_will(env, EVENT_WILL, "c", 3, 0, "9");
	say_will(env, EVENT_WILL_LOST, "a", 1, 0, "");
	fire_ok(env, epoch, 1);
	say_will(env, EVENT_WILL_LOST, "b", 2, 0, "");
	say_will(env, EVENT_WILL_CANCEL, "b", 0, 0, "");
	say_will(env, EVENT_WILL_LOST, "c", 3, HOUR_MS, ""); /* or later */
	fire_ok(env, epoch, 1);
	say_will(env, EVENT_WILL_CANCEL, "c", 0, 0, "");
	suite_expect(env, env->bus, 0, 1, 1, 2);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
}

/* A client that is here again, before it was found lost: of two wills the older is due if it has
 * no delay, and else gives way. The same will again, which a new node session stores, is no other.
 */
static void test_will_of_who_is_back(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, env->bus);

	say_will(env, EVENT_WILL, "a", 1, 0, "1");
	say_will(env, EVENT_WILL, "a", 1, 0, "1"); /* stored again */
	fire_ok(env, epoch, 0);
	say_will(env, EVENT_WILL, "a", 2, HOUR_MS, "9");
	fire_ok(env, epoch, 1);
	say_will(env, EVENT_WILL, "a", 3, 0, "2");
	fire_ok(env, epoch, 0);
	say_will(env, EVENT_WILL_LOST, "a", 2, HOUR_MS, ""); /* late */
	say_will(env, EVENT_WILL_LOST, "a", 3, 0, "");
	fire_ok(env, epoch, 1);
	suite_expect(env, env->bus, 0, 1, 1, 2);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
}

/* What another node stored is its own: when that ends, or the will is stored again here. */
static void test_will_of_another_node(void **state)
{
	struct bus_env *env = *state;
	struct event ev = timed(EVENT_WILL, 0, "a", "1");
	struct batch *b;
	uint64_t epoch;

	if (!env->other)
		skip();
	b = scheduled(env);
	epoch = suite_take_role(env, env->bus);
	ev.will_id = 1;
	assert_int_equal(batch_append(b, &ev, (struct publisher){0}), 0);
	batch_seal(b);
	assert_int_equal(suite_append(env, env->other, 0, &b, 1), SQL_OK);
	batch_unref(b);
	fire_ok(env, epoch, 0);
	say_will(env, EVENT_WILL_LOST, "a", 1, 0, ""); /* whoever says so */
	fire_ok(env, epoch, 1);
	suite_expect(env, env->bus, 0, 1, 1, 1);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
}

static void claim_session(struct bus_env *env, struct bus *bus, bool fresh)
{
	static const struct bus_cursor start = {.partition_id = 0};
	struct bus_claim req = {.tenant_id = env->tenant_id,
	                        .kind = BUS_SUB_SESSION,
	                        .subject = slice_str("alice"),
	                        .name = slice_str("a"),
	                        .create = true,
	                        .force = true,
	                        .fresh = fresh,
	                        .expiry_s = 3600,
	                        .filters = slice_str("[]"),
	                        .n_starts = 1,
	                        .starts = &start};

	assert_int_equal(suite_claim(env, bus, &req), SQL_OK);
	bus->ops->claim_release(bus, &req);
}

/* [MQTT-3.1.3-9]: who comes back to its session in time has no will published; a Clean Start, here
 * or at another node, ends the session, and with it the delay of its will. */
static void test_a_fresh_session_ends_the_delay(void **state)
{
	struct bus_env *env = *state;
	struct bus *other = env->other ? env->other : env->bus;
	uint64_t epoch = suite_take_role(env, env->bus);

	claim_session(env, env->bus, true);
	say_will(env, EVENT_WILL, "a", 1, HOUR_MS, "1");
	say_will(env, EVENT_WILL, "b", 2, HOUR_MS, "9");
	claim_session(env, other, false);
	fire_ok(env, epoch, 0);
	claim_session(env, other, true); /* its node has not noticed yet */
	fire_ok(env, epoch, 1);
	say_will(env, EVENT_WILL_LOST, "a", 1, HOUR_MS, "");
	fire_ok(env, epoch, 0); /* once */

	say_will(env, EVENT_WILL, "a", 3, HOUR_MS, "2");
	say_will(env, EVENT_WILL_LOST, "a", 3, HOUR_MS, "");
	say_will(env, EVENT_WILL_LOST, "b", 2, HOUR_MS, "");
	fire_ok(env, epoch, 0);
	claim_session(env, other, true);
	fire_ok(env, epoch, 1);
	suite_expect(env, env->bus, 0, 1, 1, 2);
	say_will(env, EVENT_WILL_CANCEL, "b", 0, 0, "");
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
}

/* Its expiry is counted from when it is published. */
static void test_will_expiry(void **state)
{
	enum { MINUTE_MS = 60 * 1000 };
	struct bus_env *env = *state;
	uint64_t epoch = suite_take_role(env, env->bus);
	struct batch *b = scheduled(env);
	struct event ev = timed(EVENT_WILL, 0, "a", "1");
	struct bus_read read = {.tenant_id = env->tenant_id, .from_seq = 1, .max_bytes = 1000};
	struct event got;

	ev.will_id = 1;
	ev.will_expiry_ms = MINUTE_MS;
	ev.key = slice_str("k");
	assert_int_equal(batch_append(b, &ev, (struct publisher){0}), 0);
	store(env, b);
	say_will(env, EVENT_WILL_LOST, "a", 1, 0, "");
	fire_ok(env, epoch, 1);
	assert_int_equal(suite_read(env, env->bus, &read), SQL_OK);
	assert_int_equal(read.n, 1);
	batch_event(read.batches[0], 0, &got);
	assert_true(got.expires_ms > clock_wall_ms() + MINUTE_MS / 2);
	assert_true(got.expires_ms < clock_wall_ms() + 2 * MINUTE_MS);
	assert_true(slice_eq(got.key, slice_str("k")));
	suite_read_done(&read);
	assert_int_equal(suite_release_role(env, env->bus, epoch), SQL_OK);
}

int bus_suite_leader_run(struct bus_env *env, int (*begin)(void **state))
{
#define TEST(f)                         \
	{                               \
#f, f, begin, NULL, env \
	}
	const struct CMUnitTest tests[] = {
	        TEST(test_role_has_one_holder),
	        TEST(test_fire_moves_what_is_due),
	        TEST(test_cancel_and_replace),
	        TEST(test_mixed_flush),
	        TEST(test_fire_is_fair),
	        TEST(test_will_of_a_lost_client),
	        TEST(test_will_with_its_delay_cut_short),
	        TEST(test_will_of_who_is_back),
	        TEST(test_will_of_another_node),
	        TEST(test_a_fresh_session_ends_the_delay),
	        TEST(test_will_expiry),
	};

	begin_test = begin;
	return cmocka_run_group_tests_name("leader", tests, NULL, NULL);
}
