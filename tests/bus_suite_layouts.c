/* Layouts: sealed heads, and a subscription's step from one layout to the next. */
#include "tests/bus_suite.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void on_done(struct bus_layouts *req)
{
	*(bool *)req->arg = true;
}

static void layouts(struct bus_env *env, struct bus_layouts *req)
{
	bool done = false;

	req->done = on_done;
	req->arg = &done;
	req->tenant_id = env->tenant_id;
	env->bus->ops->layouts(env->bus, req);
	assert_false(done);
	suite_wait(env, &done);
	assert_int_equal(req->outcome, SQL_OK);
}

static void on_append(struct bus_append *req)
{
	*(bool *)req->arg = true;
}

static void append(struct bus_env *env, struct bus_append *req, struct batch **batches, size_t n)
{
	const struct bus_writer_state *w = &env->writers[0][0];
	bool done = false;

	*req = (struct bus_append){.done = on_append,
	                           .arg = &done,
	                           .flush_no = w->flush_no + 1,
	                           .fence = w->fence,
	                           .n = n,
	                           .batches = batches};
	env->bus->ops->append(env->bus, req);
	suite_wait(env, &done);
}

static void append_one(struct bus_env *env, uint32_t partition, unsigned first)
{
	struct batch *b = suite_batch(env->tenant_id, partition, first, 1);

	assert_int_equal(suite_append(env, env->bus, 0, &b, 1), SQL_OK);
	batch_unref(b);
}

/* Nothing is stored, of the other heads neither, and it is told where events go now. */
static void expect_sealed(struct bus_env *env, uint32_t first_partition, uint32_t n)
{
	struct batch *two[2] = {suite_batch(env->tenant_id, 0, 90, 3),
	                        suite_batch(env->tenant_id, 4, 90, 3)};
	struct bus_append req;

	for (size_t k = 1; k <= 2; k++) { /* a small flush, and one of two heads */
		append(env, &req, two, k);
		assert_int_equal(req.outcome, SQL_FATAL);
		assert_int_equal(req.sealed_tenant, env->tenant_id);
		assert_int_equal(req.layout.first, first_partition);
		assert_int_equal(req.layout.n, n);
	}
	batch_unref(two[0]);
	batch_unref(two[1]);
}

static void test_sealed_heads_refuse(void **state)
{
	struct bus_env *env = *state;
	struct batch *gone[2] = {suite_batch(env->tenant_id, 0, 1, 2),
	                         suite_batch(999999, 0, 1, 1)};
	struct bus_append req;

	append_one(env, 0, 1);
	env->set_partitions(env, 2);
	expect_sealed(env, 4, 2);
	append_one(env, 4, 1);
	append_one(env, 5, 1);
	suite_expect(env, env->bus, 0, 1, 1, 1);
	suite_expect(env, env->bus, 4, 1, 1, 1);
	env->set_partitions(env, 1);
	expect_sealed(env, 6, 1);
	/* what else the flush holds does not matter */
	append(env, &req, gone, 2);
	assert_int_equal(req.outcome, SQL_FATAL);
	assert_int_equal(req.sealed_tenant, env->tenant_id);
	batch_unref(gone[0]);
	batch_unref(gone[1]);
}

static void test_layouts_are_told(void **state)
{
	static const struct layout_head want[] = {
	        {0, 0, 3, true},  {1, 0, 1, true},  {2, 0, 1, true},
	        {3, 0, 1, true},  {4, 4, 1, true},  {5, 4, 2, true},
	        {6, 6, 1, false}, {7, 6, 1, false}, {8, 6, 1, false}};
	struct bus_env *env = *state;
	struct bus_layouts req = {0};

	append_one(env, 0, 1);
	append_one(env, 0, 2);
	env->set_partitions(env, 2);
	append_one(env, 5, 1);
	env->set_partitions(env, 3);
	layouts(env, &req);
	assert_int_equal(req.n, 9);
	for (size_t i = 0; i < req.n; i++) {
		assert_int_equal(req.heads[i].partition_id, want[i].partition_id);
		assert_int_equal(req.heads[i].layout, want[i].layout);
		assert_int_equal(req.heads[i].next_seq, want[i].next_seq);
		assert_int_equal(req.heads[i].sealed, want[i].sealed);
	}
	free(req.heads);
	req = (struct bus_layouts){.from_partition = 5};
	layouts(env, &req);
	assert_int_equal(req.n, 4);
	assert_int_equal(req.heads[0].partition_id, 5);
	free(req.heads);
}

static void claim(struct bus_env *env, struct bus_claim *req)
{
	static const struct bus_cursor starts[4] = {
	        {.partition_id = 0}, {.partition_id = 1}, {.partition_id = 2}, {.partition_id = 3}};

	*req = (struct bus_claim){.tenant_id = env->tenant_id,
	                          .kind = BUS_SUB_SHARE,
	                          .name = slice_str("g/#"),
	                          .create = true,
	                          .expiry_s = 60,
	                          .filters = slice_str("[]"),
	                          .n_starts = 4,
	                          .starts = starts};
	assert_int_equal(suite_claim(env, env->bus, req), SQL_OK);
}

static void expect_cursors(const struct bus_claim *req, const uint64_t *through, uint32_t first,
                           uint32_t n)
{
	assert_int_equal(req->n_cursors, n);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(req->cursors[i].partition_id, first + i);
		assert_int_equal(req->cursors[i].acked_through, through[i]);
	}
}

/* The cursors of one layout give way to those of the next; the same again changes nothing. */
static void test_a_step(void **state)
{
	static const struct bus_cursor next[2] = {{.partition_id = 4}, {.partition_id = 5}};
	static const uint64_t none[4];
	struct bus_env *env = *state;
	struct bus_claim c;
	struct bus_change step = {.verb = BUS_CHANGE_LAYOUT, .n_starts = 2, .starts = next};
	struct bus_cursor_row row;
	struct bus_commit commit = {.n = 1, .rows = &row};

	claim(env, &c);
	expect_cursors(&c, none, 0, 4);
	step.tenant_id = env->tenant_id;
	step.subscription_id = c.subscription_id;
	step.epoch = c.epoch + 1;
	env->bus->ops->claim_release(env->bus, &c);
	env->set_partitions(env, 2);
	assert_int_equal(suite_change(env, env->bus, &step), SQL_LOST);
	step.epoch--;
	assert_int_equal(suite_change(env, env->bus, &step), SQL_OK);
	row = (struct bus_cursor_row){.tenant_id = env->tenant_id,
	                              .subscription_id = step.subscription_id,
	                              .epoch = step.epoch,
	                              .to = {.partition_id = 5, .acked_through = 7}};
	assert_int_equal(suite_commit(env, env->bus, &commit), SQL_OK);
	assert_false(row.fenced);
	row.to.partition_id = 0;
	assert_int_equal(suite_commit(env, env->bus, &commit), SQL_OK);
	assert_true(row.fenced); /* it has left that layout */
	assert_int_equal(suite_change(env, env->bus, &step), SQL_OK);
	claim(env, &c);
	expect_cursors(&c, (uint64_t[]){0, 7}, 4, 2);
	env->bus->ops->claim_release(env->bus, &c);
}

int bus_suite_layouts_run(struct bus_env *env, int (*begin)(void **state))
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_prestate_setup_teardown(test_sealed_heads_refuse, begin, NULL,
	                                                 env),
	        cmocka_unit_test_prestate_setup_teardown(test_layouts_are_told, begin, NULL, env),
	        cmocka_unit_test_prestate_setup_teardown(test_a_step, begin, NULL, env),
	};

	return env->set_partitions ? cmocka_run_group_tests_name("layouts", tests, NULL, NULL) : 0;
}
