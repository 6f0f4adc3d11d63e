#include "tenancy/share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { QUANTUM = 4096 };

struct queue {
	struct share_entry entry; /* first: a queue is its entry */
	uint64_t waiting;         /* bytes */
	uint64_t item;            /* bytes of each item */
	uint64_t served;
};

static void queue_init(struct share *s, struct queue *q, uint32_t weight, uint64_t waiting,
                       uint64_t item)
{
	*q = (struct queue){.waiting = waiting, .item = item};
	share_entry_init(&q->entry, weight);
	if (waiting)
		share_push_active(s, &q->entry);
}

/* The loop from share.h with `room` bytes; returns what was served. */
static uint64_t serve(struct share *s, uint64_t room)
{
	uint64_t total = 0;
	struct queue *q;

	while (total < room && (q = (struct queue *)share_next(s))) {
		uint64_t took = 0;

		while (q->waiting && (int64_t)took < share_quantum(&q->entry) &&
		       total + took < room) {
			uint64_t n = q->item < q->waiting ? q->item : q->waiting;

			q->waiting -= n;
			took += n;
		}
		q->served += took;
		total += took;
		share_charge(s, &q->entry, took);
		if (!q->waiting)
			share_deactivate(s, &q->entry);
	}
	return total;
}

static void assert_near(uint64_t got, uint64_t expected, uint64_t slack)
{
	if (got + slack < expected || got > expected + slack)
		fail_msg("%llu is not %llu +- %llu", (unsigned long long)got,
		         (unsigned long long)expected, (unsigned long long)slack);
}

static void test_share_by_weight(void **state)
{
	struct share s;
	struct queue q[3];
	const uint64_t much = 100 << 20;
	uint64_t total = 0;
	(void)state;

	share_init(&s, QUANTUM);
	queue_init(&s, &q[0], 1, much, 100);
	queue_init(&s, &q[1], 2, much, 1500); /* the size of items makes no difference */
	queue_init(&s, &q[2], 5, much, 70000);
	for (int flush = 0; flush < 80; flush++)
		total += serve(&s, 100000); /* rounds run on from one flush to the next */
	assert_near(q[0].served, total / 8, 50000);
	assert_near(q[1].served, total / 4, 50000);
	assert_near(q[2].served, total / 8 * 5, 100000);
}

/* One tenant with everything queued, one that asks for little: the little one waits for at most one
 * quantum of the flood each time. */
static void test_share_flood_starves_nobody(void **state)
{
	struct share s;
	struct queue flood, quiet;
	(void)state;

	share_init(&s, QUANTUM);
	queue_init(&s, &flood, 1, UINT64_C(1) << 40, 256);
	queue_init(&s, &quiet, 1, 0, 256);
	serve(&s, 10 << 20);
	for (int i = 0; i < 100; i++) {
		quiet.waiting = 256;
		share_push_active(&s, &quiet.entry);
		serve(&s, 2 * QUANTUM + 512);
		assert_int_equal(quiet.waiting, 0);
	}
}

/* Coming and going must not wash off a debt, nor save up credit. */
static void test_share_no_gain_by_leaving(void **state)
{
	struct share s;
	struct queue honest, sly;
	(void)state;

	share_init(&s, QUANTUM);
	queue_init(&s, &honest, 1, UINT64_C(1) << 40, 256);
	queue_init(&s, &sly, 1, 0, 65536);
	for (int i = 0; i < 1000; i++) {
		sly.waiting = 65536; /* one big item, then gone, as often as it can */
		share_push_active(&s, &sly.entry);
		serve(&s, 16384);
	}
	assert_true(sly.served <= honest.served + 2 * 65536);

	share_deactivate(&s, &honest.entry);
	share_deactivate(&s, &sly.entry);
	share_entry_init(&honest.entry, 1);
	share_push_active(&s, &honest.entry);
	assert_ptr_equal(share_next(&s), &honest.entry);
	assert_true(share_quantum(&honest.entry) > 0);
	share_deactivate(&s, &honest.entry);
	assert_int_equal(honest.entry.deficit, 0);
}

static void test_share_edges(void **state)
{
	struct share s;
	struct share_entry e;
	(void)state;

	share_init(&s, QUANTUM);
	assert_null(share_next(&s));
	share_entry_init(&e, 0); /* counts as 1 */
	share_push_active(&s, &e);
	share_push_active(&s, &e);
	assert_ptr_equal(share_next(&s), &e);
	assert_int_equal(share_quantum(&e), QUANTUM);
	share_charge(&s, &e, 10 * QUANTUM); /* alone, a debt does not stop it */
	assert_ptr_equal(share_next(&s), &e);
	share_deactivate(&s, &e);
	share_deactivate(&s, &e);
	share_charge(&s, &e, 1); /* charged after it left: a debt, no crash */
	assert_null(share_next(&s));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_share_by_weight),
	        cmocka_unit_test(test_share_flood_starves_nobody),
	        cmocka_unit_test(test_share_no_gain_by_leaving),
	        cmocka_unit_test(test_share_edges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
