#include "cluster/subscription_admin.h"

#include <stdbool.h>

static struct sql_param text(struct slice s)
{
	return sql_utf8(s.p, s.n);
}

static int failed(struct sql_conn *c, enum sql_outcome o, struct err *e)
{
	if (o == SQL_UNKNOWN)
		err_set(e, SQL_UNKNOWN,
		        "the connection was lost at COMMIT: it may be done or not; look first");
	else
		err_set(e, (int)o, "%.240s", sql_error(c));
	sql_rollback(c);
	return -1;
}

static int call(struct sql_conn *c, enum sql_stmt procedure, const struct subscription_ref *ref,
                const struct slice *to, struct err *e)
{
	struct sql_param params[5] = {text(ref->tenant), text(ref->kind), text(ref->subject),
	                              text(ref->name)};
	enum sql_outcome o;

	if (to)
		params[4] = text(*to);
	o = sql_exec(c, procedure, params, to ? 5 : 4);
	return o == SQL_OK ? 0 : failed(c, o, e);
}

int subscription_admin_seek(struct sql_conn *c, const struct subscription_ref *ref, struct slice to,
                            struct err *e)
{
	return call(c, STMT_SUBSCRIPTION_SEEK, ref, &to, e);
}

int subscription_admin_delete(struct sql_conn *c, const struct subscription_ref *ref, struct err *e)
{
	return call(c, STMT_SUBSCRIPTION_DELETE, ref, NULL, e);
}

/* ---- listing --------------------------------------------------------------------------------- */

struct list {
	void (*fn)(void *arg, const struct subscription_row *row);
	void *arg;
	bool tenant_found;
};

static int on_tenant(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct list *l = arg;

	l->tenant_found = n && cells[0].u;
	return 0;
}

static int on_row(void *arg, const struct sql_cell *cells, unsigned n)
{
	const struct list *l = arg;
	struct subscription_row row;

	if (n < 6)
		return 1;
	row = (struct subscription_row){
	        .kind = cells[0].bytes,
	        .subject = cells[1].bytes,
	        .name = cells[2].bytes,
	        .state = cells[3].bytes,
	        .node = cells[4].bytes,
	        .behind = cells[5].u,
	};
	l->fn(l->arg, &row);
	return 0;
}

int subscription_admin_list(struct sql_conn *c, struct slice tenant,
                            void (*fn)(void *arg, const struct subscription_row *row), void *arg,
                            struct err *e)
{
	struct list l = {.fn = fn, .arg = arg};
	struct sql_param name = text(tenant);
	enum sql_outcome o = sql_query(c, STMT_ADMIN_TENANT, &name, 1, on_tenant, &l);

	if (o == SQL_OK && l.tenant_found)
		o = sql_query(c, STMT_ADMIN_SUBSCRIPTIONS, &name, 1, on_row, &l);
	if (o != SQL_OK)
		return failed(c, o, e);
	sql_rollback(c);
	if (!l.tenant_found)
		return err_set(e, SQL_FATAL, "there is no tenant %.*s", (int)tenant.n, tenant.p);
	return 0;
}
