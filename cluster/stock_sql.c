/* stock_sql: what a tenant has in the database, and what the live nodes say they have of it. */
#include "cluster/bus_sql_impl.h"

#include <stdlib.h>

static int on_stock(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct bus_stock *req = arg;

	(void)n;
	req->stored_bytes = cells[0].u;
	req->subscriptions = cells[1].u;
	req->scheduled = cells[2].u;
	req->connections = cells[3].u;
	req->ephemeral = cells[4].u;
	req->dead_letters = cells[5].u;
	return 0;
}

static enum sql_outcome work_stock(struct sql_conn *c, void *arg)
{
	const struct bus_job *job = arg;
	struct bus_stock *req = job->req;
	struct sql_param tenant = sql_u64(req->tenant_id);

	return sql_query(c, STMT_STOCK, &tenant, 1, on_stock, req);
}

BUS_JOB_DONE(stock)

void stock_sql_stock(struct bus *bus, struct bus_stock *req)
{
	req->stored_bytes = req->subscriptions = req->scheduled = 0;
	req->connections = req->ephemeral = req->dead_letters = 0;
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_READ, work_stock, stock_done, req, NULL);
}
