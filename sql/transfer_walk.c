#include "sql/transfer_walk.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

enum { JOURNAL_ROWS = 256 }; /* a query's, so that no read view lives long */
enum { JOURNAL_PARTITION, JOURNAL_BASE_SEQ, JOURNAL_COUNT };

int transfer_outcome(struct sql_conn *c, enum sql_outcome o, struct err *e)
{
	if (o == SQL_OK)
		return 0;
	if (o == SQL_UNKNOWN)
		err_set(e, (int)o, "the connection was lost at COMMIT: run it again");
	else
		err_set(e, (int)o, "%.240s", sql_error(c));
	sql_rollback(c);
	return -1;
}

/* ---- a tenant and its heads ---- */

static void text_of(const struct sql_cell *cell, char *out, size_t size)
{
	snprintf(out, size, "%.*s", (int)cell->bytes.n, cell->bytes.p ? cell->bytes.p : "");
}

static int on_tenant(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct transfer_tenant *t = arg;

	(void)n;
	t->id = (uint32_t)cells[0].u;
	t->state = (uint8_t)cells[1].u;
	text_of(&cells[2], t->created_at, sizeof t->created_at);
	t->direction = (enum transfer_direction)cells[3].u;
	t->move_complete = cells[4].u == 2;
	if (cells[5].bytes.n == sizeof t->source)
		memcpy(t->source, cells[5].bytes.p, sizeof t->source);
	t->chunks = (uint32_t)cells[6].u;
	return 0;
}

int transfer_tenant_find(struct sql_conn *c, struct slice name, struct transfer_tenant *out,
                         struct err *e)
{
	struct sql_param p = sql_bytes(name.p, name.n);
	enum sql_outcome o;

	*out = (struct transfer_tenant){0};
	o = sql_query(c, STMT_ADMIN_EXPORT_TENANT, &p, 1, on_tenant, out);
	if (transfer_outcome(c, o, e) < 0)
		return -1;
	sql_rollback(c);
	return 0;
}

static int on_head(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct transfer_heads *h = arg;

	(void)n;
	if (h->n == h->cap) {
		h->cap = h->cap ? 2 * h->cap : 16;
		h->v = xrealloc(h->v, h->cap * sizeof *h->v);
	}
	h->v[h->n++] = (struct transfer_head){
	        .partition = (uint32_t)cells[0].u, .next_seq = cells[1].u, .first_seq = cells[2].u};
	text_of(&cells[3], h->durable, sizeof h->durable);
	return 0;
}

int transfer_heads_read(struct sql_conn *c, uint32_t tenant_id, struct transfer_heads *out,
                        struct err *e)
{
	struct sql_param p = sql_u64(tenant_id);
	enum sql_outcome o;

	out->n = 0;
	o = sql_query(c, STMT_ADMIN_EXPORT_HEADS, &p, 1, on_head, out);
	if (transfer_outcome(c, o, e) < 0)
		return -1;
	sql_rollback(c);
	return 0;
}

void transfer_heads_release(struct transfer_heads *h)
{
	free(h->v);
	*h = (struct transfer_heads){0};
}

/* ---- rows ---- */

struct walk {
	const struct transfer_table *table;
	transfer_row_fn fn;
	void *arg;
	uint64_t next; /* journal: behind the last row */
	unsigned rows;
	bool ended;
};

static int on_row(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct walk *w = arg;

	(void)n;
	w->rows++;
	if (w->table->number == TRANSFER_JOURNAL)
		w->next = cells[JOURNAL_BASE_SEQ].u + cells[JOURNAL_COUNT].u;
	w->ended = w->fn(w->arg, w->table, cells) != 0;
	return w->ended;
}

int transfer_walk_table(struct sql_conn *c, const struct transfer_table *t, uint32_t tenant_id,
                        transfer_row_fn fn, void *arg, struct err *e)
{
	struct walk w = {.table = t, .fn = fn, .arg = arg};
	struct sql_param p = sql_u64(tenant_id);

	if (transfer_outcome(c, sql_query(c, t->get, &p, 1, on_row, &w), e) < 0)
		return -1;
	sql_rollback(c);
	return 0;
}

int transfer_walk_journal(struct sql_conn *c, uint32_t tenant_id, uint32_t partition, uint64_t from,
                          transfer_row_fn fn, void *arg, struct err *e)
{
	struct walk w = {
	        .table = transfer_table_of(TRANSFER_JOURNAL), .fn = fn, .arg = arg, .next = from};

	do {
		struct sql_param params[] = {sql_u64(tenant_id), sql_u64(partition),
		                             sql_u64(w.next), sql_u64(JOURNAL_ROWS)};
		enum sql_outcome o;

		w.rows = 0;
		o = sql_query(c, w.table->get, params, 4, on_row, &w);
		if (transfer_outcome(c, o, e) < 0)
			return -1;
		sql_rollback(c);
	} while (w.rows == JOURNAL_ROWS && !w.ended);
	return 0;
}

/* ---- the sum ---- */

struct summing {
	struct transfer_sum *sum;
	struct buf record;
};

static int sum_row(void *arg, const struct transfer_table *t, const struct sql_cell *cells)
{
	struct summing *s = arg;

	buf_clear(&s->record);
	transfer_record_put(&s->record, t->types, cells);
	transfer_sum_row(s->sum, t->number, buf_slice(&s->record));
	return 0;
}

static int sum_journal(struct sql_conn *c, uint32_t tenant_id, struct summing *s, struct err *e)
{
	struct transfer_heads heads = {0};
	int rc = transfer_heads_read(c, tenant_id, &heads, e);

	for (size_t i = 0; rc == 0 && i < heads.n; i++)
		rc = transfer_walk_journal(c, tenant_id, heads.v[i].partition, 0, sum_row, s, e);
	transfer_heads_release(&heads);
	return rc;
}

int transfer_walk_sum(struct sql_conn *c, uint32_t tenant_id, bool without_keys,
                      struct transfer_sum *out, struct err *e)
{
	struct summing s = {.sum = out};
	int rc = 0;

	*out = (struct transfer_sum){0};
	for (unsigned i = 0; rc == 0 && i < transfer_table_count(); i++) {
		const struct transfer_table *t = transfer_table_at(i);

		if (t->number == TRANSFER_JOURNAL)
			rc = sum_journal(c, tenant_id, &s, e);
		else if (!(transfer_is_identity(t) && without_keys))
			rc = transfer_walk_table(c, t, tenant_id, sum_row, &s, e);
	}
	buf_release(&s.record);
	return rc;
}
