#include "base/mem.h"
#include "base/point.h"
#include "sql/conn_impl.h"

#include <stdlib.h>
#include <string.h>

static const struct {
	const char *name, *text;
	bool commits;
} statements[] = {
#define SQL_STMT(name, commits, text, doc) {#name, text, commits},
#include "sql/statements.def"
#undef SQL_STMT
};

enum {
	COLUMN_FIRST = 1024,      /* bytes a column's buffer starts with */
	COLUMN_KEEP = 4 << 20,    /* a buffer larger than this is given back after the query */
	PACKET_MARGIN = 64 << 10, /* what the protocol adds to the parameters, more than enough */
};

struct sql_column {
	char *data; /* capacity in the bind's buffer_length */
	unsigned long length;
	uint64_t integer;
	sql_my_bool null, error;
	bool is_integer;
};

/* ---- statements and parameters -------------------------------------------------------------- */

static void forget(struct sql_conn *c, enum sql_stmt s)
{
	if (c->stmts[s])
		mysql_stmt_close(c->stmts[s]);
	c->stmts[s] = NULL;
}

void exec_forget(struct sql_conn *c)
{
	for (int s = 0; s < STMT_COUNT; s++)
		forget(c, s);
}

void exec_release(struct sql_conn *c)
{
	for (unsigned i = 0; i < c->cap_columns; i++)
		free(c->columns[i].data);
	free(c->columns);
	free(c->cells);
	free(c->column_binds);
	free(c->binds);
}

/* What goes wrong between two rows the client library says of the connection alone. */
static enum sql_outcome failed(struct sql_conn *c, enum sql_stmt s)
{
	MYSQL_STMT *h = c->stmts[s];
	enum sql_outcome o =
	        mysql_stmt_errno(h)
	                ? conn_failed(c, statements[s].name, mysql_stmt_errno(h),
	                              mysql_stmt_sqlstate(h), mysql_stmt_error(h),
	                              statements[s].commits)
	                : conn_failed_query(c, statements[s].name, statements[s].commits);

	forget(c, s); /* prepared anew next time: also the cure for 1615 and 1243 */
	return o;
}

static enum sql_outcome prepare(struct sql_conn *c, enum sql_stmt s, unsigned nparams)
{
	if (!c->stmts[s]) {
		const char *text = statements[s].text;

		c->stmts[s] = mysql_stmt_init(c->my);
		if (!c->stmts[s])
			fatal("out of memory");
		if (mysql_stmt_prepare(c->stmts[s], text, strlen(text)))
			return failed(c, s);
	}
	if (mysql_stmt_param_count(c->stmts[s]) != nparams)
		fatal("%s takes %lu parameters, not %u", statements[s].name,
		      mysql_stmt_param_count(c->stmts[s]), nparams);
	return SQL_OK;
}

static void bind_param(MYSQL_BIND *b, const struct sql_param *p)
{
	static const enum enum_field_types types[] = {
	        [SQL_TYPE_NULL] = MYSQL_TYPE_NULL,
	        [SQL_TYPE_U64] = MYSQL_TYPE_LONGLONG,
	        [SQL_TYPE_BYTES] = MYSQL_TYPE_BLOB,
	        [SQL_TYPE_TEXT] = MYSQL_TYPE_STRING,
	};

	memset(b, 0, sizeof *b);
	b->buffer_type = types[p->type];
	b->is_unsigned = p->type == SQL_TYPE_U64;
	if (p->type == SQL_TYPE_U64) {
		b->buffer = (void *)&p->u;
	} else {
		b->buffer = (void *)(p->bytes.n ? p->bytes.p : "");
		b->buffer_length = p->bytes.n;
	}
}

/* false: the parameters would not fit one packet. (The server would answer by hanging up.) */
static bool bind_params(struct sql_conn *c, enum sql_stmt s, const struct sql_param *params,
                        unsigned n)
{
	uint64_t bytes = PACKET_MARGIN;

	if (n > c->cap_binds) {
		c->binds = xrealloc(c->binds, n * sizeof *c->binds);
		c->cap_binds = n;
	}
	for (unsigned i = 0; i < n; i++) {
		bind_param(&c->binds[i], &params[i]);
		bytes += params[i].bytes.n;
	}
	if (bytes > c->server.max_packet)
		return false;
	if (n && mysql_stmt_bind_param(c->stmts[s], c->binds))
		fatal("%s: parameters cannot be bound", statements[s].name);
	return true;
}

static enum sql_outcome execute(struct sql_conn *c, enum sql_stmt s, const struct sql_param *params,
                                unsigned nparams)
{
	enum sql_outcome o;

	if (!conn_begin(c, statements[s].name, &o))
		return o;
	o = prepare(c, s, nparams);
	if (o != SQL_OK)
		return o;
	if (!bind_params(c, s, params, nparams))
		return conn_refused(c, statements[s].name,
		                    "larger than the server's max_allowed_packet");
	POINT_STATEMENT(statements[s].name);
	if (mysql_stmt_execute(c->stmts[s]))
		return failed(c, s);
	c->affected = mysql_stmt_affected_rows(c->stmts[s]);
	c->insert_id = mysql_stmt_insert_id(c->stmts[s]);
	return SQL_OK;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static bool is_integer_type(enum enum_field_types t)
{
	return t == MYSQL_TYPE_LONGLONG || t == MYSQL_TYPE_LONG || t == MYSQL_TYPE_INT24 ||
	       t == MYSQL_TYPE_SHORT || t == MYSQL_TYPE_TINY || t == MYSQL_TYPE_YEAR;
}

static void grow_columns(struct sql_conn *c, unsigned n)
{
	unsigned old = c->cap_columns;

	if (n <= old)
		return;
	c->columns = xrealloc(c->columns, n * sizeof *c->columns);
	c->cells = xrealloc(c->cells, n * sizeof *c->cells);
	c->column_binds = xrealloc(c->column_binds, n * sizeof *c->column_binds);
	memset(c->columns + old, 0, (n - old) * sizeof *c->columns);
	memset(c->column_binds + old, 0, (n - old) * sizeof *c->column_binds);
	c->cap_columns = n;
}

/* A buffer keeps what it has grown to: the next row of the same size comes in one copy. */
static void bind_column(struct sql_conn *c, unsigned i, const MYSQL_FIELD *field)
{
	struct sql_column *col = &c->columns[i];
	MYSQL_BIND *b = &c->column_binds[i];
	unsigned long room = col->data ? b->buffer_length : 0;

	if (!col->data)
		col->data = xmalloc(room = COLUMN_FIRST);
	memset(b, 0, sizeof *b);
	col->is_integer = is_integer_type(field->type);
	b->buffer_type = col->is_integer ? MYSQL_TYPE_LONGLONG : MYSQL_TYPE_STRING;
	b->is_unsigned = (field->flags & UNSIGNED_FLAG) != 0;
	b->buffer = col->is_integer ? (void *)&col->integer : col->data;
	b->buffer_length = room; /* of col->data; a LONGLONG needs no length */
	b->length = &col->length;
	b->is_null = &col->null;
	b->error = &col->error;
}

/* Bind this result's columns. Returns their number, 0 when the statement gives no rows. */
static unsigned bind_columns(struct sql_conn *c, MYSQL_STMT *h)
{
	MYSQL_RES *meta = mysql_stmt_result_metadata(h);
	unsigned n;

	if (!meta)
		return 0;
	n = mysql_num_fields(meta);
	grow_columns(c, n);
	for (unsigned i = 0; i < n; i++)
		bind_column(c, i, mysql_fetch_field_direct(meta, i));
	mysql_free_result(meta);
	if (mysql_stmt_bind_result(h, c->column_binds))
		fatal("result columns cannot be bound");
	return n;
}

/* Columns that did not fit: make room and fetch them again. *grown: bind anew before the next row.
 */
static int fetch_rest(struct sql_conn *c, MYSQL_STMT *h, unsigned n, bool *grown)
{
	for (unsigned i = 0; i < n; i++) {
		struct sql_column *col = &c->columns[i];
		MYSQL_BIND *b = &c->column_binds[i];

		if (col->null || col->is_integer || col->length <= b->buffer_length)
			continue;
		free(col->data);
		col->data = xmalloc(col->length);
		b->buffer = col->data;
		b->buffer_length = col->length;
		*grown = true;
		if (mysql_stmt_fetch_column(h, b, i, 0))
			return -1;
	}
	return 0;
}

static int give_row(struct sql_conn *c, unsigned n, sql_row_fn on_row, void *arg)
{
	for (unsigned i = 0; i < n; i++) {
		const struct sql_column *col = &c->columns[i];

		c->cells[i] = (struct sql_cell){.null = col->null};
		if (col->null)
			continue;
		if (col->is_integer)
			c->cells[i].u = col->integer;
		else
			c->cells[i].bytes = slice(col->data, col->length);
	}
	return on_row(arg, c->cells, n);
}

/* All rows of the current result, straight from the socket: mysql_stmt_store_result() would copy
 * them all once more (half the speed on journal reads) and hold them all at once. */
static enum sql_outcome fetch_rows(struct sql_conn *c, enum sql_stmt s, unsigned n,
                                   sql_row_fn on_row, void *arg)
{
	MYSQL_STMT *h = c->stmts[s];
	bool wanted = on_row != NULL;

	for (;;) {
		bool grown = false;
		int rc = mysql_stmt_fetch(h);

		if (rc == MYSQL_NO_DATA)
			return SQL_OK;
		if (rc != 0 && rc != MYSQL_DATA_TRUNCATED)
			return failed(c, s);
		if (!wanted)
			continue;
		if (fetch_rest(c, h, n, &grown))
			return failed(c, s);
		wanted = give_row(c, n, on_row, arg) == 0;
		if (grown && mysql_stmt_bind_result(h, c->column_binds))
			fatal("result columns cannot be bound");
	}
}

static void shrink_columns(struct sql_conn *c)
{
	for (unsigned i = 0; i < c->cap_columns; i++)
		if (c->columns[i].data && c->column_binds[i].buffer_length > COLUMN_KEEP) {
			free(c->columns[i].data);
			c->columns[i].data = NULL;
		}
}

/* A procedure gives several results and a last one without rows. */
static enum sql_outcome fetch_results(struct sql_conn *c, enum sql_stmt s, sql_row_fn on_row,
                                      void *arg)
{
	MYSQL_STMT *h = c->stmts[s];

	for (;;) {
		unsigned n = bind_columns(c, h);
		enum sql_outcome o = n ? fetch_rows(c, s, n, on_row, arg) : SQL_OK;
		int more;

		if (o != SQL_OK)
			return o;
		mysql_stmt_free_result(h);
		more = mysql_stmt_next_result(h);
		if (more < 0)
			return SQL_OK;
		if (more > 0)
			return failed(c, s);
	}
}

enum sql_outcome sql_query(struct sql_conn *c, enum sql_stmt s, const struct sql_param *params,
                           unsigned nparams, sql_row_fn on_row, void *arg)
{
	enum sql_outcome o = execute(c, s, params, nparams);

	if (o != SQL_OK)
		return o;
	o = fetch_results(c, s, on_row, arg);
	shrink_columns(c);
	return o;
}

enum sql_outcome sql_exec(struct sql_conn *c, enum sql_stmt s, const struct sql_param *params,
                          unsigned nparams)
{
	return sql_query(c, s, params, nparams, NULL, NULL);
}
