/* claim_sql: claiming subscriptions. A claim rewrites owner and epoch of every cursor, so that
 * cursor commits need to look at no other row.
 *
 * When a node goes, the others claim thousands at once, and a commit for each would make them wait
 * for one another. So one transaction takes what has gathered while the last was under way, up to a
 * limit. Where that does not go through (a deadlock, a lock wait) each is done by itself: what is
 * wrong with one is not the others' loss. */
#include "base/buf.h"
#include "base/bug.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"

#include <stdlib.h>
#include <string.h>

enum { TOGETHER = 64 }; /* claims in a transaction: they hold their locks until it ends */

/* ---- claim --------------------------------------------------------------------------------------
 */

/* What a claim's results point to. Cursors' acked_ahead follow the filters in text, in order. */
struct claim_memory {
	struct buf text;
	size_t filters_bytes;
	size_t cap;
	struct bus_cursor *cursors;
	size_t n_cursors;
};

/* The row as it was found. */
struct claim_row {
	struct claim_memory *memory;
	bool found;
	uint64_t subscription_id;
	uint64_t epoch;
	struct id128 owner; /* zero = none */
	bool owner_live;
	char peer[BUS_ADDR_MAX + 1]; /* the owner's */
	bool expired;
	bool paused;
	bool by_force; /* its owner is live and to be told */
	bool refused;  /* what is asked for cannot be, and nothing was written */
	uint32_t expiry_s;
	struct bus_policy policy;
};

static void memory_free(struct claim_memory *m)
{
	if (!m)
		return;
	buf_release(&m->text);
	free(m->cursors);
	free(m);
}

static void memory_set_filters(struct claim_memory *m, struct slice filters)
{
	buf_clear(&m->text);
	buf_append_slice(&m->text, filters);
	m->filters_bytes = filters.n;
}

/* subscription_id, epoch, owner, owner is live, has expired, expiry_s, filters, owner's peer,
 * policy, is paused */
static int on_subscription(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct claim_row *row = arg;

	if (n < 16)
		return 1;
	row->found = true;
	row->subscription_id = cells[0].u;
	row->epoch = cells[1].u;
	if (!cells[2].null && cells[2].bytes.n == sizeof row->owner.b)
		memcpy(row->owner.b, cells[2].bytes.p, sizeof row->owner.b);
	row->owner_live = cells[3].u != 0;
	row->expired = cells[4].u != 0;
	row->expiry_s = (uint32_t)cells[5].u;
	memory_set_filters(row->memory, cells[6].bytes);
	if (cells[7].bytes.n <= BUS_ADDR_MAX && !cells[7].null)
		memcpy(row->peer, cells[7].bytes.p, cells[7].bytes.n);
	row->policy = (struct bus_policy){
	        .max_attempts = (uint32_t)cells[8].u,
	        .ack_timeout_ms = (uint32_t)cells[9].u,
	        .backoff_ms = (uint32_t)cells[10].u,
	        .backoff_max_ms = (uint32_t)cells[11].u,
	        .max_failed = (uint32_t)cells[12].u,
	        .ordered = cells[13].u != 0,
	        .pin = cells[14].u != 0,
	};
	row->paused = cells[15].u != 0;
	return 1;
}

/* partition_id, commit_no, acked_through, acked_ahead */
static int on_cursor(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct claim_memory *m = arg;

	if (n < 4)
		return 1;
	if (m->n_cursors == m->cap) {
		m->cap = m->cap ? m->cap * 2 : 4;
		m->cursors = xrealloc(m->cursors, m->cap * sizeof *m->cursors);
	}
	m->cursors[m->n_cursors++] = (struct bus_cursor){
	        .partition_id = (uint32_t)cells[0].u,
	        .commit_no = cells[1].u,
	        .acked_through = cells[2].u,
	        .acked_ahead = {.n = cells[3].bytes.n},
	};
	buf_append_slice(&m->text, cells[3].bytes);
	return 0;
}

static enum sql_outcome find_row(struct sql_conn *c, const struct bus_claim *req,
                                 struct claim_row *row)
{
	struct sql_param params[] = {
	        sql_u64(req->tenant_id),
	        sql_u64(req->kind),
	        sql_bytes(req->subject.p, req->subject.n),
	        sql_bytes(req->name.p, req->name.n),
	};

	return sql_query(c, STMT_SUB_FIND, params, 4, on_subscription, row);
}

static enum sql_outcome refuse(struct claim_row *row, enum sql_outcome why)
{
	row->refused = true;
	return why;
}

static enum sql_outcome create_row(struct sql_conn *c, const struct id128 *me,
                                   struct bus_claim *req, struct claim_row *row)
{
	const struct bus_policy *policy = &req->policy;
	struct sql_param params[] = {
	        sql_u64(req->tenant_id),
	        sql_u64(req->kind),
	        sql_bytes(req->subject.p, req->subject.n),
	        sql_bytes(req->name.p, req->name.n),
	        sql_utf8(req->filters.p, req->filters.n),
	        sql_u64(req->expiry_s),
	        param_session(me),
	        sql_u64(policy->max_attempts),
	        sql_u64(policy->ack_timeout_ms),
	        sql_u64(policy->backoff_ms),
	        sql_u64(policy->backoff_max_ms),
	        sql_u64(policy->max_failed),
	        sql_u64(policy->ordered),
	        sql_u64(policy->pin),
	};
	enum sql_outcome o = sql_exec(c, STMT_SUB_CREATE, params, 14);

	if (o == SQL_DUP) /* someone was quicker: find theirs */
		return refuse(row, SQL_RETRY);
	req->subscription_id = sql_insert_id(c);
	req->epoch = 1;
	return o;
}

/* Ours from the next epoch on, if nobody has touched it since it was found. */
static enum sql_outcome take_row(struct sql_conn *c, const struct id128 *me, struct bus_claim *req,
                                 struct claim_row *row)
{
	struct sql_param params[] = {
	        param_session(me),   sql_u64(req->tenant_id),    sql_u64(row->subscription_id),
	        sql_u64(row->epoch), param_session(&row->owner),
	};
	enum sql_outcome o = sql_exec(c, STMT_SUB_CLAIM, params, 5);

	if (o == SQL_OK && sql_affected(c) == 0)
		return refuse(row, SQL_RETRY);
	req->subscription_id = row->subscription_id;
	req->epoch = row->epoch + 1;
	return o;
}

/* Drop what the old one left. */
static enum sql_outcome renew_row(struct sql_conn *c, const struct id128 *me, struct bus_claim *req)
{
	struct sql_param params[] = {sql_u64(req->tenant_id), sql_u64(req->subscription_id)};
	enum sql_outcome o = sql_exec(c, STMT_CURSOR_DELETE, params, 2);

	if (o == SQL_OK)
		o = subscription_sql_filters(c, me, req->tenant_id, req->subscription_id,
		                             req->epoch, req->filters, req->expiry_s);
	return o;
}

static enum sql_outcome claim_cursors(struct sql_conn *c, const struct id128 *me,
                                      const struct bus_claim *req)
{
	struct sql_param params[] = {param_session(me), sql_u64(req->epoch),
	                             sql_u64(req->tenant_id), sql_u64(req->subscription_id)};

	return sql_exec(c, STMT_CURSOR_CLAIM, params, 4);
}

static enum sql_outcome claim_row(struct sql_conn *c, const struct id128 *me, struct bus_claim *req,
                                  struct claim_row *row)
{
	enum sql_outcome o = find_row(c, req, row);

	if (o != SQL_OK)
		return o;
	if ((!row->found || row->expired) && !req->create)
		return refuse(row, SQL_FATAL);
	if (row->paused && !row->expired)
		return refuse(row, SQL_LOST);
	row->by_force = row->found && row->owner_live && !id128_eq(&row->owner, me);
	if (row->by_force && !req->force && !BUG("claim-live-owner")) {
		req->holder.session_id = row->owner;
		memcpy(req->holder.addr, row->peer, sizeof req->holder.addr);
		return refuse(row, SQL_LOST);
	}
	req->created = !row->found || row->expired || req->fresh;
	o = row->found ? take_row(c, me, req, row) : create_row(c, me, req, row);
	if (o == SQL_OK && row->found && req->created)
		o = renew_row(c, me, req);
	if (o == SQL_OK && !req->created)
		return claim_cursors(c, me, req);
	if (o == SQL_OK)
		o = subscription_sql_cursors(c, me, req->tenant_id, req->subscription_id,
		                             req->epoch, req->starts, req->n_starts);
	return o;
}

static void claim_answer(struct bus_claim *req, const struct claim_row *row)
{
	struct claim_memory *m = row->memory;
	size_t at = m->filters_bytes;

	for (size_t i = 0; i < m->n_cursors; i++) {
		if (BUG("claim-from-behind"))
			m->cursors[i].acked_through -= m->cursors[i].acked_through / 2;
		m->cursors[i].acked_ahead.p = m->text.data + at;
		at += m->cursors[i].acked_ahead.n;
	}
	req->stored_filters = slice(m->text.data, m->filters_bytes);
	req->stored_expiry_s = req->created ? req->expiry_s : row->expiry_s;
	req->cursors = m->cursors;
	req->n_cursors = (uint32_t)m->n_cursors;
	req->memory = m;
}

/* ---- many ---------------------------------------------------------------------------------------
 */

/* What goes through the lane together; the requests are their callers'. */
struct claims {
	struct bus_sql *owner; /* loop thread only */
	bool ran;              /* work() was called */
	size_t n;
	struct bus_claim *reqs[TOGETHER];
	struct claim_row rows[TOGETHER];
};

/* Everything of one claim but the commit. */
static enum sql_outcome claim_one(struct sql_conn *c, const struct id128 *me, struct bus_claim *req,
                                  struct claim_row *row)
{
	enum sql_outcome o;

	*row = (struct claim_row){.memory = xcalloc(1, sizeof *row->memory)};
	req->holder = (struct bus_peer){0}; /* of an attempt before this */
	o = claim_row(c, me, req, row);
	if (o == SQL_OK) {
		struct sql_param params[] = {sql_u64(req->tenant_id),
		                             sql_u64(req->subscription_id)};

		if (req->created)
			memory_set_filters(row->memory, req->filters);
		o = sql_query(c, STMT_CURSOR_READ, params, 2, on_cursor, row->memory);
	}
	return o;
}

static void claim_end(struct bus_claim *req, struct claim_row *row, enum sql_outcome o)
{
	req->outcome = o;
	if (o == SQL_OK && row->found)
		req->policy = row->policy;
	if (o == SQL_OK)
		claim_answer(req, row);
	else
		memory_free(row->memory);
	row->memory = NULL;
}

/* Each owner that lost something, once; last, as its renewals wait for this row. */
static enum sql_outcome tell_owners(struct sql_conn *c, const struct claim_row *rows, size_t n)
{
	enum sql_outcome o = SQL_OK;

	for (size_t i = 0; o == SQL_OK && i < n; i++) {
		struct sql_param param = param_session(&rows[i].owner);
		bool told = !rows[i].by_force || rows[i].refused;

		for (size_t j = 0; j < i && !told; j++)
			told = rows[j].by_force && !rows[j].refused &&
			       id128_eq(&rows[j].owner, &rows[i].owner);
		if (!told)
			o = sql_exec(c, STMT_SESSION_TAKEN, &param, 1);
	}
	return o;
}

/* False = nothing is stored, and each may do better by itself. */
static bool claim_together(struct sql_conn *c, const struct id128 *me, struct claims *claims)
{
	enum sql_outcome outcomes[TOGETHER];
	enum sql_outcome o = SQL_OK;
	bool good = true;
	size_t n = 0;

	for (; good && n < claims->n; n++) {
		outcomes[n] = claim_one(c, me, claims->reqs[n], &claims->rows[n]);
		good = outcomes[n] == SQL_OK || claims->rows[n].refused;
	}
	if (good)
		o = tell_owners(c, claims->rows, n);
	if (good && o == SQL_OK)
		o = sql_commit(c);
	else
		good = false;
	good = good && o != SQL_RETRY;
	for (size_t i = 0; i < n; i++) {
		if (good)
			claim_end(claims->reqs[i], &claims->rows[i],
			          outcomes[i] == SQL_OK ? o : outcomes[i]);
		else
			memory_free(claims->rows[i].memory);
	}
	return good;
}

static void claim_alone(struct sql_conn *c, const struct id128 *me, struct bus_claim *req)
{
	struct claim_row row;
	enum sql_outcome o = claim_one(c, me, req, &row);

	if (o == SQL_OK)
		o = tell_owners(c, &row, 1);
	if (o == SQL_OK)
		o = sql_commit(c);
	else
		sql_rollback(c);
	claim_end(req, &row, o);
}

static enum sql_outcome work_claims(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct claims *claims = job->req;

	claims->ran = true;
	if (claims->n > 1 && claim_together(c, &job->me, claims))
		return SQL_OK;
	if (claims->n > 1)
		sql_rollback(c);
	for (size_t i = 0; i < claims->n; i++)
		claim_alone(c, &job->me, claims->reqs[i]);
	return SQL_OK;
}

/* ---- those that wait for their turn -------------------------------------------------------------
 */

static void claims_begin(struct bus_sql *b);

/* When the lane is down, those behind are told as well, and need not find out one by one. */
static void claims_answer(struct claims *claims)
{
	struct bus_sql *b = claims->owner;
	struct claim_waiting *behind = NULL;
	size_t n = 0;

	if (!claims->ran) {
		behind = b->claims;
		n = b->n_claims;
		b->claims = NULL;
		b->n_claims = b->claims_cap = 0;
	}
	for (size_t i = 0; i < claims->n; i++) {
		if (!claims->ran)
			claims->reqs[i]->outcome = SQL_RETRY;
		claims->reqs[i]->done(claims->reqs[i]);
	}
	for (size_t i = 0; i < n; i++) {
		behind[i].req->outcome = SQL_RETRY;
		behind[i].req->done(behind[i].req);
	}
	free(behind);
	free(claims);
	b->claiming = false;
	if (b->n_claims)
		claims_begin(b);
}

static void claims_done(void *arg, enum sql_outcome outcome)
{
	struct bus_job *job = arg;
	struct claims *claims = job->req;

	(void)outcome; /* each has its own */
	free(job);
	claims_answer(claims);
}

static void claims_stale(void *arg)
{
	claims_answer(arg);
}

/* The first of those that wait, of one generation. One that is over is not claimed in. */
static void claims_begin(struct bus_sql *b)
{
	struct claims *claims = xcalloc(1, sizeof *claims);
	uint64_t generation = b->claims[0].generation;

	claims->owner = b;
	while (claims->n < TOGETHER && claims->n < b->n_claims &&
	       b->claims[claims->n].generation == generation) {
		claims->reqs[claims->n] = b->claims[claims->n].req;
		claims->n++;
	}
	b->n_claims -= claims->n;
	memmove(b->claims, b->claims + claims->n, b->n_claims * sizeof *b->claims);
	b->claiming = true;
	if (generation == b->bus.generation)
		bus_sql_submit(b, SQL_LANE_ADMIN, work_claims, claims_done, claims, NULL);
	else
		b->settings.defer(b->settings.loop, claims_stale, claims);
}

void claim_sql_claim(struct bus *bus, struct bus_claim *req)
{
	struct bus_sql *b = bus_sql_self(bus);

	req->memory = NULL;
	req->cursors = NULL;
	req->n_cursors = 0;
	if (req->kind != BUS_SUB_QUEUE)
		req->policy = BUS_POLICY_DEFAULT;
	if (b->n_claims == b->claims_cap) {
		b->claims_cap = b->claims_cap ? b->claims_cap * 2 : TOGETHER;
		b->claims = xrealloc(b->claims, b->claims_cap * sizeof *b->claims);
	}
	b->claims[b->n_claims++] = (struct claim_waiting){req, bus->generation};
	if (!b->claiming)
		claims_begin(b);
}

void claim_sql_release(struct bus *bus, struct bus_claim *req)
{
	(void)bus;
	memory_free(req->memory);
	req->memory = NULL;
	req->cursors = NULL;
	req->n_cursors = 0;
	req->stored_filters = slice(NULL, 0);
}
