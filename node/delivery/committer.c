/* The committer: cursors that moved are written together, a few milliseconds after the first of
 * them moved, one write in flight per cursor. */
#include "node/delivery/delivery.h"

#include "base/buf.h"
#include "base/bug.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/net/loop.h"

#include <inttypes.h>
#include <stdlib.h>

enum {
	COMMITS_IN_FLIGHT = 2, /* the bus works on one while the next is made */
	PAUSE_AFTER_ERROR_MS = 50,
};

struct commit_row {
	struct subscription *sub; /* one of its requests */
	uint32_t partition;
	uint64_t epoch;
};

struct commit {
	struct bus_commit req;
	struct dispatch *dispatch;
	struct bus_cursor_row *rows;
	struct commit_row *places; /* parallel to rows */
	struct buf ahead;          /* all acked_ahead, end to end */
};

static void arm(struct dispatch *d)
{
	struct committer *c = &d->committer;

	if (c->armed || !d->up || TAILQ_EMPTY(&c->dirty))
		return;
	c->armed = true;
	loop_timer_set(c->timer, c->failed ? PAUSE_AFTER_ERROR_MS : d->settings.commit_every_ms);
}

void committer_mark(struct dispatch *d, struct place *pl)
{
	layouts_check(pl->sub);
	/* what cannot be written now is marked again when it can: when its row is made, or claimed
	 */
	if (!pl->has_row || pl->sub->state != SUBSCRIPTION_ACTIVE || pl->sub->stepping)
		return;
	if (!pl->feed.dirty) {
		pl->feed.dirty = true;
		TAILQ_INSERT_TAIL(&d->committer.dirty, pl, dirty);
	}
	arm(d); /* also for one that was marked while the database was away */
}

void committer_forget(struct dispatch *d, struct place *pl)
{
	if (!pl->feed.dirty)
		return;
	pl->feed.dirty = false;
	TAILQ_REMOVE(&d->committer.dirty, pl, dirty);
}

static int row_order(const void *a, const void *b)
{
	const struct place *x = *(struct place *const *)a;
	const struct place *y = *(struct place *const *)b;

	if (x->sub->space->tenant_id != y->sub->space->tenant_id)
		return x->sub->space->tenant_id < y->sub->space->tenant_id ? -1 : 1;
	if (x->sub->id != y->sub->id)
		return x->sub->id < y->sub->id ? -1 : 1;
	return (x->partition->id > y->partition->id) - (x->partition->id < y->partition->id);
}

/* Take up to BUS_CURSORS_MAX dirty places that may be written now, in key order. */
static size_t take_dirty(struct dispatch *d, struct place *out[BUS_CURSORS_MAX])
{
	struct place *pl;
	struct place *next;
	size_t n = 0;

	for (pl = TAILQ_FIRST(&d->committer.dirty); pl && n < BUS_CURSORS_MAX; pl = next) {
		next = TAILQ_NEXT(pl, dirty);
		if (pl->feed.committing && !BUG("cursor-without-commit-no"))
			continue;
		committer_forget(d, pl);
		out[n++] = pl;
	}
	if (n)
		qsort(out, n, sizeof(struct place *), row_order);
	return n;
}

static void fill_row(struct commit *c, size_t i, struct place *pl)
{
	uint64_t through = place_matched_through(pl);
	struct bus_cursor_row *row = &c->rows[i];
	struct gap gap = gaps_open(&pl->gaps);
	size_t at = c->ahead.len;

	feed_encode_ahead(&pl->feed, through, BUS_AHEAD_MAX, &c->ahead);
	*row = (struct bus_cursor_row){
	        .tenant_id = pl->sub->space->tenant_id,
	        .subscription_id = pl->sub->id,
	        .epoch = pl->sub->epoch,
	        .to.partition_id = pl->partition->id,
	        .to.acked_through = feed_acked_through(&pl->feed, through),
	        .to.commit_no = pl->feed.commit_no,
	        .to.acked_ahead.n = c->ahead.len - at,
	        .to.gap_from = gap.from,
	        .to.gap_to = gap.to,
	};
	c->places[i] = (struct commit_row){pl->sub, pl->partition->id, pl->sub->epoch};
	pl->feed.committing = true;
	pl->sub->requests++;
}

static void on_row(struct dispatch *d, enum sql_outcome outcome, struct commit_row *cr,
                   const struct bus_cursor_row *row)
{
	struct subscription *s = cr->sub;
	struct place *pl;

	if (s->state != SUBSCRIPTION_ACTIVE || s->epoch != cr->epoch ||
	    !(pl = place_find(s, cr->partition)))
		return; /* a new generation, or gone: what it says no longer matters */
	pl->feed.committing = false;
	if (outcome == SQL_UNKNOWN) { /* only a new epoch tells which commit number is next */
		subscription_doubt(s);
		return;
	}
	if (outcome != SQL_OK) {
		committer_mark(d, pl);
		return;
	}
	if (row->fenced) {
		d->stats.fenced++;
		log_warn("committer", "tenant=%u sub=%" PRIu64 " epoch=%" PRIu64 " fenced=1",
		         row->tenant_id, row->subscription_id, row->epoch);
		subscription_lost(s);
		return;
	}
	pl->feed.commit_no++;
	pl->feed.committed_through = row->to.acked_through;
	layouts_check(s);
}

static void on_commit(struct bus_commit *req)
{
	struct commit *c = (struct commit *)req;
	struct dispatch *d = c->dispatch;

	d->committer.in_flight--;
	d->committer.failed = req->outcome != SQL_OK;
	d->stats.cursor_commits += req->outcome == SQL_OK;
	if (req->outcome == SQL_FATAL)
		log_error("committer", "rows=%zu refused=1", req->n);
	for (size_t i = 0; i < req->n; i++) {
		on_row(d, req->outcome, &c->places[i], &c->rows[i]);
		subscription_unref(c->places[i].sub);
	}
	buf_release(&c->ahead);
	free(c->rows);
	free(c->places);
	free(c);
	arm(d);
	dispatch_drain_check(d);
}

static bool commit_some(struct dispatch *d)
{
	struct place *places[BUS_CURSORS_MAX];
	size_t n = take_dirty(d, places);
	struct commit *c;
	size_t at = 0;

	if (!n)
		return false;
	c = xcalloc(1, sizeof *c);
	c->dispatch = d;
	c->req.done = on_commit;
	c->req.n = n;
	c->req.rows = c->rows = xcalloc(n, sizeof *c->rows);
	c->places = xcalloc(n, sizeof *c->places);
	for (size_t i = 0; i < n; i++)
		fill_row(c, i, places[i]);
	for (size_t i = 0; i < n; i++) { /* the buffer no longer moves */
		c->rows[i].to.acked_ahead.p = c->ahead.data + at;
		at += c->rows[i].to.acked_ahead.n;
	}
	d->committer.in_flight++;
	d->bus->ops->commit(d->bus, &c->req);
	return true;
}

void committer_flush(struct dispatch *d)
{
	while (d->up && d->committer.in_flight < COMMITS_IN_FLIGHT && commit_some(d))
		;
}

static void on_timer(void *arg)
{
	struct dispatch *d = arg;

	d->committer.armed = false;
	committer_flush(d);
	arm(d);
}

bool committer_idle(const struct dispatch *d)
{
	return !d->committer.in_flight && (!d->up || TAILQ_EMPTY(&d->committer.dirty));
}

void committer_init(struct dispatch *d)
{
	TAILQ_INIT(&d->committer.dirty);
	d->committer.timer = loop_after(d->loop, 1 << 30, on_timer, d);
	loop_timer_stop(d->committer.timer);
}

void committer_release(struct dispatch *d)
{
	loop_timer_free(d->committer.timer);
}
