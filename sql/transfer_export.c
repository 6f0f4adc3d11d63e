#include "sql/transfer.h"

#include "base/clock.h"
#include "base/mem.h"
#include "sql/migrate.h"
#include "sql/schema.h"
#include "sql/transfer_file.h"
#include "sql/transfer_freeze.h"
#include "sql/transfer_walk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	CHUNK_BYTES = 4 << 20, /* a chunk is ended when it has so many */
	ROW_BYTES_MAX = 1 << 30,
};
enum { TENANT_ACTIVE_STATE = 1, TENANT_SUSPENDED_STATE = 2, TENANT_DELETED_STATE = 3 };
enum { JOURNAL_BASE_SEQ = 1, JOURNAL_COUNT = 2, JOURNAL_APPENDED_AT = 3 };

/* How far the file has a partition. */
struct place {
	uint32_t partition;
	uint64_t next; /* 0 = nothing yet */
};

struct export
{
	struct sql_conn *c;
	const struct transfer_request *req;
	struct transfer_report *report;
	struct transfer_file *f;
	struct transfer_tenant tenant;
	struct place *places;
	size_t n_places;
	struct transfer_sum sum;     /* of every row in the file */
	struct transfer_chunk chunk; /* being filled */
	struct buf payload;
	struct transfer_heads heads;
	const char *before; /* batches of this time and later wait for the next round; NULL = all */
	bool ended;         /* the file has its last chunk */
	struct err *e;
	int rc; /* of a callback */
};

/* ---- chunks ---- */

static int write_chunk(struct export *x)
{
	int rc = transfer_file_append(x->f, &x->chunk, buf_slice(&x->payload), x->e);

	x->report->bytes += TRANSFER_HEADER + x->payload.len;
	x->report->rows += x->chunk.rows;
	buf_clear(&x->payload);
	return rc;
}

static int end_chunk(struct export *x)
{
	if (!x->chunk.rows)
		return 0;
	transfer_sum_add(&x->sum, &x->chunk.sum);
	if (write_chunk(x) < 0)
		return -1;
	x->chunk = (struct transfer_chunk){
	        .kind = x->chunk.kind, .partition = x->chunk.partition, .next = x->chunk.next};
	return 0;
}

static int add_row(struct export *x, const struct transfer_table *t, const struct sql_cell *cells)
{
	size_t at = x->payload.len;

	transfer_record_put(&x->payload, t->types, cells);
	if (x->payload.len - at > ROW_BYTES_MAX)
		return err_set(x->e, SQL_FATAL, "a row of %s has more than %d bytes", t->name,
		               ROW_BYTES_MAX);
	transfer_sum_row(&x->chunk.sum, t->number,
	                 slice(x->payload.data + at, x->payload.len - at));
	x->chunk.rows++;
	return 0;
}

static int on_row(void *arg, const struct transfer_table *t, const struct sql_cell *cells)
{
	struct export *x = arg;

	x->rc = add_row(x, t, cells);
	if (x->rc == 0 && x->payload.len >= CHUNK_BYTES)
		x->rc = end_chunk(x);
	return x->rc;
}

static int copy_table(struct export *x, const struct transfer_table *t)
{
	x->chunk = (struct transfer_chunk){.kind = t->number};
	if (transfer_walk_table(x->c, t, x->tenant.id, on_row, x, x->e) < 0 || x->rc < 0)
		return -1;
	return end_chunk(x);
}

/* ---- the journal ---- */

static struct place *place_of(struct export *x, uint32_t partition)
{
	for (size_t i = 0; i < x->n_places; i++)
		if (x->places[i].partition == partition)
			return &x->places[i];
	x->places = xrealloc(x->places, (x->n_places + 1) * sizeof *x->places);
	x->places[x->n_places] = (struct place){.partition = partition};
	return &x->places[x->n_places++];
}

static int on_batch(void *arg, const struct transfer_table *t, const struct sql_cell *cells)
{
	struct export *x = arg;
	struct slice at = cells[JOURNAL_APPENDED_AT].bytes;
	uint64_t base_seq = cells[JOURNAL_BASE_SEQ].u;

	/* one format, so that times compare as texts */
	if (x->before && (at.n != strlen(x->before) || memcmp(at.p, x->before, at.n) >= 0))
		return 1;
	if (!x->chunk.rows)
		x->chunk.first = base_seq;
	x->chunk.next = base_seq + cells[JOURNAL_COUNT].u;
	return on_row(x, t, cells);
}

/* What the file does not have yet; bytes it grew by. */
static int copy_journal(struct export *x, uint64_t *grown)
{
	uint64_t had = transfer_file_bytes(x->f);

	if (transfer_heads_read(x->c, x->tenant.id, &x->heads, x->e) < 0)
		return -1;
	for (size_t i = 0; i < x->heads.n; i++) {
		struct place *p = place_of(x, x->heads.v[i].partition);

		x->chunk = (struct transfer_chunk){
		        .kind = TRANSFER_JOURNAL, .partition = p->partition, .next = p->next};
		if (transfer_walk_journal(x->c, x->tenant.id, p->partition, p->next, on_batch, x,
		                          x->e) < 0 ||
		    x->rc < 0 || end_chunk(x) < 0)
			return -1;
		p->next = x->chunk.next;
	}
	*grown = transfer_file_bytes(x->f) - had;
	return 0;
}

/* While it is in use, until a round finds little. */
static int copy_live(struct export *x)
{
	uint64_t grown;
	int rc;

	do {
		x->before = x->heads.durable;
		rc = copy_journal(x, &grown);
		x->before = NULL;
	} while (rc == 0 && grown > 2 * CHUNK_BYTES);
	return rc;
}

/* ---- the file as an earlier run left it ---- */

static void begin_record(const struct export *x, struct buf *out)
{
	const struct sql_cell cells[] = {
	        {.bytes = x->req->name},
	        {.u = x->tenant.id},
	        {.bytes = slice_str(x->tenant.created_at)},
	        {.bytes = slice_str(sql_conn_server(x->c)->mariadb ? "mariadb" : "mysql")},
	        {.u = schema_latest()},
	        {.u = x->req->without_keys},
	};

	transfer_record_put(out, TRANSFER_BEGIN_TYPES, cells);
}

static int begin_file(struct export *x, const struct buf *record)
{
	buf_append_slice(&x->payload, buf_slice(record));
	x->chunk = (struct transfer_chunk){.kind = TRANSFER_BEGIN};
	return write_chunk(x);
}

static void note_chunk(struct export *x, const struct transfer_chunk *c)
{
	struct place *p;

	transfer_sum_add(&x->sum, &c->sum);
	if (c->kind != TRANSFER_JOURNAL)
		return;
	p = place_of(x, c->partition);
	p->next = c->next;
}

/* Headers up to where this run goes on: behind the last chunk of the journal, or the end. */
static int skip_written(struct export *x)
{
	struct transfer_chunk c = {0};
	struct transfer_place place = transfer_file_place(x->f);
	struct transfer_place last = place;
	int rc;

	while ((rc = transfer_file_next(x->f, &c, NULL, x->e)) > 0) {
		if (c.kind == TRANSFER_SEAL)
			break;
		note_chunk(x, &c);
		last = place;
		place = transfer_file_place(x->f);
	}
	while (rc > 0 && c.kind != TRANSFER_END)
		rc = transfer_file_next(x->f, &c, NULL, x->e);
	if (rc < 0)
		return -1;
	x->ended = c.kind == TRANSFER_END;
	if (x->ended) {
		x->sum = c.sum;
		return 0;
	}
	/* the one written last may have been cut off by the machine's end, not only ours */
	transfer_file_return(x->f, &last);
	if (last.number != place.number && transfer_file_next(x->f, &c, &x->payload, x->e) < 0)
		return -1;
	buf_clear(&x->payload);
	return transfer_file_truncate(x->f, x->e);
}

/* ---- a file that is complete ---- */

static int check_frozen(struct export *x)
{
	const struct transfer_tenant *t = &x->tenant;

	if (transfer_tenant_find(x->c, x->req->name, &x->tenant, x->e) < 0)
		return -1;
	if (t->state == TENANT_SUSPENDED_STATE && t->direction == TRANSFER_OUT)
		return 0;
	return err_set(x->e, SQL_FATAL,
	               "%s is complete, but its tenant was resumed since, and what it has got since"
	               " is not in there: export to another file",
	               x->req->path);
}

/* It is believed only while it is what the tenant is: the next step may be to delete that. */
static int check_current(struct export *x)
{
	struct transfer_sum now;
	char then_hex[TRANSFER_SUM_HEX];
	char now_hex[TRANSFER_SUM_HEX];

	if (check_frozen(x) < 0 ||
	    transfer_walk_sum(x->c, x->tenant.id, x->req->without_keys, &now, x->e) < 0 ||
	    check_frozen(x) < 0)
		return -1;
	if (transfer_sum_eq(&now, &x->sum))
		return 0;
	transfer_sum_hex(&x->sum, then_hex);
	transfer_sum_hex(&now, now_hex);
	return err_set(x->e, SQL_FATAL,
	               "%s is complete, and its tenant was changed since: %" PRIu64
	               " rows (%.16s) in there, %" PRIu64
	               " rows (%.16s) in the database: export to another file",
	               x->req->path, x->sum.rows, then_hex, now.rows, now_hex);
}

/* Read whole. */
static int check_whole(struct export *x, const struct transfer_place *from)
{
	struct transfer_chunk c;
	int rc;

	transfer_file_return(x->f, from);
	while ((rc = transfer_file_next(x->f, &c, &x->payload, x->e)) > 0) {
	}
	return rc < 0 ? -1 : check_current(x);
}

/* ---- opening it ---- */

static int open_file(struct export *x)
{
	struct transfer_chunk c;
	struct transfer_place from;
	struct buf record = {0};
	int rc;

	x->f = transfer_file_open(x->req->path, true, x->e);
	if (!x->f)
		return -1;
	begin_record(x, &record);
	rc = transfer_file_next(x->f, &c, &x->payload, x->e);
	from = transfer_file_place(x->f);
	if (rc == 0) {
		rc = transfer_file_truncate(x->f, x->e) < 0 ? -1 : begin_file(x, &record);
	} else if (rc > 0) {
		if (slice_eq(buf_slice(&x->payload), buf_slice(&record)))
			rc = skip_written(x);
		else
			rc = err_set(x->e, SQL_FATAL,
			             "%s was begun for another tenant, database or version, or with"
			             " other options: choose another file",
			             x->req->path);
		if (rc == 0 && x->ended)
			rc = check_whole(x, &from);
	}
	buf_clear(&x->payload);
	buf_release(&record);
	return rc;
}

/* ---- the last round: nobody uses it any more ---- */

static int suspend(struct export *x)
{
	struct sql_param name = sql_utf8(x->req->name.p, x->req->name.n);

	return transfer_outcome(x->c, sql_exec(x->c, STMT_TENANT_SUSPEND, &name, 1), x->e);
}

static int copy_tables(struct export *x)
{
	for (unsigned i = 0; i < transfer_table_count(); i++) {
		const struct transfer_table *t = transfer_table_at(i);

		if (t->number == TRANSFER_JOURNAL ||
		    (transfer_is_identity(t) && x->req->without_keys))
			continue;
		if (copy_table(x, t) < 0)
			return -1;
	}
	return 0;
}

/* ---- what retention took after it was copied does not count ---- */

static int subtract_rows(struct export *x, const struct transfer_chunk *c, uint64_t first_seq)
{
	const struct transfer_table *t = transfer_table_of(TRANSFER_JOURNAL);
	struct slice rest = buf_slice(&x->payload);

	for (uint32_t i = 0; i < c->rows; i++) {
		struct sql_param params[TRANSFER_COLUMNS_MAX];
		struct transfer_sum one = {0};
		struct slice at = rest;

		if (transfer_record_take(&rest, t->types, params, x->e) < 0)
			return -1;
		if (params[JOURNAL_BASE_SEQ].u >= first_seq)
			break;
		transfer_sum_row(&one, t->number, slice(at.p, at.n - rest.n));
		transfer_sum_subtract(&x->sum, &one);
	}
	return 0;
}

static uint64_t first_seq_of(const struct export *x, uint32_t partition)
{
	for (size_t i = 0; i < x->heads.n; i++)
		if (x->heads.v[i].partition == partition)
			return x->heads.v[i].first_seq;
	return 0;
}

static int subtract_removed(struct export *x)
{
	struct transfer_place end = transfer_file_place(x->f);
	struct transfer_place at = {0};
	struct transfer_chunk c;
	int rc = 0;

	transfer_file_return(x->f, &at);
	while (rc == 0 && at.number < end.number) {
		uint64_t first_seq;

		rc = transfer_file_next(x->f, &c, NULL, x->e) < 0 ? -1 : 0;
		first_seq =
		        rc == 0 && c.kind == TRANSFER_JOURNAL ? first_seq_of(x, c.partition) : 0;
		if (rc == 0 && first_seq && c.next <= first_seq) {
			transfer_sum_subtract(&x->sum, &c.sum);
		} else if (rc == 0 && c.first < first_seq) {
			transfer_file_return(x->f, &at);
			rc = transfer_file_next(x->f, &c, &x->payload, x->e) < 0 ? -1 : 0;
			if (rc == 0)
				rc = subtract_rows(x, &c, first_seq);
			buf_clear(&x->payload);
		}
		at = transfer_file_place(x->f);
	}
	transfer_file_return(x->f, &end);
	return rc;
}

/* ---- the end ---- */

/* The row in tenant_move says that nobody resumed it. Its commit is also what makes all that was
 * read durable. */
static int record_end(struct export *x)
{
	char checksum[TRANSFER_SUM_HEX];
	struct sql_param id = sql_u64(x->tenant.id);
	struct sql_param audit[5] = {id, sql_utf8("tenant_export", 13),
	                             sql_utf8(x->req->name.p, x->req->name.n),
	                             sql_u64(x->sum.rows)};
	enum sql_outcome o = sql_exec(x->c, STMT_ADMIN_EXPORT_END, &id, 1);

	transfer_sum_hex(&x->sum, checksum);
	audit[4] = sql_utf8(checksum, TRANSFER_SUM_HEX - 1);
	if (o == SQL_OK && sql_affected(x->c) != 1) {
		sql_rollback(x->c);
		return err_set(x->e, SQL_FATAL,
		               "the tenant was resumed meanwhile: suspend it and run this again");
	}
	if (o == SQL_OK)
		o = sql_exec(x->c, STMT_ADMIN_MOVE_AUDIT, audit, 5);
	if (o == SQL_OK)
		o = sql_commit(x->c);
	return transfer_outcome(x->c, o, x->e);
}

/* Nothing was appended since the journal was copied. */
static int check_heads(struct export *x)
{
	if (transfer_heads_read(x->c, x->tenant.id, &x->heads, x->e) < 0)
		return -1;
	for (size_t i = 0; i < x->heads.n; i++) {
		const struct transfer_head *h = &x->heads.v[i];
		const struct place *p = place_of(x, h->partition);

		if (h->next_seq > h->first_seq && p->next != h->next_seq)
			return err_set(x->e, SQL_RETRY,
			               "partition %" PRIu32 " still grew: run this again",
			               h->partition);
	}
	return 0;
}

static int put_mark(struct export *x, uint8_t kind, const struct transfer_sum *sum)
{
	x->chunk = (struct transfer_chunk){.kind = kind};
	if (sum)
		x->chunk.sum = *sum;
	return write_chunk(x);
}

static int copy_rest(struct export *x)
{
	uint64_t grown;

	if (transfer_freeze(x->c, x->tenant.id, x->e) < 0 || copy_journal(x, &grown) < 0 ||
	    put_mark(x, TRANSFER_SEAL, NULL) < 0 || copy_tables(x) < 0 || check_heads(x) < 0 ||
	    subtract_removed(x) < 0 || record_end(x) < 0 || put_mark(x, TRANSFER_END, &x->sum) < 0)
		return -1;
	x->ended = true;
	return 0;
}

static int export_tenant(struct export *x)
{
	bool active = x->tenant.state == TENANT_ACTIVE_STATE;

	if (open_file(x) < 0)
		return -1;
	x->report->before = x->ended;
	if (x->ended)
		return 0;
	if (active && copy_live(x) < 0)
		return -1;
	if (active && !x->req->suspend)
		return 0;
	if (active && suspend(x) < 0)
		return -1;
	return copy_rest(x);
}

static int may_export(struct export *x)
{
	if (sql_schema_check(x->c, x->e) < 0 ||
	    transfer_tenant_find(x->c, x->req->name, &x->tenant, x->e) < 0)
		return -1;
	if (!x->tenant.id || x->tenant.state == TENANT_DELETED_STATE)
		return err_set(x->e, SQL_FATAL, "there is no tenant %.*s", (int)x->req->name.n,
		               x->req->name.p);
	if (x->tenant.direction == TRANSFER_IN && !x->tenant.move_complete)
		return err_set(x->e, SQL_FATAL, "tenant %.*s is not here completely",
		               (int)x->req->name.n, x->req->name.p);
	return 0;
}

int transfer_export(struct sql_conn *c, const struct transfer_request *req,
                    struct transfer_report *out, struct err *e)
{
	struct export x = {.c = c, .req = req, .report = out, .e = e};
	uint64_t start_us = clock_us();
	int rc;

	*out = (struct transfer_report){0};
	snprintf(out->name, sizeof out->name, "%.*s", (int)req->name.n, req->name.p);
	rc = may_export(&x) < 0 ? -1 : export_tenant(&x);
	out->sum = x.sum;
	out->complete = x.ended;
	out->seconds = (double)(clock_us() - start_us) / 1e6;
	transfer_file_close(x.f);
	transfer_heads_release(&x.heads);
	if (x.payload.data)
		explicit_bzero(x.payload.data, x.payload.cap);
	buf_release(&x.payload);
	free(x.places);
	return rc;
}

int transfer_checksum(struct sql_conn *c, const struct transfer_request *req,
                      struct transfer_report *out, struct err *e)
{
	uint64_t start_us = clock_us();
	struct transfer_tenant t;

	*out = (struct transfer_report){.complete = true};
	if (sql_schema_check(c, e) < 0 || transfer_tenant_find(c, req->name, &t, e) < 0)
		return -1;
	if (!t.id || t.state == TENANT_DELETED_STATE)
		return err_set(e, SQL_FATAL, "there is no tenant %.*s", (int)req->name.n,
		               req->name.p);
	if (transfer_walk_sum(c, t.id, req->without_keys, &out->sum, e) < 0)
		return -1;
	out->rows = out->sum.rows;
	out->seconds = (double)(clock_us() - start_us) / 1e6;
	return 0;
}
