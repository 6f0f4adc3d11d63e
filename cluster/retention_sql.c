/* retention_sql: the step of retention on the tables head and journal, and tenant.full_since. The
 * looks are plain reads; each head then gets a transaction of its own, fenced by the role. Appends
 * hold a head's row for their whole transaction, so this one takes it last, in one text with its
 * COMMIT: a node that is stopped in the middle of a step holds nothing that an append wants. */
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"
#include "cluster/gone_sql.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	HEADS_A_LOOK = 500,
	HEADS_AT_ONCE = 100, /* whose rows one transaction holds, for the time of its COMMIT */
	TENANTS_A_LOOK = 500,
	SESSIONS_AT_ONCE = 16,
	ENDED_MINUTES = 60, /* an ended session is kept so long: its node may ask about a flush */
	REPORTS_AT_ONCE = 500, /* rows of node_tenant, of each of these sessions */
	ROOM_AGAIN = 16, /* a full tenant has room again when this part of its limit is free */
	ERROR_LOCK_WAIT = 1205, /* the server's number */
};

/* A head that something may be removed from. */
struct aged {
	uint32_t tenant_id;
	uint32_t partition_id;
	uint64_t first_seq;
	uint64_t removed_bytes;
	uint32_t keep_s; /* 0 = for ever */
};

/* What goes of one head. */
struct cut {
	struct aged to;     /* first_seq and removed_bytes as they will be */
	uint64_t first_seq; /* as it is */
	uint64_t excess;    /* bytes that must go, whatever their age */
	bool blocked;       /* something would have gone, but for a pinned queue */
};

/* A tenant at or above its limit, or marked so. */
struct laden {
	uint32_t tenant_id;
	char name[65]; /* for the audit */
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

	/* the next transaction */
	size_t n_cuts;
	struct cut cuts[HEADS_AT_ONCE];
	uint32_t n_rows;
	struct buf rows; /* JSON array of [tenant, partition, base_seq] without its end */
};

static enum sql_outcome fence(struct step *s)
{
	return role_sql_fence(s->c, &s->job->me, BUS_ROLE_RETENTION, s->req->epoch);
}

static struct sql_param param_text(const struct buf *b)
{
	return sql_utf8(b->data, b->len);
}

/* ---- choosing: the oldest batches of a head ---------------------------------------------------
 */

static bool has_room(const struct step *s)
{
	return s->req->removed + s->n_rows < s->req->limit && s->n_cuts < HEADS_AT_ONCE;
}

static int on_batch(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct step *s = arg;
	struct cut *cut = &s->cuts[s->n_cuts];
	uint64_t end = cells[0].u + cells[1].u;
	uint64_t size = cells[2].u - cut->to.removed_bytes;

	if (n < 5 || (!cells[3].u && !cut->excess))
		return 1;
	if (!cells[4].null && end - 1 > cells[4].u) {
		cut->blocked = true;
		return 1;
	}
	buf_printf(&s->rows, "%s[%u,%u,%" PRIu64 "]", s->n_rows++ ? "," : "[", cut->to.tenant_id,
	           cut->to.partition_id, cells[0].u);
	cut->excess -= size < cut->excess ? size : cut->excess;
	cut->to.first_seq = end;
	cut->to.removed_bytes = cells[2].u;
	return 0;
}

/* Choose what is too old, and *excess bytes; *excess is what could not be had of it. */
static enum sql_outcome choose(struct step *s, const struct aged *a, uint64_t *excess,
                               bool *blocked)
{
	struct cut *cut = &s->cuts[s->n_cuts];
	struct sql_param params[] = {
	        sql_u64(a->keep_s),    sql_u64(a->keep_s),
	        sql_u64(a->tenant_id), sql_u64(a->partition_id),
	        sql_u64(a->tenant_id), sql_u64(a->partition_id),
	        sql_u64(a->first_seq), sql_u64(s->req->limit - s->req->removed - s->n_rows),
	};
	enum sql_outcome o;

	*cut = (struct cut){.to = *a, .first_seq = a->first_seq, .excess = *excess};
	o = sql_query(s->c, STMT_RETAIN_ROWS, params, 8, on_batch, s);
	*excess = cut->excess;
	*blocked |= cut->blocked;
	s->n_cuts += cut->to.first_seq != a->first_seq;
	return o;
}

/* ---- removing ---------------------------------------------------------------------------------
 */

static enum sql_outcome delete_rows(struct step *s)
{
	struct sql_param rows;
	enum sql_outcome o;

	buf_u8(&s->rows, ']');
	rows = param_text(&s->rows);
	o = sql_exec(s->c, STMT_JOURNAL_DELETE, &rows, 1);
	/* fewer: an earlier step of ours was committed after all; look again */
	return o == SQL_OK && sql_affected(s->c) != s->n_rows ? SQL_RETRY : o;
}

/* A cursor below the first number that goes now has been told of before. */
static enum sql_outcome note_gaps(struct step *s, uint32_t *gaps)
{
	struct sql_param params[2] = {sql_bytes(s->who, strlen(s->who))};
	struct buf json = {0};
	enum sql_outcome o;

	for (size_t i = 0; i < s->n_cuts; i++) {
		const struct cut *cut = &s->cuts[i];

		buf_printf(&json, "%s[%u,%u,%" PRIu64 ",%" PRIu64 "]", i ? "," : "[",
		           cut->to.tenant_id, cut->to.partition_id,
		           cut->first_seq ? cut->first_seq - 1 : 0, cut->to.first_seq - 1);
	}
	buf_u8(&json, ']');
	params[1] = param_text(&json);
	o = sql_exec(s->c, STMT_RETAIN_GAPS, params, 2);
	*gaps = (uint32_t)sql_affected(s->c);
	buf_release(&json);
	return o;
}

static int by_key(const void *a, const void *b)
{
	const struct aged *x = &((const struct cut *)a)->to;
	const struct aged *y = &((const struct cut *)b)->to;

	if (x->tenant_id != y->tenant_id)
		return x->tenant_id < y->tenant_id ? -1 : 1;
	return (x->partition_id > y->partition_id) - (x->partition_id < y->partition_id);
}

/* In the order that appends lock them in. */
static enum sql_outcome move_heads(struct step *s)
{
	struct buf text = {0};
	enum sql_outcome o;

	qsort(s->cuts, s->n_cuts, sizeof s->cuts[0], by_key);
	buf_append_str(&text, "UPDATE JSON_TABLE('");
	for (size_t i = 0; i < s->n_cuts; i++) {
		const struct aged *to = &s->cuts[i].to;

		buf_printf(&text, "%s[%u,%u,%" PRIu64 ",%" PRIu64 "]", i ? "," : "[", to->tenant_id,
		           to->partition_id, to->first_seq, to->removed_bytes);
	}
	buf_append_str(&text,
	               "]','$[*]' COLUMNS(t INT UNSIGNED PATH '$[0]',p SMALLINT UNSIGNED PATH"
	               " '$[1]',f BIGINT UNSIGNED PATH '$[2]',r BIGINT UNSIGNED PATH '$[3]')) d"
	               " STRAIGHT_JOIN head h FORCE INDEX (PRIMARY) ON h.tenant_id=d.t AND "
	               "h.partition_id=d.p"
	               " SET h.first_seq=d.f,h.removed_bytes=d.r;COMMIT");
	o = sql_text(s->c, text.data, text.len, NULL, SQL_TEXT_ENDS);
	buf_release(&text);
	return o;
}

/* What was chosen goes, in one transaction. */
static enum sql_outcome remove_chosen(struct step *s)
{
	uint32_t gaps = 0;
	enum sql_outcome o = SQL_OK;

	sql_rollback(s->c); /* the looks are over: in a transaction the fence comes first */
	if (s->n_cuts)
		o = fence(s);
	if (o == SQL_OK && s->n_cuts)
		o = delete_rows(s);
	if (o == SQL_OK && s->n_cuts)
		o = note_gaps(s, &gaps);
	if (o == SQL_OK && s->n_cuts)
		o = move_heads(s);
	if (o == SQL_OK) {
		s->req->removed += s->n_rows;
		s->req->gaps += gaps;
	}
	s->n_cuts = s->n_rows = 0;
	buf_clear(&s->rows);
	return o;
}

/* ---- tenants with too many bytes --------------------------------------------------------------
 */

static int on_laden(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct step *s = arg;

	struct laden *t = &s->laden[s->n_laden];

	if (n < 5 || s->n_laden == TENANTS_A_LOOK)
		return 1;
	s->n_laden++;
	*t = (struct laden){
	        .tenant_id = (uint32_t)cells[0].u,
	        .full = cells[1].u != 0,
	        .stored = cells[2].u,
	        .max = cells[3].u,
	};
	snprintf(t->name, sizeof t->name, "%.*s", (int)cells[4].bytes.n, cells[4].bytes.p);
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

static enum sql_outcome write_mark(struct step *s, const struct laden *t, bool full)
{
	char detail[96];
	int n_detail = snprintf(detail, sizeof detail,
	                        "{\"stored_bytes\":%" PRIu64 ",\"max_stored_bytes\":%" PRIu64 "}",
	                        t->stored, t->max);
	const char *action = full ? "retention.full" : "retention.room";
	struct sql_param mark = sql_u64(t->tenant_id);
	struct sql_param audit[] = {
	        sql_bytes(s->who, strlen(s->who)),  sql_u64(t->tenant_id),
	        sql_bytes(action, strlen(action)),  sql_bytes(t->name, strlen(t->name)),
	        sql_utf8(detail, (size_t)n_detail),
	};
	enum sql_outcome o = sql_exec(s->c, full ? STMT_STORAGE_FULL : STMT_STORAGE_ROOM, &mark, 1);

	if (o == SQL_OK)
		o = sql_exec(s->c, STMT_AUDIT_NEW, audit, 5);
	if (o == SQL_OK)
		o = sql_exec(s->c, STMT_CHANGES_BUMP, NULL, 0);
	return o;
}

/* Somebody's transaction holds this tenant's row: the others are not kept for it. */
static enum sql_outcome mark_later(struct step *s, const struct laden *t)
{
	log_warn("retention", "tenant=%u could not be marked: %s", t->tenant_id,
	         log_quote_str(sql_error(s->c)));
	sql_rollback(s->c);
	return SQL_OK;
}

static enum sql_outcome mark_full(struct step *s, const struct laden *t, bool full)
{
	uint32_t gone = 0;
	enum sql_outcome o;

	sql_rollback(s->c);
	o = fence(s);
	if (o == SQL_OK)
		o = write_mark(s, t, full);
	if (o == SQL_RETRY && sql_errno(s->c) == ERROR_LOCK_WAIT)
		return mark_later(s, t);
	if (o == SQL_OK)
		o = gone_sql_look(s->c, &t->tenant_id, 1, &gone);
	if (o == SQL_OK && gone) {
		sql_rollback(s->c);
		return SQL_OK;
	}
	if (o == SQL_OK)
		o = sql_commit(s->c);
	if (o == SQL_OK)
		log_warn("retention",
		         "tenant=%u stored_bytes=%" PRIu64 " max_stored_bytes=%" PRIu64 " %s",
		         t->tenant_id, t->stored, t->max,
		         full ? "held by a pinned queue: publishes are refused" : "has room again");
	return o;
}

/* The bytes that it is brought down to. Who is full is so until there is some room: else the next
 * event would fill it again. What relieves it and what is removed for it are the same number. */
static uint64_t goal_of(const struct laden *t)
{
	if (!t->max)
		return UINT64_MAX;
	return t->full ? t->max - t->max / ROOM_AGAIN : t->max;
}

static enum sql_outcome unload(struct step *s, const struct laden *t)
{
	struct sql_param id = sql_u64(t->tenant_id);
	uint64_t excess = t->stored - goal_of(t);
	bool blocked = false;
	enum sql_outcome o;

	s->n_heads = 0;
	o = sql_query(s->c, STMT_RETAIN_PARTS, &id, 1, on_part, s);
	for (size_t i = 0; o == SQL_OK && excess && has_room(s) && i < s->n_heads; i++) {
		s->heads[i].tenant_id = t->tenant_id;
		o = choose(s, &s->heads[i], &excess, &blocked);
	}
	if (o == SQL_OK)
		o = remove_chosen(s);
	if (o == SQL_OK && excess && blocked && !t->full)
		o = mark_full(s, t, true);
	return o;
}

static enum sql_outcome relieve_tenants(struct step *s)
{
	struct sql_param max = sql_u64(s->req->max_stored_bytes);
	struct sql_param params[] = {max, max, sql_u64(TENANTS_A_LOOK)};
	enum sql_outcome o = sql_query(s->c, STMT_RETAIN_OVER, params, 3, on_laden, s);

	for (size_t i = 0; o == SQL_OK && i < s->n_laden && has_room(s); i++) {
		const struct laden *t = &s->laden[i];

		if (t->stored > goal_of(t))
			o = unload(s, t);
		else if (t->full)
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

static void went_on(struct bus_retain *req, const struct aged *to)
{
	req->tenant_id = to->tenant_id;
	req->partition_id = to->partition_id;
}

/* The next heads by key; where there is no room for all that are due, as far as it goes. */
static enum sql_outcome shorten_aged(struct step *s)
{
	struct bus_retain *req = s->req;
	struct sql_param params[] = {
	        sql_u64(req->retention_s), sql_u64(req->retention_s),  sql_u64(req->tenant_id),
	        sql_u64(req->tenant_id),   sql_u64(req->partition_id), sql_u64(HEADS_A_LOOK),
	};
	struct aged done = {.tenant_id = req->tenant_id, .partition_id = req->partition_id};
	size_t i;
	enum sql_outcome o;

	s->n_heads = 0;
	o = sql_query(s->c, STMT_RETAIN_LOOK, params, 6, on_looked, s);
	for (i = 0; o == SQL_OK && i < s->n_heads && has_room(s); i++) {
		uint64_t none = 0;
		bool blocked = false;

		o = choose(s, &s->heads[i], &none, &blocked);
		done = s->heads[i];
	}
	req->more |= i < s->n_heads;
	if (o == SQL_OK)
		o = remove_chosen(s);
	if (o == SQL_OK)
		went_on(req, i < s->n_heads ? &done : &s->last_looked);
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

/* Said again after an UNKNOWN outcome it may count twice: that does no harm. */
static enum sql_outcome count_minute(struct step *s)
{
	struct sql_param enough = sql_u64(ENDED_MINUTES);
	enum sql_outcome o = fence(s);

	if (o == SQL_OK)
		o = sql_exec(s->c, STMT_SESSION_MINUTE, &enough, 1);
	return o == SQL_OK ? sql_commit(s->c) : o;
}

static enum sql_outcome remove_sessions(struct step *s)
{
	struct sql_param params[] = {sql_u64(ENDED_MINUTES), sql_u64(SESSIONS_AT_ONCE)};
	enum sql_outcome o = sql_query(s->c, STMT_SESSION_ENDED, params, 2, on_ended, s);

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

/* What a session said of its tenants is of no use from its end on. */
static enum sql_outcome remove_reports(struct step *s)
{
	struct sql_param limit = sql_u64(SESSIONS_AT_ONCE);
	enum sql_outcome o;

	s->n_ended = 0;
	o = sql_query(s->c, STMT_REPORT_STALE, &limit, 1, on_ended, s);
	sql_rollback(s->c);
	if (o != SQL_OK || !s->n_ended)
		return o;
	o = fence(s);
	for (size_t i = 0; o == SQL_OK && i < s->n_ended; i++) {
		struct sql_param params[] = {param_session(&s->ended[i]), sql_u64(REPORTS_AT_ONCE)};

		o = sql_exec(s->c, STMT_REPORT_DELETE, params, 2);
	}
	s->req->more = true;
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
	if (o == SQL_OK && has_room(s))
		o = shorten_aged(s);
	if (o == SQL_OK && req->minute)
		o = count_minute(s);
	if (o == SQL_OK && req->tenant_id == 0)
		o = remove_sessions(s);
	if (o == SQL_OK && req->tenant_id == 0)
		o = remove_reports(s);
	if (o == SQL_OK && req->aside)
		o = aside_sql_shorten(c, &job->me, s->who, req);
	if (o != SQL_OK)
		snprintf(req->error, sizeof req->error, "%s", sql_error(c));
	req->more |= req->removed >= req->limit || req->aside_more;
	buf_release(&s->rows);
	free(s);
	return o;
}

BUS_JOB_DONE(retain)

void retention_sql_retain(struct bus *bus, struct bus_retain *req)
{
	struct bus_sql *b = bus_sql_self(bus);

	assert(req->limit > 0 && req->limit <= BUS_RETAIN_MAX);
	req->removed = req->gaps = req->asides = 0;
	req->more = req->aside_more = false;
	req->error[0] = '\0';
	/* the name lives as long as the bus, and is not written to */
	bus_sql_submit(b, SQL_LANE_ADMIN, work_retain, retain_done, req, (void *)b->settings.name);
}
