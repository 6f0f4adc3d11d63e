/* subscription_sql: changing, looking over and expiring subscriptions; claiming is claim_sql.c,
 * letting go release_sql.c. */
#include "base/buf.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { CHANGES_TOGETHER = 64 }; /* changes in a transaction */

enum sql_outcome subscription_sql_cursors(struct sql_conn *c, const struct id128 *me,
                                          uint32_t tenant_id, uint64_t subscription_id,
                                          uint64_t epoch, const struct bus_cursor *starts,
                                          uint32_t n)
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

enum sql_outcome subscription_sql_filters(struct sql_conn *c, const struct id128 *me,
                                          uint32_t tenant_id, uint64_t subscription_id,
                                          uint64_t epoch, struct slice filters, uint32_t expiry_s)
{
	struct sql_param params[] = {
	        sql_utf8(filters.p, filters.n), sql_u64(expiry_s), sql_u64(tenant_id),
	        sql_u64(subscription_id),       param_session(me), sql_u64(epoch),
	};
	enum sql_outcome o = sql_exec(c, STMT_SUB_SET_FILTERS, params, 6);

	return o == SQL_OK && sql_affected(c) == 0 ? SQL_LOST : o;
}

/* ---- change -------------------------------------------------------------------------------------
 */

static enum sql_outcome change_filters(struct sql_conn *c, const struct id128 *me,
                                       const struct bus_change *req)
{
	enum sql_outcome o = subscription_sql_filters(c, me, req->tenant_id, req->subscription_id,
	                                              req->epoch, req->filters, req->expiry_s);

	if (o == SQL_OK)
		o = subscription_sql_cursors(c, me, req->tenant_id, req->subscription_id,
		                             req->epoch, req->starts, req->n_starts);
	return o;
}

static enum sql_outcome change_layout(struct sql_conn *c, const struct id128 *me,
                                      const struct bus_change *req)
{
	struct sql_param params[] = {sql_u64(req->tenant_id), sql_u64(req->subscription_id),
	                             sql_u64(req->starts[0].partition_id)};
	struct sql_param fence[] = {sql_u64(req->tenant_id), sql_u64(req->subscription_id),
	                            param_session(me), sql_u64(req->epoch)};
	enum sql_outcome o = sql_exec(c, STMT_SUB_SETTLE, fence, 4);

	if (o == SQL_OK && sql_affected(c) == 0)
		return SQL_LOST;
	if (o == SQL_OK)
		o = sql_exec(c, STMT_CURSOR_LEAVE, params, 3);
	if (o == SQL_OK)
		o = subscription_sql_cursors(c, me, req->tenant_id, req->subscription_id,
		                             req->epoch, req->starts, req->n_starts);
	return o;
}

static enum sql_outcome change_delete(struct sql_conn *c, const struct id128 *me,
                                      const struct bus_change *req)
{
	struct sql_param params[] = {sql_u64(req->tenant_id), sql_u64(req->subscription_id),
	                             param_session(me), sql_u64(req->epoch)};
	enum sql_outcome o = sql_exec(c, STMT_SUB_DELETE, params, 4);

	if (o == SQL_OK && sql_affected(c) == 0)
		return SQL_LOST;
	return o == SQL_OK ? sql_exec(c, STMT_CURSOR_DELETE, params, 2) : o;
}

/* Everything of one change but the commit; where it is LOST, nothing was written. */
static enum sql_outcome change_one(struct sql_conn *c, const struct id128 *me,
                                   const struct bus_change *req)
{
	if (req->verb == BUS_CHANGE_FILTERS)
		return change_filters(c, me, req);
	if (req->verb == BUS_CHANGE_LAYOUT)
		return change_layout(c, me, req);
	assert(req->verb == BUS_CHANGE_DELETE);
	return change_delete(c, me, req);
}

/* False = nothing is stored, and each may do better by itself. */
static bool change_some(struct sql_conn *c, const struct id128 *me, struct bus_change *const *reqs,
                        size_t n)
{
	enum sql_outcome o = SQL_OK;
	bool good = true;

	for (size_t i = 0; good && i < n; i++) {
		reqs[i]->outcome = change_one(c, me, reqs[i]);
		good = reqs[i]->outcome == SQL_OK || reqs[i]->outcome == SQL_LOST;
	}
	if (good)
		o = sql_commit(c);
	else
		sql_rollback(c);
	for (size_t i = 0; good && i < n; i++) {
		if (reqs[i]->outcome == SQL_OK)
			reqs[i]->outcome = o;
	}
	return good && o != SQL_RETRY;
}

static void work_changes(struct sql_conn *c, const struct id128 *me, void *const *reqs, size_t n)
{
	struct bus_change *const *changes = (struct bus_change *const *)reqs;

	if (change_some(c, me, changes, n) || n == 1)
		return;
	for (size_t i = 0; i < n; i++)
		change_some(c, me, &changes[i], 1);
}

static void change_answered(void *arg, bool ran)
{
	struct bus_change *req = arg;

	if (!ran)
		req->outcome = SQL_RETRY;
	req->done(req);
}

void subscription_sql_change(struct bus *bus, struct bus_change *req)
{
	static const struct together_kind kind = {TOGETHER_CHANGE, CHANGES_TOGETHER, work_changes,
	                                          change_answered};
	struct bus_sql *b = bus_sql_self(bus);

	if (req->verb == BUS_CHANGE_RELEASE)
		release_sql_release(bus, req);
	else
		together_add(b, &kind, req->tenant_id, req);
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
