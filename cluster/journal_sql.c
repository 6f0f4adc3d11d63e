/* journal_sql: append, resolve, read and locate on the tables writer, head and journal. */
#include "base/buf.h"
#include "base/bug.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"
#include "cluster/flush_sql.h"
#include "cluster/gone_sql.h"
#include "cluster/timer_sql.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	SMALL_FLUSH_BYTES = 8 * 1024, /* what goes as hex in one text */
	READ_ROWS_FIRST = 16,
	READ_ROWS_MAX = 1024,
};

/* ---- append -------------------------------------------------------------------------------------
 */

/* What an append brings back to the loop. */
struct appended {
	size_t n_missing;
	struct missing { /* cancels that found nothing */
		size_t batch;
		uint32_t event;
	} * missing;
	uint64_t base_seqs[]; /* of req->batches; set on them when the loop hears OK */
};

static void append_fail(struct bus_append *req, size_t culprit, const char *why)
{
	req->culprit = culprit;
	snprintf(req->error, sizeof req->error, "%s", why);
}

/* The seeded bug append-unfenced takes an ended session's writer for a live one. */
#define FENCE_STATE (BUG("append-unfenced") ? "state>=0" : "state=1")

static void fence_text(const struct bus_append *req, const struct id128 *me, struct buf *out)
{
	char hex[ID128_HEX];

	id128_hex(me, hex);
	buf_printf(out,
	           "UPDATE writer SET flush_no=%" PRIu64 " WHERE session_id=x'%s' AND writer_no=%u"
	           " AND flush_no=%" PRIu64 " AND fence=%" PRIu64 " AND %s",
	           req->flush_no, hex, req->writer_no, req->flush_no - 1, req->fence, FENCE_STATE);
	buf_u8(out, '\0');
}

/* ---- a small flush of one batch: everything in one round trip ---- */

struct small_flush {
	bool stored; /* its row went in */
	uint64_t next_seq;
};

static bool append_is_small(const struct bus_append *req)
{
	return req->n == 1 && batch_partition(req->batches[0]) != BATCH_SCHEDULED &&
	       batch_bytes(req->batches[0]) <= SMALL_FLUSH_BYTES;
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
static void small_text(const struct bus_append *req, const struct id128 *id, struct buf *out)
{
	const struct batch *b = req->batches[0];
	char me[ID128_HEX];
	char head[64];

	id128_hex(id, me);
	snprintf(head, sizeof head, "h.tenant_id=%u AND h.partition_id=%u", batch_tenant(b),
	         batch_partition(b));
	buf_printf(
	        out,
	        "UPDATE writer w JOIN head h ON %s AND h.sealed_at IS NULL SET w.flush_no=%" PRIu64
	        ",h.next_seq=h.next_seq+%u,h.bytes=h.bytes+%zu WHERE w.session_id=x'%s'"
	        " AND w.writer_no=%u AND w.flush_no=%" PRIu64 " AND w.fence=%" PRIu64 " AND w.%s;",
	        head, req->flush_no, batch_count(b), batch_bytes(b), me, req->writer_no,
	        req->flush_no - 1, req->fence, FENCE_STATE);
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
static enum sql_outcome append_small(struct sql_conn *c, struct bus_job *job, bool *stored)
{
	struct bus_append *req = job->req;
	struct appended *out = job->more;
	struct small_flush s = {0};
	struct sql_text_sink sink = {.on_row = on_small_head, .on_done = on_small_done, .arg = &s};
	struct buf text = {0};
	enum sql_outcome o;

	small_text(req, &job->me, &text);
	o = sql_text(c, text.data, text.len, &sink, SQL_TEXT_ENDS);
	buf_release(&text);
	*stored = s.stored;
	if (o == SQL_OK && s.stored)
		out->base_seqs[0] = s.next_seq - batch_count(req->batches[0]);
	if (o == SQL_FATAL || o == SQL_DUP) {
		append_fail(req, 0, sql_error(c));
		return SQL_FATAL;
	}
	return o;
}

/* ---- any flush ---- */

static void on_missing(void *arg, size_t batch, uint32_t event)
{
	struct appended *out = arg;

	out->missing = xrealloc(out->missing, (out->n_missing + 1) * sizeof *out->missing);
	out->missing[out->n_missing++] = (struct missing){batch, event};
}

/* made[i]: of whom the i-th batch made rows, or 0. */
static enum sql_outcome check_tenants(struct sql_conn *c, struct bus_append *req,
                                      const uint32_t *made)
{
	uint32_t gone;
	enum sql_outcome o = gone_sql_look(c, made, req->n, &gone);

	if (o != SQL_OK || !gone)
		return o;
	for (size_t i = 0; i < req->n; i++)
		if (made[i] == gone)
			append_fail(req, i, GONE_ERROR);
	return SQL_FATAL;
}

/* Timers come before heads in the lock order, so the fence does not go with the heads then. */
static enum sql_outcome append_timers(struct sql_conn *c, struct bus_job *job, const char *fence)
{
	struct bus_append *req = job->req;
	enum sql_outcome o = sql_text(c, fence, strlen(fence), NULL, SQL_TEXT_PLAIN);
	uint32_t *made;

	if (o == SQL_OK && sql_affected(c) != 1)
		return SQL_LOST;
	made = xcalloc(req->n, sizeof *made);
	for (size_t i = 0; o == SQL_OK && i < req->n; i++) {
		struct timer_store store = {.me = &job->me,
		                            .batch = req->batches[i],
		                            .no = i,
		                            .on_missing = on_missing,
		                            .arg = job->more};

		if (batch_partition(req->batches[i]) != BATCH_SCHEDULED)
			continue;
		o = timer_sql_store(c, &store);
		if (o == SQL_FATAL)
			append_fail(req, i, sql_error(c));
		if (store.made)
			made[i] = batch_tenant(req->batches[i]);
	}
	if (o == SQL_OK)
		o = check_tenants(c, req, made);
	free(made);
	return o;
}

/* The flush's batches without the scheduled ones; at[k] is where the k-th of them was. */
static size_t append_journal(const struct bus_append *req, struct batch **batches, size_t *at)
{
	size_t n = 0;

	for (size_t i = 0; i < req->n; i++) {
		if (batch_partition(req->batches[i]) == BATCH_SCHEDULED)
			continue;
		at[n] = i;
		batches[n++] = req->batches[i];
	}
	return n;
}

static enum sql_outcome append_heads(struct sql_conn *c, struct bus_job *job, struct flush *f,
                                     const size_t *at)
{
	struct bus_append *req = job->req;
	struct appended *out = job->more;
	enum sql_outcome o;

	f->me = &job->me;
	f->writer_no = req->writer_no;
	f->flush_no = req->flush_no;
	f->base_seqs = xcalloc(f->n, sizeof *f->base_seqs);
	o = flush_sql_run(c, f);
	for (size_t k = 0; o == SQL_OK && k < f->n; k++)
		out->base_seqs[at[k]] = f->base_seqs[k];
	if (o == SQL_FATAL)
		append_fail(req, f->culprit < f->n ? at[f->culprit] : SIZE_MAX, f->error);
	req->sealed_tenant = f->sealed_tenant;
	req->layout = f->layout;
	free(f->base_seqs);
	return o;
}

static enum sql_outcome append_large(struct sql_conn *c, struct bus_job *job)
{
	struct bus_append *req = job->req;
	struct batch **batches = xcalloc(req->n, sizeof *batches);
	size_t *at = xcalloc(req->n, sizeof *at);
	struct flush f = {.batches = batches, .n = append_journal(req, batches, at)};
	struct buf fence = {0};
	enum sql_outcome o = SQL_OK;

	fence_text(req, &job->me, &fence);
	if (f.n == req->n)
		f.fence = fence.data;
	else
		o = append_timers(c, job, fence.data);
	if (o == SQL_OK && f.n)
		o = append_heads(c, job, &f, at);
	if (o == SQL_OK)
		o = sql_commit(c);
	if (o == SQL_FATAL && !req->error[0])
		append_fail(req, SIZE_MAX, sql_error(c));
	buf_release(&fence);
	free(batches);
	free(at);
	return o;
}

static enum sql_outcome work_append(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;

	if (append_is_small(job->req)) {
		bool stored;
		enum sql_outcome o = append_small(c, job, &stored);

		if (o != SQL_OK || stored)
			return o;
	}
	return append_large(c, job);
}

static void append_done(void *arg, enum sql_outcome outcome)
{
	struct bus_job *job = arg;
	struct bus_append *req = job->req;
	struct appended *out = job->more;
	uint64_t stamp = batch_stamp_of(job->me.b, req->writer_no, req->flush_no);

	for (size_t i = 0; outcome == SQL_OK && i < req->n; i++) {
		batch_set_base_seq(req->batches[i], out->base_seqs[i]);
		batch_set_stamp(req->batches[i], stamp);
	}
	for (size_t i = 0; outcome == SQL_OK && i < out->n_missing; i++)
		batch_set_missing(req->batches[out->missing[i].batch], out->missing[i].event);
	if (outcome == SQL_LOST)
		session_sql_suspect(job->owner);
	free(out->missing);
	free(out);
	free(job);
	req->outcome = outcome;
	req->done(req);
}

void journal_sql_append(struct bus *bus, struct bus_append *req)
{
	assert(req->writer_no < BUS_WRITERS && req->n > 0);
	req->culprit = SIZE_MAX;
	req->error[0] = '\0';
	req->sealed_tenant = 0;
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_WRITER0 + req->writer_no, work_append,
	               append_done, req,
	               xcalloc(1, sizeof(struct appended) + req->n * sizeof(uint64_t)));
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

static void drop_batches(struct bus_read *req)
{
	for (size_t i = 0; i < req->n; i++)
		batch_unref(req->batches[i]);
	free(req->batches);
	req->batches = NULL;
	req->n = 0;
}

static enum sql_outcome work_read(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_read *req = job->req;
	struct read_state r = {.req = req};
	enum sql_outcome o = read_journal(c, &r);

	if (o == SQL_OK && req->next_seq > req->confirmed_seq)
		o = confirm(c, &job->me);
	if (o != SQL_OK)
		drop_batches(req);
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

/* ---- layouts ------------------------------------------------------------------------------------
 */

static int on_layout_head(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct bus_layouts *req = arg;

	if (n < 4)
		return 1;
	req->heads = xrealloc(req->heads, (req->n + 1) * sizeof *req->heads);
	req->heads[req->n++] = (struct layout_head){
	        .partition_id = (uint32_t)cells[0].u,
	        .layout = (uint32_t)cells[1].u,
	        .sealed = cells[2].u != 0,
	        .next_seq = cells[3].u,
	};
	return 0;
}

static void drop_heads(struct bus_layouts *req)
{
	free(req->heads);
	req->heads = NULL;
	req->n = 0;
}

/* Confirmed: a seal that a crash takes back would leave events behind that nobody reads. */
static enum sql_outcome work_layouts(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_layouts *req = job->req;
	struct sql_param params[2] = {sql_u64(req->tenant_id), sql_u64(req->from_partition)};
	enum sql_outcome o = sql_query(c, STMT_LAYOUT_HEADS, params, 2, on_layout_head, req);

	if (o == SQL_OK)
		o = confirm(c, &job->me);
	if (o != SQL_OK)
		drop_heads(req);
	return o;
}

BUS_JOB_DONE(layouts)

void journal_sql_layouts(struct bus *bus, struct bus_layouts *req)
{
	req->n = 0;
	req->heads = NULL;
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_READ, work_layouts, layouts_done, req, NULL);
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
