/* retention_sql: the step of retention on the tables head, journal and storage_full. The looks are
 * plain reads; each head then gets a transaction of its own, fenced by the role. Appends hold a
 * head's row for their whole transaction, so this one takes it last, in one text with its COMMIT: a
 * node that is stopped in the middle of a step holds nothing that an append wants. */
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	HEADS_A_LOOK = 500,
	TENANTS_A_LOOK = 500,
	SESSIONS_AT_ONCE = 16,
	ROOM_AGAIN = 16, /* a full tenant has room again when this part of its limit is free */
};

/* A head that something may be removed from. */
struct aged {
	uint32_t tenant_id;
	uint32_t partition_id;
	uint64_t first_seq;
	uint64_t removed_bytes;
	uint32_t keep_s; /* 0 = for ever */
};

/* A tenant at or above its limit, or marked so. */
struct laden {
	uint32_t tenant_id;
	bool full;
	uint64_t stored; /* bytes */
	uint64_t max;    /* 0 = none */
};

struct step {
	struct sql_conn *c;
	const struct bus_job *job;
	struct bus_retain *req;
	char who[160];
	size_t n_heads; /* the look's or a tenant's */
	struct aged heads[HEADS_A_LOOK];
	size_t n_looked; /* by the look, due or not */
	struct aged last_looked;
	size_t n_laden;
	struct laden laden[TENANTS_A_LOOK];
	size_t n_ended;
	struct id128 ended[SESSIONS_AT_ONCE];
};

static enum sql_outcome fence(struct step *s)
{
	struct sql_param params[] = {sql_u64(BUS_ROLE_RETENTION), param_session(&s->job->me),
	                             sql_u64(s->req->epoch)};
	enum sql_outcome o = sql_exec(s->c, STMT_ROLE_WRITE, params, 3);

	return o == SQL_OK && sql_affected(s->c) == 0 ? SQL_LOST : o;
}

/* ---- cutting: the oldest batches of one head --------------------------------------------------
 */

struct cut {
	struct aged from; /* first_seq and removed_bytes move on */
	uint64_t excess;  /* bytes that must go, whatever their age */
	uint64_t pinned;  /* nothing above this goes: a pinned queue has not done it */
	bool blocked;     /* and something would have gone */
	uint32_t n;
	struct buf bases; /* JSON array of the batches that go */
};

static int on_batch(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct cut *cut = arg;
	uint64_t end = cells[0].u + cells[1].u;
	uint64_t size = cells[2].u - cut->from.removed_bytes;

	if (n < 4 || (!cells[3].u && !cut->excess))
		return 1;
	if (end - 1 > cut->pinned) {
		cut->blocked = true;
		return 1;
	}
	buf_printf(&cut->bases, "%s%" PRIu64, cut->n++ ? "," : "[", cells[0].u);
	cut->excess -= size < cut->excess ? size : cut->excess;
	cut->from.first_seq = end;
	cut->from.removed_bytes = cells[2].u;
	return 0;
}

static int on_pinned(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct cut *cut = arg;

	if (n && !cells[0].null)
		cut->pinned = cells[0].u;
	return 1;
}

static enum sql_outcome cut_look(struct step *s, struct cut *cut)
{
	const struct aged *a = &cut->from;
	struct sql_param head[] = {sql_u64(a->tenant_id), sql_u64(a->partition_id)};
	struct sql_param rows[] = {
	        sql_u64(a->keep_s),
	        sql_u64(a->keep_s),
	        head[0],
	        head[1],
	        sql_u64(a->first_seq),
	        sql_u64(s->req->limit - s->req->removed),
	};
	enum sql_outcome o = sql_query(s->c, STMT_RETAIN_PINNED, head, 2, on_pinned, cut);

	if (o == SQL_OK)
		o = sql_query(s->c, STMT_RETAIN_ROWS, rows, 6, on_batch, cut);
	return o;
}

static enum sql_outcome delete_rows(struct step *s, const struct cut *cut)
{
	struct sql_param params[] = {
	        sql_utf8(cut->bases.data, cut->bases.len),
	        sql_u64(cut->from.tenant_id),
	        sql_u64(cut->from.partition_id),
	};
	enum sql_outcome o = sql_exec(s->c, STMT_JOURNAL_DELETE, params, 3);

	/* fewer: an earlier step of ours was committed after all; look again */
	return o == SQL_OK && sql_affected(s->c) != cut->n ? SQL_RETRY : o;
}

/* A cursor below the first number gone has been told of before. */
static enum sql_outcome note_gaps(struct step *s, const struct cut *cut, uint64_t first_seq)
{
	struct sql_param params[] = {
	        sql_bytes(s->who, strlen(s->who)),      sql_u64(cut->from.first_seq - 1),
	        sql_u64(cut->from.tenant_id),           sql_u64(cut->from.partition_id),
	        sql_u64(first_seq ? first_seq - 1 : 0), sql_u64(cut->from.first_seq - 2),
	};
	enum sql_outcome o = sql_exec(s->c, STMT_RETAIN_GAPS, params, 6);

	if (o == SQL_OK)
		s->req->gaps += (uint32_t)sql_affected(s->c);
	return o;
}

static enum sql_outcome move_head(struct step *s, const struct cut *cut)
{
	char text[200];
	int n = snprintf(text, sizeof text,
	                 "UPDATE head SET first_seq=%" PRIu64 ",removed_bytes=%" PRIu64
	                 " WHERE tenant_id=%u AND partition_id=%u;COMMIT",
	                 cut->from.first_seq, cut->from.removed_bytes, cut->from.tenant_id,
	                 cut->from.partition_id);

	return sql_text(s->c, text, (size_t)n, NULL, SQL_TEXT_ENDS);
}

static enum sql_outcome cut_off(struct step *s, struct cut *cut, uint64_t first_seq)
{
	uint32_t gaps = s->req->gaps;
	enum sql_outcome o = fence(s);

	buf_u8(&cut->bases, ']');
	if (o == SQL_OK)
		o = delete_rows(s, cut);
	if (o == SQL_OK)
		o = note_gaps(s, cut, first_seq);
	if (o == SQL_OK)
		o = move_head(s, cut);
	if (o == SQL_OK)
		s->req->removed += cut->n;
	else
		s->req->gaps = gaps;
	return o;
}

/* Remove what is too old, and *excess bytes; *excess is what could not be removed of it. */
static enum sql_outcome shorten(struct step *s, const struct aged *a, uint64_t *excess,
                                bool *blocked)
{
	struct cut cut = {.from = *a, .excess = *excess, .pinned = UINT64_MAX};
	enum sql_outcome o = cut_look(s, &cut);

	sql_rollback(s->c); /* the fence comes first in a transaction */
	if (o == SQL_OK && cut.n)
		o = cut_off(s, &cut, a->first_seq);
	if (o == SQL_OK) {
		*excess = cut.excess;
		*blocked |= cut.blocked;
	}
	buf_release(&cut.bases);
	return o;
}

/* ---- tenants with too many bytes --------------------------------------------------------------
 */

static int on_laden(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct step *s = arg;

	if (n < 4 || s->n_laden == TENANTS_A_LOOK)
		return 1;
	s->laden[s->n_laden++] = (struct laden){
	        .tenant_id = (uint32_t)cells[0].u,
	        .full = cells[1].u != 0,
	        .stored = cells[2].u,
	        .max = cells[3].u,
	};
	return 0;
}

static int on_part(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct step *s = arg;

	if (n < 3 || s->n_heads == HEADS_A_LOOK)
		return 1;
	s->heads[s->n_heads++] = (struct aged){
	        .partition_id = (uint32_t)cells[0].u,
	        .first_seq = cells[1].u,
	        .removed_bytes = cells[2].u,
	};
	return 0;
}

static enum sql_outcome mark_full(struct step *s, const struct laden *t, bool full)
{
	char id[16];
	char detail[96];
	int n_id = snprintf(id, sizeof id, "%u", t->tenant_id);
	int n_detail = snprintf(detail, sizeof detail,
	                        "{\"stored_bytes\":%" PRIu64 ",\"max_stored_bytes\":%" PRIu64 "}",
	                        t->stored, t->max);
	const char *action = full ? "retention.full" : "retention.room";
	struct sql_param mark[] = {sql_u64(t->tenant_id), sql_u64(t->stored)};
	struct sql_param audit[] = {
	        sql_bytes(s->who, strlen(s->who)),  sql_u64(t->tenant_id),
	        sql_bytes(action, strlen(action)),  sql_bytes(id, (size_t)n_id),
	        sql_utf8(detail, (size_t)n_detail),
	};
	enum sql_outcome o = fence(s);

	if (o == SQL_OK)
		o = sql_exec(s->c, full ? STMT_STORAGE_FULL : STMT_STORAGE_ROOM, mark,
		             full ? 2 : 1);
	if (o == SQL_OK)
		o = sql_exec(s->c, STMT_AUDIT_NEW, audit, 5);
	if (o == SQL_OK)
		o = sql_exec(s->c, STMT_CHANGES_BUMP, NULL, 0);
	if (o == SQL_OK)
		o = sql_commit(s->c);
	if (o == SQL_OK)
		log_warn("retention",
		         "tenant=%u stored_bytes=%" PRIu64 " max_stored_bytes=%" PRIu64 " %s",
		         t->tenant_id, t->stored, t->max,
		         full ? "held by a pinned queue: publishes are refused" : "has room again");
	return o;
}

static enum sql_outcome unload(struct step *s, const struct laden *t)
{
	struct sql_param id = sql_u64(t->tenant_id);
	uint64_t excess = t->stored - t->max;
	bool blocked = false;
	enum sql_outcome o;

	s->n_heads = 0;
	o = sql_query(s->c, STMT_RETAIN_PARTS, &id, 1, on_part, s);
	for (size_t i = 0; o == SQL_OK && i < s->n_heads; i++) {
		if (!excess || s->req->removed >= s->req->limit)
			return o;
		s->heads[i].tenant_id = t->tenant_id;
		o = shorten(s, &s->heads[i], &excess, &blocked);
	}
	if (o == SQL_OK && excess && blocked && !t->full)
		o = mark_full(s, t, true);
	return o;
}

static enum sql_outcome relieve_tenants(struct step *s)
{
	struct sql_param max = sql_u64(s->req->max_stored_bytes);
	struct sql_param params[] = {max, max, sql_u64(TENANTS_A_LOOK)};
	enum sql_outcome o = sql_query(s->c, STMT_RETAIN_OVER, params, 3, on_laden, s);

	for (size_t i = 0; o == SQL_OK && i < s->n_laden; i++) {
		const struct laden *t = &s->laden[i];

		if (s->req->removed >= s->req->limit)
			break;
		if (t->max && t->stored > t->max)
			o = unload(s, t);
		else if (t->full && (!t->max || t->stored <= t->max - t->max / ROOM_AGAIN))
			o = mark_full(s, t, false);
	}
	return o;
}

/* ---- what is too old --------------------------------------------------------------------------
 */

static int on_looked(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct step *s = arg;
	struct aged a;

	if (n < 6 || s->n_looked == HEADS_A_LOOK)
		return 1;
	a = (struct aged){
	        .tenant_id = (uint32_t)cells[0].u,
	        .partition_id = (uint32_t)cells[1].u,
	        .first_seq = cells[2].u,
	        .removed_bytes = cells[3].u,
	        .keep_s = (uint32_t)cells[4].u,
	};
	s->n_looked++;
	s->last_looked = a;
	if (cells[5].u && a.keep_s)
		s->heads[s->n_heads++] = a;
	return 0;
}

static enum sql_outcome shorten_aged(struct step *s)
{
	struct bus_retain *req = s->req;
	struct sql_param params[] = {
	        sql_u64(req->retention_s), sql_u64(req->retention_s),  sql_u64(req->tenant_id),
	        sql_u64(req->tenant_id),   sql_u64(req->partition_id), sql_u64(HEADS_A_LOOK),
	};
	enum sql_outcome o;

	s->n_heads = 0;
	o = sql_query(s->c, STMT_RETAIN_LOOK, params, 6, on_looked, s);
	for (size_t i = 0; o == SQL_OK && i < s->n_heads; i++) {
		uint64_t excess = 0;
		bool blocked = false;

		if (req->removed >= req->limit)
			return o; /* these heads again */
		o = shorten(s, &s->heads[i], &excess, &blocked);
	}
	if (o != SQL_OK || req->removed >= req->limit)
		return o;
	req->tenant_id = s->n_looked ? s->last_looked.tenant_id : 0;
	req->partition_id = s->n_looked ? s->last_looked.partition_id : 0;
	return o;
}

/* ---- what ended sessions left -----------------------------------------------------------------
 */

static int on_ended(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct step *s = arg;

	if (!n || cells[0].bytes.n != sizeof s->ended[0].b || s->n_ended == SESSIONS_AT_ONCE)
		return 1;
	memcpy(s->ended[s->n_ended++].b, cells[0].bytes.p, sizeof s->ended[0].b);
	return 0;
}

static enum sql_outcome remove_sessions(struct step *s)
{
	struct sql_param limit = sql_u64(SESSIONS_AT_ONCE);
	enum sql_outcome o = sql_query(s->c, STMT_SESSION_ENDED, &limit, 1, on_ended, s);

	sql_rollback(s->c);
	if (o != SQL_OK || !s->n_ended)
		return o;
	o = fence(s);
	for (size_t i = 0; o == SQL_OK && i < s->n_ended; i++) {
		struct sql_param id = param_session(&s->ended[i]);

		o = sql_exec(s->c, STMT_WRITER_DELETE, &id, 1);
		if (o == SQL_OK)
			o = sql_exec(s->c, STMT_SESSION_DELETE, &id, 1);
	}
	return o == SQL_OK ? sql_commit(s->c) : o;
}

/* ---- the request ------------------------------------------------------------------------------
 */

static enum sql_outcome work_retain(struct sql_conn *c, void *arg)
{
	const struct bus_job *job = arg;
	struct bus_retain *req = job->req;
	struct step *s = xcalloc(1, sizeof *s);
	enum sql_outcome o;

	*s = (struct step){.c = c, .job = job, .req = req};
	snprintf(s->who, sizeof s->who, "node:%s", (const char *)job->more);
	o = relieve_tenants(s);
	if (o == SQL_OK && req->removed < req->limit)
		o = shorten_aged(s);
	if (o == SQL_OK && req->tenant_id == 0)
		o = remove_sessions(s);
	req->more = req->removed >= req->limit;
	free(s);
	return o;
}

BUS_JOB_DONE(retain)

void retention_sql_retain(struct bus *bus, struct bus_retain *req)
{
	struct bus_sql *b = bus_sql_self(bus);

	assert(req->limit > 0 && req->limit <= BUS_RETAIN_MAX);
	req->removed = req->gaps = 0;
	req->more = false;
	/* the name lives as long as the bus, and is not written to */
	bus_sql_submit(b, SQL_LANE_ADMIN, work_retain, retain_done, req, (void *)b->settings.name);
}
