/* Whose journal read is next. */
#include "node/delivery/delivery.h"

#include "base/mem.h"
#include "node/net/timeshare.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MANY = 60, MAX_ASKED = 200 };

static struct bus_read *asked[MAX_ASKED]; /* of the bus, in this order */
static uint32_t tenants[MAX_ASKED];       /* whose they are */
static size_t n_asked;
static size_t n_answered;

static void read_stub(struct bus *bus, struct bus_read *req)
{
	(void)bus;
	assert_true(n_asked < MAX_ASKED);
	tenants[n_asked] = req->tenant_id;
	asked[n_asked++] = req;
}

static const struct bus_ops ops = {.read = read_stub};
static struct bus bus = {.ops = &ops};

/* A tenant with something to read in each of its partitions. */
struct reader {
	struct space space;
	struct partition partitions[MANY];
};

static void reader_enter(struct reader *r, struct dispatch *d, uint32_t tenant_id)
{
	*r = (struct reader){.space = {.dispatch = d, .tenant_id = tenant_id}};
	reads_enter(&r->space);
	for (uint32_t i = 0; i < MANY; i++)
		r->partitions[i] = (struct partition){.space = &r->space, .id = i};
}

static void ask(struct reader *r, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		r->partitions[i].reading = true;
		reads_ask(&r->partitions[i]);
	}
}

static void answer(struct dispatch *d)
{
	assert_true(n_answered < n_asked);
	free(asked[n_answered++]);
	reads_done(d);
}

static int setup(void **state)
{
	struct dispatch *d = xcalloc(1, sizeof *d);

	n_asked = n_answered = 0;
	d->bus = &bus;
	reads_init(d);
	*state = d;
	return 0;
}

static int teardown(void **state)
{
	struct dispatch *d = *state;

	while (n_answered < n_asked)
		answer(d);
	assert_int_equal(d->reads.under_way, 0);
	free(d);
	return 0;
}

/* Whoever has one read waits for those under way and for one of each other tenant at most. */
static void test_one_beside_many(void **state)
{
	struct dispatch *d = *state;
	struct reader flood;
	struct reader quiet;
	size_t under_way;

	reader_enter(&flood, d, 1);
	reader_enter(&quiet, d, 2);
	ask(&flood, 0, MANY);
	under_way = n_asked;
	assert_in_range(under_way, 1, 8); /* the rest is not the bus's yet: it would be in front */
	ask(&quiet, 0, 1);
	answer(d);
	answer(d);
	assert_int_equal(n_asked, under_way + 2);
	assert_true(tenants[under_way] == 2 || tenants[under_way + 1] == 2);
	while (n_answered < n_asked)
		answer(d);
	assert_int_equal(n_answered, MANY + 1);
	reads_leave(&flood.space);
	reads_leave(&quiet.space);
}

/* Two that want much get the same, in whatever order they came. */
static void test_halves(void **state)
{
	struct dispatch *d = *state;
	struct reader a;
	struct reader b;
	size_t of_b = 0;
	size_t before;

	reader_enter(&a, d, 1);
	reader_enter(&b, d, 2);
	ask(&a, 0, MANY);
	ask(&b, 0, MANY);
	before = n_asked;
	for (int i = 0; i < 20; i++)
		answer(d);
	for (size_t i = before; i < n_asked; i++)
		of_b += tenants[i] == 2;
	assert_int_equal(n_asked, before + 20);
	assert_in_range(of_b, 9, 11);
	while (n_answered < n_asked)
		answer(d);
	reads_leave(&a.space);
	reads_leave(&b.space);
}

/* A partition that goes leaves its place to the next. */
static void test_forgotten(void **state)
{
	struct dispatch *d = *state;
	struct reader a;
	size_t under_way;

	reader_enter(&a, d, 1);
	ask(&a, 0, MANY);
	under_way = n_asked;
	for (uint32_t i = 0; i < MANY - 1; i++)
		reads_forget(&a.partitions[i]);
	while (n_answered < n_asked)
		answer(d);
	assert_int_equal(n_answered, under_way + 1);
	reads_leave(&a.space);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_one_beside_many, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_halves, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_forgotten, setup, teardown),
	};

	return cmocka_run_group_tests_name("reads", tests, NULL, NULL);
}
