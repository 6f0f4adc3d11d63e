/* Rows of the timer table that a queue's owner reads back when they are due: after a claim, and
 * when the earliest due time that it knows of has come. */
#include "node/delivery/queue.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/order.h"

#include <stdlib.h>

enum {
	PAUSE_AFTER_ERROR_MS = 100,
	DONE_MAX = 1000, /* rows done and not deleted yet: read no more of them */
	/* What is due is due by the database's clock, which somebody may set while we wait by ours:
	 * look again at the latest then. */
	LOOK_MAX_MS = 15000,
};

/* ---- the keys of ordered rows ------------------------------------------------------------------
 */

struct row_key {
	uint64_t timer_id;
	uint64_t key;
};

void retry_order_made(struct queue *q, uint64_t timer_id, uint64_t key)
{
	struct row_key *k;

	if (!q->policy.ordered || !timer_id || map_get_u64(&q->row_keys, timer_id))
		return;
	k = xcalloc(1, sizeof *k);
	*k = (struct row_key){timer_id, key};
	map_put(&q->row_keys, &k->timer_id, sizeof k->timer_id, k);
}

void retry_order_left(struct queue *q, uint64_t timer_id)
{
	struct row_key *k = map_del(&q->row_keys, &timer_id, sizeof timer_id);
	uint64_t next;

	if (!k)
		return;
	ordering_row_left(&q->ordering, k->key);
	next = ordering_next_row(&q->ordering, k->key);
	if (next)
		failure_due(q, next, k->key);
	free(k);
}

static void keys_clear(struct queue *q)
{
	struct row_key *k;
	size_t at = 0;

	while ((k = map_next(&q->row_keys, &at)))
		free(k);
	map_release(&q->row_keys);
	map_init(&q->row_keys);
}

/* ---- rows in memory ----------------------------------------------------------------------------
 */

struct retry_row *retry_find(const struct queue *q, uint64_t timer_id)
{
	return map_get_u64(&q->rows, timer_id);
}

struct feed_entry *retry_ready(struct queue *q)
{
	struct feed *f = &q->retry.feed;

	for (size_t i = 0; i < f->n_held; i++) {
		if (f->held[i].state == FEED_READY && retry_find(q, f->held[i].seq))
			return &f->held[i];
	}
	return NULL;
}

static void row_free(struct queue *q, uint64_t timer_id)
{
	struct retry_row *row = map_del(&q->rows, &timer_id, sizeof timer_id);

	if (row)
		batch_unref(row->batch);
	free(row);
}

void retry_drop(struct queue *q, uint64_t timer_id)
{
	struct feed_entry *e = feed_held(&q->retry.feed, timer_id);

	if (e)
		feed_unhold(&q->retry.feed, e);
	row_free(q, timer_id);
}

void retry_done(struct queue *q, uint64_t timer_id)
{
	if (!feed_held(&q->retry.feed, timer_id))
		return;
	breaker_returned(&q->breaker, &q->retry, timer_id);
	retry_drop(q, timer_id);
	failure_done(q, timer_id);
	retry_order_left(q, timer_id);
}

static void row_take(struct queue *q, const struct bus_retry *r)
{
	struct feed_entry *e = feed_hold(&q->retry.feed, r->timer_id, FEED_READY);
	struct retry_row *row;

	if (!e)
		return;           /* another node told meanwhile that it has it */
	row_free(q, r->timer_id); /* its entry was forgotten */
	row = xcalloc(1, sizeof *row);
	*row = (struct retry_row){
	        .timer_id = r->timer_id,
	        .partition_id = r->partition_id,
	        .seq = r->seq,
	        .batch = batch_split(r->batch, 0, 1),
	};
	batch_set_base_seq(row->batch, r->seq);
	batch_set_stamp(row->batch, r->attempt + 1);
	e->stamp = r->attempt + 1;
	map_put(&q->rows, &row->timer_id, sizeof row->timer_id, row);
}

static bool is_not_sent(void *arg, struct feed_entry *e)
{
	if (e->state == FEED_SENT)
		return false; /* in flight to a consumer that is still there */
	row_free(arg, e->seq);
	return true;
}

/* One that waits for room with what came from another node (away.c) stays with it. */
static bool is_void(void *arg, struct feed_entry *e)
{
	struct queue *q = arg;

	if (e->state == FEED_READY && q->sub->away)
		return false;
	if (e->packet_id && e->holder->kind == CONSUMER_SESSION)
		packet_ids_void(&session_of(e->holder)->ids, e->packet_id);
	row_free(q, e->seq);
	return true;
}

void retry_forget(struct queue *q)
{
	feed_unhold_if(&q->retry.feed, is_void, q);
	q->n_done = 0;
}

void retry_suspend(struct queue *q)
{
	feed_unhold_if(&q->retry.feed, is_not_sent, q);
	keys_clear(q);
	q->sub->space->dispatch->stats.retries_waiting -= q->waiting;
	q->waiting = 0;
	q->loaded = false;
	q->due_ms = UINT64_MAX;
}

void retry_release(struct queue *q)
{
	struct retry_row *row;
	size_t at = 0;

	while ((row = map_next(&q->rows, &at)))
		row_free(q, row->timer_id);
	map_release(&q->rows);
	keys_clear(q);
	map_release(&q->row_keys);
}

/* ---- reading -----------------------------------------------------------------------------------
 */

struct retry_read {
	struct bus_retries req;
	struct subscription *sub; /* one of its requests */
	uint64_t epoch;
	uint64_t generation;
	uint64_t *known;
};

/* The rows in memory, and those whose deletion is under way. */
static uint64_t *known_rows(const struct queue *q, size_t *n)
{
	const struct feed *f = &q->retry.feed;
	uint64_t *ids = xcalloc(f->n_held + q->n_done + BUS_FAILURES_MAX, sizeof *ids);

	*n = 0;
	for (size_t i = 0; i < f->n_held; i++)
		ids[(*n)++] = f->held[i].seq;
	for (size_t i = 0; i < q->n_done; i++)
		ids[(*n)++] = q->done[i];
	*n += failure_done_under_way(q, ids + *n);
	qsort(ids, *n, sizeof *ids, order_u64);
	return ids;
}

static bool is_done(const struct queue *q, uint64_t timer_id)
{
	for (size_t i = 0; i < q->n_done; i++) {
		if (q->done[i] == timer_id)
			return true;
	}
	return false;
}

static void learn_order(struct queue *q, const struct bus_retries *req)
{
	uint64_t key;
	uint64_t id;

	for (size_t i = 0; i < req->n_list; i++) {
		const struct bus_waiting *w = &req->rows[i];

		if (is_done(q, w->timer_id))
			continue;
		ordering_found(&q->ordering, w->key, w->timer_id, w->kind == BUS_FAILED_PARKED);
		if (w->kind != BUS_FAILED_PARKED)
			retry_order_made(q, w->timer_id, w->key);
	}
	while ((id = ordering_next_of_any(&q->ordering, &key)))
		failure_due(q, id, key);
}

static void read_take(struct queue *q, const struct bus_retries *req)
{
	for (size_t i = 0; i < req->n; i++)
		row_take(q, &req->retries[i]);
	if (!q->loaded) {
		learn_order(q, req);
		q->waiting = req->waiting;
		q->sub->space->dispatch->stats.retries_waiting += q->waiting;
		q->loaded = true;
		failure_resume(q);
	}
	if (req->next_in_ms != UINT64_MAX)
		retry_expect(q, req->next_in_ms);
}

static void look_again(void *arg)
{
	struct queue *q = arg;

	q->reading = false;
	queue_pump(q);
}

static void on_retries(struct bus_retries *req)
{
	struct retry_read *r = (struct retry_read *)req;
	struct subscription *s = r->sub;
	struct dispatch *d = s->space->dispatch;
	struct queue *q = s->queue;
	bool ours = q && s->state == SUBSCRIPTION_ACTIVE && s->epoch == r->epoch &&
	            r->generation == d->bus->generation;

	if (q)
		q->reading = false;
	if (ours && req->outcome == SQL_OK)
		read_take(q, req);
	for (size_t i = 0; req->outcome == SQL_OK && i < req->n; i++)
		batch_unref(req->retries[i].batch);
	if (req->outcome == SQL_OK) {
		free(req->retries);
		free(req->rows);
	}
	if (ours && req->outcome != SQL_OK) {
		q->reading = true;
		q->due_ms = 0; /* whatever it was that was due */
		dispatch_after(d, PAUSE_AFTER_ERROR_MS, look_again, q);
	} else if (q) {
		queue_pump(q);
	}
	free(r->known);
	free(r);
	subscription_unref(s);
}

static void start_read(struct queue *q, uint32_t room)
{
	struct subscription *s = q->sub;
	struct dispatch *d = s->space->dispatch;
	struct retry_read *r = xcalloc(1, sizeof *r);
	size_t n;

	r->sub = s;
	r->epoch = s->epoch;
	r->generation = d->bus->generation;
	r->known = known_rows(q, &n);
	r->req = (struct bus_retries){
	        .done = on_retries,
	        .tenant_id = s->space->tenant_id,
	        .subscription_id = s->id,
	        .limit = room < BUS_RETRIES_MAX ? room : BUS_RETRIES_MAX,
	        .n_known = n,
	        .known = r->known,
	        .list = q->policy.ordered && !q->loaded,
	};
	q->reading = true;
	q->due_ms = UINT64_MAX;
	s->requests++;
	d->bus->ops->retries(d->bus, &r->req);
}

static void on_alarm(void *arg)
{
	struct queue *q = arg;

	q->alarm_ms = 0; /* it may be a little early: then it is set again */
	queue_pump(q);
}

static void set_alarm(struct queue *q)
{
	uint64_t now = clock_now_ms();
	uint64_t at = q->reading ? UINT64_MAX : q->due_ms;
	uint64_t ms;

	if (q->breaker.open && !q->breaker.probing && q->breaker.probe_at_ms > now &&
	    q->breaker.probe_at_ms < at)
		at = q->breaker.probe_at_ms;
	if (at == UINT64_MAX || (q->alarm_ms && q->alarm_ms <= at))
		return;
	q->alarm_ms = at > now ? at : now;
	ms = q->alarm_ms - now;
	dispatch_after(q->sub->space->dispatch, ms < LOOK_MAX_MS ? (uint32_t)ms : LOOK_MAX_MS,
	               on_alarm, q);
}

void retry_expect(struct queue *q, uint64_t in_ms)
{
	uint64_t at = clock_now_ms() + (in_ms < LOOK_MAX_MS ? in_ms : LOOK_MAX_MS);

	if (at < q->due_ms)
		q->due_ms = at;
}

/* It came back from a consumer that had it since before it was ours: the event is not here. Or that
 * consumer processed it, and the row can go. */
static bool is_hollow(void *arg, struct feed_entry *e)
{
	struct queue *q = arg;

	if (e->state == FEED_DONE) {
		failure_done(q, e->seq);
		return true;
	}
	if (e->state != FEED_READY || (q->loaded && retry_find(q, e->seq)))
		return false;
	row_free(q, e->seq);
	retry_expect(q, 0);
	return true;
}

void retry_look(struct queue *q)
{
	const struct subscription *s = q->sub;
	size_t in_memory;
	bool due;

	if (s->state != SUBSCRIPTION_ACTIVE || !s->space->dispatch->up ||
	    s->space->dispatch->draining)
		return;
	if (!q->reading)
		feed_unhold_if(&q->retry.feed, is_hollow, q);
	due = !q->loaded || clock_now_ms() >= q->due_ms;
	in_memory = q->retry.feed.n_held;
	if (due && !q->reading && in_memory < QUEUE_ROWS_MAX && q->n_done < DONE_MAX)
		start_read(q, (uint32_t)(QUEUE_ROWS_MAX - in_memory));
	else if (!due || q->breaker.open)
		set_alarm(q);
}
