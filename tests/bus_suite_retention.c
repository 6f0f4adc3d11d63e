/* Retention, of every backend. */
#include "tests/bus_suite.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { EVENTS = 3, LIMIT = 100 }; /* of a batch; batches a step */

static void on_role(struct bus_role_claim *req)
{
	*(bool *)req->arg = true;
}

static uint64_t role(struct bus_env *env, uint64_t release)
{
	bool done = false;
	struct bus_role_claim req = {.done = on_role,
	                             .arg = &done,
	                             .role = BUS_ROLE_RETENTION,
	                             .release = release != 0,
	                             .epoch = release};

	env->bus->ops->role_claim(env->bus, &req);
	suite_wait(env, &done);
	assert_int_equal(req.outcome, SQL_OK);
	return req.epoch;
}

static void on_retained(struct bus_retain *req)
{
	*(bool *)req->arg = true;
}

static enum sql_outcome retain(struct bus_env *env, struct bus_retain *req)
{
	bool done = false;

	req->done = on_retained;
	req->arg = &done;
	env->bus->ops->retain(env->bus, req);
	assert_false(done);
	suite_wait(env, &done);
	return req->outcome;
}

/* Batches that went with this much left for each tenant. */
static uint32_t shorten_to(struct bus_env *env, uint64_t epoch, uint64_t max_stored_bytes)
{
	struct bus_retain req = {
	        .epoch = epoch, .limit = LIMIT, .max_stored_bytes = max_stored_bytes};

	assert_int_equal(retain(env, &req), SQL_OK);
	assert_false(req.more);
	return req.removed;
}

/* What earlier tests left is none of this one's. */
static uint64_t begin_empty(struct bus_env *env)
{
	uint64_t epoch = role(env, 0);
	struct bus_retain req = {.epoch = epoch, .limit = BUS_RETAIN_MAX, .max_stored_bytes = 1};

	do
		assert_int_equal(retain(env, &req), SQL_OK);
	while (req.more);
	return epoch;
}

/* Batches of EVENTS events each; the bytes of one. */
static uint64_t append(struct bus_env *env, unsigned n)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++) {
		struct batch *b = suite_batch(env->tenant_id, 0, 1 + i * EVENTS, EVENTS);

		assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_OK);
		bytes = batch_bytes(b);
		batch_unref(b);
	}
	return bytes;
}

static uint64_t first_left(struct bus_env *env)
{
	struct bus_read req = {.tenant_id = env->tenant_id, .from_seq = 1, .max_bytes = 1 << 30};
	uint64_t first;

	assert_int_equal(suite_read(env, env->bus, &req), SQL_OK);
	first = req.n ? batch_base_seq(req.batches[0]) : req.next_seq;
	suite_read_done(&req);
	return first;
}

static void test_oldest_go_in_steps(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = begin_empty(env);
	uint64_t bytes = append(env, 3);
	struct bus_retain req = {
	        .epoch = epoch, .limit = 1, .max_stored_bytes = bytes, .retention_s = 3600};

	assert_int_equal(shorten_to(env, epoch, 3 * bytes), 0);
	assert_int_equal(retain(env, &req), SQL_OK);
	assert_int_equal(req.removed, 1);
	assert_true(req.more);
	assert_int_equal(first_left(env), 4);
	assert_int_equal(retain(env, &req), SQL_OK);
	assert_int_equal(req.removed, 1);
	assert_int_equal(first_left(env), 7);
	assert_int_equal(retain(env, &req), SQL_OK); /* young, and within the limit */
	assert_int_equal(req.removed, 0);
	assert_false(req.more);
	assert_int_equal(shorten_to(env, epoch, 1), 1); /* the newest may go, too */
	assert_int_equal(first_left(env), 10);
	append(env, 1);
	assert_int_equal(first_left(env), 10); /* numbers are never given again */
	role(env, epoch);
}

static void test_retention_is_fenced(void **state)
{
	struct bus_env *env = *state;
	uint64_t epoch = begin_empty(env);
	struct bus_retain req = {.epoch = epoch - 1, .limit = LIMIT, .max_stored_bytes = 1};

	append(env, 2);
	assert_int_equal(retain(env, &req), SQL_LOST);
	role(env, epoch);
	req.epoch = epoch;
	assert_int_equal(retain(env, &req), SQL_LOST);
	assert_int_equal(first_left(env), 1);
	epoch = role(env, 0);
	assert_int_equal(shorten_to(env, epoch, 1), 2);
	role(env, epoch);
}

static struct bus_claim queue_at(struct bus_env *env, bool pin, const struct bus_cursor *start)
{
	struct bus_claim claim = {
	        .tenant_id = env->tenant_id,
	        .kind = BUS_SUB_QUEUE,
	        .name = slice_str("jobs"),
	        .create = true,
	        .expiry_s = UINT32_MAX,
	        .filters = slice_str("[]"),
	        .n_starts = 1,
	        .starts = start,
	        .policy = BUS_POLICY_DEFAULT,
	};

	claim.policy.pin = pin;
	assert_int_equal(suite_claim(env, env->bus, &claim), SQL_OK);
	return claim;
}

static void move_cursor(struct bus_env *env, const struct bus_claim *claim, uint64_t through)
{
	struct bus_cursor_row row = {
	        .tenant_id = env->tenant_id,
	        .subscription_id = claim->subscription_id,
	        .epoch = claim->epoch,
	        .to = {.acked_through = through, .commit_no = 0},
	};
	struct bus_commit req = {.n = 1, .rows = &row};

	assert_int_equal(suite_commit(env, env->bus, &req), SQL_OK);
	assert_false(row.fenced);
}

static void test_a_pinned_queue_is_waited_for(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor start = {.acked_through = 4}; /* in the middle of the second batch */
	uint64_t epoch = begin_empty(env);
	struct bus_claim claim = queue_at(env, true, &start);

	append(env, 5);
	assert_int_equal(shorten_to(env, epoch, 1), 1);
	assert_int_equal(shorten_to(env, epoch, 1), 0);
	assert_int_equal(first_left(env), 4);
	move_cursor(env, &claim, 9);
	assert_int_equal(shorten_to(env, epoch, 1), 2);
	assert_int_equal(first_left(env), 10);
	env->bus->ops->claim_release(env->bus, &claim);
	role(env, epoch);
}

/* A reader is overtaken once, however many steps go on from there. */
static void test_gaps_are_counted_once(void **state)
{
	struct bus_env *env = *state;
	struct bus_cursor start = {.acked_through = 4};
	uint64_t epoch = begin_empty(env);
	struct bus_claim claim = queue_at(env, false, &start);
	struct bus_retain req = {.epoch = epoch, .limit = 1, .max_stored_bytes = 1};
	uint32_t gaps[4];

	append(env, 4);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(retain(env, &req), SQL_OK);
		assert_int_equal(req.removed, 1);
		gaps[i] = req.gaps;
	}
	assert_int_equal(gaps[0], 0); /* it had read all of that */
	assert_int_equal(gaps[1], 1);
	assert_int_equal(gaps[2], 0);
	assert_int_equal(gaps[3], 0);
	env->bus->ops->claim_release(env->bus, &claim);
	role(env, epoch);
}

int bus_suite_retention_run(struct bus_env *env, int (*begin)(void **state))
{
#define TEST(f)                         \
	{                               \
#f, f, begin, NULL, env \
	}
	const struct CMUnitTest tests[] = {
	        TEST(test_oldest_go_in_steps),
	        TEST(test_retention_is_fenced),
	        TEST(test_a_pinned_queue_is_waited_for),
	        TEST(test_gaps_are_counted_once),
	};

	return cmocka_run_group_tests_name("retention", tests, NULL, NULL);
}
