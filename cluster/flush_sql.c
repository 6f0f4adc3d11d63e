#include "cluster/flush_sql.h"

#include "base/buf.h"
#include "base/mem.h"
#include "cluster/bulk_sql.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	ROW_PARAMS = 10,
	PACKET_SLACK = 64 * 1024, /* bytes of a packet that are not attributes or bodies */
};

/* ---- heads --------------------------------------------------------------------------------------
 */

/* One head of a flush: its batches are batches[from .. to). */
struct flush_head {
	size_t from;
	size_t to;
	uint32_t count;    /* events */
	uint64_t bytes;    /* as the journal counts them */
	uint64_t next_seq; /* read back after the head was advanced */
	uint64_t end_bytes;
	bool sealed; /* so it was not */
};

static bool same_head(const struct batch *a, const struct batch *b)
{
	return batch_tenant(a) == batch_tenant(b) && batch_partition(a) == batch_partition(b);
}

static void flush_group(struct flush *f)
{
	f->heads = xcalloc(f->n, sizeof *f->heads);
	for (size_t i = 0; i < f->n; i++) {
		struct flush_head *h;

		if (i == 0 || !same_head(f->batches[i - 1], f->batches[i]))
			f->heads[f->n_heads++].from = i;
		h = &f->heads[f->n_heads - 1];
		h->to = i + 1;
		h->count += batch_count(f->batches[i]);
		h->bytes += batch_bytes(f->batches[i]);
	}
}

static void flush_fail(struct flush *f, size_t culprit, const char *why)
{
	f->culprit = culprit;
	f->error_no = 0;
	snprintf(f->error, sizeof f->error, "%s", why);
}

static void flush_fail_sql(struct flush *f, size_t culprit, const struct sql_conn *c)
{
	flush_fail(f, culprit, sql_error(c));
	f->error_no = sql_errno(c);
}

/* What no packet can carry would cost the connection, and with it everything read through it. */
static bool flush_fits(struct flush *f, uint64_t max_packet)
{
	for (size_t i = 0; i < f->n; i++) {
		if (batch_bytes(f->batches[i]) + PACKET_SLACK > max_packet) {
			flush_fail(f, i, "event is larger than the database's max_allowed_packet");
			return false;
		}
	}
	return true;
}

/* The fence, the heads, and the numbers that are ours now: one round trip. When the fence did not
 * match, what followed it is rolled back. A sealed head stays where it is. */
static void flush_text(const struct flush *f, struct buf *out)
{
	if (f->fence)
		buf_printf(out, "%s;", f->fence);
	buf_append_str(out, "INSERT INTO head(tenant_id,partition_id,next_seq,bytes) VALUES ");
	for (size_t i = 0; i < f->n_heads; i++) {
		const struct flush_head *h = &f->heads[i];
		const struct batch *b = f->batches[h->from];

		buf_printf(out, "%s(%u,%u,%u,%" PRIu64 ")", i ? "," : "", batch_tenant(b),
		           batch_partition(b), h->count, h->bytes);
	}
	buf_append_str(out, " ON DUPLICATE KEY UPDATE"
	                    " next_seq=next_seq+IF(sealed_at IS NULL,VALUES(next_seq),0),"
	                    "bytes=bytes+IF(sealed_at IS NULL,VALUES(bytes),0);"
	                    "SELECT tenant_id,partition_id,next_seq,bytes,sealed_at IS NOT NULL"
	                    " FROM head"
	                    " WHERE (tenant_id,partition_id) IN (");
	for (size_t i = 0; i < f->n_heads; i++) {
		const struct batch *b = f->batches[f->heads[i].from];

		buf_printf(out, "%s(%u,%u)", i ? "," : "", batch_tenant(b), batch_partition(b));
	}
	buf_append_str(out, ") ORDER BY tenant_id,partition_id");
}

static int on_head(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct flush *f = arg;
	struct flush_head *h = &f->heads[f->heads_read];
	const struct batch *b;

	if (n < 5 || f->heads_read == f->n_heads)
		return 1;
	b = f->batches[h->from];
	if (cells[0].u != batch_tenant(b) || cells[1].u != batch_partition(b))
		return 1; /* not sorted as promised: heads_read stays short and nothing is stored */
	h->next_seq = cells[2].u;
	h->end_bytes = cells[3].u;
	h->sealed = cells[4].u != 0;
	f->heads_read++;
	return 0;
}

static void on_statement(void *arg, unsigned result, uint64_t affected)
{
	struct flush *f = arg;

	if (result == 0)
		f->fenced = f->fence && affected != 1;
}

/* A head that was not there before was made just now and starts at 0, where no event may be: it was
 * sealed so long ago that it is forgotten, or its tenant was deleted. */
static enum sql_outcome flush_number(struct flush *f)
{
	if (f->heads_read != f->n_heads) {
		flush_fail(f, SIZE_MAX, "a head could not be read back");
		return SQL_FATAL;
	}
	for (size_t i = 0; i < f->n_heads; i++) {
		const struct flush_head *h = &f->heads[i];
		uint64_t base = h->next_seq - h->count;

		if (h->sealed || base == 0) {
			f->sealed_tenant = batch_tenant(f->batches[h->from]);
			flush_fail(f, h->from, "tenant is gone");
			return SQL_FATAL;
		}
		for (size_t k = h->from; k < h->to; k++) {
			f->base_seqs[k] = base;
			base += batch_count(f->batches[k]);
		}
	}
	return SQL_OK;
}

static int on_layout(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct flush *f = arg;

	if (n >= 2)
		f->layout = (struct layout){(uint32_t)cells[0].u, (uint32_t)cells[1].u};
	return 1;
}

/* The tenant's row was committed with the seal. */
static enum sql_outcome flush_layout(struct sql_conn *c, struct flush *f)
{
	struct sql_param tenant = sql_u64(f->sealed_tenant);
	enum sql_outcome o = sql_query(c, STMT_LAYOUT_NOW, &tenant, 1, on_layout, f);

	return o == SQL_OK ? SQL_FATAL : o;
}

static enum sql_outcome flush_heads(struct sql_conn *c, struct flush *f)
{
	struct sql_text_sink sink = {.on_row = on_head, .on_done = on_statement, .arg = f};
	struct buf text = {0};
	enum sql_outcome o;

	flush_text(f, &text);
	o = sql_text(c, text.data, text.len, &sink, SQL_TEXT_PLAIN);
	buf_release(&text);
	if (o != SQL_OK) {
		flush_fail_sql(f, SIZE_MAX, c);
		return o;
	}
	if (f->fenced)
		return SQL_LOST;
	o = flush_number(f);
	return o == SQL_FATAL && f->sealed_tenant ? flush_layout(c, f) : o;
}

/* ---- rows ---------------------------------------------------------------------------------------
 */

struct rows {
	const struct flush *flush;
	uint64_t *end_bytes; /* head.bytes after each batch */
};

static void set_end_bytes(struct rows *r)
{
	const struct flush *f = r->flush;

	for (size_t i = 0; i < f->n_heads; i++) {
		const struct flush_head *h = &f->heads[i];
		uint64_t at = h->end_bytes - h->bytes;

		for (size_t k = h->from; k < h->to; k++) {
			at += batch_bytes(f->batches[k]);
			r->end_bytes[k] = at;
		}
	}
}

static size_t row_bytes(void *arg, size_t i)
{
	const struct rows *r = arg;

	return batch_bytes(r->flush->batches[i]);
}

static void row_params(void *arg, size_t i, struct sql_param *out)
{
	const struct rows *r = arg;
	const struct flush *f = r->flush;
	const struct batch *b = f->batches[i];
	struct slice attributes = batch_attributes(b);
	struct slice body = batch_body(b);

	out[0] = sql_u64(batch_tenant(b));
	out[1] = sql_u64(batch_partition(b));
	out[2] = sql_u64(f->base_seqs[i]);
	out[3] = sql_u64(batch_count(b));
	out[4] = sql_u64(r->end_bytes[i]);
	out[5] = sql_bytes(f->me->b, sizeof f->me->b);
	out[6] = sql_u64(f->writer_no);
	out[7] = sql_u64(f->flush_no);
	out[8] = sql_utf8(attributes.p, attributes.n);
	out[9] = sql_bytes(body.p, body.n);
}

static enum sql_outcome flush_rows(struct sql_conn *c, struct flush *f)
{
	struct rows rows = {.flush = f, .end_bytes = xcalloc(f->n, sizeof(uint64_t))};
	struct bulk bulk = {
	        .stmts = {STMT_JOURNAL_INSERT_64, STMT_JOURNAL_INSERT_32, STMT_JOURNAL_INSERT_16,
	                  STMT_JOURNAL_INSERT_8, STMT_JOURNAL_INSERT_4, STMT_JOURNAL_INSERT_2,
	                  STMT_JOURNAL_INSERT_1},
	        .row_params = ROW_PARAMS,
	        .n = f->n,
	        .bytes = row_bytes,
	        .params = row_params,
	        .arg = &rows,
	};
	enum sql_outcome o;

	set_end_bytes(&rows);
	o = bulk_sql_insert(c, &bulk);
	if (o == SQL_FATAL || o == SQL_DUP)
		flush_fail_sql(f, bulk.culprit, c);
	free(rows.end_bytes);
	return o == SQL_DUP ? SQL_FATAL : o; /* the journal is ahead of its head: no repeat helps */
}

enum sql_outcome flush_sql_run(struct sql_conn *c, struct flush *f)
{
	enum sql_outcome o = SQL_FATAL;

	f->culprit = SIZE_MAX;
	f->fenced = false;
	f->heads_read = 0;
	f->n_heads = 0;
	f->sealed_tenant = 0;
	f->layout = (struct layout){0, 0};
	flush_group(f);
	if (flush_fits(f, sql_conn_server(c)->max_packet))
		o = flush_heads(c, f);
	if (o == SQL_OK)
		o = flush_rows(c, f);
	free(f->heads);
	f->heads = NULL;
	return o;
}
