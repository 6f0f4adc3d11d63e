/* report_sql: what a node says of its tenants, in the table node_tenant: one statement, which is
 * its own fence. */
#include "base/buf.h"
#include "cluster/bus_sql_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

static void row_json(struct buf *out, const struct bus_usage *u)
{
	buf_printf(out,
	           "[%u,%u,%u,%u,%u,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "]",
	           u->tenant_id, u->connections, u->durable, u->subscriptions, u->ephemeral,
	           u->events_in, u->bytes_in, u->events_out, u->bytes_out, u->refused);
}

static enum sql_outcome work_report(struct sql_conn *c, void *arg)
{
	const struct bus_job *job = arg;
	const struct bus_report *req = job->req;
	struct buf json = {0};
	struct sql_param params[2] = {{0}, param_session(&job->me)};
	enum sql_outcome o;

	for (size_t i = 0; i < req->n; i++) {
		buf_u8(&json, i ? ',' : '[');
		row_json(&json, &req->rows[i]);
	}
	buf_u8(&json, ']');
	params[0] = sql_utf8(json.data, json.len);
	o = sql_exec(c, STMT_REPORT, params, 2);
	buf_release(&json);
	return o == SQL_OK ? sql_commit(c) : o;
}

BUS_JOB_DONE(report)

void report_sql_report(struct bus *bus, struct bus_report *req)
{
	assert(req->n > 0 && req->n <= BUS_REPORT_MAX);
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_ADMIN, work_report, report_done, req, NULL);
}
