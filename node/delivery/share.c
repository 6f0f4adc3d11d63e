/* $share/NAME/FILTER: one subscription, many sessions that take turns, here and on other nodes. Its
 * row is made by the first member that comes and kept as long as the longest-lived of its members
 * may be away. The node that has the row serves those of the others (remote.c), which have its
 * events from there (away.c). */
#include "node/delivery/delivery.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/queue.h"

#include <stdlib.h>

enum {
	SHARE_PAUSE_MS = 100,
	SHARE_LINK_GRACE_S = 60, /* kept for members whose node cannot be reached */
	SETTLE_PAUSE_MS = 5,     /* the last member has gone: its last answers are being written */
	SHARE_PREFIX = sizeof "$share/" - 1,
};

static const char *share_name(const struct filter *f)
{
	return f->text + SHARE_PREFIX; /* NAME/FILTER */
}

void share_flows(struct subscription *share)
{
	struct op *op;

	share->requests++; /* who is told may be its last member, and leave */
	while ((op = TAILQ_FIRST(&share->waiting))) {
		TAILQ_REMOVE(&share->waiting, op, waits_link);
		op->waiting = NULL;
		op_step(op);
	}
	if (share->queue && share->queue->known && share->state != SUBSCRIPTION_DEAD)
		queue_opened(share);
	subscription_unref(share);
}

/* ---- claiming: find out where it begins, then take or make the row -----------------------------
 */

struct share_claiming {
	struct bus_claim claim;
	struct subscription *share;
	struct bus_cursor *starts;
	struct buf filters;
	uint64_t generation;
};

static void claim_again(void *arg)
{
	struct subscription *share = arg;

	share->claim_due = false;
	share_claim(share);
}

void share_claim_later(struct subscription *share, uint32_t ms)
{
	if (share->claim_due)
		return;
	share->claim_due = true;
	dispatch_after(share->space->dispatch, ms, claim_again, share);
}

static void claiming_end(struct share_claiming *c, bool again)
{
	struct subscription *share = c->share;

	if (again && share->state == SUBSCRIPTION_CLAIMING) {
		share->state = share->away ? SUBSCRIPTION_AWAY : SUBSCRIPTION_UNCLAIMED;
		share_claim_later(share, SHARE_PAUSE_MS);
	}
	buf_release(&c->filters);
	free(c->starts);
	free(c);
	subscription_unref(share);
}

/* A live node has it: our consumers are served from there. */
static void away_to(struct subscription *share, const struct bus_peer *holder)
{
	const struct peer_port *port = share->space->dispatch->port;

	share->state = SUBSCRIPTION_AWAY;
	away_begin(share, &holder->session_id);
	if (!away_attached(share))
		port->expect(port->self, holder);
	share_end_if_unused(share, true); /* it was kept for others, who find it there */
}

/* It is ours, of a generation that is over: nobody else came between. */
static void claimed_unseen(struct subscription *share, uint64_t epoch)
{
	share->held_epoch = epoch;
	if (share->epoch)
		share->epoch = epoch;
}

static void on_claim(struct bus_claim *req)
{
	struct share_claiming *c = req->arg;
	struct subscription *share = c->share;
	struct dispatch *d = share->space->dispatch;
	bool absent = false;
	bool taken = req->outcome == SQL_OK && c->generation == d->bus->generation &&
	             share->state == SUBSCRIPTION_CLAIMING;

	if (taken && !share->queue)
		filters_take_until(share, req->stored_filters);
	if (taken)
		subscription_claimed(share, req);
	else if (req->outcome == SQL_FATAL && share->queue && !req->create &&
	         share->state == SUBSCRIPTION_CLAIMING)
		absent = true;
	else if (req->outcome == SQL_OK && share->state == SUBSCRIPTION_DEAD)
		closing_claimed(d, req);
	else if (req->outcome == SQL_OK && req->epoch == share->held_epoch + 1)
		claimed_unseen(share, req->epoch);
	else if (req->outcome == SQL_LOST && share->state == SUBSCRIPTION_CLAIMING && d->port &&
	         req->holder.addr[0])
		away_to(share, &req->holder);
	d->bus->ops->claim_release(d->bus, req);
	if (taken) {
		subscription_wake(share);
		share_flows(share);
	}
	if (absent) {
		share->state = SUBSCRIPTION_UNCLAIMED;
		queue_absent(share);
	}
	claiming_end(c, !taken && !absent);
}

static void on_starts(void *arg, const uint64_t *starts)
{
	struct share_claiming *c = arg;
	struct subscription *share = c->share;
	struct dispatch *d = share->space->dispatch;
	uint32_t n = share->space->n_partitions;

	if (!starts || share->state != SUBSCRIPTION_CLAIMING) {
		claiming_end(c, true);
		return;
	}
	c->starts = xcalloc(n, sizeof *c->starts);
	for (uint32_t i = 0; i < n; i++)
		c->starts[i] =
		        (struct bus_cursor){.partition_id = i, .acked_through = starts[i] - 1};
	if (!share->queue)
		filters_encode(share, &c->filters);
	c->generation = d->bus->generation;
	c->claim.done = on_claim;
	c->claim.arg = c;
	c->claim.tenant_id = share->space->tenant_id;
	c->claim.kind = share->kind;
	c->claim.name = slice_str(share->name);
	c->claim.create = true;
	c->claim.expiry_s = share->expiry_s;
	c->claim.filters = buf_slice(&c->filters);
	c->claim.n_starts = n;
	c->claim.starts = c->starts;
	if (share->queue)
		queue_fill_claim(share->queue, &c->claim, &c->filters);
	d->bus->ops->claim(d->bus, &c->claim);
}

void share_claim(struct subscription *share)
{
	const struct dispatch *d = share->space->dispatch;
	struct share_claiming *c;

	if (d->draining || d->leaving || !d->up)
		return; /* when the bus is up again it is asked to */
	if (share->state != SUBSCRIPTION_UNCLAIMED &&
	    !(share->state == SUBSCRIPTION_AWAY && away_may_claim(share)))
		return;
	c = xcalloc(1, sizeof *c);
	c->share = share;
	share->state = SUBSCRIPTION_CLAIMING;
	share->requests++;
	starts_find(share->space, share->start, share->start_value, on_starts, c);
}

/* ---- members -----------------------------------------------------------------------------------
 */

struct subscription *share_get(struct space *sp, const struct filter *f, uint32_t expiry_s,
                               enum session_start_at start, uint64_t start_value)
{
	const char *name = share_name(f);
	struct subscription *share = map_get(&sp->shares, name, strlen(name));
	struct filter *own;

	if (!share) {
		share = subscription_new(sp, BUS_SUB_SHARE, name);
		share->state = SUBSCRIPTION_UNCLAIMED;
		share->start = start;
		share->start_value = start_value;
		own = filter_add(share, f->match);
		own->qos = 1; /* each member's own options decide */
		filter_set_until(share, own, f->until);
		filter_plant(share, own);
		map_put(&sp->shares, share->name, strlen(share->name), share);
	}
	if (expiry_s > share->expiry_s)
		share->expiry_s = expiry_s;
	share->members++;
	share_claim(share);
	return share;
}

bool share_wait(struct subscription *share, struct op *op)
{
	if (share->state == SUBSCRIPTION_ACTIVE || away_attached(share))
		return false;
	op->waiting = share;
	TAILQ_INSERT_TAIL(&share->waiting, op, waits_link);
	return true;
}

/* Nothing that its consumers said waits to be written. */
static bool is_settled(const struct subscription *share)
{
	const struct dispatch *d = share->space->dispatch;

	if (d->freeing || !d->up || d->released || share->state != SUBSCRIPTION_ACTIVE)
		return true;
	for (uint32_t i = 0; share->places && i < share->space->n_partitions; i++) {
		if (share->places[i].feed.dirty || share->places[i].feed.committing)
			return false;
	}
	return !share->queue || queue_settled(share->queue) || !share->queue->loaded;
}

void share_leave(struct subscription *share, struct session *s)
{
	session_void_subscription(s, share);
	subscription_park(share, &s->consumer);
	if (--share->members)
		return;
	share_flows(share); /* whoever waits for it is leaving too */
	share_end_if_unused(share, false);
}

static void end_if_unused(void *arg)
{
	share_end_if_unused(arg, false);
}

void share_end_if_unused(struct subscription *share, bool lost)
{
	struct space *sp = share->space;
	uint32_t expiry_s = share->expiry_s;

	if (share->state == SUBSCRIPTION_DEAD || share->members ||
	    (remotes_attached(share) && !sp->dispatch->freeing))
		return;
	if ((!lost && !is_settled(share)) || !away_leave(share)) {
		dispatch_after(sp->dispatch, SETTLE_PAUSE_MS, end_if_unused, share);
		return;
	}
	sp->requests++; /* it may be the last that the space has */
	if (lost && expiry_s < SHARE_LINK_GRACE_S)
		expiry_s = SHARE_LINK_GRACE_S;
	map_del(&sp->shares, share->name, strlen(share->name));
	closing_start(share, expiry_s == 0, expiry_s, 0);
	share_set_id(share, 0);
	subscription_kill(share);
	sp->requests--;
	space_free_if_unused(sp);
}

/* ---- finding them ------------------------------------------------------------------------------
 */

void share_set_id(struct subscription *share, uint64_t id)
{
	struct map *ids = &share->space->share_ids;

	if (share->id && map_get_u64(ids, share->id) == share)
		map_del(ids, &share->id, sizeof share->id);
	share->id = id;
	if (id)
		map_put(ids, &share->id, sizeof share->id, share);
}

struct subscription *share_find(struct dispatch *d, uint32_t tenant_id, enum bus_sub_kind kind,
                                struct slice name)
{
	const struct space *sp = map_get(&d->spaces, &tenant_id, sizeof tenant_id);
	struct subscription *share = sp ? map_get(&sp->shares, name.p, name.n) : NULL;

	return share && share->kind == kind ? share : NULL;
}

struct subscription *share_find_id(struct dispatch *d, uint32_t tenant_id, uint64_t id)
{
	const struct space *sp = map_get(&d->spaces, &tenant_id, sizeof tenant_id);

	return sp ? map_get_u64(&sp->share_ids, id) : NULL;
}

void share_each(struct dispatch *d, void (*fn)(struct subscription *, const void *),
                const void *arg)
{
	struct space *sp;
	size_t at = 0;

	while ((sp = map_next(&d->spaces, &at))) {
		struct subscription *share;
		size_t share_at = 0;

		sp->requests++; /* it may go with its last share: not under our feet */
		while ((share = map_next(&sp->shares, &share_at)))
			fn(share, arg);
		sp->requests--;
		space_free_if_unused(sp);
	}
}
