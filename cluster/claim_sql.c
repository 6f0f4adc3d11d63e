/* claim_sql: claiming subscriptions. A claim rewrites owner and epoch of every cursor, so that
 * cursor commits need to look at no other row.
 *
 * When a node goes, the others claim thousands at once: they share transactions, and in them the
 * statements: each is a round trip. Where a transaction does not go through (a deadlock, a lock
 * wait) each is done by itself: what is wrong with one is not the others' loss. */
#include "base/buf.h"
#include "base/bug.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"
#include "cluster/gone_sql.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOGETHER = 64 }; /* claims in a transaction: they hold their locks until it ends */

/* What a claim's results point to. Cursors' acked_ahead follow the filters in text. */
struct claim_memory {
	struct buf text;
	size_t filters_bytes;
	size_t cap;
	struct bus_cursor *cursors;
	size_t n_cursors;
};

/* The row as it was found. */
struct claim_row {
	struct claim_memory *memory;
	uint64_t subscription_id;
	uint64_t epoch;
	struct id128 owner; /* zero = none */
	struct bus_policy policy;
	uint32_t expiry_s;
	bool found;
	bool owner_live;
	bool expired;
	bool paused;
	bool by_force;               /* its owner is live and to be told */
	bool gone;                   /* its tenant is, so that it may not be made */
	enum sql_outcome outcome;    /* but OK: it cannot be had, and nothing was written */
	char peer[BUS_ADDR_MAX + 1]; /* the owner's */
};

/* Those of one transaction, no subscription twice. */
struct claims {
	struct bus_claim *const *reqs;
	struct claim_row *rows;
	size_t n;
};

static void memory_free(struct claim_memory *m)
{
	if (!m)
		return;
	buf_release(&m->text);
	free(m->cursors);
	free(m);
}

static void memory_set_filters(struct claim_memory *m, struct slice filters)
{
	buf_clear(&m->text);
	buf_append_slice(&m->text, filters);
	m->filters_bytes = filters.n;
}

/* ---- finding them ------------------------------------------------------------------------------
 */

/* which row, subscription_id, epoch, owner, owner is live, has expired, expiry_s, filters, owner's
 * peer, policy, is paused */
static int on_subscription(void *arg, const struct sql_cell *cells, unsigned n)
{
	const struct claims *all = arg;
	struct claim_row *row;

	if (n < 17 || cells[0].u < 1 || cells[0].u > all->n)
		return 0;
	row = &all->rows[cells[0].u - 1];
	row->found = true;
	row->subscription_id = cells[1].u;
	row->epoch = cells[2].u;
	if (!cells[3].null && cells[3].bytes.n == sizeof row->owner.b)
		memcpy(row->owner.b, cells[3].bytes.p, sizeof row->owner.b);
	row->owner_live = cells[4].u != 0;
	row->expired = cells[5].u != 0;
	row->expiry_s = (uint32_t)cells[6].u;
	memory_set_filters(row->memory, cells[7].bytes);
	if (cells[8].bytes.n <= BUS_ADDR_MAX && !cells[8].null)
		memcpy(row->peer, cells[8].bytes.p, cells[8].bytes.n);
	row->policy = (struct bus_policy){
	        .max_attempts = (uint32_t)cells[9].u,
	        .ack_timeout_ms = (uint32_t)cells[10].u,
	        .backoff_ms = (uint32_t)cells[11].u,
	        .backoff_max_ms = (uint32_t)cells[12].u,
	        .max_failed = (uint32_t)cells[13].u,
	        .ordered = cells[14].u != 0,
	        .pin = cells[15].u != 0,
	};
	row->paused = cells[16].u != 0;
	return 0;
}

static enum sql_outcome find_rows(struct sql_conn *c, struct claims *all)
{
	struct buf json = {0};
	struct sql_param param;
	enum sql_outcome o;

	for (size_t i = 0; i < all->n; i++) {
		const struct bus_claim *req = all->reqs[i];

		buf_printf(&json, "%s[%u,%u,\"", i ? "," : "[", req->tenant_id,
		           (unsigned)req->kind);
		buf_hex(&json, req->subject);
		buf_append_str(&json, "\",\"");
		buf_hex(&json, req->name);
		buf_append_str(&json, "\"]");
	}
	buf_u8(&json, ']');
	param = sql_utf8(json.data, json.len);
	o = sql_query(c, STMT_SUB_FIND, &param, 1, on_subscription, all);
	buf_release(&json);
	return o;
}

/* What is to become of it, by what was found: `outcome`. */
static void judge(const struct id128 *me, struct bus_claim *req, struct claim_row *row)
{
	req->absent = (!row->found || row->expired) && !req->create;
	req->created = !row->found || row->expired || req->fresh;
	req->subscription_id = row->subscription_id;
	req->epoch = row->epoch + 1;
	row->by_force = row->found && row->owner_live && !id128_eq(&row->owner, me);
	row->outcome = SQL_OK;
	if (req->absent) {
		row->outcome = SQL_FATAL;
	} else if (row->paused && !row->expired) {
		row->outcome = SQL_LOST;
	} else if (row->by_force && !req->force && !BUG("claim-live-owner")) {
		req->holder.session_id = row->owner;
		memcpy(req->holder.addr, row->peer, sizeof req->holder.addr);
		row->outcome = SQL_LOST;
	}
}

/* ---- taking those that are there ---------------------------------------------------------------
 */

static bool is_taken(const struct claims *all, size_t i)
{
	return all->rows[i].found && all->rows[i].outcome == SQL_OK;
}

/* Those that are taken, as they were found; how many. */
static size_t seen_json(const struct claims *all, struct buf *out)
{
	size_t n = 0;

	for (size_t i = 0; i < all->n; i++) {
		const struct claim_row *row = &all->rows[i];

		if (!is_taken(all, i))
			continue;
		buf_printf(out, "%s[%u,%" PRIu64 ",%" PRIu64 ",\"", n++ ? "," : "[",
		           all->reqs[i]->tenant_id, row->subscription_id, row->epoch);
		buf_hex(out, slice((const char *)row->owner.b, sizeof row->owner.b));
		buf_append_str(out, "\"]");
	}
	buf_u8(out, ']');
	return n;
}

/* [tenant, subscription, epoch], as it is now: one for each, so that they are known by their place;
 * of those that cannot be had it fits nothing. */
static void claimed_json(const struct claims *all, struct buf *out)
{
	for (size_t i = 0; i < all->n; i++) {
		const struct bus_claim *req = all->reqs[i];
		bool ours = all->rows[i].outcome == SQL_OK;

		buf_printf(out, "%s[%u,%" PRIu64 ",%" PRIu64 "]", i ? "," : "[",
		           ours ? req->tenant_id : 0, ours ? req->subscription_id : 0, req->epoch);
	}
	buf_u8(out, ']');
}

static int on_not_taken(void *arg, const struct sql_cell *cells, unsigned n)
{
	const struct claims *all = arg;
	size_t i = n ? cells[0].u - 1 : SIZE_MAX;

	if (i < all->n && is_taken(all, i))
		all->rows[i].outcome = SQL_RETRY;
	return 0;
}

/* Somebody has touched them since they were found. */
static enum sql_outcome find_not_taken(struct sql_conn *c, const struct id128 *me,
                                       struct claims *all)
{
	struct buf json = {0};
	struct sql_param params[2];
	enum sql_outcome o;

	claimed_json(all, &json);
	params[0] = sql_utf8(json.data, json.len);
	params[1] = param_session(me);
	o = sql_query(c, STMT_SUB_NOT_OWNED, params, 2, on_not_taken, all);
	buf_release(&json);
	return o;
}

/* Ours from the next epoch on. */
static enum sql_outcome take_rows(struct sql_conn *c, const struct id128 *me, struct claims *all)
{
	struct buf json = {0};
	struct sql_param params[2];
	enum sql_outcome o = SQL_OK;
	size_t n = seen_json(all, &json);

	if (n) {
		params[0] = sql_utf8(json.data, json.len);
		params[1] = param_session(me);
		o = sql_exec(c, STMT_SUB_CLAIM, params, 2);
	}
	buf_release(&json);
	if (o == SQL_OK && n && sql_affected(c) < n)
		o = find_not_taken(c, me, all);
	return o;
}

/* ---- making the others -------------------------------------------------------------------------
 */

static enum sql_outcome create_row(struct sql_conn *c, const struct id128 *me,
                                   struct bus_claim *req, struct claim_row *row)
{
	const struct bus_policy *policy = &req->policy;
	struct sql_param params[] = {
	        sql_u64(req->tenant_id),
	        sql_u64(req->kind),
	        sql_bytes(req->subject.p, req->subject.n),
	        sql_bytes(req->name.p, req->name.n),
	        sql_utf8(req->filters.p, req->filters.n),
	        sql_u64(req->expiry_s),
	        param_session(me),
	        sql_u64(policy->max_attempts),
	        sql_u64(policy->ack_timeout_ms),
	        sql_u64(policy->backoff_ms),
	        sql_u64(policy->backoff_max_ms),
	        sql_u64(policy->max_failed),
	        sql_u64(policy->ordered),
	        sql_u64(policy->pin),
	};
	enum sql_outcome o = sql_exec(c, STMT_SUB_CREATE, params, 14);

	if (o == SQL_DUP) { /* someone was quicker: find theirs */
		row->outcome = SQL_RETRY;
		return SQL_OK;
	}
	req->subscription_id = sql_insert_id(c);
	req->epoch = 1;
	return o;
}

/* Drop what the old one left. */
static enum sql_outcome renew_row(struct sql_conn *c, const struct id128 *me, struct bus_claim *req)
{
	struct sql_param params[] = {sql_u64(req->tenant_id), sql_u64(req->subscription_id)};
	enum sql_outcome o = sql_exec(c, STMT_CURSOR_DELETE, params, 2);

	if (o == SQL_OK)
		o = subscription_sql_filters(c, me, req->tenant_id, req->subscription_id,
		                             req->epoch, req->filters, req->expiry_s);
	return o;
}

/* The session that this one takes the place of has ended, and so has the delay of its will. */
static enum sql_outcome end_wills(struct sql_conn *c, const struct bus_claim *req)
{
	struct sql_param params[] = {sql_u64(req->tenant_id),
	                             sql_bytes(req->subject.p, req->subject.n),
	                             sql_bytes(req->name.p, req->name.n)};

	return sql_exec(c, STMT_WILL_ENDED, params, 3);
}

/* There was none, or one whose time has run out or that is to begin anew: that is taken by now. */
static enum sql_outcome make_row(struct sql_conn *c, const struct id128 *me, struct bus_claim *req,
                                 struct claim_row *row)
{
	enum sql_outcome o = row->found ? renew_row(c, me, req) : create_row(c, me, req, row);

	if (o != SQL_OK || row->outcome != SQL_OK)
		return o;
	o = subscription_sql_cursors(c, me, req->tenant_id, req->subscription_id, req->epoch,
	                             req->starts, req->n_starts);
	if (o == SQL_OK && row->found && req->kind == BUS_SUB_SESSION)
		o = end_wills(c, req);
	memory_set_filters(row->memory, req->filters);
	return o;
}

static enum sql_outcome make_rows(struct sql_conn *c, const struct id128 *me, struct claims *all)
{
	enum sql_outcome o = SQL_OK;

	for (size_t i = 0; o == SQL_OK && i < all->n; i++) {
		if (all->rows[i].outcome == SQL_OK && all->reqs[i]->created)
			o = make_row(c, me, all->reqs[i], &all->rows[i]);
	}
	return o;
}

/* Was one made of a tenant that is gone? Then nothing of this is stored; alone it is told so. */
static enum sql_outcome check_tenants(struct sql_conn *c, struct claims *all)
{
	uint32_t tenants[TOGETHER];
	uint32_t gone;
	size_t n = 0;
	enum sql_outcome o;

	for (size_t i = 0; i < all->n; i++) {
		const struct claim_row *row = &all->rows[i];

		if (row->outcome == SQL_OK && all->reqs[i]->created && !row->found)
			tenants[n++] = all->reqs[i]->tenant_id;
	}
	o = gone_sql_look(c, tenants, n, &gone);
	if (o != SQL_OK || !gone)
		return o;
	all->rows[0].gone = true;
	return SQL_FATAL;
}

/* ---- their cursors -----------------------------------------------------------------------------
 */

/* partition_id, commit_no, acked_through, acked_ahead, gap_from, gap_to */
static int on_cursor(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct claim_memory *m = arg;

	if (n < 6)
		return 1;
	if (m->n_cursors == m->cap) {
		m->cap = m->cap ? m->cap * 2 : 4;
		m->cursors = xrealloc(m->cursors, m->cap * sizeof *m->cursors);
	}
	m->cursors[m->n_cursors++] = (struct bus_cursor){
	        .partition_id = (uint32_t)cells[0].u,
	        .commit_no = cells[1].u,
	        .acked_through = cells[2].u,
	        .acked_ahead = {.n = cells[3].bytes.n},
	        .gap_from = cells[4].u,
	        .gap_to = cells[5].u,
	};
	buf_append_slice(&m->text, cells[3].bytes);
	return 0;
}

static int on_cursor_of(void *arg, const struct sql_cell *cells, unsigned n)
{
	const struct claims *all = arg;

	if (n < 1 || cells[0].u < 1 || cells[0].u > all->n)
		return 1;
	return on_cursor(all->rows[cells[0].u - 1].memory, cells + 1, n - 1);
}

static enum sql_outcome take_cursors(struct sql_conn *c, const struct id128 *me, struct claims *all)
{
	struct buf json = {0};
	struct sql_param params[2];
	enum sql_outcome o;

	claimed_json(all, &json);
	params[0] = sql_utf8(json.data, json.len);
	params[1] = param_session(me);
	o = sql_exec(c, STMT_CURSOR_CLAIM, params, 2);
	if (o == SQL_OK)
		o = sql_query(c, STMT_CURSOR_READ, params, 1, on_cursor_of, all);
	buf_release(&json);
	return o;
}

static int by_partition(const void *a, const void *b)
{
	const struct bus_cursor *x = a;
	const struct bus_cursor *y = b;

	return (x->partition_id > y->partition_id) - (x->partition_id < y->partition_id);
}

static void claim_answer(struct bus_claim *req, const struct claim_row *row)
{
	struct claim_memory *m = row->memory;
	size_t at = m->filters_bytes;

	for (size_t i = 0; i < m->n_cursors; i++) {
		if (BUG("claim-from-behind"))
			m->cursors[i].acked_through -= m->cursors[i].acked_through / 2;
		m->cursors[i].acked_ahead.p = m->text.data + at;
		at += m->cursors[i].acked_ahead.n;
	}
	if (m->n_cursors)
		qsort(m->cursors, m->n_cursors, sizeof *m->cursors, by_partition);
	req->stored_filters = slice(m->text.data, m->filters_bytes);
	req->stored_expiry_s = req->created ? req->expiry_s : row->expiry_s;
	req->cursors = m->cursors;
	req->n_cursors = (uint32_t)m->n_cursors;
	req->memory = m;
}

/* Each owner that lost something, once; last, as its renewals wait for this row. */
static enum sql_outcome tell_owners(struct sql_conn *c, const struct claims *all)
{
	enum sql_outcome o = SQL_OK;

	for (size_t i = 0; o == SQL_OK && i < all->n; i++) {
		const struct claim_row *row = &all->rows[i];
		struct sql_param param = param_session(&row->owner);
		bool told = !row->by_force || row->outcome != SQL_OK;

		for (size_t j = 0; j < i && !told; j++)
			told = all->rows[j].by_force && all->rows[j].outcome == SQL_OK &&
			       id128_eq(&all->rows[j].owner, &row->owner);
		if (!told)
			o = sql_exec(c, STMT_SESSION_TAKEN, &param, 1);
	}
	return o;
}

/* ---- a transaction -----------------------------------------------------------------------------
 */

static bool any_is_ours(const struct claims *all)
{
	for (size_t i = 0; i < all->n; i++) {
		if (all->rows[i].outcome == SQL_OK)
			return true;
	}
	return false;
}

/* Everything up to the commit. */
static enum sql_outcome write_rows(struct sql_conn *c, const struct id128 *me, struct claims *all)
{
	enum sql_outcome o = take_rows(c, me, all);

	if (o == SQL_OK)
		o = make_rows(c, me, all);
	if (o == SQL_OK)
		o = take_cursors(c, me, all);
	if (o == SQL_OK)
		o = tell_owners(c, all);
	if (o == SQL_OK)
		o = check_tenants(c, all);
	return o;
}

static enum sql_outcome claim_rows(struct sql_conn *c, const struct id128 *me, struct claims *all)
{
	enum sql_outcome o = find_rows(c, all);

	for (size_t i = 0; o == SQL_OK && i < all->n; i++)
		judge(me, all->reqs[i], &all->rows[i]);
	if (o == SQL_OK && any_is_ours(all)) {
		o = write_rows(c, me, all);
		if (o == SQL_OK)
			return sql_commit(c);
	}
	sql_rollback(c);
	return o;
}

static void claim_end(const struct sql_conn *c, struct bus_claim *req, struct claim_row *row)
{
	req->outcome = row->outcome;
	if (row->outcome == SQL_FATAL && !req->absent)
		snprintf(req->error, sizeof req->error, "%s",
		         row->gone ? GONE_ERROR : sql_error(c));
	if (row->outcome == SQL_OK && row->found)
		req->policy = row->policy;
	if (row->outcome == SQL_OK)
		claim_answer(req, row);
	else
		memory_free(row->memory);
}

/* Of an attempt before this: it says nothing of one that finds out nothing. */
static void forget_answer(struct bus_claim *req)
{
	req->holder = (struct bus_peer){0};
	req->absent = false;
	req->error[0] = '\0';
}

/* False = nothing is stored, and each may do better by itself. */
static bool claim_some(struct sql_conn *c, const struct id128 *me, struct bus_claim *const *reqs,
                       size_t n)
{
	struct claim_row rows[TOGETHER] = {0};
	struct claims all = {reqs, rows, n};
	enum sql_outcome o;
	bool apart;

	for (size_t i = 0; i < n; i++) {
		rows[i].memory = xcalloc(1, sizeof *rows[i].memory);
		forget_answer(reqs[i]);
	}
	o = claim_rows(c, me, &all);
	apart = n > 1 && o != SQL_OK && o != SQL_UNKNOWN;
	for (size_t i = 0; i < n; i++) {
		if (rows[i].outcome == SQL_OK)
			rows[i].outcome = o;
		if (apart)
			memory_free(rows[i].memory);
		else
			claim_end(c, reqs[i], &rows[i]);
	}
	return !apart;
}

static int by_slice(struct slice a, struct slice b)
{
	size_t n = a.n < b.n ? a.n : b.n;
	int order = n ? memcmp(a.p, b.p, n) : 0;

	return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int by_name(const void *a, const void *b)
{
	const struct bus_claim *x = *(struct bus_claim *const *)a;
	const struct bus_claim *y = *(struct bus_claim *const *)b;
	int order;

	if (x->tenant_id != y->tenant_id)
		return x->tenant_id < y->tenant_id ? -1 : 1;
	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	order = by_slice(x->subject, y->subject);
	return order ? order : by_slice(x->name, y->name);
}

static bool is_among(struct bus_claim *req, struct bus_claim *const *reqs, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (by_name(&req, &reqs[i]) == 0)
			return true;
	}
	return false;
}

/* Sorted, as all nodes do it: who wants the same waits, and is not in each other's way. One that is
 * claimed twice here is first what the first made of it. */
static void work_claims(struct sql_conn *c, const struct id128 *me, void *const *reqs, size_t n)
{
	struct bus_claim *first[TOGETHER] = {0};
	struct bus_claim *again[TOGETHER];
	size_t n_first = 0;
	size_t n_again = 0;

	for (size_t i = 0; i < n; i++) {
		if (is_among(reqs[i], first, n_first))
			again[n_again++] = reqs[i];
		else
			first[n_first++] = reqs[i];
	}
	qsort(first, n_first, sizeof(struct bus_claim *), by_name);
	if (!claim_some(c, me, first, n_first)) {
		for (size_t i = 0; i < n_first; i++)
			claim_some(c, me, &first[i], 1);
	}
	for (size_t i = 0; i < n_again; i++)
		claim_some(c, me, &again[i], 1);
}

static void claim_answered(void *arg, bool ran)
{
	struct bus_claim *req = arg;

	if (!ran)
		req->outcome = SQL_RETRY;
	req->done(req);
}

void claim_sql_claim(struct bus *bus, struct bus_claim *req)
{
	static const struct together_kind kind = {TOGETHER_CLAIM, TOGETHER, work_claims,
	                                          claim_answered};
	struct bus_sql *b = bus_sql_self(bus);

	req->memory = NULL;
	req->cursors = NULL;
	req->n_cursors = 0;
	if (req->kind != BUS_SUB_QUEUE)
		req->policy = BUS_POLICY_DEFAULT;
	together_add(b, &kind, req->tenant_id, req);
}

void claim_sql_release(struct bus *bus, struct bus_claim *req)
{
	(void)bus;
	memory_free(req->memory);
	req->memory = NULL;
	req->cursors = NULL;
	req->n_cursors = 0;
	req->stored_filters = slice(NULL, 0);
}
