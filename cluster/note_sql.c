/* note_sql: a row of this node's in the audit table. */
#include "cluster/bus_sql_impl.h"

#include <stdio.h>
#include <stdlib.h>

enum { WHO_MAX = sizeof "node:" + 128 };

static enum sql_outcome work_note(struct sql_conn *c, void *arg)
{
	const struct bus_job *job = arg;
	const struct bus_note *req = job->req;
	char who[WHO_MAX];
	int n = snprintf(who, sizeof who, "node:%s", (const char *)job->more);
	struct sql_param row[] = {
	        sql_bytes(who, (size_t)n),
	        sql_u64(req->tenant_id),
	        sql_bytes(req->action.p, req->action.n),
	        sql_bytes(req->target.p, req->target.n),
	        sql_utf8(req->detail.p, req->detail.n),
	};
	enum sql_outcome o = sql_exec(c, STMT_AUDIT_NEW, row, 5);

	return o == SQL_OK ? sql_commit(c) : o;
}

BUS_JOB_DONE(note)

void note_sql_note(struct bus *bus, struct bus_note *req)
{
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_ADMIN, work_note, note_done, req,
	               (void *)bus_sql_self(bus)->settings.name);
}
