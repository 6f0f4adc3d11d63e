/* The feed against a model that keeps the state of every sequence number in an array. SEED=n
 * repeats one run of the random test. */
#include "node/delivery/feed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAST = 3000, STEPS = 6000, RUNS = 60 };

enum fate {
	UNSEEN,    /* not matched yet */
	UNMATCHED, /* nobody wants it */
	READY,
	SENT,
	DONE,
};

static uint64_t seed;

static unsigned rnd(unsigned below)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(seed >> 33) % below;
}

struct consumer {
	int any;
};

struct model {
	struct feed feed;
	enum fate fate[LAST + 1];
	uint16_t packet_id[LAST + 1];
	bool wanted[LAST + 1]; /* decided once: does the filter match? */
	uint64_t stamp[LAST + 1];
	uint64_t next; /* to be matched */
	uint16_t last_id;
	uint64_t cursor; /* the highest seen */
	struct consumer holder;
};

static bool settled(enum fate f)
{
	return f == DONE || f == UNMATCHED;
}

/* Below the cursor all is settled; the one above it is not; it never moves back. */
static void check(struct model *m)
{
	uint64_t cursor = feed_acked_through(&m->feed, m->next - 1);
	struct ranges ahead = {0};
	struct buf text = {0};

	assert_true(cursor >= m->cursor);
	m->cursor = cursor;
	for (uint64_t s = 1; s <= cursor; s++)
		assert_true(settled(m->fate[s]));
	feed_encode_ahead(&m->feed, m->next - 1, 1 << 20, &text);
	assert_int_equal(ranges_decode(&ahead, cursor, buf_slice(&text)), 0);
	for (uint64_t s = cursor + 1; s < m->next; s++)
		assert_int_equal(ranges_contain(&ahead, s), settled(m->fate[s]));
	for (uint64_t s = m->next; s <= LAST; s++) /* known from before it was suspended */
		assert_true(!ranges_contain(&ahead, s) || settled(m->fate[s]) || !m->wanted[s]);
	ranges_release(&ahead);
	buf_release(&text);
}

static void match_next(struct model *m)
{
	uint64_t s = m->next;
	struct feed_entry stale;
	enum feed_known known;

	if (s > LAST || !feed_has_room(&m->feed))
		return;
	m->next++;
	if (!m->wanted[s]) {
		if (m->fate[s] == UNSEEN)
			m->fate[s] = UNMATCHED;
		return;
	}
	known = feed_recalls(&m->feed) ? feed_recall(&m->feed, s, m->stamp[s], &stale) : FEED_NEW;
	switch (known) {
	case FEED_OLD:
		assert_int_equal(m->fate[s], DONE);
		break;
	case FEED_HELD:
		assert_int_equal(m->fate[s], SENT);
		assert_int_equal(feed_find(&m->feed, s)->packet_id, m->packet_id[s]);
		break;
	case FEED_NEW:
		assert_true(m->fate[s] != DONE && m->fate[s] != SENT);
		feed_push(&m->feed, s, FEED_READY);
		m->fate[s] = READY;
		break;
	}
}

static void send_one(struct model *m)
{
	struct feed_entry *e = feed_next_ready(&m->feed);

	if (!e) {
		for (uint64_t s = 1; s < m->next; s++)
			assert_int_not_equal(m->fate[s], READY);
		return;
	}
	for (uint64_t s = m->cursor + 1; s < e->seq; s++)
		assert_int_not_equal(m->fate[s], READY); /* the lowest */
	assert_int_equal(m->fate[e->seq], READY);
	e->packet_id = ++m->last_id;
	e->holder = &m->holder;
	e->stamp = m->stamp[e->seq];
	m->fate[e->seq] = SENT;
	m->packet_id[e->seq] = e->packet_id;
	feed_set(&m->feed, e, FEED_SENT);
}

static void settle_one(struct model *m)
{
	uint64_t s = 1 + rnd(LAST);

	for (unsigned tries = 0; m->fate[s] != SENT && tries < LAST; tries++)
		s = s % LAST + 1;
	if (m->fate[s] != SENT)
		return;
	if (feed_find(&m->feed, s))
		feed_done(&m->feed, feed_find(&m->feed, s));
	else
		assert_true(feed_done_held(&m->feed, s));
	m->fate[s] = DONE;
}

/* What waits is matched anew; what is in flight and done is remembered. */
static void suspend(struct model *m)
{
	uint64_t cursor = feed_acked_through(&m->feed, m->next - 1);

	feed_suspend(&m->feed, m->next - 1);
	assert_int_equal(m->feed.next_seq, cursor + 1);
	for (uint64_t s = cursor + 1; s < m->next; s++) {
		if (m->fate[s] == READY)
			m->fate[s] = UNSEEN;
	}
	m->next = cursor + 1;
}

static void run(void)
{
	struct model *m = calloc(1, sizeof *m);
	unsigned sparse = 1 + rnd(5);

	feed_begin(&m->feed, 0, slice(NULL, 0));
	m->next = 1;
	for (uint64_t s = 1; s <= LAST; s++) {
		m->wanted[s] = rnd(sparse) == 0;
		m->stamp[s] = s / 10 + 1;
	}
	for (int i = 0; i < STEPS; i++) {
		unsigned dice = rnd(1000);

		if (dice < 400)
			match_next(m);
		else if (dice < 700)
			send_one(m);
		else if (dice < 990)
			settle_one(m);
		else
			suspend(m);
		if (i % 16 == 0)
			check(m);
	}
	while (m->next <= LAST || m->feed.count || m->feed.n_held) {
		match_next(m);
		send_one(m);
		settle_one(m);
	}
	check(m);
	assert_int_equal(m->cursor, LAST);
	feed_release(&m->feed);
	free(m);
}

static void test_against_the_model(void **state)
{
	const char *one = getenv("SEED");

	(void)state;
	for (unsigned i = 1; i <= RUNS; i++) {
		uint64_t this = one ? strtoull(one, NULL, 10) : i;

		fprintf(stderr, "\rseed=%llu ", (unsigned long long)this);
		seed = this;
		run();
		if (one)
			break;
	}
	fprintf(stderr, "\n");
}

/* Another batch under the same number is another event: its packet id is not this event's. */
static void test_stale(void **state)
{
	struct feed f = {0};
	struct feed_entry *e;
	struct feed_entry stale;

	(void)state;
	feed_begin(&f, 9, slice(NULL, 0));
	e = feed_push(&f, 10, FEED_READY);
	e->packet_id = 5;
	e->stamp = 1;
	feed_set(&f, e, FEED_SENT);
	feed_suspend(&f, 10);
	assert_int_equal(feed_recall(&f, 10, 2, &stale), FEED_NEW);
	assert_int_equal(stale.packet_id, 5);
	assert_false(feed_recalls(&f));
	feed_release(&f);
}

/* In flight when suspended, and nothing matches it any more: it does not hold the cursor for ever.
 */
static void test_held_that_matching_passed(void **state)
{
	struct feed f = {0};
	struct feed_entry *e;
	struct feed_entry stale;

	(void)state;
	feed_begin(&f, 0, slice(NULL, 0));
	for (uint64_t s = 1; s <= 3; s++) {
		e = feed_push(&f, s, FEED_READY);
		e->packet_id = (uint16_t)s;
		feed_set(&f, e, FEED_SENT);
	}
	feed_suspend(&f, 3);
	assert_int_equal(feed_recall(&f, 3, 0, &stale), FEED_HELD);
	assert_false(feed_recalls(&f));
	assert_false(feed_done_held(&f, 1));
	assert_int_equal(feed_acked_through(&f, 3), 2);
	feed_release(&f);
}

static void test_full_until_half(void **state)
{
	struct feed f = {0};

	(void)state;
	feed_begin(&f, 0, slice(NULL, 0));
	for (uint64_t s = 1; s <= FEED_MAX; s++)
		feed_push(&f, s, FEED_READY);
	assert_true(feed_full(&f));
	f.blocked = true;
	for (uint64_t s = 1; s <= FEED_MAX - FEED_RESUME_AT; s++) {
		assert_false(feed_has_room(&f));
		feed_done(&f, feed_next_ready(&f));
	}
	assert_false(feed_has_room(&f));
	feed_done(&f, feed_next_ready(&f));
	assert_true(feed_has_room(&f));
	assert_int_equal(feed_ready_within(&f, 1, 3000)->seq, FEED_MAX - FEED_RESUME_AT + 2);
	assert_null(feed_ready_within(&f, 1, 2000));
	feed_release(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_against_the_model),
	        cmocka_unit_test(test_stale),
	        cmocka_unit_test(test_held_that_matching_passed),
	        cmocka_unit_test(test_full_until_half),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
