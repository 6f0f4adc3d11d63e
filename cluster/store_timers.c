#include "cluster/store_timers.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"

#include <stdlib.h>

enum { ROWS_FIRST = 8 };

struct row {
	uint64_t timer_id;
	uint64_t subscription_id;
	enum bus_failure_kind kind; /* RETRY, PARKED, DEAD */
	uint64_t due_ms;            /* wall clock; RETRY */
	uint32_t partition_id;
	uint64_t seq;
	uint32_t attempt;
	struct buf reason;   /* of the last attempt */
	struct batch *batch; /* of the event alone */
};

struct store_timers {
	struct row *rows; /* in no order */
	size_t n;
	size_t cap;
	uint64_t last_id;
};

struct store_timers *store_timers_new(void)
{
	return xcalloc(1, sizeof(struct store_timers));
}

static void row_release(struct row *r)
{
	buf_release(&r->reason);
	batch_unref(r->batch);
}

void store_timers_free(struct store_timers *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n; i++)
		row_release(&t->rows[i]);
	free(t->rows);
	free(t);
}

/* ---- settle -------------------------------------------------------------------------------------
 */

static struct row *row_find(struct store_timers *t, uint64_t subscription_id, uint64_t timer_id)
{
	for (size_t i = 0; i < t->n; i++) {
		struct row *r = &t->rows[i];

		if (r->timer_id == timer_id && r->subscription_id == subscription_id &&
		    r->kind != BUS_FAILED_DEAD)
			return r;
	}
	return NULL;
}

static struct row *row_make(struct store_timers *t, const struct bus_settle *req,
                            struct bus_failure *f)
{
	struct row *r;

	if (t->n == t->cap) {
		t->cap = t->cap ? t->cap * 2 : ROWS_FIRST;
		t->rows = xrealloc(t->rows, t->cap * sizeof *t->rows);
	}
	r = &t->rows[t->n++];
	*r = (struct row){
	        .timer_id = ++t->last_id,
	        .subscription_id = req->subscription_id,
	        .partition_id = f->partition_id,
	        .seq = f->seq,
	        .batch = batch_split(f->batch, f->index, f->index + 1),
	};
	batch_set_base_seq(r->batch, f->seq);
	if (f->kind != BUS_FAILED_DEAD)
		f->made = r->timer_id;
	return r;
}

static void settle_failure(struct store_timers *t, const struct bus_settle *req,
                           struct bus_failure *f)
{
	struct row *r;

	f->made = 0;
	r = f->timer_id ? row_find(t, req->subscription_id, f->timer_id) : row_make(t, req, f);
	if (!r || (f->timer_id && f->kind != BUS_FAILED_DUE && r->attempt >= f->attempt))
		return;
	r->kind = f->kind == BUS_FAILED_DUE ? BUS_FAILED_RETRY : f->kind;
	r->due_ms = clock_wall_ms() + (f->kind == BUS_FAILED_DUE ? 0 : f->delay_ms);
	if (f->kind == BUS_FAILED_DUE)
		return;
	r->attempt = f->attempt;
	buf_clear(&r->reason);
	buf_append_slice(&r->reason, f->reason);
}

void store_timers_settle(struct store_timers *t, struct bus_settle *req)
{
	for (size_t i = 0; i < req->n_done; i++) {
		struct row *r = row_find(t, req->subscription_id, req->done_timers[i]);

		if (!r)
			continue;
		row_release(r);
		*r = t->rows[--t->n];
	}
	for (size_t i = 0; i < req->n_failures; i++)
		settle_failure(t, req, &req->failures[i]);
}

/* ---- retries ------------------------------------------------------------------------------------
 */

static int by_due(const void *a, const void *b)
{
	const struct row *x = *(const struct row *const *)a;
	const struct row *y = *(const struct row *const *)b;

	if (x->due_ms != y->due_ms)
		return x->due_ms < y->due_ms ? -1 : 1;
	return x->timer_id < y->timer_id ? -1 : 1;
}

static bool is_known(const struct bus_retries *req, uint64_t timer_id)
{
	for (size_t i = 0; i < req->n_known; i++) {
		if (req->known[i] == timer_id)
			return true;
	}
	return false;
}

static int by_seq(const void *a, const void *b)
{
	const struct bus_waiting *x = a;
	const struct bus_waiting *y = b;

	if (x->partition_id != y->partition_id)
		return x->partition_id < y->partition_id ? -1 : 1;
	return (x->seq > y->seq) - (x->seq < y->seq);
}

static void list_row(struct bus_retries *req, const struct row *r)
{
	struct event ev;

	batch_event(r->batch, 0, &ev);
	req->rows[req->n_list++] = (struct bus_waiting){
	        .timer_id = r->timer_id,
	        .kind = r->kind,
	        .partition_id = r->partition_id,
	        .seq = r->seq,
	        .key = hash_stable(event_ordering(&ev).p, event_ordering(&ev).n),
	};
}

static void take_due(struct bus_retries *req, const struct row *r)
{
	uint64_t now = clock_wall_ms();

	if (r->due_ms > now) {
		if (r->due_ms - now < req->next_in_ms)
			req->next_in_ms = r->due_ms - now;
	} else if (req->n == req->limit) {
		req->next_in_ms = 0;
	} else {
		req->retries[req->n++] = (struct bus_retry){
		        .timer_id = r->timer_id,
		        .partition_id = r->partition_id,
		        .seq = r->seq,
		        .attempt = r->attempt,
		        .batch = batch_ref(r->batch),
		};
	}
}

uint64_t store_timers_dead(const struct store_timers *t, uint32_t tenant_id)
{
	uint64_t n = 0;

	for (size_t i = 0; i < t->n; i++) {
		const struct row *r = &t->rows[i];

		n += r->kind == BUS_FAILED_DEAD && batch_tenant(r->batch) == tenant_id;
	}
	return n;
}

void store_timers_retries(const struct store_timers *t, struct bus_retries *req)
{
	const struct row **mine = xcalloc(t->n + 1, sizeof(struct row *));
	size_t n = 0;

	req->n = req->n_list = 0;
	req->waiting = 0;
	req->next_in_ms = UINT64_MAX;
	req->retries = xcalloc(req->limit, sizeof *req->retries);
	req->rows = req->list ? xcalloc(t->n + 1, sizeof *req->rows) : NULL;
	for (size_t i = 0; i < t->n; i++) {
		const struct row *r = &t->rows[i];

		if (r->subscription_id != req->subscription_id || r->kind == BUS_FAILED_DEAD)
			continue;
		req->waiting++;
		if (req->list)
			list_row(req, r);
		if (r->kind == BUS_FAILED_RETRY && !is_known(req, r->timer_id))
			mine[n++] = r;
	}
	qsort(mine, n, sizeof *mine, by_due);
	for (size_t i = 0; i < n; i++)
		take_due(req, mine[i]);
	if (req->n_list)
		qsort(req->rows, req->n_list, sizeof *req->rows, by_seq);
	free(mine);
}

void store_timers_each(const struct store_timers *t, uint64_t subscription_id,
                       void (*fn)(void *arg, const struct bus_failure *row), void *arg)
{
	for (size_t i = 0; i < t->n; i++) {
		const struct row *r = &t->rows[i];
		struct bus_failure row = {
		        .kind = r->kind,
		        .timer_id = r->timer_id,
		        .partition_id = r->partition_id,
		        .seq = r->seq,
		        .attempt = r->attempt,
		        .reason = buf_slice(&r->reason),
		        .batch = r->batch,
		};

		if (r->subscription_id == subscription_id)
			fn(arg, &row);
	}
}
