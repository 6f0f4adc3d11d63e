/* watch_sql: noticing what other nodes append. Each tick looks at the small writer table; when a
 * flush number of another session moved, the owner is told and asks for the heads it cares about.
 * A flush that its node told of over a link needs no such question, if no earlier one is missing:
 * losing a hint costs a tick, not an event. */
#include "base/buf.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct writer_key {
	struct id128 session_id;
	uint64_t writer_no;
};

/* How far another node's writer had got at the last look, or by the hints that followed it. */
struct flushes {
	struct writer_key key;
	uint64_t flush_no;
	bool seen; /* in this look */
};

struct look {
	struct bus_sql *owner; /* loop thread only */
	struct id128 me;
	size_t n;
	size_t cap;
	struct flushes *rows;
};

static int on_writer(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct look *l = arg;
	struct flushes *f;

	if (n < 3 || cells[0].bytes.n != sizeof l->me.b || cells[1].u == WRITER_NO_READER ||
	    memcmp(cells[0].bytes.p, l->me.b, sizeof l->me.b) == 0)
		return 0;
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 16;
		l->rows = xrealloc(l->rows, l->cap * sizeof *l->rows);
	}
	f = &l->rows[l->n++];
	memset(f, 0, sizeof *f); /* the key is compared as bytes */
	memcpy(f->key.session_id.b, cells[0].bytes.p, sizeof f->key.session_id.b);
	f->key.writer_no = cells[1].u;
	f->flush_no = cells[2].u;
	return 0;
}

static enum sql_outcome work_look(struct sql_conn *c, void *arg)
{
	return sql_query(c, STMT_WRITER_SCAN, NULL, 0, on_writer, arg);
}

/* True when it has stored something since the last look. */
static bool note(struct bus_sql *b, const struct flushes *row)
{
	struct flushes *f = map_get(&b->flushes, &row->key, sizeof row->key);
	bool moved;

	if (!f) {
		f = xmemdup(row, sizeof *row);
		f->flush_no = 0;
		map_put(&b->flushes, &f->key, sizeof f->key, f);
	}
	moved = row->flush_no > f->flush_no; /* a hint may have come after the look began */
	if (moved)
		f->flush_no = row->flush_no;
	f->seen = true;
	return moved;
}

/* A writer that went may have stored something after the last look: true when there was one. Its
 * session has ended, and what that had is free: it is looked for now. */
static bool forget_unseen(struct bus_sql *b)
{
	struct flushes *f;
	size_t at = 0;
	bool any = false;

	while ((f = map_next(&b->flushes, &at))) {
		if (f->seen) {
			f->seen = false;
			continue;
		}
		map_del(&b->flushes, &f->key, sizeof f->key);
		free(f);
		any = true;
	}
	if (any)
		session_sql_suspect(b);
	return any;
}

static void done_look(void *arg, enum sql_outcome outcome)
{
	struct look *l = arg;
	struct bus_sql *b = l->owner;
	bool moved = false;

	b->watching = false;
	if (outcome == SQL_OK && b->bus.state == BUS_UP) {
		for (size_t i = 0; i < l->n; i++)
			moved |= note(b, &l->rows[i]);
		moved |= forget_unseen(b);
	}
	free(l->rows);
	free(l);
	if (moved && b->bus.events.on_others_stored)
		b->bus.events.on_others_stored(b->bus.events.arg);
}

void watch_sql_tick(struct bus_sql *b)
{
	struct look *l;

	if (b->watching || b->stopping || b->bus.state != BUS_UP || !b->bus.events.on_others_stored)
		return;
	l = xcalloc(1, sizeof *l);
	l->owner = b;
	l->me = b->bus.session_id;
	b->watching = true;
	if (sql_submit(b->sql, SQL_LANE_READ, work_look, done_look, l)) {
		b->watching = false;
		free(l);
	}
}

void watch_sql_hinted(struct bus *bus, const struct id128 *session_id, uint32_t writer_no,
                      uint64_t flush_no)
{
	struct writer_key key = {.session_id = *session_id, .writer_no = writer_no};
	struct flushes *f = map_get(&bus_sql_self(bus)->flushes, &key, sizeof key);

	if (f && flush_no == f->flush_no + 1)
		f->flush_no = flush_no;
}

void watch_sql_release(struct bus_sql *b)
{
	struct flushes *f;
	size_t at = 0;

	while ((f = map_next(&b->flushes, &at)))
		free(f);
	map_release(&b->flushes);
}

/* ---- heads ------------------------------------------------------------------------------------
 */

static int on_head(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct bus_heads *req = arg;

	for (size_t i = 0; n >= 3 && i < req->n; i++) {
		struct bus_head *h = &req->heads[i];

		if (h->tenant_id == cells[0].u && h->partition_id == cells[1].u) {
			h->next_seq = cells[2].u;
			break;
		}
	}
	return 0;
}

static enum sql_outcome work_heads(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct bus_heads *req = job->req;
	struct sql_text_sink sink = {.on_row = on_head, .arg = req};
	struct buf text = {0};
	enum sql_outcome o;

	buf_append_str(&text, "SELECT tenant_id,partition_id,next_seq FROM head"
	                      " WHERE (tenant_id,partition_id) IN (");
	for (size_t i = 0; i < req->n; i++) {
		req->heads[i].next_seq = 0;
		buf_printf(&text, "%s(%u,%u)", i ? "," : "", req->heads[i].tenant_id,
		           req->heads[i].partition_id);
	}
	buf_u8(&text, ')');
	o = sql_text(c, text.data, text.len, &sink, SQL_TEXT_PLAIN);
	buf_release(&text);
	return o;
}

BUS_JOB_DONE(heads)

void watch_sql_heads(struct bus *bus, struct bus_heads *req)
{
	bus_sql_submit(bus_sql_self(bus), SQL_LANE_READ, work_heads, heads_done, req, NULL);
}
