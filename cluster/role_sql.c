/* role_sql: taking a role and giving it up. Whether its holder lives is asked when somebody wants
 * it; nothing sweeps. */
#include "cluster/bus_sql_impl.h"

#include <stdlib.h>
#include <string.h>

struct role_row {
	bool found;
	uint64_t epoch;
	struct id128 owner; /* zero = nobody */
	bool owner_live;
	struct bus_peer *holder;
};

static int on_role(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct role_row *row = arg;
	size_t len = n >= 4 ? cells[3].bytes.n : 0;

	if (n < 4 || len > BUS_ADDR_MAX)
		return 1;
	row->found = true;
	row->epoch = cells[0].u;
	if (cells[1].bytes.n == sizeof row->owner.b)
		memcpy(row->owner.b, cells[1].bytes.p, sizeof row->owner.b);
	row->owner_live = cells[2].u;
	row->holder->session_id = row->owner;
	if (len)
		memcpy(row->holder->addr, cells[3].bytes.p, len);
	row->holder->addr[len] = '\0';
	return 1;
}

enum sql_outcome role_sql_fence(struct sql_conn *c, const struct id128 *me, enum bus_role role,
                                uint64_t epoch)
{
	struct sql_param params[] = {sql_u64(role), param_session(me), sql_u64(epoch)};
	enum sql_outcome o = sql_exec(c, STMT_ROLE_WRITE, params, 3);

	return o == SQL_OK && sql_affected(c) == 0 ? SQL_LOST : o;
}

static enum sql_outcome release(struct sql_conn *c, const struct bus_job *job)
{
	const struct bus_role_claim *req = job->req;
	struct sql_param params[3] = {sql_u64(req->role), param_session(&job->me),
	                              sql_u64(req->epoch)};
	enum sql_outcome o = sql_exec(c, STMT_ROLE_RELEASE, params, 3);

	if (o == SQL_OK && sql_affected(c) == 0)
		return SQL_LOST;
	return o == SQL_OK ? sql_commit(c) : o;
}

static enum sql_outcome take(struct sql_conn *c, const struct bus_job *job,
                             const struct role_row *row)
{
	struct bus_role_claim *req = job->req;
	struct sql_param params[4] = {param_session(&job->me), sql_u64(req->role),
	                              sql_u64(row->epoch), param_session(&row->owner)};
	enum sql_outcome o = sql_exec(c, STMT_ROLE_CLAIM, params, 4);

	if (o == SQL_OK && sql_affected(c) == 0)
		return SQL_RETRY; /* somebody else was quicker: look again */
	req->epoch = row->epoch + 1;
	return o == SQL_OK ? sql_commit(c) : o;
}

static enum sql_outcome work_role_claim(struct sql_conn *c, void *arg)
{
	const struct bus_job *job = arg;
	struct bus_role_claim *req = job->req;
	struct role_row row = {.holder = &req->holder};
	struct sql_param role = sql_u64(req->role);
	enum sql_outcome o;

	if (req->release)
		return release(c, job);
	o = sql_query(c, STMT_ROLE_FIND, &role, 1, on_role, &row);
	if (o != SQL_OK)
		return o;
	if (!row.found)
		return SQL_FATAL;
	if (row.owner_live && !id128_eq(&row.owner, &job->me))
		return SQL_LOST;
	return take(c, job, &row);
}

BUS_JOB_DONE(role_claim)

void role_sql_claim(struct bus *bus, struct bus_role_claim *req)
{
	req->holder = (struct bus_peer){0};
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_LEADER, work_role_claim, role_claim_done, req,
	               NULL);
}
