#include "tenancy/tenant_admin.h"

#include "tenancy/registry.h"

#include <stdio.h>

enum {
#define LIMIT_ONE(column, type) +1
	LIMIT_COLUMNS = TENANT_LIMITS(LIMIT_ONE),
#undef LIMIT_ONE
	ROW_COLUMNS = 7 + LIMIT_COLUMNS,
};

/* ---- transactions ---- */

static int failed(const struct sql_conn *c, enum sql_outcome o, struct err *e)
{
	if (o == SQL_UNKNOWN)
		return err_set(
		        e, SQL_UNKNOWN,
		        "the connection was lost at COMMIT: it may be done or not; look first");
	return err_set(e, (int)o, "%.240s", sql_error(c));
}

static int refused(struct sql_conn *c, struct err *e, struct slice name)
{
	sql_rollback(c);
	return err_set(e, SQL_FATAL, "there is no tenant %.*s", (int)name.n, name.p);
}

static int fail_tx(struct sql_conn *c, enum sql_outcome o, struct err *e)
{
	failed(c, o, e);
	sql_rollback(c);
	return -1;
}

/* A procedure of sql/schema: a transaction of its own, with its row in `audit`. */
static int call(struct sql_conn *c, enum sql_stmt procedure, const struct sql_param *params,
                unsigned n, struct err *e)
{
	enum sql_outcome o = sql_exec(c, procedure, params, n);

	return o == SQL_OK ? 0 : fail_tx(c, o, e);
}

static struct sql_param text(struct slice s)
{
	return sql_utf8(s.p, s.n);
}

static int end_read(struct sql_conn *c, enum sql_outcome o, struct err *e)
{
	if (o != SQL_OK)
		return fail_tx(c, o, e);
	sql_rollback(c);
	return 0;
}

/* ---- rows ---- */

static void parse_limits(const struct sql_cell *cells, struct tenant_limits *l)
{
#define LIMIT_TAKE(column, type) l->column = (type)(cells++)->u;
	TENANT_LIMITS(LIMIT_TAKE)
#undef LIMIT_TAKE
}

bool tenant_admin_parse_row(const struct sql_cell *cells, unsigned n, struct tenant *out)
{
	struct slice name = cells[1].bytes;
	struct err e;

	*out = (struct tenant){
	        .id = (uint32_t)cells[0].u,
	        .state = cells[2].u == TENANT_ACTIVE ? TENANT_ACTIVE : TENANT_SUSPENDED,
	        .weight = (uint16_t)(cells[3].u ? cells[3].u : 1),
	        .partitions = (uint16_t)(cells[4].u ? cells[4].u : 1),
	};
	if (n != ROW_COLUMNS || tenant_name_check(name, &e) < 0)
		return false;
	memcpy(out->name, name.p, name.n);
	parse_limits(cells + 5, &out->limits);
	out->storage_full = cells[5 + LIMIT_COLUMNS].u != 0;
	out->first_partition = (uint16_t)cells[6 + LIMIT_COLUMNS].u;
	return true;
}

struct find {
	struct tenant_admin_row row;
	bool found;
};

/* A row of TENANT_FIND: as TENANT_LIST without the name, and when it was made. */
static int on_found(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct find *f = arg;
	struct tenant *t = &f->row.tenant;
	struct slice made = cells[n - 1].bytes;

	t->id = (uint32_t)cells[0].u;
	t->state = (enum tenant_state)cells[1].u;
	t->weight = (uint16_t)cells[2].u;
	t->partitions = (uint16_t)cells[3].u;
	parse_limits(cells + 4, &t->limits);
	t->storage_full = cells[4 + LIMIT_COLUMNS].u != 0;
	snprintf(f->row.created_at, sizeof f->row.created_at, "%.*s", (int)made.n, made.p);
	f->found = true;
	return 0;
}

/* A deleted one, too. */
static int find_tenant(struct sql_conn *c, struct slice name, struct find *f, struct err *e)
{
	struct sql_param p = sql_bytes(name.p, name.n);
	enum sql_outcome o;

	*f = (struct find){0};
	if (tenant_name_check(name, e) < 0) {
		if (e)
			e->code = SQL_FATAL;
		return -1;
	}
	o = sql_query(c, STMT_TENANT_FIND, &p, 1, on_found, f);
	if (o != SQL_OK)
		return fail_tx(c, o, e);
	if (!f->found)
		return refused(c, e, name);
	memcpy(f->row.tenant.name, name.p, name.n);
	return 0;
}

/* ---- tenants ---- */

int tenant_admin_create(struct sql_conn *c, const struct tenant_admin_new *t, uint32_t *id,
                        struct err *e)
{
	struct sql_param params[] = {text(t->name), sql_u64(t->weight), sql_u64(t->partitions)};
	struct tenant_admin_row row;

	if (tenant_name_check(t->name, e) < 0 || call(c, STMT_TENANT_CREATE, params, 3, e) < 0 ||
	    tenant_admin_find(c, t->name, &row, e) < 0)
		return -1;
	*id = row.tenant.id;
	return 0;
}

int tenant_admin_set_state(struct sql_conn *c, struct slice name, enum tenant_state state,
                           struct err *e)
{
	static const enum sql_stmt procedures[] = {[TENANT_ACTIVE] = STMT_TENANT_RESUME,
	                                           [TENANT_SUSPENDED] = STMT_TENANT_SUSPEND,
	                                           [TENANT_DELETED] = STMT_TENANT_DELETE};
	struct sql_param params[] = {text(name)};

	return tenant_name_check(name, e) < 0 ? -1 : call(c, procedures[state], params, 1, e);
}

int tenant_admin_find(struct sql_conn *c, struct slice name, struct tenant_admin_row *out,
                      struct err *e)
{
	struct find f;

	if (find_tenant(c, name, &f, e) < 0)
		return -1;
	*out = f.row;
	return end_read(c, SQL_OK, e);
}

struct list {
	void (*on_tenant)(void *arg, const struct tenant *t);
	void (*on_key)(void *arg, const struct tenant_admin_key *k);
	void (*on_partition)(void *arg, const struct tenant_admin_partition *p);
	void *arg;
};

/* What a tenant has, by its id. */
static int list_of(struct sql_conn *c, struct slice name, enum sql_stmt stmt,
                   int (*on_row)(void *arg, const struct sql_cell *cells, unsigned n),
                   struct list *l, struct err *e)
{
	struct sql_param id;
	struct find f;

	if (find_tenant(c, name, &f, e) < 0)
		return -1;
	id = sql_u64(f.row.tenant.id);
	return end_read(c, sql_query(c, stmt, &id, 1, on_row, l), e);
}

static int on_listed(void *arg, const struct sql_cell *cells, unsigned n)
{
	const struct list *l = arg;
	struct tenant t;

	if (tenant_admin_parse_row(cells, n, &t))
		l->on_tenant(l->arg, &t);
	return 0;
}

int tenant_admin_list(struct sql_conn *c, void (*fn)(void *arg, const struct tenant *t), void *arg,
                      struct err *e)
{
	struct list l = {.on_tenant = fn, .arg = arg};

	return end_read(c, sql_query(c, STMT_TENANT_LIST, NULL, 0, on_listed, &l), e);
}

/* ---- partitions ---- */

int tenant_admin_set_partitions(struct sql_conn *c, struct slice name, uint16_t partitions,
                                struct err *e)
{
	struct sql_param params[] = {text(name), sql_u64(partitions)};

	return tenant_name_check(name, e) < 0 ? -1
	                                      : call(c, STMT_TENANT_SET_PARTITIONS, params, 2, e);
}

static int on_partition(void *arg, const struct sql_cell *cells, unsigned n)
{
	const struct list *l = arg;
	struct tenant_admin_partition p = {.id = (uint32_t)cells[0].u,
	                                   .state = cells[1].bytes,
	                                   .next_seq = cells[2].u,
	                                   .stored_bytes = cells[3].u,
	                                   .subscriptions_left = cells[4].u};

	(void)n;
	l->on_partition(l->arg, &p);
	return 0;
}

int tenant_admin_partitions(struct sql_conn *c, struct slice name,
                            void (*fn)(void *arg, const struct tenant_admin_partition *p),
                            void *arg, struct err *e)
{
	struct list l = {.on_partition = fn, .arg = arg};

	return list_of(c, name, STMT_ADMIN_PARTITIONS, on_partition, &l, e);
}

/* ---- tokens ---- */

static struct sql_param text_or_null(struct slice s)
{
	return s.n ? text(s) : sql_null();
}

int tenant_admin_revoke(struct sql_conn *c, struct slice name,
                        const struct tenant_admin_revocation *r, struct err *e)
{
	struct sql_param before = text_or_null(r->before), expires = text_or_null(r->expires),
	                 reason = text_or_null(r->reason);
	struct sql_param subject[] = {text(name), text(r->subject), before, expires, reason};
	struct sql_param id[] = {text(name), text(r->id), expires, reason};
	struct sql_param all[] = {text(name), before, expires, reason};

	if (tenant_name_check(name, e) < 0)
		return -1;
	if (r->subject.p)
		return call(c, STMT_TOKEN_REVOKE_SUBJECT, subject, 5, e);
	return r->id.p ? call(c, STMT_TOKEN_REVOKE_ID, id, 4, e)
	               : call(c, STMT_TOKEN_REVOKE_BEFORE, all, 4, e);
}

int tenant_admin_revoke_undo(struct sql_conn *c, struct slice name,
                             const struct tenant_admin_revocation *r, struct err *e)
{
	const char *kind = r->subject.p ? "subject" : r->id.p ? "id" : "all";
	struct slice which = r->subject.p ? r->subject : r->id.p ? r->id : slice_str("");
	struct sql_param params[] = {text(name), text(slice_str(kind)), text(which)};

	return tenant_name_check(name, e) < 0 ? -1 : call(c, STMT_TOKEN_REVOKE_UNDO, params, 3, e);
}

/* ---- keys ---- */

int tenant_admin_key_add(struct sql_conn *c, struct slice name, const struct tenant_admin_key *k,
                         struct err *e)
{
	struct registry_key_row row = {
	        .alg = k->alg, .issuer = k->issuer, .kid = k->kid, .material = k->material};
	struct sql_param params[] = {text(name), text(k->issuer), text(k->kid),
	                             text(slice_str(jws_alg_name(k->alg))),
	                             sql_bytes(k->material.p, k->material.n)};

	if (registry_key_check(&row, e) < 0 || tenant_name_check(name, e) < 0)
		return -1;
	return call(c, STMT_KEY_ADD, params, 5, e);
}

int tenant_admin_key_retire(struct sql_conn *c, struct slice name, struct slice issuer,
                            struct slice kid, struct err *e)
{
	struct sql_param params[] = {text(name), text(issuer), text(kid)};

	return tenant_name_check(name, e) < 0 ? -1 : call(c, STMT_KEY_RETIRE, params, 3, e);
}

static int on_key(void *arg, const struct sql_cell *cells, unsigned n)
{
	const struct list *l = arg;
	struct tenant_admin_key k = {.issuer = cells[0].bytes,
	                             .kid = cells[1].bytes,
	                             .active = cells[3].u == 1,
	                             .created_at = cells[4].bytes};

	(void)n;
	if (jws_alg_parse(cells[2].bytes, &k.alg) == 0)
		l->on_key(l->arg, &k);
	return 0;
}

int tenant_admin_key_list(struct sql_conn *c, struct slice name,
                          void (*fn)(void *arg, const struct tenant_admin_key *k), void *arg,
                          struct err *e)
{
	struct list l = {.on_key = fn, .arg = arg};

	return list_of(c, name, STMT_TENANT_KEYS_OF, on_key, &l, e);
}
