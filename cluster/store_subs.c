#include "cluster/store_subs.h"

#include "base/buf.h"
#include "base/bug.h"
#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "cluster/store.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

struct cursor {
	uint32_t partition_id;
	struct id128 owner; /* copies of the subscription's: what a commit checks */
	uint64_t epoch;
	uint64_t commit_no;
	uint64_t acked_through;
	struct buf acked_ahead;
	uint64_t gap_from;
	uint64_t gap_to;
};

struct sub {
	uint32_t tenant_id;
	uint64_t id;
	struct buf key; /* tenant, kind, subject, name: see key_make */
	struct buf filters;
	uint32_t expiry_s;
	uint64_t expires_ms; /* wall clock; 0 = it has a consumer, or stays for ever */
	struct id128 owner;  /* zero = none */
	uint64_t epoch;
	struct bus_policy policy;
	struct cursor *cursors;
	uint32_t n_cursors;
};

struct store_subs {
	struct map by_key;
	struct map by_id;
	uint64_t last_id;
};

struct store_subs *store_subs_new(void)
{
	return xcalloc(1, sizeof(struct store_subs));
}

/* ---- rows ---------------------------------------------------------------------------------------
 */

static void key_make(struct buf *key, const struct bus_claim *req)
{
	uint8_t kind = (uint8_t)req->kind;

	buf_append(key, &req->tenant_id, sizeof req->tenant_id);
	buf_append(key, &kind, sizeof kind);
	buf_u32be(key, (uint32_t)req->subject.n);
	buf_append_slice(key, req->subject);
	buf_append_slice(key, req->name);
}

static void cursors_drop(struct sub *sub)
{
	for (uint32_t i = 0; i < sub->n_cursors; i++)
		buf_release(&sub->cursors[i].acked_ahead);
	free(sub->cursors);
	sub->cursors = NULL;
	sub->n_cursors = 0;
}

static void sub_free(struct sub *sub)
{
	cursors_drop(sub);
	buf_release(&sub->key);
	buf_release(&sub->filters);
	free(sub);
}

void store_subs_free(struct store_subs *t)
{
	size_t at = 0;
	struct sub *sub;

	if (!t)
		return;
	while ((sub = map_next(&t->by_id, &at)))
		sub_free(sub);
	map_release(&t->by_id);
	map_release(&t->by_key);
	free(t);
}

static void sub_remove(struct store_subs *t, struct sub *sub)
{
	map_del(&t->by_key, sub->key.data, sub->key.len);
	map_del(&t->by_id, &sub->id, sizeof sub->id);
	sub_free(sub);
}

static struct cursor *cursor_find(const struct sub *sub, uint32_t partition_id)
{
	for (uint32_t i = 0; i < sub->n_cursors; i++) {
		if (sub->cursors[i].partition_id == partition_id)
			return &sub->cursors[i];
	}
	return NULL;
}

/* Make those that are missing. */
static void cursors_make(struct sub *sub, const struct bus_cursor *starts, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct cursor *c;

		if (cursor_find(sub, starts[i].partition_id))
			continue;
		sub->cursors = xrealloc(sub->cursors, (sub->n_cursors + 1) * sizeof *sub->cursors);
		c = &sub->cursors[sub->n_cursors++];
		*c = (struct cursor){
		        .partition_id = starts[i].partition_id,
		        .owner = sub->owner,
		        .epoch = sub->epoch,
		        .acked_through = starts[i].acked_through,
		};
		buf_append_slice(&c->acked_ahead, starts[i].acked_ahead);
	}
}

/* Drop those of partitions below. */
static void cursors_leave(struct sub *sub, uint32_t partition_id)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < sub->n_cursors; i++) {
		if (sub->cursors[i].partition_id < partition_id)
			buf_release(&sub->cursors[i].acked_ahead);
		else
			sub->cursors[n++] = sub->cursors[i];
	}
	sub->n_cursors = n;
}

static void filters_set(struct sub *sub, struct slice filters, uint32_t expiry_s)
{
	buf_clear(&sub->filters);
	buf_append_slice(&sub->filters, filters);
	sub->expiry_s = expiry_s;
}

static bool sub_expired(const struct sub *sub)
{
	return sub->expires_ms && sub->expires_ms <= clock_wall_ms();
}

/* ---- claim --------------------------------------------------------------------------------------
 */

static struct sub *sub_make(struct store_subs *t, const struct bus_claim *req, struct buf *take_key)
{
	struct sub *sub = xcalloc(1, sizeof *sub);

	sub->tenant_id = req->tenant_id;
	sub->id = ++t->last_id;
	sub->policy = req->kind == BUS_SUB_QUEUE ? req->policy : BUS_POLICY_DEFAULT;
	sub->key = *take_key;
	*take_key = (struct buf){0};
	map_put(&t->by_key, sub->key.data, sub->key.len, sub);
	map_put(&t->by_id, &sub->id, sizeof sub->id, sub);
	return sub;
}

static void sub_take(struct sub *sub, const struct id128 *me)
{
	sub->owner = *me;
	sub->epoch++;
	sub->expires_ms = 0;
	for (uint32_t i = 0; i < sub->n_cursors; i++) {
		sub->cursors[i].owner = *me;
		sub->cursors[i].epoch = sub->epoch;
	}
}

/* What the caller gets to see: one copy, freed by store_claim_release(). */
static void claim_answer(struct bus_claim *req, const struct sub *sub)
{
	size_t bytes = sub->filters.len + sub->n_cursors * sizeof *req->cursors;
	char *text;

	for (uint32_t i = 0; i < sub->n_cursors; i++)
		bytes += sub->cursors[i].acked_ahead.len;
	req->memory = xmalloc(bytes ? bytes : 1);
	req->cursors = req->memory;
	req->n_cursors = sub->n_cursors;
	text = (char *)(req->cursors + sub->n_cursors);
	for (uint32_t i = 0; i < sub->n_cursors; i++) {
		const struct cursor *c = &sub->cursors[i];

		req->cursors[i] = (struct bus_cursor){
		        .partition_id = c->partition_id,
		        .acked_through = c->acked_through,
		        .commit_no = c->commit_no,
		        .acked_ahead = slice(text, c->acked_ahead.len),
		        .gap_from = c->gap_from,
		        .gap_to = c->gap_to,
		};
		if (c->acked_ahead.len)
			memcpy(text, c->acked_ahead.data, c->acked_ahead.len);
		text += c->acked_ahead.len;
	}
	if (sub->filters.len)
		memcpy(text, sub->filters.data, sub->filters.len);
	req->stored_filters = slice(text, sub->filters.len);
	req->stored_expiry_s = sub->expiry_s;
	req->subscription_id = sub->id;
	req->epoch = sub->epoch;
	req->policy = sub->policy;
}

void store_claim_release(struct bus_claim *req)
{
	free(req->memory);
	req->memory = NULL;
	req->cursors = NULL;
	req->n_cursors = 0;
	req->stored_filters = slice(NULL, 0);
}

static enum sql_outcome claim_row(struct store_subs *t, const struct id128 *me,
                                  const char *(*owner_live)(const void *, const struct id128 *),
                                  const void *arg, struct bus_claim *req, struct buf *key)
{
	struct sub *sub = map_get(&t->by_key, key->data, key->len);
	bool gone = !sub || sub_expired(sub);
	const char *holder;

	req->absent = gone && !req->create;
	if (req->absent)
		return SQL_FATAL;
	if (sub && !req->force && !id128_is_zero(&sub->owner) && !id128_eq(&sub->owner, me) &&
	    (holder = owner_live(arg, &sub->owner))) {
		req->holder.session_id = sub->owner;
		snprintf(req->holder.addr, sizeof req->holder.addr, "%s", holder);
		return SQL_LOST;
	}
	req->created = gone || req->fresh;
	if (!sub)
		sub = sub_make(t, req, key);
	if (req->created)
		cursors_drop(sub);
	sub_take(sub, me);
	if (req->created) {
		filters_set(sub, req->filters, req->expiry_s);
		cursors_make(sub, req->starts, req->n_starts);
	}
	claim_answer(req, sub);
	return SQL_OK;
}

enum sql_outcome store_subs_claim(struct store_subs *t, const struct id128 *me,
                                  const char *(*owner_live)(const void *arg,
                                                            const struct id128 *id),
                                  const void *arg, struct bus_claim *req)
{
	struct buf key = {0};
	enum sql_outcome o;

	key_make(&key, req);
	o = claim_row(t, me, owner_live, arg, req, &key);
	buf_release(&key);
	return o;
}

bool store_subs_owned(const struct store_subs *t, const struct id128 *me,
                      const struct bus_owned_row *row)
{
	const struct sub *sub =
	        map_get(&t->by_id, &row->subscription_id, sizeof row->subscription_id);

	return sub && sub->epoch == row->epoch && id128_eq(&sub->owner, me);
}

/* ---- change, commit, expire ---------------------------------------------------------------------
 */

static void sub_idle(struct sub *sub, uint32_t expiry_s, uint32_t idle_s)
{
	sub->expiry_s = expiry_s;
	sub->expires_ms =
	        expiry_s == UINT32_MAX ? 0 : clock_wall_ms() + (uint64_t)(expiry_s - idle_s) * 1000;
}

enum sql_outcome store_subs_change(struct store_subs *t, const struct id128 *me,
                                   struct bus_change *req)
{
	struct sub *sub = map_get_u64(&t->by_id, req->subscription_id);

	if (!sub || sub->tenant_id != req->tenant_id || sub->epoch != req->epoch)
		return SQL_LOST;
	if (req->verb == BUS_CHANGE_RELEASE && id128_is_zero(&sub->owner))
		return SQL_OK; /* it was, before its outcome was known */
	if (!id128_eq(&sub->owner, me))
		return SQL_LOST;
	switch (req->verb) {
	case BUS_CHANGE_FILTERS:
		filters_set(sub, req->filters, req->expiry_s);
		cursors_make(sub, req->starts, req->n_starts);
		break;
	case BUS_CHANGE_LAYOUT:
		cursors_leave(sub, req->starts[0].partition_id);
		cursors_make(sub, req->starts, req->n_starts);
		break;
	case BUS_CHANGE_RELEASE:
		sub_idle(sub, req->expiry_s, req->idle_s);
		sub->owner = (struct id128){{0}};
		break;
	case BUS_CHANGE_DELETE:
		sub_remove(t, sub);
		break;
	}
	return SQL_OK;
}

/* The cursor that such a commit may move, or NULL. */
static struct cursor *cursor_fenced(struct store_subs *t, const struct id128 *me,
                                    const struct bus_cursor_row *row)
{
	struct sub *sub = map_get_u64(&t->by_id, row->subscription_id);
	struct cursor *c = sub && sub->tenant_id == row->tenant_id
	                           ? cursor_find(sub, row->to.partition_id)
	                           : NULL;

	if (!c || !id128_eq(&c->owner, me) || c->epoch != row->epoch)
		return NULL;
	return c->commit_no == row->to.commit_no || BUG("cursor-without-commit-no") ? c : NULL;
}

static bool cursor_commit(struct store_subs *t, const struct id128 *me,
                          const struct bus_cursor_row *row)
{
	struct cursor *c = cursor_fenced(t, me, row);

	if (!c)
		return false;
	c->commit_no++;
	c->acked_through = row->to.acked_through;
	buf_clear(&c->acked_ahead);
	buf_append_slice(&c->acked_ahead, row->to.acked_ahead);
	c->gap_from = row->to.gap_from;
	c->gap_to = row->to.gap_to;
	return true;
}

enum sql_outcome store_subs_commit(struct store_subs *t, const struct id128 *me,
                                   struct bus_commit *req)
{
	assert(req->n > 0 && req->n <= BUS_CURSORS_MAX);
	for (size_t i = 0; i < req->n; i++)
		req->rows[i].fenced = !cursor_commit(t, me, &req->rows[i]);
	return SQL_OK;
}

static struct bus_cursor_row settle_row(const struct bus_settle *req, size_t i)
{
	return (struct bus_cursor_row){
	        .tenant_id = req->tenant_id,
	        .subscription_id = req->subscription_id,
	        .epoch = req->epoch,
	        .to = req->cursors[i],
	};
}

enum sql_outcome store_subs_settle(struct store_subs *t, const struct id128 *me,
                                   const struct bus_settle *req)
{
	const struct sub *sub = map_get_u64(&t->by_id, req->subscription_id);
	struct bus_cursor_row row;

	if (!sub || sub->tenant_id != req->tenant_id || sub->epoch != req->epoch ||
	    !id128_eq(&sub->owner, me))
		return SQL_LOST;
	for (size_t i = 0; i < req->n_cursors; i++) {
		row = settle_row(req, i);
		if (!cursor_fenced(t, me, &row))
			return SQL_LOST;
	}
	for (size_t i = 0; i < req->n_cursors; i++) {
		row = settle_row(req, i);
		cursor_commit(t, me, &row);
	}
	return SQL_OK;
}

enum sql_outcome store_subs_expire(struct store_subs *t, struct bus_expire *req)
{
	struct sub *sub;
	size_t at = 0;

	req->removed = 0;
	while (req->removed < req->limit && (sub = map_next(&t->by_id, &at))) {
		if (sub_expired(sub)) {
			sub_remove(t, sub);
			req->removed++;
		}
	}
	return SQL_OK;
}

/* ---- retention ----------------------------------------------------------------------------------
 */

/* Its place in a partition: of a layout that it has still to come to, the beginning. */
static uint64_t done_through(const struct sub *sub, uint32_t partition_id)
{
	const struct cursor *c = cursor_find(sub, partition_id);

	if (c)
		return c->acked_through;
	return sub->n_cursors && sub->cursors[0].partition_id < partition_id ? 0 : UINT64_MAX;
}

uint64_t store_subs_pinned(const struct store_subs *t, uint32_t tenant_id, uint32_t partition_id)
{
	const struct sub *sub;
	uint64_t least = UINT64_MAX;
	size_t at = 0;

	while ((sub = map_next(&t->by_id, &at))) {
		uint64_t done = sub->tenant_id == tenant_id && sub->policy.pin
		                        ? done_through(sub, partition_id)
		                        : UINT64_MAX;

		if (done < least)
			least = done;
	}
	return least;
}

uint64_t store_subs_count(const struct store_subs *t, uint32_t tenant_id)
{
	const struct sub *sub;
	uint64_t n = 0;
	size_t at = 0;

	while ((sub = map_next(&t->by_id, &at)))
		n += sub->tenant_id == tenant_id;
	return n;
}

uint32_t store_subs_overtaken(const struct store_subs *t, uint32_t tenant_id, uint32_t partition_id,
                              uint64_t from, uint64_t to)
{
	const struct sub *sub;
	uint32_t n = 0;
	size_t at = 0;

	while ((sub = map_next(&t->by_id, &at))) {
		const struct cursor *c =
		        sub->tenant_id == tenant_id ? cursor_find(sub, partition_id) : NULL;

		n += c && c->acked_through + 1 >= from && c->acked_through + 1 < to;
	}
	return n;
}
