#include "cluster/store_inbox.h"

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"

#include <stdlib.h>

enum { ROWS_FIRST = 8 };

struct row {
	uint64_t inbox_id;
	uint64_t at_ms; /* wall clock */
	size_t rank;    /* of a crowd: its place among those of its tenant */
	struct batch *one;
};

struct store_inbox {
	struct row *rows; /* by id */
	size_t n;
	size_t cap;
	uint64_t last_id;
	const struct store_layouts *layouts;
};

struct store_inbox *store_inbox_new(const struct store_layouts *layouts)
{
	struct store_inbox *x = xcalloc(1, sizeof *x);

	x->layouts = layouts;
	return x;
}

void store_inbox_free(struct store_inbox *x)
{
	if (!x)
		return;
	for (size_t i = 0; i < x->n; i++)
		batch_unref(x->rows[i].one);
	free(x->rows);
	free(x);
}

void store_inbox_add(struct store_inbox *x, const struct batch *one)
{
	if (x->n == x->cap) {
		x->cap = x->cap ? x->cap * 2 : ROWS_FIRST;
		x->rows = xrealloc(x->rows, x->cap * sizeof *x->rows);
	}
	x->rows[x->n++] = (struct row){
	        .inbox_id = ++x->last_id, .at_ms = clock_wall_ms(), .one = batch_split(one, 0, 1)};
}

static int by_rank(const void *a, const void *b)
{
	const struct row *x = a;
	const struct row *y = b;

	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	return (x->inbox_id > y->inbox_id) - (x->inbox_id < y->inbox_id);
}

static int by_id(const void *a, const void *b)
{
	const struct row *x = a;
	const struct row *y = b;

	return (x->inbox_id > y->inbox_id) - (x->inbox_id < y->inbox_id);
}

/* Every tenant's first comes before any tenant's second. */
static void sort_fair(struct store_inbox *x)
{
	struct map counts = {0};
	struct count {
		uint32_t tenant_id;
		size_t n;
	} * count;
	size_t at = 0;

	for (size_t i = 0; i < x->n; i++) {
		uint32_t tenant_id = batch_tenant(x->rows[i].one);

		count = map_get(&counts, &tenant_id, sizeof tenant_id);
		if (!count) {
			count = xcalloc(1, sizeof *count);
			count->tenant_id = tenant_id;
			map_put(&counts, &count->tenant_id, sizeof count->tenant_id, count);
		}
		x->rows[i].rank = count->n++;
	}
	while ((count = map_next(&counts, &at)))
		free(count);
	map_release(&counts);
	qsort(x->rows, x->n, sizeof *x->rows, by_rank);
}

static void schedule(struct store_leader *scheduled, const struct id128 *me, struct batch *one,
                     struct bus_collect *req)
{
	uint64_t now_ms = clock_wall_ms();
	struct event ev;
	uint64_t in_ms;

	batch_event(one, 0, &ev);
	in_ms = ev.when_ms > now_ms ? ev.when_ms - now_ms : 0;
	if (in_ms < req->due_in_ms)
		req->due_in_ms = in_ms;
	store_leader_store(scheduled, me, one);
}

/* As things are now. */
static uint32_t partition_of(const struct store_inbox *x, const struct batch *one)
{
	struct layout now = store_layouts_now(x->layouts, batch_tenant(one));
	struct event ev;

	batch_event(one, 0, &ev);
	return now.n ? layout_partition(now, &ev) : batch_partition(one);
}

/* ---- what may be moved --------------------------------------------------------------------------
 */

struct part {
	struct bus_collected of;
	struct bus_allowance may;
	bool later; /* may.scheduled is known */
};

static struct part *part_of(struct map *parts, const struct bus_collect *req, uint32_t tenant_id)
{
	struct part *p = map_get(parts, &tenant_id, sizeof tenant_id);

	if (p)
		return p;
	p = xcalloc(1, sizeof *p);
	p->of.tenant_id = tenant_id;
	p->may = BUS_ALLOWANCE_ALL;
	map_put(parts, &p->of.tenant_id, sizeof p->of.tenant_id, p);
	if (req->allow)
		req->allow(req->arg, tenant_id, false, &p->may);
	return p;
}

static uint64_t less(uint64_t have, uint64_t n)
{
	if (have == UINT64_MAX)
		return have;
	return have > n ? have - n : 0;
}

/* false: it stays. */
static bool passes(struct part *p, const struct bus_collect *req, const struct batch *one)
{
	struct event ev;

	batch_event(one, 0, &ev);
	p->of.held |= !p->may.events || !p->may.bytes;
	if (p->of.held)
		return false;
	if (ev.payload.n > p->may.event_bytes) /* it is not moved */
		return true;
	if (ev.when != EVENT_NOW && !p->later && req->allow) {
		struct bus_allowance known = p->may;

		req->allow(req->arg, p->of.tenant_id, true, &p->may);
		if (p->may.events) /* else that is not known yet */
			p->may.events = known.events;
		p->may.bytes = known.bytes;
		p->of.held |= !p->may.events;
		p->later = !p->of.held;
	}
	if (p->of.held)
		return false;
	p->may.events = less(p->may.events, 1);
	p->may.bytes = less(p->may.bytes, ev.payload.n);
	p->of.bytes += ev.payload.n;
	return true;
}

static int by_tenant(const void *a, const void *b)
{
	const struct bus_collected *x = a;
	const struct bus_collected *y = b;

	return (x->tenant_id > y->tenant_id) - (x->tenant_id < y->tenant_id);
}

static void take_parts(struct map *parts, struct bus_collect *req)
{
	struct part *p;
	size_t at = 0;

	req->tenants = xcalloc(parts->count + 1, sizeof *req->tenants);
	while ((p = map_next(parts, &at))) {
		req->held += p->of.held;
		req->tenants[req->n_tenants++] = p->of;
		free(p);
	}
	map_release(parts);
	if (req->n_tenants)
		qsort(req->tenants, req->n_tenants, sizeof *req->tenants, by_tenant);
}

/* One that is too large, or is to wait for its time and one too many, is not kept for people here.
 */
static bool move_one(struct store_inbox *x, struct store_leader *scheduled, const struct id128 *me,
                     struct bus_collect *req, struct gather *out, struct batch *one, struct part *p)
{
	bool later = batch_partition(one) == BATCH_SCHEDULED;
	struct event ev;

	batch_event(one, 0, &ev);
	if (ev.payload.n > p->may.event_bytes) {
		p->of.too_large++;
		p->of.largest = ev.payload.n > p->of.largest ? ev.payload.n : p->of.largest;
		req->set_aside++;
		return false;
	}
	if (later && !p->may.scheduled) {
		p->of.refused++;
		req->set_aside++;
		return false;
	}
	if (later)
		schedule(scheduled, me, one, req);
	else
		gather_add(out, batch_tenant(one), partition_of(x, one), one, 0, SIZE_MAX);
	p->may.scheduled = less(p->may.scheduled, later);
	p->of.scheduled += later;
	p->of.events++;
	return true;
}

void store_inbox_collect(struct store_inbox *x, struct store_leader *scheduled,
                         const struct id128 *me, struct bus_collect *req, struct gather *out)
{
	uint64_t now_ms = clock_wall_ms();
	struct map parts = {0};
	size_t taken = 0;
	size_t kept = 0;

	if (x->n > req->limit)
		sort_fair(x);
	req->late_ms = xcalloc(x->n + 1, sizeof *req->late_ms);
	for (size_t i = 0; i < x->n; i++) {
		struct row row = x->rows[i];
		struct part *p = part_of(&parts, req, batch_tenant(row.one));

		if (taken == req->limit || !passes(p, req, row.one)) {
			req->more |= taken == req->limit;
			x->rows[kept++] = row;
			continue;
		}
		taken++;
		if (move_one(x, scheduled, me, req, out, row.one, p))
			req->late_ms[req->n_late++] = now_ms - row.at_ms;
		batch_unref(row.one);
	}
	x->n = kept;
	if (x->n)
		qsort(x->rows, x->n, sizeof *x->rows, by_id);
	take_parts(&parts, req);
	req->waiting = x->n < BUS_INBOX_WAITING_MAX ? x->n : BUS_INBOX_WAITING_MAX;
	gather_seal(out);
}
