#include "cluster/store_leader.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>

#define ROLES (BUS_ROLE_ISSUERS + 1)

enum { ROWS_FIRST = 8 };

#define NEVER UINT64_MAX

struct role {
	struct id128 owner; /* zero = nobody */
	uint64_t epoch;
};

struct row {
	uint64_t timer_id;
	uint32_t tenant_id;
	uint32_t rank;     /* of a crowd: its place among those of its tenant */
	uint64_t due_ms;   /* wall clock; NEVER = not before something else happens */
	uint64_t delay_ms; /* will: from when its client is lost */
	bool will;
	bool detached;           /* a will that has no name any more: it is due */
	struct id128 session_id; /* will: its client's node */
	struct batch *one;       /* the scheduled event alone; its name and owner are in it */
};

struct store_leader {
	struct role roles[ROLES];
	struct row *rows; /* in no order */
	size_t n;
	size_t cap;
	uint64_t last_id;
	const struct store_layouts *layouts;
};

struct store_leader *store_leader_new(const struct store_layouts *layouts)
{
	struct store_leader *l = xcalloc(1, sizeof *l);

	l->layouts = layouts;
	return l;
}

void store_leader_free(struct store_leader *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->n; i++)
		batch_unref(l->rows[i].one);
	free(l->rows);
	free(l);
}

uint64_t store_leader_scheduled(const struct store_leader *l, uint32_t tenant_id)
{
	uint64_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		n += l->rows[i].tenant_id == tenant_id && !l->rows[i].will;
	return n;
}

/* ---- roles --------------------------------------------------------------------------------------
 */

bool store_leader_holds(const struct store_leader *l, enum bus_role role, const struct id128 *me,
                        uint64_t epoch)
{
	const struct role *r = &l->roles[role];

	return id128_eq(&r->owner, me) && r->epoch == epoch;
}

enum sql_outcome store_leader_claim(struct store_leader *l, const struct id128 *me,
                                    store_live_fn *live, const void *arg,
                                    struct bus_role_claim *req)
{
	struct role *r = &l->roles[req->role];

	assert((unsigned)req->role < ROLES);
	if (req->release) {
		if (!store_leader_holds(l, req->role, me, req->epoch))
			return SQL_LOST;
		r->owner = (struct id128){0};
		return SQL_OK;
	}
	if (!live(arg, me))
		return SQL_RETRY; /* with the next session */
	if (!id128_eq(&r->owner, me) && live(arg, &r->owner)) {
		req->holder = (struct bus_peer){.session_id = r->owner};
		return SQL_LOST;
	}
	r->owner = *me;
	req->epoch = ++r->epoch;
	return SQL_OK;
}

/* ---- what is stored -----------------------------------------------------------------------------
 */

static void row_add(struct store_leader *l, const struct id128 *me, const struct batch *b,
                    uint32_t i, const struct event *ev)
{
	struct row *r;

	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : ROWS_FIRST;
		l->rows = xrealloc(l->rows, l->cap * sizeof *l->rows);
	}
	r = &l->rows[l->n++];
	*r = (struct row){
	        .timer_id = ++l->last_id,
	        .tenant_id = batch_tenant(b),
	        .due_ms = ev->when_ms,
	        .will = ev->when == EVENT_WILL,
	        .delay_ms = ev->when_ms,
	        .session_id = *me,
	        .one = batch_split(b, i, i + 1),
	};
	if (ev->when == EVENT_AFTER)
		r->due_ms += clock_wall_ms();
	if (r->will)
		r->due_ms = NEVER;
}

static void row_remove(struct store_leader *l, size_t i)
{
	batch_unref(l->rows[i].one);
	l->rows[i] = l->rows[--l->n];
}

static uint64_t will_of(const struct row *r)
{
	struct event ev;

	batch_event(r->one, 0, &ev);
	return ev.will_id;
}

static bool row_is(const struct row *r, uint32_t tenant_id, const struct event *ev, bool will)
{
	struct event mine;

	if (r->tenant_id != tenant_id || r->will != will || r->detached)
		return false;
	batch_event(r->one, 0, &mine);
	return slice_eq(mine.owner, ev->owner) && slice_eq(mine.name, ev->name);
}

/* False: there was none of that name. */
static bool cancel(struct store_leader *l, uint32_t tenant_id, const struct event *ev)
{
	for (size_t i = 0; i < l->n; i++) {
		if (row_is(&l->rows[i], tenant_id, ev, false)) {
			row_remove(l, i);
			return true;
		}
	}
	return false;
}

/* As timer_sql.c's change_will(). */
static void change_will(struct store_leader *l, uint32_t tenant_id, const struct event *ev)
{
	uint64_t now_ms = clock_wall_ms();

	for (size_t i = l->n; i-- > 0;) {
		struct row *r = &l->rows[i];
		bool same;

		if (!row_is(r, tenant_id, ev, true))
			continue;
		same = will_of(r) == ev->will_id;
		if (ev->when == EVENT_WILL_LOST) {
			if (same && r->due_ms == NEVER) {
				r->delay_ms = ev->when_ms;
				r->due_ms = now_ms + r->delay_ms;
			}
		} else if (ev->when == EVENT_WILL_DROP) {
			if (same)
				row_remove(l, i);
		} else if (r->delay_ms > 0 || same) {
			row_remove(l, i);
		} else if (ev->when == EVENT_WILL) {
			r->due_ms = now_ms;
			r->detached = true;
		}
	}
}

void store_leader_store(struct store_leader *l, const struct id128 *me, struct batch *b)
{
	for (uint32_t i = 0; i < batch_count(b); i++) {
		struct event ev;
		bool found;

		batch_event(b, i, &ev);
		if (ev.when >= EVENT_WILL && ev.when != EVENT_CANCEL) {
			change_will(l, batch_tenant(b), &ev);
			if (ev.when == EVENT_WILL)
				row_add(l, me, b, i, &ev);
			continue;
		}
		found = ev.name.n && cancel(l, batch_tenant(b), &ev);
		if (ev.when == EVENT_CANCEL && !found)
			batch_set_missing(b, i);
		if (ev.when != EVENT_CANCEL)
			row_add(l, me, b, i, &ev);
	}
}

/* As STMT_WILL_ENDED. */
void store_leader_end_wills(struct store_leader *l, uint32_t tenant_id, struct slice owner,
                            struct slice name)
{
	struct event of = {.owner = owner, .name = name};

	for (size_t i = 0; i < l->n; i++) {
		if (!row_is(&l->rows[i], tenant_id, &of, true))
			continue;
		l->rows[i].due_ms = clock_wall_ms();
		l->rows[i].detached = true;
	}
}

/* ---- what is due --------------------------------------------------------------------------------
 */

static int by_due(const void *a, const void *b)
{
	const struct row *x = a;
	const struct row *y = b;

	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	if (x->due_ms != y->due_ms)
		return x->due_ms < y->due_ms ? -1 : 1;
	return (x->timer_id > y->timer_id) - (x->timer_id < y->timer_id);
}

/* Every tenant's first comes before any tenant's second. The rows are sorted by due time. */
static void set_ranks(struct row *rows, size_t n)
{
	struct map counts = {0};
	struct count {
		uint32_t tenant_id;
		uint32_t n;
	} * count;
	size_t at = 0;

	for (size_t i = 0; i < n; i++) {
		count = map_get(&counts, &rows[i].tenant_id, sizeof rows[i].tenant_id);
		if (!count) {
			count = xcalloc(1, sizeof *count);
			count->tenant_id = rows[i].tenant_id;
			map_put(&counts, &count->tenant_id, sizeof count->tenant_id, count);
		}
		rows[i].rank = count->n++;
	}
	while ((count = map_next(&counts, &at)))
		free(count);
	map_release(&counts);
}

/* Put what is due at the end of the rows, first to be moved first. Returns how many. */
static size_t sort_due(struct store_leader *l, uint64_t now_ms, uint32_t limit, uint64_t *next_ms)
{
	size_t waiting = 0;
	size_t n;

	*next_ms = NEVER;
	for (size_t i = 0; i < l->n; i++) {
		struct row swap = l->rows[i];

		if (swap.due_ms <= now_ms)
			continue;
		if (swap.due_ms < *next_ms)
			*next_ms = swap.due_ms;
		l->rows[i] = l->rows[waiting];
		l->rows[waiting++] = swap;
	}
	n = l->n - waiting;
	if (!n)
		return 0;
	qsort(l->rows + waiting, n, sizeof *l->rows, by_due);
	if (n > limit) {
		set_ranks(l->rows + waiting, n);
		qsort(l->rows + waiting, n, sizeof *l->rows, by_due);
		for (size_t i = waiting; i < l->n; i++)
			l->rows[i].rank = 0;
	}
	return n;
}

/* What it becomes part of has no name, owner or due time any more. */
static void gather_row(const struct store_leader *l, struct gather *out, const struct row *r,
                       uint64_t now_ms)
{
	struct layout now = store_layouts_now(l->layouts, r->tenant_id);
	struct event ev;
	struct err e;
	struct batch *plain;

	batch_event(r->one, 0, &ev);
	plain = batch_decode(r->tenant_id, 0, 1, 1, batch_attributes(r->one), batch_body(r->one),
	                     &e);
	if (!plain)
		fatal("an event of ours is not one: %s", e.text);
	gather_add(out, r->tenant_id, now.n ? layout_partition(now, &ev) : ev.partition_id, plain,
	           ev.will_expiry_ms ? now_ms + ev.will_expiry_ms : 0, SIZE_MAX);
	batch_unref(plain);
}

enum sql_outcome store_leader_fire(struct store_leader *l, const struct id128 *me,
                                   store_live_fn *live, const void *arg, struct bus_fire *req,
                                   struct gather *out)
{
	uint64_t now_ms = clock_wall_ms();
	uint64_t next_ms;
	size_t due;
	size_t n;

	if (!store_leader_holds(l, BUS_ROLE_TIMERS, me, req->epoch) && !BUG("leader-unchecked"))
		return SQL_LOST;
	for (size_t i = 0; i < l->n; i++) {
		struct row *r = &l->rows[i];

		if (r->will && r->due_ms == NEVER && !live(arg, &r->session_id))
			r->due_ms = now_ms + r->delay_ms;
	}
	due = sort_due(l, now_ms, req->limit, &next_ms);
	n = due < req->limit ? due : req->limit;
	req->late_ms = xcalloc(n + 1, sizeof *req->late_ms);
	for (size_t i = l->n - due; i < l->n - due + n; i++) {
		gather_row(l, out, &l->rows[i], now_ms);
		req->late_ms[req->n_late++] = now_ms - l->rows[i].due_ms;
		batch_unref(l->rows[i].one);
	}
	if (due > n)
		memmove(l->rows + l->n - due, l->rows + l->n - due + n,
		        (due - n) * sizeof *l->rows);
	l->n -= n;
	req->next_in_ms = due > n ? 0 : next_ms == NEVER ? UINT64_MAX : next_ms - now_ms;
	gather_seal(out);
	return SQL_OK;
}
