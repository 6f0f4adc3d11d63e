#include "node/delivery/feed.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>

enum { FEED_FIRST = 8 };

static struct feed_entry *entry_at(const struct feed *f, size_t offset)
{
	return &f->ring[(f->first + offset) & (f->cap - 1)];
}

static size_t entry_offset(const struct feed *f, const struct feed_entry *e)
{
	return ((size_t)(e - f->ring) - f->first) & (f->cap - 1);
}

static bool is_held(const struct feed *f, const struct feed_entry *e)
{
	return f->n_held && e >= f->held && e < f->held + f->n_held;
}

void feed_release(struct feed *f)
{
	free(f->ring);
	free(f->held);
	ranges_release(&f->ahead);
	*f = (struct feed){0};
}

void feed_begin(struct feed *f, uint64_t acked_through, struct slice ahead)
{
	f->first = f->count = f->n_ready = f->ready_from = 0;
	f->next_seq = acked_through + 1;
	f->live = f->blocked = false;
	/* an encoding that cannot be read only means that more is delivered again */
	if (ranges_decode(&f->ahead, acked_through, ahead) != 0)
		ranges_clear(&f->ahead);
}

static void ring_grow(struct feed *f)
{
	size_t cap = f->cap ? f->cap * 2 : FEED_FIRST;
	struct feed_entry *ring = xmalloc(cap * sizeof *ring);

	for (size_t i = 0; i < f->count; i++)
		ring[i] = *entry_at(f, i);
	free(f->ring);
	f->ring = ring;
	f->cap = cap;
	f->first = 0;
}

struct feed_entry *feed_push(struct feed *f, uint64_t seq, enum feed_state state)
{
	struct feed_entry *e;

	assert(!f->count || entry_at(f, f->count - 1)->seq < seq);
	if (f->count == f->cap)
		ring_grow(f);
	e = entry_at(f, f->count++);
	*e = (struct feed_entry){.seq = seq, .state = (uint8_t)state};
	if (state == FEED_READY && f->n_ready++ == 0)
		f->ready_from = f->count - 1;
	return e;
}

struct feed_entry *feed_next_ready(struct feed *f)
{
	if (!f->n_ready)
		return NULL;
	while (entry_at(f, f->ready_from)->state != FEED_READY)
		f->ready_from++;
	return entry_at(f, f->ready_from);
}

/* The offset of the first entry at seq or above. */
static size_t offset_of(const struct feed *f, uint64_t seq)
{
	size_t lo = 0;
	size_t hi = f->count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (entry_at(f, mid)->seq < seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct feed_entry *feed_find(struct feed *f, uint64_t seq)
{
	size_t i = offset_of(f, seq);

	return i < f->count && entry_at(f, i)->seq == seq ? entry_at(f, i) : NULL;
}

struct feed_entry *feed_ready_within(struct feed *f, uint64_t from, uint64_t to)
{
	for (size_t i = offset_of(f, from); f->n_ready && i < f->count; i++) {
		struct feed_entry *e = entry_at(f, i);

		if (e->seq >= to)
			break;
		if (e->state == FEED_READY)
			return e;
	}
	return NULL;
}

void feed_set(struct feed *f, struct feed_entry *e, enum feed_state state)
{
	size_t offset = entry_offset(f, e);
	bool was_ready = e->state == FEED_READY;

	if (is_held(f, e)) { /* not in the ring: plain data */
		e->state = (uint8_t)state;
		return;
	}
	assert(state != FEED_DONE && e->state != FEED_DONE);
	if (e->state == state)
		return;
	e->state = (uint8_t)state;
	if (state == FEED_READY) {
		if (f->n_ready++ == 0 || offset < f->ready_from)
			f->ready_from = offset;
	} else if (was_ready) {
		f->n_ready--;
	}
}

static void pop_done(struct feed *f)
{
	while (f->count && entry_at(f, 0)->state == FEED_DONE) {
		f->first = (f->first + 1) & (f->cap - 1);
		f->count--;
		if (f->ready_from)
			f->ready_from--;
	}
	if (!f->count && f->cap > FEED_MAX / 16) { /* give a burst's memory back */
		free(f->ring);
		f->ring = NULL;
		f->cap = f->first = 0;
	}
}

void feed_done(struct feed *f, struct feed_entry *e)
{
	if (e->state == FEED_READY)
		f->n_ready--;
	e->state = FEED_DONE;
	e->holder = NULL;
	e->packet_id = 0;
	pop_done(f);
}

/* The index of the first held entry at seq or above. */
static size_t held_index(const struct feed *f, uint64_t seq)
{
	size_t lo = 0;
	size_t hi = f->n_held;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (f->held[mid].seq < seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct feed_entry *held_find(const struct feed *f, uint64_t seq)
{
	size_t i = held_index(f, seq);

	return i < f->n_held && f->held[i].seq == seq ? &f->held[i] : NULL;
}

struct feed_entry *feed_held(struct feed *f, uint64_t seq)
{
	return held_find(f, seq);
}

struct feed_entry *feed_hold(struct feed *f, uint64_t seq, enum feed_state state)
{
	size_t i = held_index(f, seq);

	if (i < f->n_held && f->held[i].seq == seq)
		return NULL;
	if (f->n_held == f->cap_held) {
		f->cap_held = f->cap_held ? f->cap_held * 2 : FEED_FIRST;
		f->held = xrealloc(f->held, f->cap_held * sizeof *f->held);
	}
	memmove(f->held + i + 1, f->held + i, (f->n_held - i) * sizeof *f->held);
	f->n_held++;
	f->held[i] = (struct feed_entry){.seq = seq, .state = (uint8_t)state};
	return &f->held[i];
}

static void held_drop(struct feed *f, size_t from, size_t to)
{
	if (from == to)
		return;
	memmove(f->held + from, f->held + to, (f->n_held - to) * sizeof *f->held);
	f->n_held -= to - from;
	if (!f->n_held) {
		free(f->held);
		f->held = NULL;
		f->cap_held = 0;
	}
}

void feed_unhold(struct feed *f, struct feed_entry *h)
{
	held_drop(f, (size_t)(h - f->held), (size_t)(h - f->held) + 1);
}

void feed_unhold_if(struct feed *f, bool (*fn)(void *, struct feed_entry *), void *arg)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n_held; i++) {
		if (!fn(arg, &f->held[i]))
			f->held[n++] = f->held[i];
	}
	held_drop(f, n, f->n_held);
}

bool feed_done_held(struct feed *f, uint64_t seq)
{
	struct feed_entry *h = held_find(f, seq);

	if (!h || h->state == FEED_DONE)
		return false;
	h->state = FEED_DONE;
	h->holder = NULL;
	h->packet_id = 0;
	return true;
}

void feed_learn(struct feed *f, uint64_t acked_through, struct slice ahead)
{
	struct ranges done = {0};

	if (ranges_decode(&done, acked_through, ahead) == 0) {
		for (size_t i = 0; i < done.n; i++)
			ranges_add(&f->ahead, done.items[i].first, done.items[i].last);
	}
	ranges_release(&done);
}

enum feed_known feed_recall(struct feed *f, uint64_t seq, uint64_t stamp, struct feed_entry *stale)
{
	struct feed_entry *h;
	struct feed_entry *e;
	struct feed_entry was;

	*stale = (struct feed_entry){0};
	if (ranges_contain(&f->ahead, seq))
		return FEED_OLD;
	if (f->ahead.n && f->ahead.items[f->ahead.n - 1].last < seq)
		ranges_release(&f->ahead);
	/* those below did not match again: nothing wants them any more, and matching has passed */
	held_drop(f, 0, held_index(f, seq));
	h = held_find(f, seq);
	if (!h)
		return FEED_NEW;
	was = *h;
	held_drop(f, 0, 1);
	if (was.stamp != stamp) {
		*stale = was;
		return FEED_NEW;
	}
	if (was.state == FEED_DONE)
		return FEED_OLD;
	e = feed_push(f, seq, (enum feed_state)was.state);
	e->stamp = was.stamp;
	e->holder = was.holder;
	e->packet_id = was.packet_id;
	return FEED_HELD;
}

static bool is_done(const struct feed_entry *e, bool moving)
{
	return e->state == FEED_DONE || (moving && e->state == FEED_MOVING);
}

static uint64_t acked_through(const struct feed *f, uint64_t matched_through, bool moving)
{
	size_t i = 0;

	while (i < f->count && is_done(entry_at(f, i), moving))
		i++;
	return i < f->count ? entry_at(f, i)->seq - 1 : matched_through;
}

uint64_t feed_acked_through(const struct feed *f, uint64_t matched_through)
{
	return acked_through(f, matched_through, false);
}

/* moving: what is MOVING counts as done. */
static void ranges_of_done(const struct feed *f, uint64_t matched_through, bool moving,
                           struct ranges *out)
{
	uint64_t from = 0; /* 0 = below the cursor still */

	for (size_t i = 0; i < f->count; i++) {
		const struct feed_entry *e = entry_at(f, i);

		if (is_done(e, moving))
			continue;
		if (from && from < e->seq)
			ranges_add(out, from, e->seq - 1);
		from = e->seq + 1;
	}
	if (from && from <= matched_through)
		ranges_add(out, from, matched_through);
	/* what was known before it was suspended and has not been passed yet */
	for (size_t i = 0; i < f->ahead.n; i++) {
		if (f->ahead.items[i].last > matched_through)
			ranges_add(out,
			           f->ahead.items[i].first > matched_through
			                   ? f->ahead.items[i].first
			                   : matched_through + 1,
			           f->ahead.items[i].last);
	}
	for (size_t i = 0; i < f->n_held; i++) {
		if (f->held[i].state == FEED_DONE && f->held[i].seq > matched_through)
			ranges_add(out, f->held[i].seq, f->held[i].seq);
	}
}

void feed_encode_ahead(const struct feed *f, uint64_t matched_through, size_t max_bytes,
                       struct buf *out)
{
	struct ranges done = {0};

	ranges_of_done(f, matched_through, false, &done);
	ranges_encode(&done, feed_acked_through(f, matched_through), max_bytes, out);
	ranges_release(&done);
}

uint64_t feed_cursor_moving(const struct feed *f, uint64_t matched_through, size_t max_bytes,
                            struct buf *ahead)
{
	uint64_t acked = acked_through(f, matched_through, true);
	struct ranges done = {0};

	ranges_of_done(f, matched_through, true, &done);
	ranges_encode(&done, acked, max_bytes, ahead);
	ranges_release(&done);
	return acked;
}

/* In flight, or settled and perhaps not committed yet. */
static bool is_known(const struct feed_entry *e)
{
	return e->packet_id || (e->state == FEED_DONE && e->stamp);
}

static size_t count_known(const struct feed *f)
{
	size_t n = 0;

	for (size_t i = 0; i < f->count; i++)
		n += is_known(entry_at(f, i));
	return n;
}

void feed_suspend(struct feed *f, uint64_t matched_through)
{
	uint64_t acked = feed_acked_through(f, matched_through);
	struct ranges done = {0};
	struct feed_entry *held;
	size_t n = 0;

	ranges_of_done(f, matched_through, false, &done);
	held = xcalloc(count_known(f) + f->n_held, sizeof *held);
	for (size_t i = 0; i < f->count; i++) {
		if (is_known(entry_at(f, i)))
			held[n++] = *entry_at(f, i);
	}
	/* entries not passed since the last suspension come after all others */
	for (size_t i = 0; i < f->n_held; i++)
		held[n++] = f->held[i];
	free(f->held);
	f->held = n ? held : NULL;
	f->n_held = f->cap_held = n;
	if (!n)
		free(held);
	ranges_release(&f->ahead);
	f->ahead = done;
	f->first = f->count = f->n_ready = f->ready_from = 0;
	f->next_seq = acked + 1;
	f->live = f->blocked = false;
}

void feed_each_held_by(struct feed *f, const struct consumer *holder,
                       void (*fn)(void *, struct feed_entry *), void *arg)
{
	for (size_t i = 0; i < f->count; i++) {
		struct feed_entry *e = entry_at(f, i);

		if (e->holder == holder && e->packet_id)
			fn(arg, e);
	}
	for (size_t i = 0; i < f->n_held; i++) {
		if (f->held[i].holder == holder)
			fn(arg, &f->held[i]);
	}
}

bool feed_in_flight(const struct feed *f)
{
	for (size_t i = 0; i < f->count; i++) {
		if (entry_at(f, i)->packet_id)
			return true;
	}
	for (size_t i = 0; i < f->n_held; i++) {
		if (f->held[i].packet_id)
			return true;
	}
	return false;
}
