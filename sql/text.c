#include "base/mem.h"
#include "base/point.h"
#include "sql/conn_impl.h"

#include <stdlib.h>

enum { TEXT_COLUMNS = 16 }; /* more than any text of ours selects */

static uint64_t integer_of(const char *s)
{
	return s[0] == '-' ? (uint64_t)strtoll(s, NULL, 10) : strtoull(s, NULL, 10);
}

static int give_row(const struct sql_text_sink *sink, MYSQL_ROW row, const unsigned long *lengths,
                    const MYSQL_FIELD *fields, unsigned n)
{
	struct sql_cell cells[TEXT_COLUMNS];

	for (unsigned i = 0; i < n; i++) {
		cells[i] = (struct sql_cell){.null = !row[i]};
		if (!row[i])
			continue;
		cells[i].bytes = slice(row[i], lengths[i]);
		if (IS_NUM(fields[i].type))
			cells[i].u = integer_of(row[i]);
	}
	return sink->on_row(sink->arg, cells, n);
}

static void give_rows(const struct sql_text_sink *sink, MYSQL_RES *res)
{
	unsigned n = mysql_num_fields(res);
	MYSQL_ROW row;

	if (n > TEXT_COLUMNS)
		fatal("a text statement selects %u columns", n);
	while ((row = mysql_fetch_row(res)))
		if (give_row(sink, row, mysql_fetch_lengths(res), mysql_fetch_fields(res), n))
			return;
}

/* Take in the result that stands at the connection. mysql_affected_rows() is read here, before
 * mysql_next_result() makes it -1. */
static enum sql_outcome take_result(struct sql_conn *c, const struct sql_text_sink *sink,
                                    bool commits)
{
	MYSQL_RES *res = mysql_store_result(c->my);

	if (!res && mysql_field_count(c->my))
		return conn_failed_query(c, "text", commits);
	c->affected = mysql_affected_rows(c->my);
	c->insert_id = mysql_insert_id(c->my);
	if (res && sink && sink->on_row)
		give_rows(sink, res);
	mysql_free_result(res);
	if (sink && sink->on_done)
		sink->on_done(sink->arg, c->result, c->affected);
	return SQL_OK;
}

enum sql_outcome sql_text(struct sql_conn *c, const char *text, size_t len,
                          const struct sql_text_sink *sink, enum sql_text_flags flags)
{
	bool commits = flags & SQL_TEXT_COMMITS;
	enum sql_outcome o;

	if (!conn_begin(c, "text", &o))
		return o;
	c->result = 0;
	POINT_STATEMENT("TEXT");
	if (mysql_real_query(c->my, text, len))
		return conn_failed_query(c, "text", commits);
	for (;; c->result++) {
		int more;

		o = take_result(c, sink, commits);
		if (o != SQL_OK)
			return o;
		more = mysql_next_result(c->my);
		if (more < 0) {
			c->in_tx = (flags & SQL_TEXT_ENDS) != SQL_TEXT_ENDS;
			if (!c->in_tx)
				POINT_COMMIT("committed");
			return SQL_OK;
		}
		if (more > 0) {
			c->result++;
			return conn_failed_query(c, "text", commits);
		}
	}
}

unsigned sql_text_result(const struct sql_conn *c)
{
	return c->result;
}
