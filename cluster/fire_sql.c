/* fire_sql: the leader of timers moves what is due from `timer` into the journal. A look that finds
 * nothing due writes nothing. Otherwise one transaction: the role's fence, a flush number of the
 * leader's writer row (which is how other nodes notice), the rows read and deleted, their events
 * appended.
 *
 * Fair: usually everything that is due is moved, earliest first. When it is more than one
 * transaction takes, tenants are looked at one by one and each gets its share; who comes first
 * goes round.
 *
 * Deleted rows stay in the index until the server purges them, and a scan from its beginning meets
 * them all; so a look begins a little before what was moved last (`from_ms`), and from the very
 * beginning every few seconds. */
#include "base/buf.h"
#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"
#include "cluster/flush_sql.h"
#include "cluster/gather.h"
#include "cluster/schedule_sql.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
	OVERLAP_MS = 1000,   /* a look begins so much before what was moved last */
	FULL_LOOK_MS = 2000, /* every so often a look begins at the beginning */
	TENANTS_STEP = 64,
	LATE_STEP = 256,
	ORPHANS_MAX = 64,
	TICKS_MAX = 100,        /* of schedules, in one transaction */
	FAIR_TENANTS_MAX = 100, /* that get a share of one transaction */
	READ_FIRST = 64,        /* rows read at once, until their size is known */
	READ_MAX = 500,
	TENANT_DELETED = 3, /* tenant.state */
};

/* A row that is due. */
struct due {
	uint64_t timer_id;
	uint32_t tenant_id;
	uint32_t rank;   /* fair: its place among those of its tenant */
	uint64_t due_ms; /* since 1970, the database's clock */
	uint64_t late_ms;
	struct batch *one; /* its event, once read */
	uint32_t partition_id;
	bool read;  /* it was there when it was to be read */
	bool moved; /* to be deleted: it is in the journal, or of no tenant any more */
};

struct firing {
	struct bus_fire *req;
	const struct id128 *me;
	struct fire_state state;
	bool full; /* look from the beginning */

	struct due *due;
	size_t n;
	size_t cap;
	uint32_t limit; /* of the query under way */
	size_t reading; /* due[reading ..) is being read */
	size_t n_moved;
	bool left; /* more is due than was moved */
	uint32_t *tenants;
	size_t n_tenants;

	uint64_t flush_no;
	struct gather gather;
	uint64_t *base_seqs;
	uint64_t *late_ms; /* of each event moved */
	size_t n_late;
};

/* ---- what is due --------------------------------------------------------------------------------
 */

static int on_due(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct firing *f = arg;

	if (n < 4)
		return 1;
	if (f->n == f->cap) {
		f->cap = f->cap ? f->cap * 2 : 64;
		f->due = xrealloc(f->due, f->cap * sizeof *f->due);
	}
	f->due[f->n++] = (struct due){
	        .timer_id = cells[0].u,
	        .tenant_id = (uint32_t)cells[1].u,
	        .due_ms = cells[2].u,
	        .late_ms = (int64_t)cells[3].u > 0 ? cells[3].u : 0,
	};
	return 0;
}

static int on_tenant(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct firing *f = arg;

	if (!n)
		return 1;
	if (f->n_tenants % TENANTS_STEP == 0)
		f->tenants =
		        xrealloc(f->tenants, (f->n_tenants + TENANTS_STEP) * sizeof *f->tenants);
	f->tenants[f->n_tenants++] = (uint32_t)cells[0].u;
	return 0;
}

static int by_rank(const void *a, const void *b)
{
	const struct due *x = a;
	const struct due *y = b;

	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	return (x->timer_id > y->timer_id) - (x->timer_id < y->timer_id);
}

/* One tenant's share; more of it is left when that was not all. */
static enum sql_outcome due_of(struct sql_conn *c, struct firing *f, uint32_t tenant_id,
                               uint32_t share)
{
	struct sql_param params[2] = {sql_u64(tenant_id), sql_u64(share)};
	size_t before = f->n;
	enum sql_outcome o = sql_query(c, STMT_FIRE_DUE_OF, params, 2, on_due, f);

	for (size_t i = before; i < f->n; i++)
		f->due[i].rank = (uint32_t)(i - before);
	f->left |= f->n - before == share;
	return o;
}

static enum sql_outcome due_fair(struct sql_conn *c, struct firing *f)
{
	enum sql_outcome o = sql_query(c, STMT_FIRE_TENANTS, NULL, 0, on_tenant, f);
	size_t n = f->n_tenants < FAIR_TENANTS_MAX ? f->n_tenants : FAIR_TENANTS_MAX;
	uint32_t share = n ? (uint32_t)(f->limit / n) : 0;
	size_t first = 0;

	f->n = 0;
	f->left = n < f->n_tenants;
	while (first < f->n_tenants && f->tenants[first] <= f->state.after_tenant)
		first++; /* they come sorted by the index they are found in */
	for (size_t i = 0; o == SQL_OK && i < n; i++) {
		uint32_t tenant_id = f->tenants[(first + i) % f->n_tenants];

		o = due_of(c, f, tenant_id, share ? share : 1);
		f->state.after_tenant = tenant_id;
	}
	if (f->n)
		qsort(f->due, f->n, sizeof *f->due, by_rank);
	return o;
}

static enum sql_outcome find_due(struct sql_conn *c, struct firing *f)
{
	uint64_t from = f->full ? 0 : f->state.from_ms;
	struct sql_param params[2] = {sql_u64(from * 1000), sql_u64(f->limit)};
	enum sql_outcome o;

	if (f->state.crowded)
		return due_fair(c, f);
	o = sql_query(c, STMT_FIRE_DUE, params, 2, on_due, f);
	return o == SQL_OK && f->n == f->limit ? due_fair(c, f) : o;
}

/* ---- their events -------------------------------------------------------------------------------
 */

/* which, partition_id, partitions and state of the tenant, attributes, body */
static int on_event(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct firing *f = arg;
	struct due *d;
	struct event ev;
	struct err e;

	if (n < 6 || cells[0].u < 1 || f->reading + cells[0].u > f->n)
		return 1;
	d = &f->due[f->reading + cells[0].u - 1];
	d->read = true;
	if (cells[3].u == TENANT_DELETED) {
		d->moved = true;
		return 0;
	}
	d->one = batch_decode(d->tenant_id, 0, 1, 1, cells[4].bytes, cells[5].bytes, &e);
	if (!d->one) {
		log_error("timers", "tenant=%u timer=%" PRIu64 " row refused: %s", d->tenant_id,
		          d->timer_id, e.text);
		return 0;
	}
	batch_event(d->one, 0, &ev);
	d->partition_id =
	        cells[2].u ? event_partition(&ev, (uint32_t)cells[2].u) : (uint32_t)cells[1].u;
	return 0;
}

static void ids_json(const struct firing *f, size_t from, size_t to, bool moved, struct buf *out)
{
	buf_clear(out);
	buf_u8(out, '[');
	for (size_t i = from; i < to; i++) {
		if (moved && !f->due[i].moved)
			continue;
		if (out->len > 1)
			buf_u8(out, ',');
		buf_u64_dec(out, f->due[i].timer_id);
	}
	buf_u8(out, ']');
}

static enum sql_outcome read_events(struct sql_conn *c, struct firing *f, size_t from, size_t to)
{
	struct buf ids = {0};
	struct sql_param param;
	enum sql_outcome o;

	f->reading = from;
	ids_json(f, from, to, false, &ids);
	param = sql_utf8(ids.data, ids.len);
	o = sql_query(c, STMT_FIRE_READ, &param, 1, on_event, f);
	buf_release(&ids);
	return o;
}

/* A row that is no event would come up for ever. */
static enum sql_outcome park(struct sql_conn *c, const struct due *d)
{
	struct sql_param param = sql_u64(d->timer_id);

	return sql_exec(c, STMT_FIRE_PARK, &param, 1);
}

static enum sql_outcome gather(struct sql_conn *c, struct firing *f, size_t from, size_t to)
{
	enum sql_outcome o = SQL_OK;

	for (size_t i = from; o == SQL_OK && i < to; i++) {
		struct due *d = &f->due[i];

		if (d->read && !d->one && !d->moved)
			o = park(c, d);
		if (!d->one)
			continue;
		if (gather_add(&f->gather, d->tenant_id, d->partition_id, d->one,
		               BUS_FLUSH_MAX_HEADS) == 0)
			d->moved = true;
		else
			f->left = true;
		batch_unref(d->one);
		d->one = NULL;
	}
	return o;
}

/* Rows for the next read: what is left of a flush, at the size of those before. */
static size_t rows_to_read(const struct firing *f, size_t done)
{
	size_t mean = done ? f->gather.bytes / done + 1 : 0;
	size_t rows = READ_FIRST;

	if (mean)
		rows = (BUS_FLUSH_MAX_BYTES - f->gather.bytes) / mean + 1;
	rows = rows < READ_MAX ? rows : READ_MAX;
	return rows < f->n - done ? rows : f->n - done;
}

static void add_late(struct firing *f, uint64_t late_ms)
{
	if (f->n_late % LATE_STEP == 0)
		f->late_ms = xrealloc(f->late_ms, (f->n_late + LATE_STEP) * sizeof *f->late_ms);
	f->late_ms[f->n_late++] = late_ms;
}

/* In the order in which they are due, until the flush is full. */
static enum sql_outcome take_events(struct sql_conn *c, struct firing *f)
{
	enum sql_outcome o = SQL_OK;
	size_t done = 0;

	while (o == SQL_OK && done < f->n && f->gather.bytes < BUS_FLUSH_MAX_BYTES) {
		size_t to = done + rows_to_read(f, done);

		o = read_events(c, f, done, to);
		if (o == SQL_OK)
			o = gather(c, f, done, to);
		done = to;
	}
	f->left |= done < f->n;
	for (size_t i = 0; i < f->n; i++) {
		if (!f->due[i].moved)
			continue;
		f->n_moved++;
		add_late(f, f->due[i].late_ms);
	}
	return o;
}

/* Fewer rows than were read: one was cancelled or put off meanwhile. All of it again. */
static enum sql_outcome delete_moved(struct sql_conn *c, const struct firing *f)
{
	enum sql_outcome o = SQL_OK;
	struct buf ids = {0};
	uint64_t deleted = 0;

	for (size_t i = 0; o == SQL_OK && i < f->n; i += READ_MAX) {
		struct sql_param param;

		ids_json(f, i, i + READ_MAX < f->n ? i + READ_MAX : f->n, true, &ids);
		if (ids.len == 2)
			continue;
		param = sql_utf8(ids.data, ids.len);
		o = sql_exec(c, STMT_FIRE_DELETE, &param, 1);
		deleted += sql_affected(c);
	}
	buf_release(&ids);
	return o == SQL_OK && deleted != f->n_moved ? SQL_RETRY : o;
}

/* ---- ticks --------------------------------------------------------------------------------------
 */

static void on_tick(void *arg, uint64_t late_ms)
{
	add_late(arg, late_ms);
}

static enum sql_outcome take_ticks(struct sql_conn *c, struct firing *f)
{
	struct schedule_ticks ticks = {
	        .limit = TICKS_MAX, .gather = &f->gather, .on_tick = on_tick, .arg = f};
	uint64_t in_ms;
	enum sql_outcome o = schedule_sql_next(c, &in_ms);

	return o == SQL_OK && in_ms == 0 ? schedule_sql_tick(c, &ticks) : o;
}

/* ---- the transaction ----------------------------------------------------------------------------
 */

static enum sql_outcome fence(struct sql_conn *c, struct firing *f)
{
	struct sql_param role[3] = {sql_u64(BUS_ROLE_TIMERS), param_session(f->me),
	                            sql_u64(f->req->epoch)};
	struct sql_param writer[2] = {param_session(f->me), sql_u64(WRITER_NO_LEADER)};
	enum sql_outcome o = SQL_OK;

	if (!BUG("leader-unchecked")) {
		o = sql_exec(c, STMT_ROLE_WRITE, role, 3);
		if (o == SQL_OK && sql_affected(c) == 0)
			return SQL_LOST;
	}
	if (o != SQL_OK)
		return o;
	o = sql_exec(c, STMT_WRITER_LEAD, writer, 2);
	if (o == SQL_OK && sql_affected(c) == 0)
		return SQL_LOST; /* the session has ended */
	f->flush_no = sql_insert_id(c);
	return o;
}

static enum sql_outcome append(struct sql_conn *c, struct firing *f)
{
	struct flush flush = {.me = f->me,
	                      .writer_no = WRITER_NO_LEADER,
	                      .flush_no = f->flush_no,
	                      .n = f->gather.n,
	                      .batches = f->gather.batches};
	enum sql_outcome o;

	if (!f->gather.n)
		return SQL_OK;
	flush.base_seqs = f->base_seqs = xcalloc(f->gather.n, sizeof *f->base_seqs);
	o = flush_sql_run(c, &flush);
	if (o == SQL_FATAL)
		log_error("timers", "events that are due could not be stored: %s", flush.error);
	return o;
}

/* Where the next look begins: before what is left, else before what was moved last. */
static void set_from(struct firing *f)
{
	uint64_t last_ms = f->n ? f->due[f->n - 1].due_ms : 0;

	f->state.crowded = f->left;
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

	f->req->next_in_ms = UINT64_MAX;
	o = sql_query(c, STMT_FIRE_NEXT, &from, 1, on_next, f->req);
	if (o == SQL_OK)
		o = schedule_sql_next(c, &tick_in_ms);
	if (o == SQL_OK && tick_in_ms < f->req->next_in_ms)
		f->req->next_in_ms = tick_in_ms;
	return o;
}

static enum sql_outcome move(struct sql_conn *c, struct firing *f)
{
	enum sql_outcome o = fence(c, f);

	if (o == SQL_OK)
		o = find_due(c, f);
	if (o == SQL_OK)
		o = take_events(c, f);
	if (o == SQL_OK)
		o = delete_moved(c, f);
	if (o == SQL_OK)
		o = take_ticks(c, f);
	gather_seal(&f->gather);
	if (o == SQL_OK)
		o = append(c, f);
	set_from(f);
	if (o == SQL_OK)
		o = f->left ? SQL_OK : look_ahead(c, f);
	if (o == SQL_OK && f->left)
		f->req->next_in_ms = 0;
	return o == SQL_OK ? sql_commit(c) : o;
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
	o = fence(c, f);
	for (size_t i = 0; o == SQL_OK && i < l.n; i++) {
		struct sql_param session = param_session(&l.sessions[i]);

		o = sql_exec(c, STMT_WILL_ORPHANED, &session, 1);
	}
	return o == SQL_OK ? sql_commit(c) : o;
}

static enum sql_outcome work_fire(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct firing *f = job->more;
	enum sql_outcome o = SQL_OK;

	f->me = &job->me;
	if (f->full)
		o = free_orphans(c, f);
	if (o == SQL_OK)
		o = look_ahead(c, f);
	if (o != SQL_OK || f->req->next_in_ms > 0)
		return o;
	return move(c, f);
}

/* ---- the loop's side ----------------------------------------------------------------------------
 */

static void take_results(struct firing *f)
{
	struct bus_fire *req = f->req;
	uint64_t stamp = batch_stamp_of(f->me->b, WRITER_NO_LEADER, f->flush_no);

	for (size_t i = 0; i < f->gather.n; i++) {
		batch_set_base_seq(f->gather.batches[i], f->base_seqs[i]);
		batch_set_stamp(f->gather.batches[i], stamp);
	}
	req->flush_no = f->flush_no;
	req->n = f->gather.n;
	req->batches = f->gather.batches;
	f->gather.n = 0;
	f->gather.batches = NULL;
	req->late_ms = f->late_ms;
	req->n_late = f->n_late;
	f->late_ms = NULL;
}

static void fire_done(void *arg, enum sql_outcome outcome)
{
	struct bus_job *job = arg;
	struct firing *f = job->more;
	struct bus_fire *req = job->req;

	if (outcome == SQL_OK) {
		take_results(f);
		job->owner->fire = f->state;
		if (f->full)
			job->owner->fire.looked_ms = clock_now_ms();
	}
	for (size_t i = 0; i < f->n; i++)
		batch_unref(f->due[i].one);
	gather_release(&f->gather);
	free(f->base_seqs);
	free(f->late_ms);
	free(f->tenants);
	free(f->due);
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
		b->fire = (struct fire_state){.epoch = req->epoch};
	f->req = req;
	f->limit = req->limit;
	f->state = b->fire;
	f->full = req->early || !b->fire.looked_ms ||
	          clock_now_ms() - b->fire.looked_ms >= FULL_LOOK_MS;
	req->n = req->n_late = 0;
	req->batches = NULL;
	req->late_ms = NULL;
	req->writer_no = WRITER_NO_LEADER;
	bus_sql_submit(b, SQL_LANE_LEADER, work_fire, fire_done, req, f);
}
