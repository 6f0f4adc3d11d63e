/* subscription_sql: claiming, changing and expiring subscriptions. The claim rewrites owner and
 * epoch of every cursor, so that cursor commits need to look at no other row. */
#include "base/buf.h"
#include "base/bug.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

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

static enum sql_outcome create_cursors(struct sql_conn *c, const struct id128 *me,
                                       uint32_t tenant_id, uint64_t subscription_id, uint64_t epoch,
                                       const struct bus_cursor *starts, uint32_t n)
{
	enum sql_outcome o = SQL_OK;

	for (uint32_t i = 0; o == SQL_OK && i < n; i++) {
		struct sql_param params[] = {
		        sql_u64(tenant_id),
		        sql_u64(subscription_id),
		        sql_u64(starts[i].partition_id),
		        param_session(me),
		        sql_u64(epoch),
		        sql_u64(starts[i].acked_through),
		        sql_bytes(starts[i].acked_ahead.p, starts[i].acked_ahead.n),
		};

		o = sql_exec(c, STMT_CURSOR_CREATE, params, 7);
	}
	return o;
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

static enum sql_outcome create_row(struct sql_conn *c, const struct id128 *me,
                                   struct bus_claim *req)
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
		return SQL_RETRY;
	req->subscription_id = sql_insert_id(c);
	req->epoch = 1;
	return o;
}

/* Ours from the next epoch on, if nobody has touched it since it was found. */
static enum sql_outcome take_row(struct sql_conn *c, const struct id128 *me, struct bus_claim *req,
                                 const struct claim_row *row)
{
	struct sql_param params[] = {
	        param_session(me),   sql_u64(req->tenant_id),    sql_u64(row->subscription_id),
	        sql_u64(row->epoch), param_session(&row->owner),
	};
	enum sql_outcome o = sql_exec(c, STMT_SUB_CLAIM, params, 5);

	if (o == SQL_OK && sql_affected(c) == 0)
		return SQL_RETRY;
	req->subscription_id = row->subscription_id;
	req->epoch = row->epoch + 1;
	return o;
}

static enum sql_outcome set_filters(struct sql_conn *c, const struct id128 *me, uint32_t tenant_id,
                                    uint64_t subscription_id, uint64_t epoch, struct slice filters,
                                    uint32_t expiry_s)
{
	struct sql_param params[] = {
	        sql_utf8(filters.p, filters.n), sql_u64(expiry_s), sql_u64(tenant_id),
	        sql_u64(subscription_id),       param_session(me), sql_u64(epoch),
	};
	enum sql_outcome o = sql_exec(c, STMT_SUB_SET_FILTERS, params, 6);

	return o == SQL_OK && sql_affected(c) == 0 ? SQL_LOST : o;
}

/* Drop what the old one left. */
static enum sql_outcome renew_row(struct sql_conn *c, const struct id128 *me, struct bus_claim *req)
{
	struct sql_param params[] = {sql_u64(req->tenant_id), sql_u64(req->subscription_id)};
	enum sql_outcome o = sql_exec(c, STMT_CURSOR_DELETE, params, 2);

	if (o == SQL_OK)
		o = set_filters(c, me, req->tenant_id, req->subscription_id, req->epoch,
		                req->filters, req->expiry_s);
	return o;
}

static enum sql_outcome claim_cursors(struct sql_conn *c, const struct id128 *me,
                                      const struct bus_claim *req)
{
	struct sql_param params[] = {param_session(me), sql_u64(req->epoch),
	                             sql_u64(req->tenant_id), sql_u64(req->subscription_id)};

	return sql_exec(c, STMT_CURSOR_CLAIM, params, 4);
}

static enum sql_outcome tell_owner(struct sql_conn *c, const struct id128 *owner)
{
	struct sql_param param = param_session(owner);

	return sql_exec(c, STMT_SESSION_TAKEN, &param, 1);
}

static enum sql_outcome claim_row(struct sql_conn *c, const struct id128 *me, struct bus_claim *req,
                                  struct claim_row *row)
{
	enum sql_outcome o = find_row(c, req, row);
	bool by_force;

	if (o != SQL_OK)
		return o;
	if ((!row->found || row->expired) && !req->create)
		return SQL_FATAL;
	if (row->paused && !row->expired)
		return SQL_LOST;
	by_force = row->found && row->owner_live && !id128_eq(&row->owner, me);
	if (by_force && !req->force && !BUG("claim-live-owner")) {
		req->holder.session_id = row->owner;
		memcpy(req->holder.addr, row->peer, sizeof req->holder.addr);
		return SQL_LOST;
	}
	req->created = !row->found || row->expired || req->fresh;
	o = row->found ? take_row(c, me, req, row) : create_row(c, me, req);
	if (o == SQL_OK && by_force)
		o = tell_owner(c, &row->owner);
	if (o == SQL_OK && row->found && req->created)
		o = renew_row(c, me, req);
	if (o == SQL_OK && !req->created)
		return claim_cursors(c, me, req);
	if (o == SQL_OK)
		o = create_cursors(c, me, req->tenant_id, req->subscription_id, req->epoch,
		                   req->starts, req->n_starts);
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

static enum sql_outcome work_claim(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_claim *req = job->req;
	struct claim_row row = {.memory = xcalloc(1, sizeof *row.memory)};
	enum sql_outcome o = claim_row(c, &job->me, req, &row);

	if (o == SQL_OK) {
		struct sql_param params[] = {sql_u64(req->tenant_id),
		                             sql_u64(req->subscription_id)};

		if (req->created)
			memory_set_filters(row.memory, req->filters);
		o = sql_query(c, STMT_CURSOR_READ, params, 2, on_cursor, row.memory);
	}
	if (o == SQL_OK)
		o = sql_commit(c);
	if (o == SQL_OK && row.found)
		req->policy = row.policy;
	if (o == SQL_OK)
		claim_answer(req, &row);
	else
		memory_free(row.memory);
	return o;
}

BUS_JOB_DONE(claim)

void subscription_sql_claim(struct bus *bus, struct bus_claim *req)
{
	req->memory = NULL;
	req->cursors = NULL;
	req->n_cursors = 0;
	if (req->kind != BUS_SUB_QUEUE)
		req->policy = BUS_POLICY_DEFAULT;
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_ADMIN, work_claim, claim_done, req, NULL);
}

void subscription_sql_claim_release(struct bus *bus, struct bus_claim *req)
{
	(void)bus;
	memory_free(req->memory);
	req->memory = NULL;
	req->cursors = NULL;
	req->n_cursors = 0;
	req->stored_filters = slice(NULL, 0);
}

/* ---- change -------------------------------------------------------------------------------------
 */

/* The statements that begin with the fence's four parameters, or end with them. */
static enum sql_outcome change_fenced(struct sql_conn *c, const struct id128 *me,
                                      const struct bus_change *req, enum sql_stmt stmt)
{
	struct sql_param params[6];
	unsigned n = 0;
	enum sql_outcome o;

	if (stmt == STMT_SUB_IDLE) {
		params[n++] = sql_u64(req->expiry_s);
		params[n++] = req->expiry_s == UINT32_MAX ? sql_null()
		                                          : sql_u64(req->expiry_s - req->idle_s);
	}
	params[n++] = sql_u64(req->tenant_id);
	params[n++] = sql_u64(req->subscription_id);
	params[n++] = param_session(me);
	params[n++] = sql_u64(req->epoch);
	o = sql_exec(c, stmt, params, n);
	return o == SQL_OK && sql_affected(c) == 0 ? SQL_LOST : o;
}

static enum sql_outcome change_filters(struct sql_conn *c, const struct id128 *me,
                                       const struct bus_change *req)
{
	enum sql_outcome o = set_filters(c, me, req->tenant_id, req->subscription_id, req->epoch,
	                                 req->filters, req->expiry_s);

	if (o == SQL_OK)
		o = create_cursors(c, me, req->tenant_id, req->subscription_id, req->epoch,
		                   req->starts, req->n_starts);
	return o;
}

static enum sql_outcome change_delete(struct sql_conn *c, const struct id128 *me,
                                      const struct bus_change *req)
{
	struct sql_param params[] = {sql_u64(req->tenant_id), sql_u64(req->subscription_id)};
	enum sql_outcome o = change_fenced(c, me, req, STMT_SUB_DELETE);

	return o == SQL_OK ? sql_exec(c, STMT_CURSOR_DELETE, params, 2) : o;
}

static enum sql_outcome work_change(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	const struct bus_change *req = job->req;
	enum sql_outcome o = SQL_FATAL;

	switch (req->verb) {
	case BUS_CHANGE_FILTERS:
		o = change_filters(c, &job->me, req);
		break;
	case BUS_CHANGE_IDLE:
		o = change_fenced(c, &job->me, req, STMT_SUB_IDLE);
		break;
	case BUS_CHANGE_ACTIVE:
		o = change_fenced(c, &job->me, req, STMT_SUB_ACTIVE);
		break;
	case BUS_CHANGE_RELEASE:
		o = change_fenced(c, &job->me, req, STMT_SUB_RELEASE);
		break;
	case BUS_CHANGE_DELETE:
		o = change_delete(c, &job->me, req);
		break;
	}
	return o == SQL_OK ? sql_commit(c) : o;
}

BUS_JOB_DONE(change)

void subscription_sql_change(struct bus *bus, struct bus_change *req)
{
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_ADMIN, work_change, change_done, req, NULL);
}

/* ---- owned --------------------------------------------------------------------------------------
 */

static int on_not_owned(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct bus_owned *req = arg;

	if (n && cells[0].u >= 1 && cells[0].u <= req->n)
		req->rows[cells[0].u - 1].lost = true;
	return 0;
}

static enum sql_outcome work_owned(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_owned *req = job->req;
	struct buf json = {0};
	struct sql_param params[2];
	enum sql_outcome o;

	for (size_t i = 0; i < req->n; i++) {
		req->rows[i].lost = false;
		buf_printf(&json, "%s[%u,%" PRIu64 ",%" PRIu64 "]", i ? "," : "[",
		           req->rows[i].tenant_id, req->rows[i].subscription_id,
		           req->rows[i].epoch);
	}
	buf_u8(&json, ']');
	params[0] = sql_utf8(json.data, json.len);
	params[1] = param_session(&job->me);
	o = sql_query(c, STMT_SUB_NOT_OWNED, params, 2, on_not_owned, req);
	buf_release(&json);
	return o;
}

BUS_JOB_DONE(owned)

void subscription_sql_owned(struct bus *bus, struct bus_owned *req)
{
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_READ, work_owned, owned_done, req, NULL);
}

/* ---- expire -------------------------------------------------------------------------------------
 */

struct expired {
	size_t n;
	size_t cap;
	struct {
		uint32_t tenant_id;
		uint64_t subscription_id;
	} * items;
};

static int on_expired(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct expired *list = arg;

	if (n < 2)
		return 1;
	if (list->n == list->cap) {
		list->cap = list->cap ? list->cap * 2 : 16;
		list->items = xrealloc(list->items, list->cap * sizeof *list->items);
	}
	list->items[list->n].tenant_id = (uint32_t)cells[0].u;
	list->items[list->n++].subscription_id = cells[1].u;
	return 0;
}

static enum sql_outcome expire_listed(struct sql_conn *c, const struct expired *list,
                                      uint32_t *removed)
{
	enum sql_outcome o = SQL_OK;

	for (size_t i = 0; o == SQL_OK && i < list->n; i++) {
		struct sql_param params[] = {sql_u64(list->items[i].tenant_id),
		                             sql_u64(list->items[i].subscription_id)};

		o = sql_exec(c, STMT_SUB_EXPIRE, params, 2);
		if (o != SQL_OK || sql_affected(c) == 0)
			continue;
		(*removed)++;
		o = sql_exec(c, STMT_CURSOR_DELETE, params, 2);
	}
	return o;
}

static enum sql_outcome work_expire(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_expire *req = job->req;
	struct sql_param limit = sql_u64(req->limit);
	struct expired list = {0};
	enum sql_outcome o = sql_exec(c, STMT_SUB_ORPHANED, NULL, 0);

	req->removed = 0;
	if (o == SQL_OK)
		o = sql_commit(c);
	if (o == SQL_OK)
		o = sql_query(c, STMT_SUB_EXPIRED, &limit, 1, on_expired, &list);
	if (o == SQL_OK)
		o = expire_listed(c, &list, &req->removed);
	free(list.items);
	if (o == SQL_OK && req->removed)
		o = sql_commit(c);
	return o;
}

BUS_JOB_DONE(expire)

void subscription_sql_expire(struct bus *bus, struct bus_expire *req)
{
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_ADMIN, work_expire, expire_done, req, NULL);
}
