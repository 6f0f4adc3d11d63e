/* journal_sql: append, resolve, read and locate on the tables writer, head and journal. */
#include "base/buf.h"
#include "base/bug.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	ROW_PARAMS = 10,
	ROWS_MAX = 64,                /* rows of the largest insert */
	PACKET_SLACK = 64 * 1024,     /* bytes of a packet that are not attributes or bodies */
	SMALL_FLUSH_BYTES = 8 * 1024, /* what goes as hex in one text */
	READ_ROWS_FIRST = 16,
	READ_ROWS_MAX = 1024,
};

/* ---- append -------------------------------------------------------------------------------------
 */

/* One head of a flush: its batches are req->batches[from .. to). */
struct flush_head {
	size_t from;
	size_t to;
	uint32_t count;    /* events */
	uint64_t bytes;    /* as the journal counts them */
	uint64_t next_seq; /* read back after the head was advanced */
	uint64_t end_bytes;
};

struct flush {
	struct bus_append *req;
	const struct id128 *me;
	size_t n_heads;
	struct flush_head *heads;
	size_t heads_read;
	bool fenced;         /* the writer row did not match */
	uint64_t *base_seqs; /* of req->batches; set on them when the loop hears OK */
};

static bool same_head(const struct batch *a, const struct batch *b)
{
	return batch_tenant(a) == batch_tenant(b) && batch_partition(a) == batch_partition(b);
}

static void flush_group(struct flush *f)
{
	const struct bus_append *req = f->req;

	f->heads = xcalloc(req->n, sizeof *f->heads);
	for (size_t i = 0; i < req->n; i++) {
		struct flush_head *h;

		if (i == 0 || !same_head(req->batches[i - 1], req->batches[i]))
			f->heads[f->n_heads++].from = i;
		h = &f->heads[f->n_heads - 1];
		h->to = i + 1;
		h->count += batch_count(req->batches[i]);
		h->bytes += batch_bytes(req->batches[i]);
	}
}

static void flush_fail(struct flush *f, size_t culprit, const char *why)
{
	f->req->culprit = culprit;
	snprintf(f->req->error, sizeof f->req->error, "%s", why);
}

/* What no packet can carry would cost the connection, and with it everything read through it. */
static bool flush_fits(struct flush *f, uint64_t max_packet)
{
	for (size_t i = 0; i < f->req->n; i++) {
		if (batch_bytes(f->req->batches[i]) + PACKET_SLACK > max_packet) {
			flush_fail(f, i, "event is larger than the database's max_allowed_packet");
			return false;
		}
	}
	return true;
}

/* The fence, the heads, and the numbers that are ours now: one round trip. When the fence did not
 * match, what followed it is rolled back. */
static void flush_text(const struct flush *f, struct buf *out)
{
	const struct bus_append *req = f->req;
	char hex[ID128_HEX];

	id128_hex(f->me, hex);
	buf_printf(out,
	           "UPDATE writer SET flush_no=%" PRIu64 " WHERE session_id=x'%s' AND writer_no=%u"
	           " AND flush_no=%" PRIu64 " AND fence=%" PRIu64 " AND state=1;",
	           req->flush_no, hex, req->writer_no, req->flush_no - 1, req->fence);
	buf_append_str(out, "INSERT INTO head(tenant_id,partition_id,next_seq,bytes) VALUES ");
	for (size_t i = 0; i < f->n_heads; i++) {
		const struct flush_head *h = &f->heads[i];
		const struct batch *b = req->batches[h->from];

		buf_printf(out, "%s(%u,%u,%u,%" PRIu64 ")", i ? "," : "", batch_tenant(b),
		           batch_partition(b), h->count, h->bytes);
	}
	buf_append_str(out, " ON DUPLICATE KEY UPDATE next_seq=next_seq+VALUES(next_seq),"
	                    "bytes=bytes+VALUES(bytes);"
	                    "SELECT tenant_id,partition_id,next_seq,bytes FROM head"
	                    " WHERE (tenant_id,partition_id) IN (");
	for (size_t i = 0; i < f->n_heads; i++) {
		const struct batch *b = req->batches[f->heads[i].from];

		buf_printf(out, "%s(%u,%u)", i ? "," : "", batch_tenant(b), batch_partition(b));
	}
	buf_append_str(out, ") ORDER BY tenant_id,partition_id");
}

static int on_head(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct flush *f = arg;
	struct flush_head *h = &f->heads[f->heads_read];
	const struct batch *b;

	if (n < 4 || f->heads_read == f->n_heads)
		return 1;
	b = f->req->batches[h->from];
	if (cells[0].u != batch_tenant(b) || cells[1].u != batch_partition(b))
		return 1; /* not sorted as promised: heads_read stays short and nothing is stored */
	h->next_seq = cells[2].u;
	h->end_bytes = cells[3].u;
	f->heads_read++;
	return 0;
}

static void on_statement(void *arg, unsigned result, uint64_t affected)
{
	struct flush *f = arg;

	if (result == 0)
		f->fenced = affected != 1;
}

/* A head that was not there before was made just now and starts at 0, where no event may be: its
 * tenant was deleted. */
static enum sql_outcome flush_number(struct flush *f)
{
	if (f->heads_read != f->n_heads) {
		flush_fail(f, SIZE_MAX, "a head could not be read back");
		return SQL_FATAL;
	}
	for (size_t i = 0; i < f->n_heads; i++) {
		const struct flush_head *h = &f->heads[i];
		uint64_t base = h->next_seq - h->count;

		if (base == 0) {
			flush_fail(f, h->from, "tenant is gone");
			return SQL_FATAL;
		}
		for (size_t k = h->from; k < h->to; k++) {
			f->base_seqs[k] = base;
			base += batch_count(f->req->batches[k]);
		}
	}
	return SQL_OK;
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
		flush_fail(f, SIZE_MAX, sql_error(c));
		return o;
	}
	return f->fenced ? SQL_LOST : flush_number(f);
}

static void row_params(const struct flush *f, size_t i, uint64_t end_bytes, struct sql_param *out)
{
	const struct batch *b = f->req->batches[i];
	struct slice attributes = batch_attributes(b);
	struct slice body = batch_body(b);

	out[0] = sql_u64(batch_tenant(b));
	out[1] = sql_u64(batch_partition(b));
	out[2] = sql_u64(f->base_seqs[i]);
	out[3] = sql_u64(batch_count(b));
	out[4] = sql_u64(end_bytes);
	out[5] = param_session(f->me);
	out[6] = sql_u64(f->req->writer_no);
	out[7] = sql_u64(f->req->flush_no);
	out[8] = sql_utf8(attributes.p, attributes.n);
	out[9] = sql_bytes(body.p, body.n);
}

/* The inserts there are, largest first; the last takes any row. */
static const struct insert {
	size_t rows;
	enum sql_stmt stmt;
} inserts[] = {
        {ROWS_MAX, STMT_JOURNAL_INSERT_64}, {32, STMT_JOURNAL_INSERT_32},
        {16, STMT_JOURNAL_INSERT_16},       {8, STMT_JOURNAL_INSERT_8},
        {4, STMT_JOURNAL_INSERT_4},         {2, STMT_JOURNAL_INSERT_2},
        {1, STMT_JOURNAL_INSERT_1},
};

/* The largest for the rows from i on that a packet holds. */
static const struct insert *insert_for(const struct flush *f, size_t i, uint64_t max_packet)
{
	const struct insert *in = inserts;

	for (; in->rows > 1; in++) {
		uint64_t bytes = PACKET_SLACK;

		if (f->req->n - i < in->rows)
			continue;
		for (size_t k = i; k < i + in->rows; k++)
			bytes += batch_bytes(f->req->batches[k]);
		if (bytes <= max_packet)
			break;
	}
	return in;
}

static enum sql_outcome insert_rows(struct sql_conn *c, struct flush *f, size_t i,
                                    const struct insert *in, const uint64_t *end_bytes)
{
	struct sql_param params[ROWS_MAX * ROW_PARAMS];
	enum sql_outcome o;

	for (size_t k = 0; k < in->rows; k++)
		row_params(f, i + k, end_bytes[i + k], params + k * ROW_PARAMS);
	o = sql_exec(c, in->stmt, params, (unsigned)(in->rows * ROW_PARAMS));
	if (o == SQL_FATAL || o == SQL_DUP)
		flush_fail(f, in->rows == 1 ? i : SIZE_MAX, sql_error(c));
	return o == SQL_DUP ? SQL_FATAL : o; /* the journal is ahead of its head: no repeat helps */
}

/* head.bytes after each batch. */
static void flush_end_bytes(const struct flush *f, uint64_t *out)
{
	for (size_t i = 0; i < f->n_heads; i++) {
		const struct flush_head *h = &f->heads[i];
		uint64_t at = h->end_bytes - h->bytes;

		for (size_t k = h->from; k < h->to; k++) {
			at += batch_bytes(f->req->batches[k]);
			out[k] = at;
		}
	}
}

static enum sql_outcome flush_rows(struct sql_conn *c, struct flush *f)
{
	uint64_t max_packet = sql_conn_server(c)->max_packet / 2;
	uint64_t *end_bytes = xcalloc(f->req->n, sizeof *end_bytes);
	enum sql_outcome o = SQL_OK;

	flush_end_bytes(f, end_bytes);
	for (size_t i = 0; o == SQL_OK && i < f->req->n;) {
		const struct insert *in = insert_for(f, i, max_packet);

		o = insert_rows(c, f, i, in, end_bytes);
		i += in->rows;
	}
	free(end_bytes);
	return o;
}

/* ---- a small flush of one batch: everything in one round trip ---- */

struct small_flush {
	bool stored; /* its row went in */
	uint64_t next_seq;
};

static bool flush_is_small(const struct flush *f)
{
	return f->req->n == 1 && batch_bytes(f->req->batches[0]) <= SMALL_FLUSH_BYTES;
}

static void append_hex(struct buf *out, struct slice bytes)
{
	static const char digits[] = "0123456789abcdef";
	char *p = buf_extend(out, 2 * bytes.n + 3);

	*p++ = 'x';
	*p++ = '\'';
	for (size_t i = 0; i < bytes.n; i++) {
		*p++ = digits[(unsigned char)bytes.p[i] >> 4];
		*p++ = digits[(unsigned char)bytes.p[i] & 15];
	}
	*p = '\'';
}

/* The second statement does nothing unless the first did (ROW_COUNT is that of the statement
 * before, which no number of an earlier flush can imitate): where the fence or the head does not
 * match, nothing changes and COMMIT keeps nothing. Bytes are in the text as hex, never as they are.
 */
static void small_text(const struct flush *f, struct buf *out)
{
	const struct bus_append *req = f->req;
	const struct batch *b = req->batches[0];
	char me[ID128_HEX];
	char head[96];

	id128_hex(f->me, me);
	snprintf(head, sizeof head, "h.tenant_id=%u AND h.partition_id=%u", batch_tenant(b),
	         batch_partition(b));
	buf_printf(out,
	           "UPDATE writer w JOIN head h ON %s SET w.flush_no=%" PRIu64
	           ",h.next_seq=h.next_seq+%u,h.bytes=h.bytes+%zu WHERE w.session_id=x'%s'"
	           " AND w.writer_no=%u AND w.flush_no=%" PRIu64 " AND w.fence=%" PRIu64
	           " AND w.state=1;",
	           head, req->flush_no, batch_count(b), batch_bytes(b), me, req->writer_no,
	           req->flush_no - 1, req->fence);
	buf_printf(out,
	           "INSERT INTO journal(tenant_id,partition_id,base_seq,event_count,end_bytes,"
	           "session_id,writer_no,flush_no,attributes,body)"
	           " SELECT h.tenant_id,h.partition_id,h.next_seq-%u,%u,h.bytes,w.session_id,"
	           "w.writer_no,w.flush_no,CONVERT(",
	           batch_count(b), batch_count(b));
	append_hex(out, batch_attributes(b));
	buf_append_str(out, " USING utf8mb4),");
	append_hex(out, batch_body(b));
	buf_printf(out,
	           " FROM head h JOIN writer w ON w.session_id=x'%s' AND w.writer_no=%u"
	           " WHERE %s AND ROW_COUNT()>0;SELECT h.next_seq FROM head h WHERE %s;COMMIT",
	           me, req->writer_no, head, head);
}

static void on_small_done(void *arg, unsigned result, uint64_t affected)
{
	struct small_flush *s = arg;

	if (result == 1)
		s->stored = affected == 1;
}

static int on_small_head(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct small_flush *s = arg;

	s->next_seq = n ? cells[0].u : 0;
	return 0;
}

/* *stored says whether it is over; if not, nothing happened and the long way finds out why. */
static enum sql_outcome flush_small(struct sql_conn *c, struct flush *f, bool *stored)
{
	struct small_flush s = {0};
	struct sql_text_sink sink = {.on_row = on_small_head, .on_done = on_small_done, .arg = &s};
	struct buf text = {0};
	enum sql_outcome o;

	small_text(f, &text);
	o = sql_text(c, text.data, text.len, &sink, SQL_TEXT_ENDS);
	buf_release(&text);
	*stored = s.stored;
	if (o == SQL_OK && s.stored)
		f->base_seqs[0] = s.next_seq - batch_count(f->req->batches[0]);
	if (o == SQL_FATAL || o == SQL_DUP) {
		flush_fail(f, 0, sql_error(c));
		return SQL_FATAL;
	}
	return o;
}

static enum sql_outcome work_append(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_append *req = job->req;
	struct flush f = {.req = req, .me = &job->me, .fenced = true, .base_seqs = job->more};
	enum sql_outcome o = SQL_FATAL;

	if (flush_is_small(&f)) {
		bool stored;

		o = flush_small(c, &f, &stored);
		if (o != SQL_OK || stored)
			return o;
	}
	flush_group(&f);
	o = SQL_FATAL;
	if (flush_fits(&f, sql_conn_server(c)->max_packet))
		o = flush_heads(c, &f);
	if (o == SQL_OK)
		o = flush_rows(c, &f);
	if (o == SQL_OK)
		o = sql_commit(c);
	if (o == SQL_FATAL && !req->error[0])
		flush_fail(&f, SIZE_MAX, sql_error(c));
	free(f.heads);
	return o;
}

static void append_done(void *arg, enum sql_outcome outcome)
{
	struct bus_job *job = arg;
	struct bus_append *req = job->req;
	uint64_t *base_seqs = job->more;
	uint64_t stamp = batch_stamp_of(job->me.b, req->writer_no, req->flush_no);

	for (size_t i = 0; outcome == SQL_OK && i < req->n; i++) {
		batch_set_base_seq(req->batches[i], base_seqs[i]);
		batch_set_stamp(req->batches[i], stamp);
	}
	if (outcome == SQL_LOST)
		session_sql_suspect(job->owner);
	free(base_seqs);
	free(job);
	req->outcome = outcome;
	req->done(req);
}

void journal_sql_append(struct bus *bus, struct bus_append *req)
{
	assert(req->writer_no < BUS_WRITERS && req->n > 0);
	req->culprit = SIZE_MAX;
	req->error[0] = '\0';
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_WRITER0 + req->writer_no, work_append,
	               append_done, req, xcalloc(req->n, sizeof(uint64_t)));
}

/* ---- resolve ------------------------------------------------------------------------------------
 */

static int on_writer(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct bus_resolve *req = arg;

	if (n < 2)
		return 1;
	req->flush_no = cells[0].u;
	req->fence = cells[1].u;
	return 1;
}

static enum sql_outcome work_resolve(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_resolve *req = job->req;
	struct sql_param params[2] = {param_session(&req->session_id), sql_u64(req->writer_no)};
	enum sql_outcome o = SQL_OK;

	if (!BUG("unknown-plain-look")) {
		o = sql_exec(c, STMT_WRITER_RESOLVE, params, 2);
		if (o == SQL_OK && sql_affected(c) == 0)
			return SQL_LOST;
	}
	if (o == SQL_OK)
		o = sql_query(c, STMT_WRITER_READ, params, 2, on_writer, req);
	if (o == SQL_OK)
		o = sql_commit(c);
	return o == SQL_OK || o == SQL_FATAL ? o : SQL_RETRY; /* asking again does no harm */
}

BUS_JOB_DONE(resolve)

void journal_sql_resolve(struct bus *bus, struct bus_resolve *req)
{
	assert(req->writer_no < BUS_WRITERS);
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_WRITER0 + req->writer_no, work_resolve,
	               resolve_done, req, NULL);
}

/* ---- read ---------------------------------------------------------------------------------------
 */

/* What was read is visible; it is durable once a later commit of our own is. */
static enum sql_outcome confirm(struct sql_conn *c, const struct id128 *me)
{
	struct sql_param params[2] = {param_session(me), sql_u64(WRITER_NO_READER)};
	enum sql_outcome o;

	if (BUG("dispatch-before-confirmed"))
		return SQL_OK;
	o = sql_exec(c, STMT_WRITER_CONFIRM, params, 2);
	if (o == SQL_OK && sql_affected(c) == 0)
		return SQL_RETRY; /* the session has ended: nothing was written, nothing confirmed
		                   */
	if (o == SQL_OK)
		o = sql_commit(c);
	return o == SQL_OK ? SQL_OK : SQL_RETRY;
}

static int on_number(void *arg, const struct sql_cell *cells, unsigned n)
{
	if (n)
		*(uint64_t *)arg = cells[0].u;
	return 1;
}

struct read_state {
	struct bus_read *req;
	size_t cap;
	size_t bytes;   /* read so far */
	uint64_t next;  /* after the last batch */
	size_t rows;    /* of this query */
	struct err why; /* a row that is no batch; text[0] = none */
};

static void read_keep(struct read_state *r, struct batch *take)
{
	if (r->req->n == r->cap) {
		r->cap = r->cap ? r->cap * 2 : READ_ROWS_FIRST;
		r->req->batches = xrealloc(r->req->batches, r->cap * sizeof *r->req->batches);
	}
	r->req->batches[r->req->n++] = take;
	r->bytes += batch_bytes(take);
}

/* base_seq, event_count, end_bytes, session_id, writer_no, flush_no, appended_ms, attributes, body
 */
static int on_journal_row(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct read_state *r = arg;
	struct batch *b;

	if (n < 9 || cells[3].bytes.n != 16)
		return err_set(&r->why, 0, "a journal row has not the columns it should");
	r->rows++;
	r->next = cells[0].u + cells[1].u;
	if (r->next <= r->req->from_seq)
		return 0; /* the events wanted are gone; what follows begins after them */
	b = batch_decode(r->req->tenant_id, r->req->partition_id, cells[0].u, (uint32_t)cells[1].u,
	                 cells[7].bytes, cells[8].bytes, &r->why);
	if (!b)
		return 1;
	batch_set_stamp(b, batch_stamp_of((const uint8_t *)cells[3].bytes.p, (uint32_t)cells[4].u,
	                                  cells[5].u));
	read_keep(r, b);
	return r->bytes >= r->req->max_bytes;
}

/* Rows for the next query: what is left of max_bytes, at the size of those before. */
static size_t rows_to_ask(const struct read_state *r)
{
	size_t mean = r->req->n ? r->bytes / r->req->n + 1 : 0;
	size_t rows;

	if (!mean)
		return READ_ROWS_FIRST;
	rows = (r->req->max_bytes - r->bytes) / mean + 1;
	return rows > READ_ROWS_MAX ? READ_ROWS_MAX : rows;
}

static enum sql_outcome read_rows(struct sql_conn *c, struct read_state *r)
{
	struct bus_read *req = r->req;
	enum sql_outcome o = SQL_OK;
	size_t asked;

	do {
		struct sql_param params[5] = {
		        sql_u64(req->tenant_id), sql_u64(req->partition_id), sql_u64(r->next),
		        sql_u64(req->next_seq),  sql_u64(rows_to_ask(r)),
		};

		asked = params[4].u;
		r->rows = 0;
		o = sql_query(c, STMT_JOURNAL_READ, params, 5, on_journal_row, r);
	} while (o == SQL_OK && !r->why.text[0] && r->rows == asked && r->bytes < req->max_bytes);
	return o;
}

static enum sql_outcome read_journal(struct sql_conn *c, struct read_state *r)
{
	struct bus_read *req = r->req;
	struct sql_param params[3] = {sql_u64(req->tenant_id), sql_u64(req->partition_id),
	                              sql_u64(req->from_seq)};
	enum sql_outcome o = sql_query(c, STMT_HEAD_READ, params, 2, on_number, &req->next_seq);

	if (o != SQL_OK || req->from_seq >= req->next_seq)
		return o;
	o = sql_query(c, STMT_JOURNAL_BASE_OF, params, 3, on_number, &r->next);
	if (o != SQL_OK)
		return o;
	if (r->next == 0)
		r->next = req->from_seq;
	o = read_rows(c, r);
	if (o == SQL_OK && r->why.text[0]) {
		log_error("journal", "tenant=%u partition=%u seq=%" PRIu64 " row refused: %s",
		          req->tenant_id, req->partition_id, r->next, r->why.text);
		o = req->n ? SQL_OK : SQL_FATAL; /* what came before it is good */
	}
	return o;
}

static enum sql_outcome work_read(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_read *req = job->req;
	struct read_state r = {.req = req};
	enum sql_outcome o = read_journal(c, &r);

	if (o == SQL_OK && req->next_seq > req->confirmed_seq)
		o = confirm(c, &job->me);
	if (o == SQL_OK)
		return o;
	for (size_t i = 0; i < req->n; i++)
		batch_unref(req->batches[i]);
	free(req->batches);
	req->batches = NULL;
	req->n = 0;
	return o;
}

BUS_JOB_DONE(read)

void journal_sql_read(struct bus *bus, struct bus_read *req)
{
	req->n = 0;
	req->batches = NULL;
	req->next_seq = 1;
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_READ, work_read, read_done, req, NULL);
}

/* ---- locate -------------------------------------------------------------------------------------
 */

static enum sql_outcome locate_row(struct sql_conn *c, struct bus_locate *req)
{
	struct sql_param params[3] = {sql_u64(req->tenant_id), sql_u64(req->partition_id),
	                              sql_u64(req->time_ms * 1000)};

	switch (req->position) {
	case BUS_AT_EARLIEST:
		return sql_query(c, STMT_JOURNAL_FIRST, params, 2, on_number, &req->seq);
	case BUS_AT_TIME:
		return sql_query(c, STMT_JOURNAL_SINCE, params, 3, on_number, &req->seq);
	case BUS_AT_HEAD:
		break;
	}
	return SQL_OK;
}

/* Confirmed too: a number that a crash takes back would be given to an event that is then missed.
 * The head is read first: what is appended meanwhile lies behind it. */
static enum sql_outcome work_locate(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_locate *req = job->req;
	struct sql_param params[2] = {sql_u64(req->tenant_id), sql_u64(req->partition_id)};
	uint64_t next_seq = 1;
	enum sql_outcome o = sql_query(c, STMT_HEAD_READ, params, 2, on_number, &next_seq);

	req->seq = 0;
	if (o == SQL_OK)
		o = locate_row(c, req);
	if (req->seq == 0)
		req->seq = next_seq;
	return o == SQL_OK ? confirm(c, &job->me) : o;
}

BUS_JOB_DONE(locate)

void journal_sql_locate(struct bus *bus, struct bus_locate *req)
{
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_READ, work_locate, locate_done, req, NULL);
}
