#include "cluster/store.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "cluster/store_inbox.h"
#include "cluster/store_layouts.h"
#include "cluster/store_leader.h"
#include "cluster/store_subs.h"
#include "cluster/store_timers.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS_FIRST = 8 };

struct session {
	struct id128 id;
	char *name;
	bool live;
	struct bus_writer_state writers[BUS_WRITERS];
	uint64_t leader_flush_no; /* of the writer rows of its roles */
	uint64_t inbox_flush_no;
};

struct row {
	struct batch *batch;
	uint64_t appended_ms; /* wall clock */
};

/* A head and its part of the journal: rows[first .. first + n), oldest first. */
struct part {
	struct {
		uint32_t tenant_id;
		uint32_t partition_id;
	} key;
	uint64_t next_seq;
	size_t bytes;    /* batch_memory() of the rows */
	uint64_t stored; /* batch_bytes() of them */
	struct row *rows;
	size_t first;
	size_t n;
	size_t cap;
};

struct store {
	size_t retention_bytes;
	struct map sessions; /* id -> session */
	struct map parts;    /* tenant, partition -> part */
	struct store_layouts *layouts;
	struct store_subs *subs;
	struct store_timers *timers;
	struct store_leader *leader;
	struct store_inbox *inbox;
};

/* ---- life ---------------------------------------------------------------------------------------
 */

struct store *store_new(size_t retention_bytes)
{
	struct store *s = xcalloc(1, sizeof *s);

	s->retention_bytes = retention_bytes;
	s->subs = store_subs_new();
	s->timers = store_timers_new();
	s->layouts = store_layouts_new();
	s->leader = store_leader_new(s->layouts);
	s->inbox = store_inbox_new(s->layouts);
	return s;
}

static void part_free(struct part *p)
{
	for (size_t i = 0; i < p->n; i++)
		batch_unref(p->rows[p->first + i].batch);
	free(p->rows);
	free(p);
}

void store_free(struct store *s)
{
	size_t at = 0;
	struct session *session;
	struct part *p;

	if (!s)
		return;
	while ((session = map_next(&s->sessions, &at))) {
		free(session->name);
		free(session);
	}
	at = 0;
	while ((p = map_next(&s->parts, &at)))
		part_free(p);
	map_release(&s->sessions);
	map_release(&s->parts);
	store_subs_free(s->subs);
	store_timers_free(s->timers);
	store_leader_free(s->leader);
	store_inbox_free(s->inbox);
	store_layouts_free(s->layouts);
	free(s);
}

/* ---- sessions and writers -----------------------------------------------------------------------
 */

static struct session *session_find(const struct store *s, const struct id128 *id)
{
	return map_get(&s->sessions, id, sizeof *id);
}

void store_session_open(struct store *s, const struct id128 *me, const char *name)
{
	struct session *mine = xcalloc(1, sizeof *mine);
	struct session *other;
	size_t at = 0;

	while ((other = map_next(&s->sessions, &at))) {
		if (strcmp(other->name, name) == 0)
			other->live = false;
	}
	mine->id = *me;
	mine->name = xstrdup(name);
	mine->live = true;
	map_put(&s->sessions, &mine->id, sizeof mine->id, mine);
}

void store_session_end(struct store *s, const struct id128 *id)
{
	struct session *session = session_find(s, id);

	if (session)
		session->live = false;
}

bool store_session_live(const struct store *s, const struct id128 *id)
{
	const struct session *session = session_find(s, id);

	return session && session->live;
}

/* ---- journal ------------------------------------------------------------------------------------
 */

static struct part *part_find(const struct store *s, uint32_t tenant_id, uint32_t partition_id)
{
	uint32_t key[2] = {tenant_id, partition_id};

	return map_get(&s->parts, key, sizeof key);
}

static struct part *part_need(struct store *s, uint32_t tenant_id, uint32_t partition_id)
{
	struct part *p = part_find(s, tenant_id, partition_id);

	if (p)
		return p;
	p = xcalloc(1, sizeof *p);
	p->key.tenant_id = tenant_id;
	p->key.partition_id = partition_id;
	p->next_seq = 1;
	map_put(&s->parts, &p->key, sizeof p->key, p);
	return p;
}

/* Room for one more row: move the rows to the front when half is free, else grow. */
static void part_make_room(struct part *p)
{
	if (p->first + p->n < p->cap)
		return;
	if (p->first > p->cap / 2) {
		memmove(p->rows, p->rows + p->first, p->n * sizeof *p->rows);
		p->first = 0;
		return;
	}
	p->cap = p->cap ? p->cap * 2 : ROWS_FIRST;
	p->rows = xrealloc(p->rows, p->cap * sizeof *p->rows);
}

static void part_drop_oldest(struct part *p)
{
	struct batch *oldest = p->rows[p->first].batch;

	p->bytes -= batch_memory(oldest);
	p->stored -= batch_bytes(oldest);
	batch_unref(oldest);
	p->first++;
	p->n--;
}

/* The newest batch always stays. */
static void part_retain(struct part *p, size_t retention_bytes)
{
	while (p->n > 1 && p->bytes > retention_bytes)
		part_drop_oldest(p);
}

static void part_append(struct store *s, struct batch *b, uint64_t stamp)
{
	struct part *p = part_need(s, batch_tenant(b), batch_partition(b));

	batch_set_base_seq(b, p->next_seq);
	batch_set_stamp(b, stamp);
	p->next_seq += batch_count(b);
	part_make_room(p);
	p->rows[p->first + p->n++] = (struct row){batch_ref(b), clock_wall_ms()};
	p->bytes += batch_memory(b);
	p->stored += batch_bytes(b);
	part_retain(p, s->retention_bytes);
}

static bool append_sealed(const struct store *s, struct bus_append *req)
{
	req->sealed_tenant = 0;
	for (size_t i = 0; i < req->n; i++) {
		const struct batch *b = req->batches[i];
		struct layout now = store_layouts_now(s->layouts, batch_tenant(b));

		if (batch_partition(b) == BATCH_SCHEDULED || !now.n ||
		    layout_has(now, batch_partition(b)))
			continue;
		req->sealed_tenant = batch_tenant(b);
		req->layout = now;
		req->culprit = i;
		snprintf(req->error, sizeof req->error, "head is sealed");
		return true;
	}
	return false;
}

enum sql_outcome store_append(struct store *s, const struct id128 *me, struct bus_append *req)
{
	struct session *session = session_find(s, me);
	struct bus_writer_state *w;
	uint64_t stamp;

	assert(req->writer_no < BUS_WRITERS && req->n > 0);
	if (!session || !session->live)
		return SQL_LOST;
	w = &session->writers[req->writer_no];
	if (w->fence != req->fence || w->flush_no + 1 != req->flush_no)
		return SQL_LOST;
	if (append_sealed(s, req))
		return SQL_FATAL;
	w->flush_no = req->flush_no;
	stamp = batch_stamp_of(me->b, req->writer_no, req->flush_no);
	for (size_t i = 0; i < req->n; i++) {
		if (batch_partition(req->batches[i]) == BATCH_SCHEDULED)
			store_leader_store(s->leader, me, req->batches[i]);
		else
			part_append(s, req->batches[i], stamp);
	}
	return SQL_OK;
}

enum sql_outcome store_resolve(struct store *s, struct bus_resolve *req)
{
	struct session *session = session_find(s, &req->session_id);
	struct bus_writer_state *w;

	assert(req->writer_no < BUS_WRITERS);
	if (!session)
		return SQL_LOST;
	w = &session->writers[req->writer_no];
	if (!BUG("unknown-plain-look"))
		w->fence++;
	req->fence = w->fence;
	req->flush_no = w->flush_no;
	return SQL_OK;
}

/* Index from first of the first row that holds seq or a later number. */
static size_t part_seek(const struct part *p, uint64_t seq)
{
	size_t lo = 0;
	size_t hi = p->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct batch *b = p->rows[p->first + mid].batch;

		if (batch_base_seq(b) + batch_count(b) <= seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

enum sql_outcome store_read(const struct store *s, struct bus_read *req)
{
	const struct part *p = part_find(s, req->tenant_id, req->partition_id);
	size_t from;
	size_t to;
	size_t bytes = 0;

	req->n = 0;
	req->batches = NULL;
	req->next_seq = p ? p->next_seq : 1;
	if (!p)
		return SQL_OK;
	from = part_seek(p, req->from_seq);
	for (to = from; to < p->n && bytes < req->max_bytes; to++)
		bytes += batch_bytes(p->rows[p->first + to].batch);
	if (to == from)
		return SQL_OK;
	req->n = to - from;
	req->batches = xcalloc(req->n, sizeof *req->batches);
	for (size_t i = 0; i < req->n; i++)
		req->batches[i] = batch_ref(p->rows[p->first + from + i].batch);
	return SQL_OK;
}

static uint64_t part_seq_at_time(const struct part *p, uint64_t time_ms)
{
	for (size_t i = 0; i < p->n; i++) {
		if (p->rows[p->first + i].appended_ms >= time_ms)
			return batch_base_seq(p->rows[p->first + i].batch);
	}
	return p->next_seq;
}

enum sql_outcome store_locate(const struct store *s, struct bus_locate *req)
{
	const struct part *p = part_find(s, req->tenant_id, req->partition_id);

	req->seq = 1;
	if (!p)
		return SQL_OK;
	switch (req->position) {
	case BUS_AT_HEAD:
		req->seq = p->next_seq;
		break;
	case BUS_AT_EARLIEST:
		req->seq = p->n ? batch_base_seq(p->rows[p->first].batch) : p->next_seq;
		break;
	case BUS_AT_TIME:
		req->seq = part_seq_at_time(p, req->time_ms);
		break;
	}
	return SQL_OK;
}

enum sql_outcome store_heads(const struct store *s, struct bus_heads *req)
{
	for (size_t i = 0; i < req->n; i++) {
		struct bus_head *h = &req->heads[i];
		const struct part *p = part_find(s, h->tenant_id, h->partition_id);

		h->next_seq = p ? p->next_seq : 0;
	}
	return SQL_OK;
}

/* ---- layouts ------------------------------------------------------------------------------------
 */

void store_set_partitions(struct store *s, uint32_t tenant_id, uint32_t before, uint32_t n)
{
	store_layouts_set(s->layouts, tenant_id, before, n);
}

struct layout store_layout(const struct store *s, uint32_t tenant_id)
{
	return store_layouts_now(s->layouts, tenant_id);
}

static void add_layout(const struct store *s, struct bus_layouts *req, struct layout l, bool sealed)
{
	req->heads = xrealloc(req->heads, (req->n + l.n) * sizeof *req->heads);
	for (uint32_t i = 0; i < l.n; i++) {
		const struct part *p = part_find(s, req->tenant_id, l.first + i);

		if (l.first + i < req->from_partition)
			continue;
		req->heads[req->n++] = (struct layout_head){
		        .partition_id = l.first + i,
		        .layout = l.first,
		        .sealed = sealed,
		        .next_seq = p ? p->next_seq : 1,
		};
	}
}

enum sql_outcome store_layouts(const struct store *s, struct bus_layouts *req)
{
	size_t n;
	const struct layout *all = store_layouts_of(s->layouts, req->tenant_id, &n);

	req->n = 0;
	req->heads = NULL;
	for (size_t i = 0; i < n; i++)
		add_layout(s, req, all[i], i + 1 < n);
	return SQL_OK;
}

/* ---- subscriptions ------------------------------------------------------------------------------
 */

/* A node is reached at its name here. */
static const char *owner_live(const void *arg, const struct id128 *id)
{
	const struct session *session = session_find(arg, id);

	return session && session->live ? session->name : NULL;
}

enum sql_outcome store_claim(struct store *s, const struct id128 *me, struct bus_claim *req)
{
	enum sql_outcome o;

	if (!store_session_live(s, me))
		return SQL_RETRY; /* with the next session */
	o = store_subs_claim(s->subs, me, owner_live, s, req);
	if (o == SQL_OK && req->kind == BUS_SUB_SESSION && req->created && req->epoch > 1)
		store_leader_end_wills(s->leader, req->tenant_id, req->subject, req->name);
	return o;
}

enum sql_outcome store_change(struct store *s, const struct id128 *me, struct bus_change *req)
{
	return store_subs_change(s->subs, me, req);
}

enum sql_outcome store_commit(struct store *s, const struct id128 *me, struct bus_commit *req)
{
	return store_subs_commit(s->subs, me, req);
}

enum sql_outcome store_owned(const struct store *s, const struct id128 *me, struct bus_owned *req)
{
	for (size_t i = 0; i < req->n; i++)
		req->rows[i].lost = !store_subs_owned(s->subs, me, &req->rows[i]);
	return SQL_OK;
}

enum sql_outcome store_expire(struct store *s, struct bus_expire *req)
{
	return store_subs_expire(s->subs, req);
}

/* ---- retention ----------------------------------------------------------------------------------
 */

static uint64_t first_seq(const struct part *p)
{
	return p->n ? batch_base_seq(p->rows[p->first].batch) : p->next_seq;
}

static uint64_t stored_by(const struct store *s, uint32_t tenant_id)
{
	const struct part *p;
	uint64_t bytes = 0;
	size_t at = 0;

	while ((p = map_next(&s->parts, &at)))
		bytes += p->key.tenant_id == tenant_id ? p->stored : 0;
	return bytes;
}

enum sql_outcome store_stock(const struct store *s, struct bus_stock *req)
{
	req->stored_bytes = stored_by(s, req->tenant_id);
	req->subscriptions = store_subs_count(s->subs, req->tenant_id);
	req->scheduled = store_leader_scheduled(s->leader, req->tenant_id);
	req->dead_letters = store_timers_dead(s->timers, req->tenant_id);
	req->connections = req->ephemeral = 0; /* nobody reports */
	return SQL_OK;
}

static bool may_go(const struct store *s, const struct part *p, const struct bus_retain *req)
{
	uint64_t appended_ms = p->rows[p->first].appended_ms;

	if (req->retention_s && appended_ms + req->retention_s * UINT64_C(1000) < clock_wall_ms())
		return true;
	return req->max_stored_bytes && stored_by(s, p->key.tenant_id) > req->max_stored_bytes;
}

static void shorten(struct store *s, struct part *p, struct bus_retain *req)
{
	uint64_t pinned = store_subs_pinned(s->subs, p->key.tenant_id, p->key.partition_id);
	uint64_t first = first_seq(p);

	while (p->n && req->removed < req->limit && may_go(s, p, req)) {
		const struct batch *oldest = p->rows[p->first].batch;

		if (batch_base_seq(oldest) + batch_count(oldest) - 1 > pinned)
			break;
		part_drop_oldest(p);
		req->removed++;
	}
	req->gaps += store_subs_overtaken(s->subs, p->key.tenant_id, p->key.partition_id, first,
	                                  first_seq(p));
}

/* There are no tenants here: what the request says is for all. */
enum sql_outcome store_retain(struct store *s, const struct id128 *me, struct bus_retain *req)
{
	struct part *p;
	size_t at = 0;

	req->removed = req->gaps = req->asides = 0; /* nothing set aside is kept here */
	req->tenant_id = req->partition_id = req->aside_tenant_id = 0;
	req->aside_more = false;
	if (!store_leader_holds(s->leader, BUS_ROLE_RETENTION, me, req->epoch))
		return SQL_LOST;
	while (req->removed < req->limit && (p = map_next(&s->parts, &at)))
		shorten(s, p, req);
	req->more = req->removed >= req->limit;
	return SQL_OK;
}

/* ---- failed deliveries --------------------------------------------------------------------------
 */

enum sql_outcome store_settle(struct store *s, const struct id128 *me, struct bus_settle *req)
{
	enum sql_outcome o = store_subs_settle(s->subs, me, req);

	if (o == SQL_OK)
		store_timers_settle(s->timers, req);
	return o;
}

enum sql_outcome store_retries(const struct store *s, struct bus_retries *req)
{
	store_timers_retries(s->timers, req);
	return SQL_OK;
}

void store_each_failure(const struct store *s, uint64_t subscription_id,
                        void (*fn)(void *arg, const struct bus_failure *row), void *arg)
{
	store_timers_each(s->timers, subscription_id, fn, arg);
}

/* ---- roles --------------------------------------------------------------------------------------
 */

static bool is_live(const void *arg, const struct id128 *id)
{
	return store_session_live(arg, id);
}

enum sql_outcome store_role_claim(struct store *s, const struct id128 *me,
                                  struct bus_role_claim *req)
{
	return store_leader_claim(s->leader, me, is_live, s, req);
}

enum sql_outcome store_fire(struct store *s, const struct id128 *me, struct bus_fire *req)
{
	struct session *session = session_find(s, me);
	struct gather due = {0};
	enum sql_outcome o = SQL_LOST;

	req->n_late = 0;
	req->late_ms = NULL;
	if (session && session->live)
		o = store_leader_fire(s->leader, me, is_live, s, req, &due);
	req->n = due.n;
	req->batches = due.batches;
	req->writer_no = WRITER_NO_LEADER;
	if (o == SQL_OK)
		req->flush_no = ++session->leader_flush_no;
	for (size_t i = 0; i < req->n; i++)
		part_append(s, req->batches[i],
		            batch_stamp_of(me->b, req->writer_no, req->flush_no));
	due.n = 0;
	due.batches = NULL;
	gather_release(&due);
	return o;
}

void store_publish(struct store *s, const struct batch *one)
{
	store_inbox_add(s->inbox, one);
}

enum sql_outcome store_collect(struct store *s, const struct id128 *me, struct bus_collect *req)
{
	struct session *session = session_find(s, me);
	struct gather out = {0};

	bus_collect_clear(req);
	req->writer_no = WRITER_NO_INBOX;
	if (!session || !session->live ||
	    (!store_leader_holds(s->leader, BUS_ROLE_INBOX, me, req->epoch) &&
	     !BUG("leader-unchecked")))
		return SQL_LOST;
	store_inbox_collect(s->inbox, s->leader, me, req, &out);
	if (req->n_late)
		req->flush_no = ++session->inbox_flush_no;
	req->n = out.n;
	req->batches = out.batches;
	for (size_t i = 0; i < req->n; i++)
		part_append(s, req->batches[i],
		            batch_stamp_of(me->b, req->writer_no, req->flush_no));
	out.n = 0;
	out.batches = NULL;
	gather_release(&out);
	return SQL_OK;
}
