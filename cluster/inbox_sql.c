/* inbox_sql: the leader of the inbox moves what applications published in SQL from `inbox` into the
 * journal, or, what is to be delivered later, into `timer`. A look that finds nothing writes
 * nothing. Otherwise one transaction: the fence, the rows read and deleted, their events appended.
 * Rows are found by plain reads, which see what is committed and wait for nobody, and deleted by
 * their ids; which rows, and in which order: cluster/inbox_look.h. Between the look and the
 * transaction the loop says how much of whose may be moved.
 *
 * What cannot be an event is set aside. What the journal refuses is found by moving less and less,
 * down to the row to blame. */
#include "base/buf.h"
#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"
#include "cluster/gather.h"
#include "cluster/gone_sql.h"
#include "cluster/inbox_event.h"
#include "cluster/inbox_look.h"
#include "cluster/lead_sql.h"
#include "cluster/timer_sql.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	COST_SHARE = 10, /* counting rows: so much less than the rest */
	WAITING_EVERY_MS = 1000,
	TENANT_SUSPENDED = 2, /* tenant.state, */
	TENANT_DELETED = 3,
	READ_COLUMNS = 11,
	WHO_MAX = 160,
};

struct move {
	struct bus_collect *req;
	struct lead lead;
	char who[WHO_MAX]; /* in the audit: this node */
	struct inbox_look look;

	struct gather gather;
	struct batch **later; /* of BATCH_SCHEDULED, one event each */
	size_t n_later;
};

/* ---- their events -------------------------------------------------------------------------------
 */

#define NO_ROOM "the tenant has as many scheduled events as it may (max_scheduled)"
#define TOO_LARGE "the payload is larger than this tenant's events may be (max_event_bytes)"

static void set_aside(struct inbox_item *it, const char *reason)
{
	it->fate = INBOX_ASIDE;
	snprintf(it->reason, sizeof it->reason, "%s", reason);
}

/* which, partitions and state of the tenant, how late, when it is due, in how long, topic, content
 * type, attributes, payload, first_partition of the tenant */
static int on_event(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct move *m = arg;
	const struct inbox_state *s = &m->look.state;
	struct inbox_item *it = n < READ_COLUMNS ? NULL : lead_rows_read(&m->look.rows, cells[0].u);
	struct inbox_row row;
	struct err e;

	if (!it)
		return 1;
	it->fate = cells[2].u == TENANT_DELETED ? INBOX_MOVED : INBOX_LEFT;
	it->row.late_ms = (int64_t)cells[3].u > 0 ? cells[3].u : 0;
	it->due_in_ms = (int64_t)cells[5].u > 0 ? cells[5].u : 0;
	row = (struct inbox_row){.tenant_id = it->row.tenant_id,
	                         .layout = {(uint32_t)cells[10].u, (uint32_t)cells[1].u},
	                         .deliver_ms = it->due_in_ms ? cells[4].u : 0,
	                         .topic = cells[6].bytes,
	                         .content_type = cells[7].bytes,
	                         .attributes = cells[8].bytes,
	                         .payload = cells[9].bytes};
	if (it->fate != INBOX_LEFT || cells[2].u == TENANT_SUSPENDED)
		return 0;
	if (s->blamed == it->row.id)
		set_aside(it, s->blame);
	else if (it->too_large)
		set_aside(it, TOO_LARGE);
	else if (it->no_room && it->due_in_ms)
		set_aside(it, NO_ROOM);
	else if (!(it->row.one = inbox_event_new(&row, &e)))
		set_aside(it, e.text);
	return 0;
}

static void add_later(struct move *m, struct inbox_item *it)
{
	if (!m->later)
		m->later = xcalloc(m->look.rows.n, sizeof *m->later);
	m->later[m->n_later++] = batch_ref(it->row.one);
	it->fate = INBOX_MOVED;
	if (it->due_in_ms < m->req->due_in_ms)
		m->req->due_in_ms = it->due_in_ms;
}

/* In their order: what a head has no room for any more, nothing behind it gets into that head. */
static enum sql_outcome take(struct sql_conn *c, void *arg, size_t from, size_t to)
{
	struct move *m = arg;

	(void)c;
	for (size_t i = from; i < to; i++) {
		struct inbox_item *it = inbox_item(&m->look, i);
		struct batch *one = it->row.one;

		if (one && batch_partition(one) == BATCH_SCHEDULED)
			add_later(m, it);
		else if (one && gather_add(&m->gather, it->row.tenant_id, batch_partition(one), one,
		                           0, BUS_FLUSH_MAX_HEADS) == 0)
			it->fate = INBOX_MOVED;
		m->look.left |= it->fate == INBOX_LEFT;
		it->row.moved = it->fate == INBOX_MOVED;
		batch_unref(one);
		it->row.one = NULL;
	}
	return SQL_OK;
}

static enum sql_outcome take_events(struct sql_conn *c, struct move *m)
{
	const struct lead_taking taking = {.read = STMT_INBOX_READ,
	                                   .on_event = on_event,
	                                   .take = take,
	                                   .arg = m,
	                                   .gather = &m->gather};
	size_t done;
	enum sql_outcome o = lead_rows_take(c, &m->look.rows, &taking, &done);

	m->look.left |= done < m->look.rows.n;
	m->look.rows.n = done;
	return o;
}

/* ---- the transaction ----------------------------------------------------------------------------
 */

/* Fewer than were read: whoever led before us was quicker. All of it again. */
static enum sql_outcome delete_moved(struct sql_conn *c, const struct move *m)
{
	return lead_rows_delete(c, &m->look.rows, STMT_INBOX_DELETE);
}

static enum sql_outcome write_aside(struct sql_conn *c, const struct inbox_item *it)
{
	struct sql_param row[] = {sql_bytes(it->reason, strlen(it->reason)), sql_u64(it->row.id)};

	return sql_exec(c, STMT_INBOX_ASIDE, row, 2);
}

/* How many of its tenant's are set aside; 0: it is not the first of them. */
static uint32_t count_asides(const struct move *m, size_t first)
{
	uint32_t tenant_id = inbox_item(&m->look, first)->row.tenant_id;
	uint32_t n = 0;

	for (size_t i = 0; i < m->look.rows.n; i++) {
		const struct inbox_item *it = inbox_item(&m->look, i);

		if (it->row.tenant_id != tenant_id || it->fate != INBOX_ASIDE)
			continue;
		if (i < first)
			return 0;
		n++;
	}
	return n;
}

/* One row for a transaction's of a tenant, however many: a flood is not to fill the audit. */
static enum sql_outcome audit_asides(struct sql_conn *c, const struct move *m, size_t first)
{
	const struct inbox_item *it = inbox_item(&m->look, first);
	uint32_t n = count_asides(m, first);
	struct buf detail = {0};
	char target[24];
	enum sql_outcome o;

	if (!n)
		return SQL_OK;
	snprintf(target, sizeof target, "%" PRIu64, it->row.id);
	buf_append_str(&detail, "{\"reason\":");
	buf_json_string(&detail, slice_str(it->reason));
	buf_printf(&detail, ",\"rows\":%" PRIu32 "}", n);
	o = sql_exec(c, STMT_AUDIT_NEW,
	             (struct sql_param[]){
	                     sql_bytes(m->who, strlen(m->who)),
	                     sql_u64(it->row.tenant_id),
	                     sql_bytes("inbox.set_aside", sizeof "inbox.set_aside" - 1),
	                     sql_bytes(target, strlen(target)),
	                     sql_utf8(detail.data, detail.len),
	             },
	             5);
	buf_release(&detail);
	return o;
}

static enum sql_outcome set_asides(struct sql_conn *c, struct move *m)
{
	enum sql_outcome o = SQL_OK;

	for (size_t i = 0; o == SQL_OK && i < m->look.rows.n; i++) {
		const struct inbox_item *it = inbox_item(&m->look, i);

		if (it->fate != INBOX_ASIDE)
			continue;
		o = write_aside(c, it);
		if (o == SQL_OK)
			o = audit_asides(c, m, i);
		m->req->set_aside++;
	}
	return o;
}

/* Deleted since its rows were read: read again, they are dropped. */
static enum sql_outcome check_tenants(struct sql_conn *c, const struct move *m)
{
	uint32_t *tenants = xcalloc(m->n_later + 1, sizeof *tenants);
	uint32_t gone;
	enum sql_outcome o;

	for (size_t i = 0; i < m->n_later; i++)
		tenants[i] = batch_tenant(m->later[i]);
	o = gone_sql_look(c, tenants, m->n_later, &gone);
	free(tenants);
	return o == SQL_OK && gone ? SQL_RETRY : o;
}

static enum sql_outcome store_later(struct sql_conn *c, const struct move *m)
{
	enum sql_outcome o = SQL_OK;

	for (size_t i = 0; o == SQL_OK && i < m->n_later; i++) {
		struct timer_store store = {.me = m->lead.me, .batch = m->later[i]};

		o = timer_sql_store(c, &store);
	}
	return o == SQL_OK ? check_tenants(c, m) : o;
}

/* The journal refuses something of this: next time half of it, at last one row, and when that is
 * it, it is set aside. */
static enum sql_outcome blame(struct move *m, unsigned error_no, const char *why)
{
	bool about_rows = lead_sql_about_rows(error_no);
	struct inbox_state *s = &m->look.state;

	if (about_rows && m->look.rows.n > 1) {
		s->most = (uint32_t)(m->look.rows.n / 2);
	} else if (about_rows) {
		s->blamed = inbox_item(&m->look, 0)->row.id;
		snprintf(s->blame, sizeof s->blame, "%s", why);
	} else {
		log_error("inbox", "events that were published in SQL could not be stored: %s",
		          why);
	}
	return about_rows ? SQL_RETRY : SQL_FATAL;
}

static enum sql_outcome append(struct sql_conn *c, struct move *m)
{
	enum sql_outcome o = store_later(c, m);

	gather_seal(&m->gather);
	if (o == SQL_FATAL)
		return blame(m, sql_errno(c), sql_error(c));
	if (o == SQL_OK)
		o = lead_sql_append(c, &m->lead, &m->gather);
	return o == SQL_FATAL ? blame(m, m->lead.error_no, m->lead.error) : o;
}

static int on_waiting(void *arg, const struct sql_cell *cells, unsigned n)
{
	if (n)
		*(uint64_t *)arg = cells[0].u;
	return 1;
}

static enum sql_outcome count_waiting(struct sql_conn *c, struct move *m, uint64_t now_ms)
{
	struct sql_param most = sql_u64(BUS_INBOX_WAITING_MAX);
	struct inbox_state *s = &m->look.state;
	bool any = m->look.left || s->n_held;
	uint64_t began_us = clock_us();
	enum sql_outcome o;

	if (!any)
		s->waiting = 0;
	if (!any || (s->waiting && now_ms < s->count_ms))
		return SQL_OK;
	o = sql_query(c, STMT_INBOX_WAITING, &most, 1, on_waiting, &s->waiting);
	s->count_ms = now_ms + WAITING_EVERY_MS + (clock_us() - began_us) * COST_SHARE / 1000;
	return o;
}

static enum sql_outcome move(struct sql_conn *c, struct move *m)
{
	enum sql_outcome o = lead_sql_fence(c, &m->lead);

	if (o == SQL_OK)
		o = take_events(c, m);
	if (o == SQL_OK && !BUG("inbox-twice"))
		o = delete_moved(c, m);
	if (o == SQL_OK)
		o = set_asides(c, m);
	if (o == SQL_OK)
		o = append(c, m);
	if (o == SQL_OK)
		o = count_waiting(c, m, clock_us() / 1000);
	if (o == SQL_OK)
		o = lead_sql_commit(c, &m->lead);
	if (o == SQL_OK && BUG("inbox-twice")) {
		o = delete_moved(c, m);
		o = o == SQL_OK ? sql_commit(c) : o;
	}
	return o;
}

static enum sql_outcome work_move(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct move *m = job->more;
	uint64_t began_us = clock_us();
	enum sql_outcome o;

	m->lead.me = &job->me;
	o = move(c, m);
	if (o == SQL_OK)
		stint_took(&m->look.state.stint, lead_rows_moved(&m->look.rows),
		           m->req->look_us + (clock_us() - began_us) - m->lead.fixed_us,
		           m->lead.fixed_us, INBOX_ROWS_LEAST);
	return o;
}

static enum sql_outcome work_look(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct move *m = job->more;
	uint64_t began_us = clock_us();
	uint64_t now_ms = began_us / 1000;
	enum sql_outcome o = inbox_look(c, &m->look, now_ms);

	m->lead.me = &job->me;
	m->req->look_us = clock_us() - began_us;
	return o == SQL_OK && !m->look.rows.n ? count_waiting(c, m, now_ms) : o;
}

/* ---- the loop's side ----------------------------------------------------------------------------
 */

static void count_too_large(struct bus_collected *t, uint64_t bytes)
{
	t->too_large++;
	t->largest = bytes > t->largest ? bytes : t->largest;
}

static void take_rows(struct move *m)
{
	struct bus_collect *req = m->req;

	req->late_ms = xcalloc(m->look.rows.n + 1, sizeof *req->late_ms);
	for (size_t i = 0; i < m->look.rows.n; i++) {
		const struct inbox_item *it = inbox_item(&m->look, i);
		struct bus_collected *t = inbox_look_tenant(&m->look, it->row.tenant_id);

		if (it->fate == INBOX_ASIDE && it->too_large)
			count_too_large(t, it->bytes);
		else if (it->fate == INBOX_ASIDE && it->no_room)
			t->refused++;
		if (it->fate != INBOX_MOVED)
			continue;
		req->late_ms[req->n_late++] = it->row.late_ms;
		t->events++;
		t->bytes += it->bytes;
		t->scheduled += it->due_in_ms != 0;
	}
	req->tenants = m->look.tenants;
	req->n_tenants = m->look.n_tenants;
	m->look.tenants = NULL;
}

static void take_results(struct move *m)
{
	struct inbox_state *s = &m->look.state;
	struct bus_collect *req = m->req;

	lead_sql_stored(&m->lead, &m->gather);
	take_rows(m);
	req->flush_no = m->lead.flush_no;
	req->n = m->gather.n;
	req->batches = m->gather.batches;
	m->gather.n = 0;
	m->gather.batches = NULL;
	inbox_look_end(&m->look);
	req->more = m->look.left;
	req->waiting = s->waiting;
	req->held = (uint32_t)s->n_held;
	s->blamed = 0;
	if (s->most)
		s->most = s->most < req->limit ? s->most * 2 : 0;
}

static void move_free(struct move *m)
{
	for (size_t i = 0; i < m->n_later; i++)
		batch_unref(m->later[i]);
	lead_rows_release(&m->look.rows);
	gather_release(&m->gather);
	free(m->look.tenants);
	free(m->lead.base_seqs);
	free(m->later);
	free(m);
}

static void collect_done(void *arg, enum sql_outcome outcome)
{
	struct bus_job *job = arg;
	struct move *m = job->more;
	struct bus_collect *req = job->req;
	struct inbox_state *state = &job->owner->inbox;

	if (outcome == SQL_OK)
		take_results(m);
	else
		req->set_aside = 0;
	if (state->epoch == m->look.state.epoch)
		*state = m->look.state;
	else
		free(m->look.state.held);
	move_free(m);
	free(job);
	req->outcome = outcome;
	req->done(req);
}

static void look_done(void *arg, enum sql_outcome outcome)
{
	struct bus_job *job = arg;
	struct bus_sql *b = job->owner;
	struct move *m = job->more;

	if (outcome == SQL_OK)
		inbox_look_sieve(&m->look, m->req);
	if (outcome != SQL_OK || !m->look.rows.n) {
		collect_done(job, outcome);
		return;
	}
	free(job);
	bus_sql_submit(b, SQL_LANE_LEADER, work_move, collect_done, m->req, m);
}

/* One at a time: what is known goes with it. */
void inbox_sql_collect(struct bus *bus, struct bus_collect *req)
{
	struct bus_sql *b = bus_sql_self(bus);
	struct move *m = xcalloc(1, sizeof *m);

	assert(req->limit > 0);
	if (b->inbox.epoch != req->epoch) {
		free(b->inbox.held);
		b->inbox = (struct inbox_state){.epoch = req->epoch, .stint = STINT_NEW};
	}
	m->req = req;
	m->look = (struct inbox_look){.state = b->inbox,
	                              .limit = req->limit,
	                              .rows = {.size = sizeof(struct inbox_item)}};
	b->inbox.held = NULL;
	b->inbox.n_held = 0;
	m->lead = (struct lead){
	        .role = BUS_ROLE_INBOX, .writer_no = WRITER_NO_INBOX, .epoch = req->epoch};
	snprintf(m->who, sizeof m->who, "node:%s", b->settings.name);
	bus_collect_clear(req);
	req->writer_no = WRITER_NO_INBOX;
	inbox_look_begin(&m->look, req);
	bus_sql_submit(b, SQL_LANE_LEADER, work_look, look_done, req, m);
}
