#include "cluster/lead_rows.h"

#include "base/buf.h"
#include "base/mem.h"
#include "cluster/bus.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS_FIRST = 16 };

void *lead_rows_at(const struct lead_rows *r, size_t i)
{
	return (char *)r->rows + i * r->size;
}

void *lead_rows_add(struct lead_rows *r)
{
	if (r->n == r->cap) {
		r->cap = r->cap ? r->cap * 2 : ROWS_FIRST;
		r->rows = xrealloc(r->rows, r->cap * r->size);
	}
	return memset(lead_rows_at(r, r->n++), 0, r->size);
}

static int by_rank(const void *a, const void *b)
{
	const struct lead_row *x = a;
	const struct lead_row *y = b;

	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	return (x->id > y->id) - (x->id < y->id);
}

void lead_rows_sort(struct lead_rows *r)
{
	if (r->n)
		qsort(r->rows, r->n, r->size, by_rank);
}

/* ---- reading ------------------------------------------------------------------------------------
 */

/* As a JSON array: those of [from, to), all of them or only the moved. */
static void ids_json(const struct lead_rows *r, size_t from, size_t to, bool moved, struct buf *out)
{
	buf_clear(out);
	buf_u8(out, '[');
	for (size_t i = from; i < to; i++) {
		const struct lead_row *row = lead_rows_at(r, i);

		if (moved && !row->moved)
			continue;
		if (out->len > 1)
			buf_u8(out, ',');
		buf_u64_dec(out, row->id);
	}
	buf_u8(out, ']');
}

void *lead_rows_read(const struct lead_rows *r, uint64_t which)
{
	return which >= 1 && which <= r->n - r->reading ? lead_rows_at(r, r->reading + which - 1)
	                                                : NULL;
}

static enum sql_outcome read_events(struct sql_conn *c, struct lead_rows *r,
                                    const struct lead_taking *taking, size_t from, size_t to)
{
	struct buf ids = {0};
	struct sql_param param;
	enum sql_outcome o;

	r->reading = from;
	ids_json(r, from, to, false, &ids);
	param = sql_utf8(ids.data, ids.len);
	o = sql_query(c, taking->read, &param, 1, taking->on_event, taking->arg);
	buf_release(&ids);
	return o;
}

enum sql_outcome lead_rows_take(struct sql_conn *c, struct lead_rows *r,
                                const struct lead_taking *taking, size_t *done)
{
	enum sql_outcome o = SQL_OK;

	*done = 0;
	while (o == SQL_OK && *done < r->n && taking->gather->bytes < BUS_FLUSH_MAX_BYTES) {
		size_t to = *done + gather_rows_to_read(taking->gather, *done, r->n);

		o = read_events(c, r, taking, *done, to);
		if (o == SQL_OK)
			o = taking->take(c, taking->arg, *done, to);
		*done = to;
	}
	return o;
}

size_t lead_rows_moved(const struct lead_rows *r)
{
	size_t n = 0;

	for (size_t i = 0; i < r->n; i++)
		n += ((const struct lead_row *)lead_rows_at(r, i))->moved;
	return n;
}

/* ---- deleting -----------------------------------------------------------------------------------
 */

enum sql_outcome lead_rows_delete(struct sql_conn *c, const struct lead_rows *r, enum sql_stmt stmt)
{
	enum sql_outcome o = SQL_OK;
	struct buf ids = {0};
	uint64_t deleted = 0;

	for (size_t i = 0; o == SQL_OK && i < r->n; i += GATHER_READ_MAX) {
		struct sql_param param;

		ids_json(r, i, i + GATHER_READ_MAX < r->n ? i + GATHER_READ_MAX : r->n, true, &ids);
		if (ids.len == 2)
			continue;
		param = sql_utf8(ids.data, ids.len);
		o = sql_exec(c, stmt, &param, 1);
		deleted += sql_affected(c);
	}
	buf_release(&ids);
	return o == SQL_OK && deleted != lead_rows_moved(r) ? SQL_RETRY : o;
}

void lead_rows_release(struct lead_rows *r)
{
	for (size_t i = 0; i < r->n; i++)
		batch_unref(((struct lead_row *)lead_rows_at(r, i))->one);
	free(r->rows);
	r->rows = NULL;
	r->n = r->cap = 0;
}
