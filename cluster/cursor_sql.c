/* cursor_sql: cursor commits. Every row is fenced by owner, epoch and commit_no in the statement
 * that writes it; a row that does not match stays as it is and the others stand. */
#include "base/buf.h"
#include "base/bug.h"
#include "cluster/bus_sql_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

enum sql_outcome cursor_sql_commit_one(struct sql_conn *c, const struct id128 *me,
                                       struct bus_cursor_row *row)
{
	struct sql_param params[] = {
	        sql_u64(row->to.acked_through),
	        sql_bytes(row->to.acked_ahead.p, row->to.acked_ahead.n),
	        sql_u64(row->to.gap_from),
	        sql_u64(row->to.gap_to),
	        sql_u64(row->tenant_id),
	        sql_u64(row->subscription_id),
	        sql_u64(row->to.partition_id),
	        param_session(me),
	        sql_u64(row->epoch),
	        sql_u64(row->to.commit_no),
	};
	enum sql_stmt stmt = STMT_CURSOR_COMMIT;
	unsigned n = 10;
	enum sql_outcome o;

#ifdef LEAT_SEEDED_BUGS
	if (BUG("cursor-without-commit-no")) {
		stmt = STMT_CURSOR_COMMIT_BLIND;
		n = 9;
	}
#endif
	o = sql_exec(c, stmt, params, n);
	row->fenced = o == SQL_OK && sql_affected(c) == 0;
	return o;
}

static void rows_json(const struct bus_commit *req, struct buf *out)
{
	for (size_t i = 0; i < req->n; i++) {
		const struct bus_cursor_row *row = &req->rows[i];

		buf_printf(out, "%s[%u,%" PRIu64 ",%u,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",\"",
		           i ? "," : "[", row->tenant_id, row->subscription_id,
		           row->to.partition_id, row->epoch, row->to.commit_no,
		           row->to.acked_through);
		buf_hex(out, row->to.acked_ahead);
		buf_printf(out, "\",%" PRIu64 ",%" PRIu64 "]", row->to.gap_from, row->to.gap_to);
	}
	buf_u8(out, ']');
}

static int on_fenced(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct bus_commit *req = arg;

	if (n && cells[0].u >= 1 && cells[0].u <= req->n)
		req->rows[cells[0].u - 1].fenced = true;
	return 0;
}

static enum sql_outcome commit_many(struct sql_conn *c, const struct id128 *me,
                                    struct bus_commit *req)
{
	struct buf json = {0};
	struct sql_param params[2];
	enum sql_outcome o;

	rows_json(req, &json);
	params[0] = sql_utf8(json.data, json.len);
	params[1] = param_session(me);
	o = sql_exec(c, STMT_CURSOR_COMMIT_MANY, params, 2);
	if (o == SQL_OK && sql_affected(c) < req->n)
		o = sql_query(c, STMT_CURSOR_FENCED, params, 2, on_fenced, req);
	buf_release(&json);
	return o;
}

static enum sql_outcome work_commit(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_commit *req = job->req;
	enum sql_outcome o = SQL_OK;

	for (size_t i = 0; i < req->n; i++)
		req->rows[i].fenced = false;
	if (req->n > 1 && !BUG("cursor-without-commit-no"))
		o = commit_many(c, &job->me, req);
	else
		for (size_t i = 0; o == SQL_OK && i < req->n; i++)
			o = cursor_sql_commit_one(c, &job->me, &req->rows[i]);
	return o == SQL_OK ? sql_commit(c) : o;
}

BUS_JOB_DONE(commit)

void cursor_sql_commit(struct bus *bus, struct bus_commit *req)
{
	assert(req->n > 0 && req->n <= BUS_CURSORS_MAX);
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_CURSOR, work_commit, commit_done, req, NULL);
}
