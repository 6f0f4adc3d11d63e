/* aside_sql: the bound of what was set aside of the inbox (inbox_sql.c), a part of retention. Per
 * tenant the oldest go while there are more than so many, and those that nobody acted on for too
 * long. Looks are plain reads of an index; each tenant then gets a transaction of its own, fenced
 * by the role, with a row in the audit. A tenant that is being moved is left as it is. */
#include "base/buf.h"
#include "base/log.h"
#include "cluster/bus_sql_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
	TENANTS_AT_ONCE = 100, /* looked at in one step */
	ROWS_AT_ONCE = 500,    /* of one tenant, in one transaction */
};

/* A tenant with rows that were set aside. */
struct owner {
	uint32_t tenant_id; /* 0 = there is none */
	char name[65];      /* for the audit */
	bool aged;          /* its oldest is too old */
	bool moving;
	uint64_t beyond; /* those up to this one are too many; 0 = none */
};

struct chosen {
	uint64_t beyond;
	uint32_t n;
	uint32_t n_aged; /* of them; the others are too many */
	uint64_t first, last;
	struct buf ids; /* JSON array without its end */
};

static int on_owner(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct owner *w = arg;

	if (n < 4)
		return 1;
	*w = (struct owner){.tenant_id = (uint32_t)cells[0].u,
	                    .aged = cells[2].u != 0,
	                    .moving = cells[3].u != 0};
	snprintf(w->name, sizeof w->name, "%.*s", (int)cells[1].bytes.n, cells[1].bytes.p);
	return 1;
}

static int on_beyond(void *arg, const struct sql_cell *cells, unsigned n)
{
	if (n)
		((struct owner *)arg)->beyond = cells[0].u;
	return 1;
}

static enum sql_outcome look(struct sql_conn *c, const struct bus_retain *req, struct owner *w)
{
	struct sql_param next[] = {sql_u64(req->aside_s), sql_u64(req->aside_s),
	                           sql_u64(req->aside_tenant_id)};
	enum sql_outcome o = sql_query(c, STMT_ASIDE_TENANT, next, 3, on_owner, w);

	if (o == SQL_OK && w->tenant_id && !w->moving && req->max_aside) {
		struct sql_param most[] = {sql_u64(w->tenant_id), sql_u64(req->max_aside)};

		o = sql_query(c, STMT_ASIDE_BEYOND, most, 2, on_beyond, w);
	}
	return o;
}

/* By their ids, up to the first that may stay. */
static int on_row(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct chosen *x = arg;

	if (n < 2 || (cells[0].u > x->beyond && !cells[1].u))
		return 1;
	if (!x->n)
		x->first = cells[0].u;
	x->last = cells[0].u;
	x->n_aged += cells[0].u > x->beyond;
	buf_printf(&x->ids, "%s%" PRIu64, x->n++ ? "," : "[", cells[0].u);
	return 0;
}

static enum sql_outcome note(struct sql_conn *c, const char *who, const struct owner *w,
                             const struct chosen *x)
{
	char detail[160];
	int n = snprintf(detail, sizeof detail,
	                 "{\"rows\":%" PRIu32 ",\"too_old\":%" PRIu32 ",\"too_many\":%" PRIu32
	                 ",\"from\":%" PRIu64 ",\"to\":%" PRIu64 "}",
	                 x->n, x->n_aged, x->n - x->n_aged, x->first, x->last);
	struct sql_param audit[] = {
	        sql_bytes(who, strlen(who)),
	        sql_u64(w->tenant_id),
	        sql_bytes("inbox.removed", sizeof "inbox.removed" - 1),
	        sql_bytes(w->name, strlen(w->name)),
	        sql_utf8(detail, (size_t)n),
	};

	return sql_exec(c, STMT_AUDIT_NEW, audit, 5);
}

static enum sql_outcome delete_rows(struct sql_conn *c, struct chosen *x)
{
	struct sql_param ids;
	enum sql_outcome o;

	buf_u8(&x->ids, ']');
	ids = sql_utf8(x->ids.data, x->ids.len);
	o = sql_exec(c, STMT_ASIDE_DELETE, &ids, 1);
	/* fewer: an admin acted on some of them; look again */
	return o == SQL_OK && sql_affected(c) != x->n ? SQL_RETRY : o;
}

static enum sql_outcome remove_rows(struct sql_conn *c, const struct id128 *me, const char *who,
                                    struct bus_retain *req, const struct owner *w)
{
	struct sql_param params[] = {sql_u64(req->aside_s), sql_u64(req->aside_s),
	                             sql_u64(w->tenant_id), sql_u64(ROWS_AT_ONCE)};
	struct chosen x = {.beyond = w->beyond};
	enum sql_outcome o = sql_query(c, STMT_ASIDE_ROWS, params, 4, on_row, &x);

	sql_rollback(c); /* the looks are over: in a transaction the fence comes first */
	if (o == SQL_OK && x.n)
		o = role_sql_fence(c, me, BUS_ROLE_RETENTION, req->epoch);
	if (o == SQL_OK && x.n)
		o = delete_rows(c, &x);
	if (o == SQL_OK && x.n)
		o = note(c, who, w, &x);
	if (o == SQL_OK && x.n)
		o = sql_commit(c);
	if (o == SQL_OK && x.n) {
		req->asides += x.n;
		log_warn("retention",
		         "tenant=%u rows=%" PRIu32 " too_old=%" PRIu32 " too_many=%" PRIu32
		         " of the inbox removed: they were set aside",
		         w->tenant_id, x.n, x.n_aged, x.n - x.n_aged);
	}
	if (o == SQL_OK && x.n < ROWS_AT_ONCE)
		req->aside_tenant_id = w->tenant_id; /* else there is more of it */
	buf_release(&x.ids);
	return o;
}

enum sql_outcome aside_sql_shorten(struct sql_conn *c, const struct id128 *me, const char *who,
                                   struct bus_retain *req)
{
	enum sql_outcome o = SQL_OK;

	for (int i = 0; o == SQL_OK && i < TENANTS_AT_ONCE && req->asides < ROWS_AT_ONCE; i++) {
		struct owner w = {0};

		o = look(c, req, &w);
		if (o == SQL_OK && !w.tenant_id) {
			req->aside_tenant_id = 0;
			sql_rollback(c);
			return SQL_OK;
		}
		if (o == SQL_OK && !w.moving && (w.aged || w.beyond))
			o = remove_rows(c, me, who, req, &w);
		else if (o == SQL_OK)
			req->aside_tenant_id = w.tenant_id;
	}
	req->aside_more = true;
	return o;
}
