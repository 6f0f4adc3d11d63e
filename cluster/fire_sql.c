/* fire_sql: the leader of timers moves what is due from `timer` into the journal. A look that finds
 * nothing due writes nothing. Otherwise one transaction: the role's fence, a flush number of the
 * leader's writer row (which is how other nodes notice), the rows read and deleted, their events
 * appended.
 *
 * Fair: usually everything that is due is moved, earliest first. When that is more than a few
 * milliseconds' work, whose end others would wait for, tenants are looked at one by one and each
 * gets its part: cluster/crowd.h.
 *
 * What the database refuses must not stop the rest. After a refusal fewer rows are tried at a time,
 * down to one, and ticks apart from them; who is refused alone is set aside, with the reason and a
 * row in `audit`, and then twice as many are tried each time.
 *
 * Deleted rows stay in the index until the server purges them, and a scan from its beginning meets
 * them all; so a look begins a little before what was moved last (`from_ms`), and from the very
 * beginning every few seconds. So it is with those of tenants that are suspended, being moved, or
 * whose storage is full: they stay, and are passed over. */
#include "base/buf.h"
#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"
#include "cluster/crowd.h"
#include "cluster/gather.h"
#include "cluster/lead_rows.h"
#include "cluster/lead_sql.h"
#include "cluster/schedule_sql.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	OVERLAP_MS = 1000,   /* a look begins so much before what was moved last */
	FULL_LOOK_MS = 2000, /* every so often a look begins at the beginning, */
	FULL_SHARE = 10,     /* and so much less than the rest, when it takes long */
	LIST_SHARE = 2,      /* listing who is due: so much less than the rest */
	ANEW_SHARE = 10,     /* looking at what was moved: so much less */
	LATE_STEP = 256,
	ORPHANS_MAX = 64,
	TICKS_MAX = 100,      /* of schedules, in one transaction */
	LATE_OK_MS = 100,     /* a will is published when it is due, as far as its expiry goes */
	TENANT_SUSPENDED = 2, /* tenant.state, */
	TENANT_DELETED = 3,
	ROWS_LEAST = 100, /* in one transaction: finding them passes what was deleted before */
};

/* A row that is due. */
struct due {
	struct lead_row row; /* first; `at`: when it is due, ms since 1970, the database's clock */
	uint32_t weight;     /* its tenant's */
	uint64_t expires_ms; /* of a will, from now on counted; 0 = as the event says */
	uint32_t partition_id;
	bool read; /* it was there when it was to be read */
};

struct firing {
	struct bus_fire *req;
	struct lead lead;
	struct fire_state state;
	bool full;             /* look from the beginning */
	uint64_t full_look_us; /* which took so long */

	struct lead_rows due; /* struct due */
	uint32_t limit;       /* of the query under way */
	bool left;            /* more is due than was moved */

	struct gather gather;
	uint64_t last_schedule; /* that ticked */
	size_t n_ticks;
	bool refused;      /* FATAL is about what was tried, not about us */
	uint64_t *late_ms; /* of each event moved */
	size_t n_late;
	size_t n_ticked;
	struct bus_ticked *ticked;
};

/* ---- what is due --------------------------------------------------------------------------------
 */

static struct due *due_at(const struct firing *f, size_t i)
{
	return lead_rows_at(&f->due, i);
}

static int on_due(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct firing *f = arg;
	struct due *d;

	if (n < 5)
		return 1;
	d = lead_rows_add(&f->due);
	d->row.id = cells[0].u;
	d->row.tenant_id = (uint32_t)cells[1].u;
	d->row.late_ms = (int64_t)cells[3].u > 0 ? cells[3].u : 0;
	d->row.at = cells[2].u;
	d->weight = cells[4].u ? (uint32_t)cells[4].u : 1;
	return 0;
}

/* ---- a crowd ------------------------------------------------------------------------------------
 */

static int on_tenant(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct firing *f = arg;

	if (n < 2)
		return 1;
	crowd_add(&f->state.crowd, (uint32_t)cells[0].u, (uint32_t)cells[1].u);
	return 0;
}

static enum sql_outcome find_tenants(struct sql_conn *c, void *arg, uint32_t above, uint32_t upto)
{
	struct firing *f = arg;
	struct sql_param params[3] = {sql_u64(above), sql_u64(upto),
	                              sql_u64(CROWD_MAX - f->state.crowd.n)};

	return sql_query(c, STMT_FIRE_TENANTS, params, 3, on_tenant, f);
}

/* Known are those of what was found, and the others are looked for between them: where the server's
 * statistics are wrong, that reads every row of whom it is asked for. */
static enum sql_outcome list_tenants(struct sql_conn *c, struct firing *f)
{
	struct crowd *w = &f->state.crowd;
	uint64_t began_us = clock_us();
	enum sql_outcome o;

	for (size_t i = 0; i < f->due.n; i++)
		crowd_add(w, due_at(f, i)->row.tenant_id, due_at(f, i)->weight);
	o = crowd_list(w, c, find_tenants, f);
	w->list_ms = (clock_us() + (clock_us() - began_us) * LIST_SHARE) / 1000;
	return o;
}

/* One tenant's part. */
static enum sql_outcome due_of(struct sql_conn *c, struct firing *f, struct crowd_turn *t,
                               uint64_t part)
{
	uint64_t from_us = t->from_at * 1000;
	struct sql_param params[5] = {sql_u64(t->tenant_id), sql_u64(from_us), sql_u64(t->from_id),
	                              sql_u64(from_us), sql_u64(part)};
	size_t before = f->due.n;
	enum sql_outcome o = sql_query(c, STMT_FIRE_DUE_OF, params, 5, on_due, f);

	if (f->due.n > before)
		t->weight = due_at(f, before)->weight;
	for (size_t i = before; i < f->due.n; i++)
		due_at(f, i)->row.rank = (i - before) * CROWD_RANK_ONE / t->weight;
	return o;
}

static uint64_t rows_at_once(const struct firing *f, bool shared)
{
	return stint_take(&f->state.stint, shared ? STINT_US : STINT_ALONE_US, ROWS_LEAST,
	                  f->limit);
}

static enum sql_outcome due_in_turns(struct sql_conn *c, struct firing *f)
{
	struct crowd *w = &f->state.crowd;
	struct crowd_round round;
	struct crowd_turn *t;
	enum sql_outcome o = SQL_OK;
	uint64_t part;

	f->due.n = 0;
	crowd_begin(&round, w, rows_at_once(f, crowd_is_shared(w, clock_us() / 1000)));
	while (o == SQL_OK && (t = crowd_next(&round, &part))) {
		size_t before = f->due.n;

		o = due_of(c, f, t, part);
		crowd_took(&round, f->due.n - before, f->due.n - before == part);
	}
	f->left = crowd_end(&round);
	lead_rows_sort(&f->due);
	return o;
}

/* Those who had their part go on where it ended; what came up before that is found now and then.
 */
static enum sql_outcome due_fair(struct sql_conn *c, struct firing *f)
{
	uint64_t now_ms = clock_us() / 1000;
	struct crowd *w = &f->state.crowd;
	bool anew = now_ms >= w->anew_ms;
	bool all = !f->state.crowded || now_ms >= w->list_ms;
	enum sql_outcome o = SQL_OK;

	if (!f->state.crowded)
		crowd_forget(w);
	if (all)
		o = list_tenants(c, f);
	if (anew)
		crowd_anew(w);
	if (o == SQL_OK)
		o = due_in_turns(c, f);
	if (anew)
		w->anew_ms = now_ms + FULL_LOOK_MS + (clock_us() / 1000 - now_ms) * ANEW_SHARE;
	if (o == SQL_OK && !all && !f->due.n) { /* of those who are known */
		all = true;
		o = list_tenants(c, f);
		o = o == SQL_OK ? due_in_turns(c, f) : o;
	}
	f->left |= !all;
	return o;
}

static enum sql_outcome find_due(struct sql_conn *c, struct firing *f)
{
	uint64_t from = f->full ? 0 : f->state.from_ms;
	uint64_t limit = BUG("unfair-timers") ? f->limit : rows_at_once(f, true);
	struct sql_param params[2] = {sql_u64(from * 1000), sql_u64(limit)};
	enum sql_outcome o;

	if (f->state.crowded && !BUG("unfair-timers"))
		return due_fair(c, f);
	o = sql_query(c, STMT_FIRE_DUE, params, 2, on_due, f);
	return o == SQL_OK && f->due.n == limit && !BUG("unfair-timers") ? due_fair(c, f) : o;
}

/* ---- their events -------------------------------------------------------------------------------
 */

/* Now, or a little before it: no clock that differs must make of 60 s 61. */
static uint64_t published_ms(const struct due *d)
{
	uint64_t late_ms = d->row.late_ms;

	return d->row.at + late_ms - (late_ms < LATE_OK_MS ? late_ms : LATE_OK_MS);
}

/* which, partition_id, partitions and state of the tenant, will_expiry_ms, attributes, body,
 * first_partition */
static int on_event(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct firing *f = arg;
	struct due *d = n < 8 ? NULL : lead_rows_read(&f->due, cells[0].u);
	struct layout now;
	struct event ev;
	struct err e;

	if (!d)
		return 1;
	if (cells[3].u == TENANT_SUSPENDED)
		return 0;
	d->read = true;
	if (cells[3].u == TENANT_DELETED) {
		d->row.moved = true;
		return 0;
	}
	d->row.one = batch_decode(d->row.tenant_id, 0, 1, 1, cells[5].bytes, cells[6].bytes, &e);
	if (!d->row.one) {
		log_error("timers", "tenant=%u timer=%" PRIu64 " row refused: %s", d->row.tenant_id,
		          d->row.id, e.text);
		return 0;
	}
	if (cells[4].u)
		d->expires_ms = published_ms(d) + cells[4].u;
	batch_event(d->row.one, 0, &ev);
	now = (struct layout){(uint32_t)cells[7].u, (uint32_t)cells[2].u};
	d->partition_id = now.n ? layout_partition(now, &ev) : (uint32_t)cells[1].u;
	return 0;
}

/* It would come up for ever. */
static enum sql_outcome set_aside(struct sql_conn *c, struct firing *f, uint64_t timer_id,
                                  const char *why)
{
	struct sql_param id = sql_u64(timer_id);
	struct sql_param row[2] = {sql_bytes(why, strlen(why)), id};
	struct buf detail = {0};
	enum sql_outcome o = sql_exec(c, STMT_FIRE_REFUSE, row, 2);

	log_error("timers", "timer=%" PRIu64 " set aside: %s", timer_id, log_quote_str(why));
	buf_append_str(&detail, "{\"error\":");
	buf_json_string(&detail, slice_str(why));
	buf_u8(&detail, '}');
	f->req->refused++;
	if (o == SQL_OK) {
		struct sql_param audit[3] = {sql_bytes("leat", 4),
		                             sql_utf8(detail.data, detail.len), id};

		o = sql_exec(c, STMT_FIRE_AUDIT, audit, 3);
	}
	buf_release(&detail);
	return o;
}

static enum sql_outcome gather(struct sql_conn *c, void *arg, size_t from, size_t to)
{
	struct firing *f = arg;
	enum sql_outcome o = SQL_OK;

	for (size_t i = from; o == SQL_OK && i < to; i++) {
		const struct due *d = due_at(f, i);
		struct lead_row *row = lead_rows_at(&f->due, i);

		if (d->read && !row->one && !row->moved)
			o = set_aside(c, f, row->id, "it is not an event");
		if (!row->one)
			continue;
		if ((BUG("timer-lost") && row->id % 16 == 0) ||
		    gather_add(&f->gather, row->tenant_id, d->partition_id, row->one, d->expires_ms,
		               BUS_FLUSH_MAX_HEADS) == 0)
			row->moved = true;
		else
			f->left = true;
		batch_unref(row->one);
		row->one = NULL;
	}
	return o;
}

static void add_late(struct firing *f, uint64_t late_ms)
{
	if (f->n_late % LATE_STEP == 0)
		f->late_ms = xrealloc(f->late_ms, (f->n_late + LATE_STEP) * sizeof *f->late_ms);
	f->late_ms[f->n_late++] = late_ms;
}

/* In the order in which they are due. */
static enum sql_outcome take_events(struct sql_conn *c, struct firing *f)
{
	const struct lead_taking taking = {.read = STMT_FIRE_READ,
	                                   .on_event = on_event,
	                                   .take = gather,
	                                   .arg = f,
	                                   .gather = &f->gather};
	size_t done;
	enum sql_outcome o = lead_rows_take(c, &f->due, &taking, &done);

	f->left |= done < f->due.n;
	for (size_t i = 0; i < f->due.n; i++) {
		if (due_at(f, i)->row.moved)
			add_late(f, due_at(f, i)->row.late_ms);
	}
	return o;
}

/* ---- ticks --------------------------------------------------------------------------------------
 */

static struct bus_ticked *ticked_of(struct firing *f, uint32_t tenant_id)
{
	for (size_t i = 0; i < f->n_ticked; i++) {
		if (f->ticked[i].tenant_id == tenant_id)
			return &f->ticked[i];
	}
	if (f->n_ticked % TICKS_MAX == 0)
		f->ticked = xrealloc(f->ticked, (f->n_ticked + TICKS_MAX) * sizeof *f->ticked);
	f->ticked[f->n_ticked] = (struct bus_ticked){.tenant_id = tenant_id};
	return &f->ticked[f->n_ticked++];
}

static void on_tick(void *arg, const struct schedule_tick *tick)
{
	struct firing *f = arg;
	struct bus_ticked *of = ticked_of(f, tick->tenant_id);

	f->last_schedule = tick->schedule_id;
	f->n_ticks++;
	if (tick->left_out == BUS_LEFT_OUT_REASONS) {
		of->ticks++;
		of->bytes += tick->bytes;
		add_late(f, tick->late_ms);
		return;
	}
	of->left_out[tick->left_out]++;
	if (tick->left_out == BUS_LEFT_OUT_LARGE && tick->bytes > of->largest)
		of->largest = tick->bytes;
}

static int on_held(void *arg, const struct sql_cell *cells, unsigned n)
{
	if (n)
		ticked_of(arg, (uint32_t)cells[0].u)->held = true;
	return 0;
}

static enum sql_outcome take_ticks(struct sql_conn *c, struct firing *f)
{
	struct schedule_ticks ticks = {.limit = f->state.careful ? 1 : TICKS_MAX,
	                               .req = f->req,
	                               .gather = &f->gather,
	                               .on_tick = on_tick,
	                               .arg = f};
	uint64_t in_ms;
	enum sql_outcome o = schedule_sql_next(c, &in_ms);

	return o == SQL_OK && in_ms == 0 ? schedule_sql_tick(c, &ticks) : o;
}

/* ---- the transaction ----------------------------------------------------------------------------
 */

static enum sql_outcome refuse(struct firing *f, unsigned error_no, const char *why)
{
	f->refused = lead_sql_about_rows(error_no);
	snprintf(f->req->error, sizeof f->req->error, "%s", why);
	return SQL_FATAL;
}

static enum sql_outcome append(struct sql_conn *c, struct firing *f)
{
	enum sql_outcome o = lead_sql_append(c, &f->lead, &f->gather);

	return o == SQL_FATAL ? refuse(f, f->lead.error_no, f->lead.error) : o;
}

/* Where the next look begins: before what is left, else before what was moved last. */
static void set_from(struct firing *f)
{
	uint64_t last_ms = f->due.n ? due_at(f, f->due.n - 1)->row.at : 0;

	f->state.crowded = f->left;
	crowd_passed(&f->state.crowd, &f->due);
	if (!f->left && last_ms > f->state.from_ms + OVERLAP_MS)
		f->state.from_ms = last_ms - OVERLAP_MS;
}

static int on_next(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct bus_fire *req = arg;

	if (n)
		req->next_in_ms = (int64_t)cells[0].u > 0 ? cells[0].u + 1 : 0;
	return 1;
}

static enum sql_outcome look_ahead(struct sql_conn *c, struct firing *f)
{
	struct sql_param from = sql_u64(f->full ? 0 : f->state.from_ms * 1000);
	uint64_t tick_in_ms;
	enum sql_outcome o;

	f->req->next_in_ms = f->state.crowded ? 0 : UINT64_MAX;
	if (f->req->next_in_ms == 0)
		return SQL_OK; /* more was left than was moved */
	o = sql_query(c, STMT_FIRE_NEXT, &from, 1, on_next, f->req);
	if (o == SQL_OK)
		o = schedule_sql_next(c, &tick_in_ms);
	if (o == SQL_OK && tick_in_ms < f->req->next_in_ms)
		f->req->next_in_ms = tick_in_ms;
	return o;
}

static enum sql_outcome take_rows(struct sql_conn *c, struct firing *f)
{
	enum sql_outcome o = find_due(c, f);

	if (f->state.careful && f->due.n > f->state.careful) {
		f->due.n = f->state.careful;
		f->left = true;
	}
	if (o != SQL_OK)
		return o;
	o = take_events(c, f);
	if (o == SQL_FATAL)
		return refuse(f, sql_errno(c), sql_error(c));
	/* Fewer: one was cancelled or put off meanwhile. */
	return o == SQL_OK ? lead_rows_delete(c, &f->due, STMT_FIRE_DELETE) : o;
}

/* All is well again when all rows that are due were moved, or as many as are ever asked for. */
static void grow_bolder(struct firing *f)
{
	struct fire_state *s = &f->state;

	if (!s->careful)
		return;
	if (!s->ticks_turn)
		s->careful = f->left && s->careful * 2 < f->limit ? s->careful * 2 : 0;
	f->left = true; /* of the other kind, perhaps */
	s->ticks_turn = !s->ticks_turn;
}

static enum sql_outcome move(struct sql_conn *c, struct firing *f)
{
	bool ticks_alone = f->state.careful && f->state.ticks_turn;
	enum sql_outcome o = lead_sql_fence(c, &f->lead);

	if (o == SQL_OK && !ticks_alone)
		o = take_rows(c, f);
	if (o == SQL_OK && (!f->state.careful || !f->due.n))
		o = take_ticks(c, f);
	gather_seal(&f->gather);
	if (o == SQL_OK)
		o = append(c, f);
	grow_bolder(f);
	set_from(f);
	if (o == SQL_OK)
		o = f->left ? SQL_OK : look_ahead(c, f);
	if (o == SQL_OK && f->left)
		f->req->next_in_ms = 0;
	return o == SQL_OK ? lead_sql_commit(c, &f->lead) : o;
}

/* ---- wills of ended node sessions ---------------------------------------------------------------
 */

struct orphans {
	size_t n;
	struct id128 sessions[ORPHANS_MAX];
};

static int on_orphan(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct orphans *l = arg;

	if (!n || cells[0].bytes.n != sizeof l->sessions->b || l->n == ORPHANS_MAX)
		return 1;
	memcpy(l->sessions[l->n++].b, cells[0].bytes.p, sizeof l->sessions->b);
	return 0;
}

/* Their clients are lost, as far as anybody can tell: the wills are due, in a transaction of its
 * own. */
static enum sql_outcome free_orphans(struct sql_conn *c, struct firing *f)
{
	struct sql_param limit = sql_u64(ORPHANS_MAX);
	struct orphans l = {0};
	enum sql_outcome o = sql_query(c, STMT_WILL_ORPHANS, &limit, 1, on_orphan, &l);

	if (o != SQL_OK || !l.n)
		return o;
	o = lead_sql_fence(c, &f->lead);
	for (size_t i = 0; o == SQL_OK && i < l.n; i++) {
		struct sql_param session = param_session(&l.sessions[i]);

		o = sql_exec(c, STMT_WILL_ORPHANED, &session, 1);
	}
	return o == SQL_OK ? sql_commit(c) : o;
}

/* ---- what was refused ---------------------------------------------------------------------------
 */

static enum sql_outcome stop_schedule(struct sql_conn *c, struct firing *f, uint64_t schedule_id,
                                      const char *why)
{
	f->req->refused++;
	return schedule_sql_stop(c, schedule_id, why);
}

static enum sql_outcome set_culprit_aside(struct sql_conn *c, struct firing *f)
{
	const char *why = f->state.culprit.why;
	enum sql_outcome o = lead_sql_fence(c, &f->lead);

	if (o == SQL_OK && f->state.culprit.timer_id)
		o = set_aside(c, f, f->state.culprit.timer_id, why);
	else if (o == SQL_OK)
		o = stop_schedule(c, f, f->state.culprit.schedule_id, why);
	f->state.culprit.timer_id = f->state.culprit.schedule_id = 0;
	f->state.full_ms = 0; /* it was to be a full look, perhaps */
	f->full = false;
	f->req->next_in_ms = 0;
	return o == SQL_OK ? sql_commit(c) : o;
}

/* Half of it next time, or its only one is to be set aside. */
static void note_refusal(struct fire_state *s, const struct firing *f)
{
	size_t tried = f->due.n + f->n_ticks;

	s->careful = tried > 1 ? (uint32_t)(tried / 2) : 1;
	s->ticks_turn = !s->ticks_turn;
	s->full_ms = 0; /* it was to be a full look, perhaps */
	if (tried > 1)
		return;
	s->culprit.timer_id = f->due.n ? due_at(f, 0)->row.id : 0;
	s->culprit.schedule_id = f->due.n ? 0 : f->last_schedule;
	memcpy(s->culprit.why, f->req->error, sizeof s->culprit.why);
}

static enum sql_outcome work_fire(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct firing *f = job->more;
	uint64_t began_us = clock_us();
	uint64_t looked_us;
	enum sql_outcome o = SQL_OK;

	f->lead.me = &job->me;
	if (f->state.culprit.timer_id || f->state.culprit.schedule_id)
		return set_culprit_aside(c, f);
	if (f->full)
		o = free_orphans(c, f);
	if (o == SQL_OK && f->full)
		o = sql_query(c, STMT_FIRE_HELD, NULL, 0, on_held, f);
	looked_us = clock_us();
	if (o == SQL_OK)
		o = look_ahead(c, f);
	f->full_look_us = clock_us() - looked_us;
	if (o == SQL_OK && f->req->next_in_ms == 0)
		o = move(c, f);
	else if (o == SQL_OK)
		f->state.careful = 0; /* nothing is left of what was refused */
	if (o == SQL_OK)
		stint_took(&f->state.stint, lead_rows_moved(&f->due),
		           clock_us() - began_us - f->lead.fixed_us, f->lead.fixed_us, ROWS_LEAST);
	if (o != SQL_OK && !f->refused)
		snprintf(f->req->error, sizeof f->req->error, "%s", sql_error(c));
	return o;
}

/* ---- the loop's side ----------------------------------------------------------------------------
 */

static void take_results(struct firing *f)
{
	struct bus_fire *req = f->req;

	lead_sql_stored(&f->lead, &f->gather);
	req->flush_no = f->lead.flush_no;
	req->n = f->gather.n;
	req->batches = f->gather.batches;
	f->gather.n = 0;
	f->gather.batches = NULL;
	req->late_ms = f->late_ms;
	req->n_late = f->n_late;
	f->late_ms = NULL;
	req->ticked = f->ticked;
	req->n_ticked = f->n_ticked;
	f->ticked = NULL;
}

static void fire_done(void *arg, enum sql_outcome outcome)
{
	struct bus_job *job = arg;
	struct firing *f = job->more;
	struct bus_fire *req = job->req;

	if (f->refused) {
		note_refusal(&job->owner->fire, f);
		req->next_in_ms = 0;
		outcome = SQL_OK;
	} else if (outcome == SQL_OK) {
		take_results(f);
		job->owner->fire = f->state;
		if (f->full)
			job->owner->fire.full_ms =
			        clock_now_ms() + FULL_LOOK_MS + f->full_look_us * FULL_SHARE / 1000;
	}
	lead_rows_release(&f->due);
	gather_release(&f->gather);
	free(f->lead.base_seqs);
	free(f->late_ms);
	free(f->ticked);
	free(f);
	free(job);
	req->outcome = outcome;
	req->done(req);
}

void fire_sql_fire(struct bus *bus, struct bus_fire *req)
{
	struct bus_sql *b = bus_sql_self(bus);
	struct firing *f = xcalloc(1, sizeof *f);

	assert(req->limit > 0);
	if (b->fire.epoch != req->epoch)
		b->fire = (struct fire_state){.epoch = req->epoch, .stint = STINT_NEW};
	f->req = req;
	f->due.size = sizeof(struct due);
	f->limit = req->limit;
	f->state = b->fire;
	f->full = req->early || clock_now_ms() >= b->fire.full_ms;
	req->n = req->n_late = 0;
	req->refused = 0;
	req->error[0] = '\0';
	req->batches = NULL;
	req->late_ms = NULL;
	req->n_ticked = 0;
	req->ticked = NULL;
	req->writer_no = WRITER_NO_LEADER;
	f->lead = (struct lead){
	        .role = BUS_ROLE_TIMERS, .writer_no = WRITER_NO_LEADER, .epoch = req->epoch};
	bus_sql_submit(b, SQL_LANE_LEADER, work_fire, fire_done, req, f);
}
