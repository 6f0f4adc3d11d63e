#include "cluster/timer_sql.h"

#include "cluster/bulk_sql.h"

#include <stdlib.h>

enum {
	ROW_PARAMS = 13,
	RUN_MAX = 64, /* rows made together */
};

/* How due_at is made of when_ms: what the insert understands. */
enum { DUE_NEVER, DUE_AT, DUE_AFTER };

/* Consecutive events that become rows. */
struct run {
	struct timer_store *store;
	size_t n;
	struct row {
		struct event ev;
		struct batch *one; /* the event as a row keeps it */
	} rows[RUN_MAX];
};

static enum timer_kind kind_of(const struct event *ev)
{
	return ev->when == EVENT_AT || ev->when == EVENT_AFTER || ev->when == EVENT_CANCEL
	               ? TIMER_SCHEDULED
	               : TIMER_WILL;
}

/* ---- rows that are made ------------------------------------------------------------------------
 */

static size_t row_bytes(void *arg, size_t i)
{
	const struct run *run = arg;

	return batch_bytes(run->rows[i].one);
}

static uint64_t due_of(const struct event *ev)
{
	if (ev->when == EVENT_WILL)
		return DUE_NEVER;
	return ev->when == EVENT_AFTER ? DUE_AFTER : DUE_AT;
}

static void row_params(void *arg, size_t i, struct sql_param *out)
{
	const struct run *run = arg;
	const struct event *ev = &run->rows[i].ev;
	const struct batch *one = run->rows[i].one;
	const struct id128 *me = run->store->me;
	bool will = ev->when == EVENT_WILL;
	struct slice attributes = batch_attributes(one);
	struct slice body = batch_body(one);

	out[0] = sql_u64(kind_of(ev));
	out[1] = sql_u64(batch_tenant(one));
	out[2] = sql_u64(due_of(ev));
	out[3] = sql_u64(ev->when_ms * 1000);
	out[4] = sql_bytes(ev->owner.p, ev->owner.n);
	out[5] = ev->name.n ? sql_bytes(ev->name.p, ev->name.n) : sql_null();
	out[6] = will ? sql_bytes(me->b, sizeof me->b) : sql_null();
	out[7] = sql_u64(will ? ev->when_ms : 0);
	out[8] = sql_u64(ev->partition_id);
	out[9] = sql_u64(ev->will_id);
	out[10] = sql_u64(ev->will_expiry_ms);
	out[11] = sql_utf8(attributes.p, attributes.n);
	out[12] = sql_bytes(body.p, body.n);
}

/* Make the rows collected so far. */
static enum sql_outcome run_end(struct sql_conn *c, struct run *run)
{
	struct bulk bulk = {
	        .stmts = {STMT_TIMER_INSERT_64, STMT_TIMER_INSERT_32, STMT_TIMER_INSERT_16,
	                  STMT_TIMER_INSERT_8, STMT_TIMER_INSERT_4, STMT_TIMER_INSERT_2,
	                  STMT_TIMER_INSERT_1},
	        .row_params = ROW_PARAMS,
	        .n = run->n,
	        .bytes = row_bytes,
	        .params = row_params,
	        .arg = run,
	};
	enum sql_outcome o = bulk_sql_insert(c, &bulk);

	run->store->made |= run->n > 0;
	for (size_t i = 0; i < run->n; i++)
		batch_unref(run->rows[i].one);
	run->n = 0;
	return o == SQL_DUP ? SQL_RETRY : o; /* another node has just used the name */
}

static bool run_names(const struct run *run, const struct event *ev)
{
	for (size_t i = 0; ev->name.n && i < run->n; i++) {
		const struct event *other = &run->rows[i].ev;

		if (kind_of(other) == kind_of(ev) && slice_eq(other->name, ev->name) &&
		    slice_eq(other->owner, ev->owner))
			return true;
	}
	return false;
}

static void run_add(struct run *run, const struct event *ev, uint32_t i)
{
	run->rows[run->n++] =
	        (struct row){.ev = *ev, .one = batch_split(run->store->batch, i, i + 1)};
}

/* ---- rows that are there -----------------------------------------------------------------------
 */

static enum sql_outcome exec_named(struct sql_conn *c, const struct timer_store *s,
                                   const struct event *ev, enum sql_stmt stmt)
{
	struct sql_param params[] = {
	        sql_u64(batch_tenant(s->batch)),
	        sql_u64(kind_of(ev)),
	        sql_bytes(ev->owner.p, ev->owner.n),
	        sql_bytes(ev->name.p, ev->name.n),
	};

	return sql_exec(c, stmt, params, 4);
}

static enum sql_outcome cancel(struct sql_conn *c, const struct timer_store *s,
                               const struct event *ev, uint32_t i)
{
	enum sql_outcome o = exec_named(c, s, ev, STMT_TIMER_CANCEL);

	if (o == SQL_OK && sql_affected(c) == 0 && s->on_missing)
		s->on_missing(s->arg, s->no, i);
	return o;
}

/* What is said about wills. A new one makes one without a delay due, whose client it replaces, and
 * takes the place of one with a delay. */
static enum sql_outcome change_will(struct sql_conn *c, const struct timer_store *s,
                                    const struct event *ev)
{
	struct sql_param lost[] = {
	        sql_u64(ev->when_ms * 1000),       sql_u64(ev->when_ms),
	        sql_u64(batch_tenant(s->batch)),   sql_bytes(ev->owner.p, ev->owner.n),
	        sql_bytes(ev->name.p, ev->name.n), sql_u64(ev->will_id),
	};
	const struct sql_param *params = lost + 2;
	enum sql_outcome o = SQL_OK;

	if (ev->when == EVENT_WILL_LOST)
		return sql_exec(c, STMT_WILL_LOST, lost, 6);
	if (ev->when == EVENT_WILL_DROP)
		return sql_exec(c, STMT_WILL_DROP, params, 4);
	if (ev->when == EVENT_WILL)
		o = sql_exec(c, STMT_WILL_DETACH, params, 4);
	return o == SQL_OK ? sql_exec(c, STMT_WILL_CANCEL, params, 4) : o;
}

static enum sql_outcome store_one(struct sql_conn *c, struct run *run, uint32_t i)
{
	const struct timer_store *s = run->store;
	struct event ev;
	enum sql_outcome o = SQL_OK;

	batch_event(s->batch, i, &ev);
	if (run->n == RUN_MAX || run_names(run, &ev))
		o = run_end(c, run);
	if (o == SQL_OK && ev.when == EVENT_CANCEL)
		return cancel(c, s, &ev, i);
	if (o == SQL_OK && kind_of(&ev) == TIMER_WILL) {
		o = change_will(c, s, &ev);
		if (ev.when != EVENT_WILL)
			return o;
	} else if (o == SQL_OK && ev.name.n) {
		/* the new one takes the place of an old one of its name */
		o = exec_named(c, s, &ev, STMT_TIMER_CANCEL);
	}
	if (o == SQL_OK)
		run_add(run, &ev, i);
	return o;
}

enum sql_outcome timer_sql_store(struct sql_conn *c, struct timer_store *s)
{
	struct run run = {.store = s};
	enum sql_outcome o = SQL_OK;

	for (uint32_t i = 0; o == SQL_OK && i < batch_count(s->batch); i++)
		o = store_one(c, &run, i);
	if (o == SQL_OK)
		return run_end(c, &run);
	for (size_t i = 0; i < run.n; i++)
		batch_unref(run.rows[i].one);
	return o;
}
