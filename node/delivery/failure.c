/* Failed attempts: with what pause an event is tried again and when it is given up, and the
 * settlements that write it down: one at a time per queue, a few milliseconds after the first. */
#include "node/delivery/queue.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>

enum {
	PAUSE_AFTER_ERROR_MS = 50,
	REFUSED_PAUSE_MS = 1000, /* by the database: doubled each time, up to: */
	REFUSED_PAUSE_MAX_MS = 30000,
};

/* One settlement, with all that its request points to. */
struct settling {
	struct bus_settle req;
	struct subscription *sub; /* one of its requests, while the bus has it */
	bool pausing;             /* the bus does not have it: sent again soon */
	struct failure_list list;
	struct bus_failure failures[BUS_FAILURES_MAX];
	uint64_t done[BUS_FAILURES_MAX];
	struct bus_cursor *cursors;
	struct buf ahead;
};

/* ---- policy ------------------------------------------------------------------------------------
 */

/* Doubled by each failure, and of that between a half and the whole: what failed together does not
 * come back together. */
static uint64_t backoff_ms(const struct queue *q, uint32_t failures, uint64_t salt)
{
	const struct bus_policy *p = &q->policy;
	uint64_t seed[3] = {q->sub->id, salt, failures};
	uint64_t full = p->backoff_ms;

	if (BUG("retry-early"))
		return 0;
	for (uint32_t i = 1; i < failures && full < p->backoff_max_ms; i++)
		full *= 2;
	if (full > p->backoff_max_ms)
		full = p->backoff_max_ms;
	return full / 2 + hash_stable(seed, sizeof seed) % (full / 2 + 1);
}

static void tell_breaker(struct queue *q, const struct place *pl, uint64_t seq)
{
	struct breaker *b = &q->breaker;
	bool was_open = b->open;

	if (!breaker_failed(b, pl, seq, q->waiting + q->making >= q->policy.max_failed))
		return;
	b->probe_at_ms = clock_now_ms() + backoff_ms(q, b->failures, b->failures);
	if (was_open)
		return;
	q->sub->space->dispatch->stats.breakers_open++;
	log_warn("queue", "tenant=%u sub=%" PRIu64 " waiting=%" PRIu64 " breaker=open",
	         q->sub->space->tenant_id, q->sub->id, q->waiting + q->making);
}

/* ---- what is to be written ---------------------------------------------------------------------
 */

static void on_timer(void *arg);

static void arm(struct queue *q, uint32_t ms)
{
	if (q->armed)
		return;
	q->armed = true;
	dispatch_after(q->sub->space->dispatch, ms, on_timer, q);
}

void failure_resume(struct queue *q)
{
	if (q->n_failures || q->n_done)
		arm(q, q->sub->space->dispatch->settings.commit_every_ms);
}

static struct failure *failure_new(struct queue *q, enum bus_failure_kind kind, struct place *pl,
                                   uint64_t seq)
{
	struct failure *f = xcalloc(1, sizeof *f);

	f->kind = kind;
	f->pl = pl;
	f->seq = seq;
	TAILQ_INSERT_TAIL(&q->failures, f, link);
	q->n_failures++;
	arm(q, q->sub->space->dispatch->settings.commit_every_ms);
	return f;
}

static void failure_free(const struct space *sp, struct failure *f)
{
	if (f->kind == BUS_FAILED_DEAD)
		space_buried(sp, f->buried);
	batch_unref(f->batch);
	free(f);
}

static bool makes_row(const struct failure *f)
{
	return f->kind == BUS_FAILED_PARKED || (f->kind == BUS_FAILED_RETRY && !f->timer_id);
}

/* A cut text ends with a whole character. */
static void set_reason(struct failure *f, struct slice reason)
{
	size_t n = reason.n < BUS_REASON_MAX ? reason.n : BUS_REASON_MAX;

	while (n < reason.n && n && ((unsigned char)reason.p[n] & 0xc0) == 0x80)
		n--;
	memcpy(f->reason, reason.p, n);
	f->reason[n] = '\0';
}

static void fetch(struct queue *q, struct failure *f)
{
	struct batch *b = partition_batch(f->pl->partition, f->seq);

	if (!b) {
		partition_fetch(f->pl->partition, f->seq);
		return;
	}
	f->batch = batch_ref(b);
	q->n_unfetched--;
}

void failure_add(struct queue *q, struct place *pl, struct feed_entry *e, bool dead,
                 struct slice reason)
{
	bool again = queue_is_retry(pl);
	uint32_t attempt = again ? (uint32_t)e->stamp : 1;
	struct failure *f;

	dead = dead || attempt >= q->policy.max_attempts;
	dead = dead && space_may_bury(q->sub->space); /* else it goes on being tried */
	f = failure_new(q, dead ? BUS_FAILED_DEAD : BUS_FAILED_RETRY, pl, e->seq);
	f->timer_id = again ? e->seq : 0;
	f->attempt = attempt;
	f->delay_ms = backoff_ms(q, attempt, e->seq);
	set_reason(f, reason);
	q->making += makes_row(f);
	q->sub->space->dispatch->stats.failed++;
	feed_set(&pl->feed, e, FEED_FAILED);
	tell_breaker(q, pl, e->seq);
	if (!again) {
		q->n_unfetched++;
		fetch(q, f);
	}
}

void failure_park(struct queue *q, struct place *pl, struct feed_entry *e, struct batch *b,
                  uint64_t key)
{
	struct failure *f = failure_new(q, BUS_FAILED_PARKED, pl, e->seq);

	f->key = key;
	f->batch = batch_ref(b);
	q->making++;
	ordering_parking(&q->ordering, key);
	feed_set(&pl->feed, e, FEED_FAILED);
}

void failure_due(struct queue *q, uint64_t timer_id, uint64_t key)
{
	struct failure *f = failure_new(q, BUS_FAILED_DUE, NULL, 0);

	f->timer_id = timer_id;
	f->key = key;
	retry_order_made(q, timer_id, key);
}

void failure_done(struct queue *q, uint64_t timer_id)
{
	if (q->n_done == q->cap_done) {
		q->cap_done = q->cap_done ? q->cap_done * 2 : 16;
		q->done = xrealloc(q->done, q->cap_done * sizeof *q->done);
	}
	q->done[q->n_done++] = timer_id;
	arm(q, q->sub->space->dispatch->settings.commit_every_ms);
}

void failure_fetch(struct queue *q)
{
	struct failure *f;

	if (!q->n_unfetched)
		return;
	TAILQ_FOREACH (f, &q->failures, link) {
		if (!f->batch && !f->timer_id)
			fetch(q, f);
	}
}

static void remove_pending(struct queue *q, struct failure *f)
{
	TAILQ_REMOVE(&q->failures, f, link);
	q->n_failures--;
	q->n_unfetched -= !f->batch && !f->timer_id;
}

void failure_skip(struct queue *q, struct place *pl, uint64_t from, uint64_t to)
{
	struct failure *f;
	struct failure *next;

	failure_fetch(q);
	for (f = TAILQ_FIRST(&q->failures); f; f = next) {
		next = TAILQ_NEXT(f, link);
		if (f->pl != pl || f->batch || f->timer_id || f->seq < from || f->seq >= to)
			continue;
		q->making -= makes_row(f);
		remove_pending(q, f);
		place_settle(pl, f->seq);
		failure_free(q->sub->space, f);
	}
}

size_t failure_done_under_way(const struct queue *q, uint64_t *ids)
{
	if (!q->settling)
		return 0;
	memcpy(ids, q->settling->done, q->settling->req.n_done * sizeof *ids);
	return q->settling->req.n_done;
}

static void settling_free(struct settling *st)
{
	struct failure *f;

	while ((f = TAILQ_FIRST(&st->list))) {
		TAILQ_REMOVE(&st->list, f, link);
		failure_free(st->sub->space, f);
	}
	buf_release(&st->ahead);
	free(st->cursors);
	free(st);
}

void failure_drop_all(struct queue *q)
{
	struct failure *f;
	struct settling *st = q->settling;

	while ((f = TAILQ_FIRST(&q->failures))) {
		remove_pending(q, f);
		failure_free(q->sub->space, f);
	}
	q->making = 0;
	q->settling = NULL; /* if the bus has it, its answer finds that nobody waits for it */
	if (!st)
		return;
	for (size_t i = 0; i < st->req.n_done; i++)
		failure_done(q, st->done[i]); /* what was done is done, whoever owns it */
	if (st->pausing) {
		dispatch_forget(q->sub->space->dispatch, st);
		settling_free(st);
	}
}

/* ---- settling ----------------------------------------------------------------------------------
 */

/* Can it be written with the others, now? */
static bool is_ready(const struct failure *f)
{
	if (f->timer_id)
		return true;
	return f->batch && !f->pl->feed.committing;
}

static void take_failures(struct queue *q, struct settling *st)
{
	struct failure *f;
	struct failure *next;
	size_t n = 0;

	for (f = TAILQ_FIRST(&q->failures); f && n < BUS_FAILURES_MAX; f = next) {
		struct bus_failure *out = &st->failures[n];

		next = TAILQ_NEXT(f, link);
		if (!is_ready(f))
			continue;
		remove_pending(q, f);
		TAILQ_INSERT_TAIL(&st->list, f, link);
		*out = (struct bus_failure){
		        .kind = f->kind,
		        .timer_id = f->timer_id,
		        .attempt = f->attempt,
		        .delay_ms = f->delay_ms,
		        .reason = slice_str(f->reason),
		        .batch = f->batch,
		};
		if (f->batch) {
			out->partition_id = batch_partition(f->batch);
			out->seq = f->seq;
			out->index = (uint32_t)(f->seq - batch_base_seq(f->batch));
		}
		if (f->pl && !f->timer_id)
			feed_set(&f->pl->feed, feed_find(&f->pl->feed, f->seq), FEED_MOVING);
		n++;
	}
	st->req.n_failures = n;
}

static void take_done(struct queue *q, struct settling *st)
{
	size_t n = q->n_done < BUS_FAILURES_MAX ? q->n_done : BUS_FAILURES_MAX;

	if (!n)
		return;
	memcpy(st->done, q->done, n * sizeof *q->done);
	memmove(q->done, q->done + n, (q->n_done - n) * sizeof *q->done);
	q->n_done -= n;
	st->req.n_done = n;
}

/* The cursors that move past what leaves the journal's feeds: no commit of theirs is under way. */
static void take_cursors(struct queue *q, struct settling *st)
{
	struct subscription *s = q->sub;
	const struct failure *f;
	size_t n = 0;
	size_t at = 0;

	TAILQ_FOREACH (f, &st->list, link) {
		struct feed *feed = f->timer_id ? NULL : &f->pl->feed;
		struct bus_cursor *c;
		struct gap gap;
		size_t before = st->ahead.len;

		if (!feed || feed->committing)
			continue;
		gap = gaps_open(&f->pl->gaps);
		st->cursors = xrealloc(st->cursors, (n + 1) * sizeof *st->cursors);
		c = &st->cursors[n++];
		*c = (struct bus_cursor){.partition_id = f->pl->partition->id,
		                         .commit_no = feed->commit_no,
		                         .gap_from = gap.from,
		                         .gap_to = gap.to};
		c->acked_through = feed_cursor_moving(feed, place_matched_through(f->pl),
		                                      BUS_AHEAD_MAX, &st->ahead);
		c->acked_ahead.n = st->ahead.len - before;
		feed->committing = true;
		committer_forget(s->space->dispatch, f->pl);
	}
	for (size_t i = 0; i < n; i++) {
		st->cursors[i].acked_ahead.p = st->ahead.data + at;
		at += st->cursors[i].acked_ahead.n;
	}
	st->req.n_cursors = n;
	st->req.cursors = st->cursors;
}

static void on_settle(struct bus_settle *req);

static void settle(struct queue *q)
{
	struct subscription *s = q->sub;
	struct dispatch *d = s->space->dispatch;
	struct settling *st;

	if (q->settling || !q->loaded || s->state != SUBSCRIPTION_ACTIVE || !d->up)
		return;
	st = xcalloc(1, sizeof *st);
	TAILQ_INIT(&st->list);
	failure_fetch(q);
	take_failures(q, st);
	take_done(q, st);
	if (!st->req.n_failures && !st->req.n_done) {
		settling_free(st);
		return;
	}
	take_cursors(q, st);
	st->sub = s;
	st->req.done = on_settle;
	st->req.tenant_id = s->space->tenant_id;
	st->req.subscription_id = s->id;
	st->req.epoch = s->epoch;
	st->req.failures = st->failures;
	st->req.done_timers = st->done;
	q->settling = st;
	s->requests++;
	d->bus->ops->settle(d->bus, &st->req);
}

static void on_timer(void *arg)
{
	struct queue *q = arg;

	q->armed = false;
	settle(q);
	/* what could not go with it waits for a commit, a read or its answer */
	if (!q->settling && q->sub->state == SUBSCRIPTION_ACTIVE)
		failure_resume(q);
	else if (!q->settling) /* it was lost: a drain does not wait for it any more */
		dispatch_drain_check(q->sub->space->dispatch);
}

/* ---- settled -----------------------------------------------------------------------------------
 */

static void ready_again(struct place *pl, uint64_t seq)
{
	struct feed_entry *e = feed_find(&pl->feed, seq);

	if (e && e->state == FEED_BLOCKED)
		feed_set(&pl->feed, e, FEED_READY);
}

static void next_of_key(struct queue *q, uint64_t key)
{
	uint64_t id = ordering_next_row(&q->ordering, key);

	if (id)
		failure_due(q, id, key);
}

/* One of the journal has a row now, or is a dead letter. */
static void left_journal(struct queue *q, const struct failure *f, uint64_t timer_id)
{
	struct feed_entry *e = feed_find(&f->pl->feed, f->seq);

	if (e && e->state == FEED_MOVING)
		feed_done(&f->pl->feed, e);
	q->making -= makes_row(f);
	q->waiting += timer_id != 0;
	q->sub->space->dispatch->stats.retries_waiting += timer_id != 0;
	if (f->kind == BUS_FAILED_DEAD)
		queue_left(q, f->pl, f->seq);
	if (!q->policy.ordered)
		return;
	if (f->kind == BUS_FAILED_RETRY)
		retry_order_made(q, timer_id,
		                 ordering_failed(&q->ordering, f->pl, f->seq, ready_again));
	if (f->kind == BUS_FAILED_PARKED) {
		ordering_parked(&q->ordering, f->key, timer_id);
		next_of_key(q, f->key);
	}
}

static void rows_left(struct queue *q, size_t n)
{
	n = n < q->waiting ? n : (size_t)q->waiting;
	q->waiting -= n;
	q->sub->space->dispatch->stats.retries_waiting -= n;
}

/* A row that was tried again waits once more, or is a dead letter. */
static void left_memory(struct queue *q, const struct failure *f)
{
	retry_drop(q, f->timer_id);
	if (f->kind != BUS_FAILED_DEAD)
		return;
	rows_left(q, 1);
	retry_order_left(q, f->timer_id);
}

static void settled_one(struct queue *q, struct failure *f, const struct bus_failure *out)
{
	struct dispatch *d = q->sub->space->dispatch;

	if (!f->timer_id)
		left_journal(q, f, out->made);
	else if (f->kind != BUS_FAILED_DUE)
		left_memory(q, f);
	if (f->kind == BUS_FAILED_RETRY || f->kind == BUS_FAILED_DUE)
		retry_expect(q, f->delay_ms);
	if (f->kind != BUS_FAILED_DEAD)
		return;
	f->buried = true;
	d->stats.dead_lettered++;
	log_info("queue",
	         "tenant=%u sub=%" PRIu64 " partition=%u seq=%" PRIu64 " attempt=%u dead_letter=1",
	         q->sub->space->tenant_id, q->sub->id, out->partition_id, out->seq, f->attempt);
}

static void settled(struct queue *q, struct settling *st)
{
	struct subscription *s = q->sub;
	struct failure *f;
	size_t i = 0;

	for (size_t k = 0; k < st->req.n_cursors; k++) {
		struct place *pl = place_find(s, st->cursors[k].partition_id);

		pl->feed.committing = false;
		pl->feed.commit_no++;
		pl->feed.committed_through = st->cursors[k].acked_through;
	}
	TAILQ_FOREACH (f, &st->list, link)
		settled_one(q, f, &st->failures[i++]);
	rows_left(q, st->req.n_done);
	for (size_t k = 0; k < st->req.n_cursors; k++) {
		struct place *pl = place_find(s, st->cursors[k].partition_id);

		if (pl->feed.dirty) /* others were done meanwhile */
			committer_mark(s->space->dispatch, pl);
	}
}

static void settle_again(void *arg)
{
	struct settling *st = arg;
	struct dispatch *d = st->sub->space->dispatch;

	st->pausing = false;
	st->sub->requests++;
	d->bus->ops->settle(d->bus, &st->req);
}

/* Why should it be otherwise next time? But it may be. Told once, and when it is over. */
static uint32_t refusal_pause_ms(struct queue *q)
{
	uint32_t ms = REFUSED_PAUSE_MS;

	if (!q->refusals++)
		log_error("queue",
		          "tenant=%u sub=%" PRIu64 " settlement refused=1 by the database: failed "
		          "attempts cannot be written down, and are tried again",
		          q->sub->space->tenant_id, q->sub->id);
	for (uint64_t i = 1; i < q->refusals && ms < REFUSED_PAUSE_MAX_MS; i++)
		ms *= 2;
	return ms < REFUSED_PAUSE_MAX_MS ? ms : REFUSED_PAUSE_MAX_MS;
}

static void refused_no_more(struct queue *q)
{
	if (q->refusals)
		log_info("queue", "tenant=%u sub=%" PRIu64 " settled refused=%" PRIu64,
		         q->sub->space->tenant_id, q->sub->id, q->refusals);
	q->refusals = 0;
}

/* Of the settlement that the queue waits for, which is still its owner's. */
static void answered(struct queue *q, struct settling *st)
{
	struct subscription *s = q->sub;
	struct dispatch *d = s->space->dispatch;
	uint32_t pause_ms = PAUSE_AFTER_ERROR_MS;

	switch (st->req.outcome) {
	case SQL_OK:
	case SQL_DUP:
		q->settling = NULL;
		refused_no_more(q);
		settled(q, st);
		settling_free(st);
		failure_resume(q);
		queue_pump(q);
		layouts_check(s);
		dispatch_drain_check(d);
		return;
	case SQL_FATAL:
		pause_ms = refusal_pause_ms(q);
		break;
	case SQL_RETRY:
		break;
	case SQL_UNKNOWN: /* only a new epoch tells */
		subscription_doubt(s);
		settling_free(st);
		return;
	case SQL_LOST:
		d->stats.fenced++;
		subscription_lost(s);
		settling_free(st);
		return;
	}
	st->pausing = true; /* nothing was stored: the same again */
	dispatch_after(d, pause_ms, settle_again, st);
}

static void on_settle(struct bus_settle *req)
{
	struct settling *st = (struct settling *)req;
	struct subscription *s = st->sub;
	struct dispatch *d = s->space->dispatch;

	if (s->queue && s->queue->settling == st && s->state == SUBSCRIPTION_ACTIVE &&
	    s->epoch == req->epoch)
		answered(s->queue, st);
	else
		settling_free(st);
	subscription_unref(s);
	dispatch_drain_check(d); /* also when it was lost meanwhile */
}
