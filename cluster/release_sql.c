/* release_sql: letting subscriptions go. A node that shuts down lets go of all that it has, and
 * others wait for them: so they share transactions, one statement each. Where that does not go
 * through (a lock wait) each is done by itself. */
#include "base/buf.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int by_key(const void *a, const void *b)
{
	const struct bus_change *x = *(struct bus_change *const *)a;
	const struct bus_change *y = *(struct bus_change *const *)b;

	if (x->tenant_id != y->tenant_id)
		return x->tenant_id < y->tenant_id ? -1 : 1;
	return (x->subscription_id > y->subscription_id) -
	       (x->subscription_id < y->subscription_id);
}

static void rows_json(struct bus_change *const *reqs, size_t n, struct buf *out)
{
	for (size_t i = 0; i < n; i++) {
		const struct bus_change *req = reqs[i];

		buf_printf(out, "%s[%u,%" PRIu64 ",%" PRIu64 ",%u", i ? "," : "[", req->tenant_id,
		           req->subscription_id, req->epoch, req->expiry_s);
		if (req->expiry_s != UINT32_MAX)
			buf_printf(out, ",%u", req->expiry_s - req->idle_s);
		buf_u8(out, ']');
	}
	buf_u8(out, ']');
}

struct releases {
	struct bus_change *const *reqs;
	size_t n;
};

static int on_not_released(void *arg, const struct sql_cell *cells, unsigned n)
{
	const struct releases *r = arg;

	if (n && cells[0].u >= 1 && cells[0].u <= r->n)
		r->reqs[cells[0].u - 1]->outcome = SQL_LOST;
	return 0;
}

static enum sql_outcome release_some(struct sql_conn *c, const struct id128 *me,
                                     struct bus_change *const *reqs, size_t n)
{
	struct releases all = {reqs, n};
	struct buf json = {0};
	struct sql_param params[2];
	enum sql_outcome o;

	for (size_t i = 0; i < n; i++)
		reqs[i]->outcome = SQL_OK;
	rows_json(reqs, n, &json);
	params[0] = sql_utf8(json.data, json.len);
	params[1] = param_session(me);
	o = sql_exec(c, STMT_SUB_RELEASE, params, 2);
	if (o == SQL_OK && sql_affected(c) < n)
		o = sql_query(c, STMT_SUB_NOT_RELEASED, params, 1, on_not_released, &all);
	buf_release(&json);
	if (o == SQL_OK)
		o = sql_commit(c);
	else
		sql_rollback(c);
	for (size_t i = 0; o != SQL_OK && i < n; i++)
		reqs[i]->outcome = o;
	return o;
}

static void work_releases(struct sql_conn *c, const struct id128 *me, void *const *reqs, size_t n)
{
	struct bus_change *sorted[TOGETHER_MAX];

	memcpy(sorted, reqs, n * sizeof *sorted);
	qsort(sorted, n, sizeof *sorted, by_key);
	if (release_some(c, me, sorted, n) != SQL_RETRY || n == 1)
		return;
	for (size_t i = 0; i < n; i++)
		release_some(c, me, &sorted[i], 1);
}

static void release_answered(void *arg, bool ran)
{
	struct bus_change *req = arg;

	if (!ran)
		req->outcome = SQL_RETRY;
	req->done(req);
}

void release_sql_release(struct bus *bus, struct bus_change *req)
{
	static const struct together_kind kind = {TOGETHER_RELEASE, TOGETHER_MAX, work_releases,
	                                          release_answered};
	struct bus_sql *b = bus_sql_self(bus);

	together_add(b, &kind, req->tenant_id, req);
}
