/* settle_sql: what becomes of events that a queue's consumers failed to process: settlements, and
 * reading what waits to be tried again. Due times and history are by the database's clock. */
#include "base/buf.h"
#include "base/bug.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/order.h"
#include "cluster/bus_sql_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

/* ---- settle -------------------------------------------------------------------------------------
 */

static enum sql_outcome fence(struct sql_conn *c, const struct id128 *me,
                              const struct bus_settle *req)
{
	struct sql_param params[] = {sql_u64(req->tenant_id), sql_u64(req->subscription_id),
	                             param_session(me), sql_u64(req->epoch)};
	enum sql_outcome o = sql_exec(c, STMT_SUB_SETTLE, params, 4);

	return o == SQL_OK && sql_affected(c) == 0 ? SQL_LOST : o;
}

static enum sql_outcome move_cursors(struct sql_conn *c, const struct id128 *me,
                                     const struct bus_settle *req)
{
	enum sql_outcome o = SQL_OK;

	for (size_t i = 0; o == SQL_OK && i < req->n_cursors; i++) {
		struct bus_cursor_row row = {
		        .tenant_id = req->tenant_id,
		        .subscription_id = req->subscription_id,
		        .epoch = req->epoch,
		        .to = req->cursors[i],
		};

		o = cursor_sql_commit_one(c, me, &row);
		if (o == SQL_OK && row.fenced)
			o = SQL_LOST;
	}
	return o;
}

static struct sql_param param_reason(const struct bus_failure *f)
{
	return sql_utf8(f->reason.p, f->reason.n);
}

/* An event of the journal becomes a row of its own; `one` is a batch of it alone. */
static enum sql_outcome move_event(struct sql_conn *c, const struct bus_settle *req,
                                   struct bus_failure *f, const struct batch *one)
{
	struct event ev;
	struct sql_param params[12] = {sql_u64(req->tenant_id), sql_u64(req->subscription_id)};
	unsigned n = 2;
	enum sql_stmt stmt;
	enum sql_outcome o;

	batch_event(one, 0, &ev);
	if (f->kind == BUS_FAILED_RETRY)
		params[n++] = sql_u64(f->delay_ms * 1000);
	params[n++] = sql_u64(f->partition_id);
	params[n++] = sql_u64(f->seq);
	params[n++] = sql_u64(f->attempt);
	if (f->kind == BUS_FAILED_DEAD)
		params[n++] = sql_bytes(f->reason.p, f->reason.n);
	else
		params[n++] = sql_bytes(event_ordering(&ev).p, event_ordering(&ev).n);
	if (f->kind != BUS_FAILED_PARKED) {
		params[n++] = param_reason(f);
		params[n++] = sql_u64(f->attempt);
	}
	params[n++] = sql_utf8(batch_attributes(one).p, batch_attributes(one).n);
	params[n++] =
	        sql_bytes(batch_body(one).p, f->kind == BUS_FAILED_DEAD && BUG("dead-letter-cut")
	                                             ? batch_body(one).n / 2
	                                             : batch_body(one).n);
	stmt = f->kind == BUS_FAILED_DEAD     ? STMT_DEAD_LETTER_NEW
	       : f->kind == BUS_FAILED_PARKED ? STMT_TIMER_PARK
	                                      : STMT_TIMER_RETRY;
	o = sql_exec(c, stmt, params, n);
	if (o == SQL_OK && f->kind != BUS_FAILED_DEAD)
		f->made = sql_insert_id(c);
	return o;
}

static enum sql_outcome fail_event(struct sql_conn *c, const struct bus_settle *req,
                                   struct bus_failure *f)
{
	struct batch *one = batch_split(f->batch, f->index, f->index + 1);
	enum sql_outcome o = move_event(c, req, f, one);

	batch_unref(one);
	return o;
}

static void ids_json(const uint64_t *ids, size_t n, struct buf *out)
{
	for (size_t i = 0; i < n; i++)
		buf_printf(out, "%c%" PRIu64, i ? ',' : '[', ids[i]);
	buf_u8(out, ']');
}

static enum sql_outcome timers_done(struct sql_conn *c, uint64_t subscription_id,
                                    const uint64_t *ids, size_t n)
{
	struct buf json = {0};
	struct sql_param params[2];
	enum sql_outcome o;

	ids_json(ids, n, &json);
	params[0] = sql_utf8(json.data, json.len);
	params[1] = sql_u64(subscription_id);
	o = sql_exec(c, STMT_TIMER_DONE, params, 2);
	buf_release(&json);
	return o;
}

/* One that came from a timer row failed again. */
static enum sql_outcome fail_timer(struct sql_conn *c, const struct bus_settle *req,
                                   const struct bus_failure *f)
{
	struct sql_param id = sql_u64(f->timer_id);
	struct sql_param sub = sql_u64(req->subscription_id);
	struct sql_param attempt = sql_u64(f->attempt);
	enum sql_outcome o;

	if (f->kind == BUS_FAILED_DUE)
		return sql_exec(c, STMT_TIMER_DUE, (struct sql_param[]){id, sub}, 2);
	if (f->kind == BUS_FAILED_RETRY) {
		struct sql_param params[] = {sql_u64(f->delay_ms * 1000),
		                             param_reason(f),
		                             attempt,
		                             attempt,
		                             id,
		                             sub,
		                             attempt};

		return sql_exec(c, STMT_TIMER_AGAIN, params, 7);
	}
	if (BUG("dead-letter-lost"))
		return timers_done(c, req->subscription_id, &f->timer_id, 1);
	o = sql_exec(c, STMT_DEAD_LETTER_FROM_TIMER,
	             (struct sql_param[]){attempt, sql_bytes(f->reason.p, f->reason.n),
	                                  param_reason(f), attempt, id, sub},
	             6);
	return o == SQL_OK ? timers_done(c, req->subscription_id, &f->timer_id, 1) : o;
}

static enum sql_outcome work_settle(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_settle *req = job->req;
	enum sql_outcome o = fence(c, &job->me, req);

	if (o == SQL_OK)
		o = move_cursors(c, &job->me, req);
	if (o == SQL_OK && req->n_done)
		o = timers_done(c, req->subscription_id, req->done_timers, req->n_done);
	for (size_t i = 0; o == SQL_OK && i < req->n_failures; i++) {
		struct bus_failure *f = &req->failures[i];

		o = f->timer_id ? fail_timer(c, req, f) : fail_event(c, req, f);
	}
	return o == SQL_OK ? sql_commit(c) : o;
}

BUS_JOB_DONE(settle)

void settle_sql_settle(struct bus *bus, struct bus_settle *req)
{
	assert(req->n_failures <= BUS_FAILURES_MAX && req->n_done <= BUS_FAILURES_MAX);
	for (size_t i = 0; i < req->n_failures; i++) {
		assert(req->failures[i].reason.n <= BUS_REASON_MAX);
		req->failures[i].made = 0;
	}
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_CURSOR, work_settle, settle_done, req, NULL);
}

/* ---- retries ------------------------------------------------------------------------------------
 */

/* The ids that are due and that the caller does not have yet. */
struct due {
	const struct bus_retries *req;
	uint64_t ids[BUS_RETRIES_MAX];
	size_t n;
	bool more;
};

static int on_due(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct due *due = arg;
	const struct bus_retries *req = due->req;

	if (n < 1 || (req->n_known && bsearch(&cells[0].u, req->known, req->n_known,
	                                      sizeof *req->known, order_u64)))
		return 0;
	due->more = due->n == req->limit;
	if (due->more)
		return 1;
	due->ids[due->n++] = cells[0].u;
	return 0;
}

struct found {
	const struct bus_retries *req;
	struct bus_retry *retries; /* at the places of their ids; without a batch: none */
	size_t n;
};

/* which of the ids, timer_id, partition_id, seq, attempt, attributes, body */
static int on_event(void *arg, const struct sql_cell *cells, unsigned n)
{
	const struct found *found = arg;
	uint32_t tenant_id = found->req->tenant_id;
	struct bus_retry *r;
	struct err e;

	if (n < 7 || cells[0].u < 1 || cells[0].u > found->n)
		return 1;
	r = &found->retries[cells[0].u - 1];
	*r = (struct bus_retry){
	        .timer_id = cells[1].u,
	        .partition_id = (uint32_t)cells[2].u,
	        .seq = cells[3].u,
	        .attempt = (uint32_t)cells[4].u,
	};
	r->batch = batch_decode(tenant_id, r->partition_id, r->seq, 1, cells[5].bytes,
	                        cells[6].bytes, &e);
	if (!r->batch)
		log_error("settle", "tenant=%u timer=%" PRIu64 " row cannot be read: %s", tenant_id,
		          r->timer_id, e.text);
	return 0;
}

static enum sql_outcome read_events(struct sql_conn *c, struct bus_retries *req,
                                    const struct due *due)
{
	struct found found = {req, xcalloc(due->n, sizeof *found.retries), due->n};
	struct buf json = {0};
	struct sql_param params[2];
	enum sql_outcome o;

	ids_json(due->ids, due->n, &json);
	params[0] = sql_utf8(json.data, json.len);
	params[1] = sql_u64(req->subscription_id);
	o = sql_query(c, STMT_RETRY_READ, params, 2, on_event, &found);
	buf_release(&json);
	req->retries = found.retries;
	for (size_t i = 0; i < found.n; i++) {
		if (found.retries[i].batch)
			req->retries[req->n++] = found.retries[i];
	}
	return o;
}

static int on_waiting(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct bus_retries *req = arg;

	if (n < 2)
		return 1;
	req->waiting = cells[0].u;
	req->next_in_ms = cells[1].null ? UINT64_MAX : (cells[1].u + 999) / 1000;
	return 1;
}

struct list {
	struct bus_retries *req;
	size_t cap;
};

/* timer_id, kind, partition_id, seq, ordering */
static int on_listed(void *arg, const struct sql_cell *cells, unsigned n)
{
	enum { TIMER_PARKED = 4 };
	struct list *list = arg;
	struct bus_retries *req = list->req;

	if (n < 5)
		return 1;
	if (req->n_list == list->cap) {
		list->cap = list->cap ? list->cap * 2 : 64;
		req->rows = xrealloc(req->rows, list->cap * sizeof *req->rows);
	}
	req->rows[req->n_list++] = (struct bus_waiting){
	        .timer_id = cells[0].u,
	        .kind = cells[1].u == TIMER_PARKED ? BUS_FAILED_PARKED : BUS_FAILED_RETRY,
	        .partition_id = (uint32_t)cells[2].u,
	        .seq = cells[3].u,
	        .key = hash_stable(cells[4].bytes.p, cells[4].bytes.n),
	};
	return 0;
}

static void drop_results(struct bus_retries *req)
{
	for (size_t i = 0; i < req->n; i++)
		batch_unref(req->retries[i].batch);
	free(req->retries);
	free(req->rows);
	req->retries = NULL;
	req->rows = NULL;
	req->n = req->n_list = 0;
}

/* When the next is due is asked before what is due: a row whose time comes between the two is then
 * found twice. The other way round nobody would look for it again. Most queues have none. */
static enum sql_outcome work_retries(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_retries *req = job->req;
	struct due due = {.req = req};
	struct list list = {.req = req};
	struct sql_param params[] = {sql_u64(req->subscription_id),
	                             sql_u64(req->limit + req->n_known + 1)};
	enum sql_outcome o = sql_query(c, STMT_RETRY_WAITING, params, 1, on_waiting, req);

	if (o == SQL_OK && req->waiting)
		o = sql_query(c, STMT_RETRY_DUE, params, 2, on_due, &due);
	if (o == SQL_OK && due.n)
		o = read_events(c, req, &due);
	if (o == SQL_OK && req->waiting && req->list)
		o = sql_query(c, STMT_RETRY_LIST, params, 1, on_listed, &list);
	if (o == SQL_OK && due.more)
		req->next_in_ms = 0;
	if (o != SQL_OK)
		drop_results(req);
	return o;
}

BUS_JOB_DONE(retries)

void settle_sql_retries(struct bus *bus, struct bus_retries *req)
{
	assert(req->limit >= 1 && req->limit <= BUS_RETRIES_MAX);
	assert(req->n_known <= BUS_RETRIES_KNOWN_MAX);
	req->retries = NULL;
	req->rows = NULL;
	req->n = req->n_list = 0;
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_READ, work_retries, retries_done, req, NULL);
}
