/* $share/NAME/FILTER: one subscription, many sessions that take turns, here and on other nodes. Its
 * row is made by the first member that comes and kept as long as the longest-lived of its members
 * may be away. The node that has the row serves those of the others (remote.c), which have its
 * events from there (away.c). */
#include "node/delivery/delivery.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/queue.h"
#include "node/mqtt/mqtt_reason.h"

#include <stdlib.h>

enum {
	SHARE_PAUSE_MS = 100, /* between claims; doubled each time that it is refused, up to: */
	PAUSED_PAUSE_MAX_MS = 500,   /* it is paused: a resumed one flows within a second */
	REFUSED_PAUSE_MAX_MS = 5000, /* the database will not have it */
	LIMITED_PAUSE_MS = 1000,
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

/* ---- claiming: take the row; only where there is none, find out where it begins, and make it ---
 *
 * A node that takes over claims thousands, and their rows are there. */

struct share_claiming {
	struct bus_claim claim;
	struct subscription *share;
	uint64_t generation;
	struct bus_cursor *starts; /* [n_starts], of the one to be made; NULL = it is only taken */
	uint32_t n_starts;
	struct buf filters;
};

static bool may_claim(const struct dispatch *d)
{
	return d->up && !d->draining && !d->leaving;
}

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
		share_claim_later(share,
		                  share->claim_pause_ms ? share->claim_pause_ms : SHARE_PAUSE_MS);
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

/* Whoever asks for it now does not get it; sessions that have it from before go on asking. */
static void refuse_waiting(struct subscription *share, uint8_t reason, const char *text)
{
	struct op *op;

	while ((op = TAILQ_FIRST(&share->waiting)))
		op_refuse(op, reason, text);
}

static void claim_limited(struct subscription *share)
{
	share->state = SUBSCRIPTION_UNCLAIMED;
	if (!TAILQ_EMPTY(&share->waiting))
		space_full(share->space);
	refuse_waiting(share, MQTT_REASON_QUOTA_EXCEEDED,
	               "the tenant has as many subscriptions as it may have "
	               "(max_subscriptions), and there is none of this name");
	if (share->state != SUBSCRIPTION_DEAD)
		share_claim_later(share, LIMITED_PAUSE_MS);
}

/* The pause before the next claim of one that cannot be had for now. */
static void longer_pause(struct subscription *share, uint32_t max_ms)
{
	uint32_t ms = share->claim_pause_ms ? share->claim_pause_ms * 2 : SHARE_PAUSE_MS;

	share->claim_pause_ms = ms < max_ms ? ms : max_ms;
}

/* It is an admin's to resume it. */
static void claim_paused(struct subscription *share)
{
	longer_pause(share, PAUSED_PAUSE_MAX_MS);
	refuse_waiting(share, MQTT_REASON_IMPLEMENTATION_ERROR,
	               share->queue ? "this queue is paused: try again when it is resumed"
	                            : "this shared subscription is paused: try again when it is "
	                              "resumed");
}

/* Why should it be otherwise next time? But it may be. */
static void claim_refused(struct subscription *share, const struct bus_claim *req)
{
	longer_pause(share, REFUSED_PAUSE_MAX_MS);
	dispatch_claim_refused(share->space->dispatch, req);
}

/* It is ours, but nobody waits for it any more. */
static void claim_stale(struct subscription *share, struct bus_claim *req)
{
	if (share->state == SUBSCRIPTION_DEAD)
		closing_claimed(share->space->dispatch, req);
	else if (req->epoch == share->held_epoch + 1)
		claimed_unseen(share, req->epoch);
}

enum verdict {
	CLAIM_TAKEN,
	CLAIM_STALE,     /* taken, in a generation that is over, or after it went */
	CLAIM_ELSEWHERE, /* another node has it, which is linked or may be */
	CLAIM_PAUSED,
	CLAIM_ABSENT,  /* it is not there, and was not to be made */
	CLAIM_REFUSED, /* by the database */
	CLAIM_AGAIN,
};

static enum verdict verdict_of(const struct share_claiming *c)
{
	const struct bus_claim *req = &c->claim;
	const struct subscription *share = c->share;
	const struct dispatch *d = share->space->dispatch;
	bool current = share->state == SUBSCRIPTION_CLAIMING;

	if (req->outcome == SQL_OK)
		return current && c->generation == d->bus->generation ? CLAIM_TAKEN : CLAIM_STALE;
	if (req->outcome == SQL_FATAL && current)
		return req->absent ? CLAIM_ABSENT : CLAIM_REFUSED;
	if (req->outcome == SQL_LOST && current && id128_is_zero(&req->holder.session_id))
		return CLAIM_PAUSED;
	if (req->outcome == SQL_LOST && current && d->port && req->holder.addr[0])
		return CLAIM_ELSEWHERE;
	return CLAIM_AGAIN;
}

static void claim_taken(struct subscription *share, const struct bus_claim *req)
{
	if (!share->queue)
		filters_take_until(share, req->stored_filters);
	subscription_claimed(share, req);
}

static void on_starts(void *arg, const struct positions *starts);

static bool is_to_be_made(const struct subscription *share)
{
	return !share->queue || share->queue->create;
}

static void claim_absent(struct share_claiming *c)
{
	struct subscription *share = c->share;

	if (is_to_be_made(share)) {
		starts_find(share->space, share->start, share->start_value, on_starts, c);
		return;
	}
	share->claim_pause_ms = 0;
	share->state = SUBSCRIPTION_UNCLAIMED;
	queue_absent(share);
	claiming_end(c, false);
}

static void on_claim(struct bus_claim *req)
{
	struct share_claiming *c = req->arg;
	struct subscription *share = c->share;
	struct bus *bus = share->space->dispatch->bus;
	enum verdict v = verdict_of(c);

	if (req->create)
		space_made(share->space, req);
	if (v != CLAIM_PAUSED && v != CLAIM_REFUSED && v != CLAIM_ABSENT)
		share->claim_pause_ms = 0;
	if (v == CLAIM_TAKEN)
		claim_taken(share, req);
	else if (v == CLAIM_STALE)
		claim_stale(share, req);
	else if (v == CLAIM_ELSEWHERE)
		away_to(share, &req->holder);
	else if (v == CLAIM_PAUSED)
		claim_paused(share);
	else if (v == CLAIM_REFUSED)
		claim_refused(share, req);
	bus->ops->claim_release(bus, req);
	if (v == CLAIM_ABSENT) {
		claim_absent(c);
		return;
	}
	if (v == CLAIM_TAKEN) {
		subscription_wake(share);
		share_flows(share);
	}
	claiming_end(c, v != CLAIM_TAKEN);
}

static void claim_send(struct share_claiming *c)
{
	struct subscription *share = c->share;
	struct bus *bus = share->space->dispatch->bus;

	c->generation = bus->generation;
	c->claim = (struct bus_claim){
	        .done = on_claim,
	        .arg = c,
	        .tenant_id = share->space->tenant_id,
	        .kind = share->kind,
	        .name = slice_str(share->name),
	        .create = c->starts != NULL,
	        .expiry_s = share->expiry_s,
	        .filters = buf_slice(&c->filters),
	        .n_starts = c->n_starts,
	        .starts = c->starts,
	};
	if (share->queue)
		c->claim.policy = share->queue->policy;
	bus->ops->claim(bus, &c->claim);
}

static void on_starts(void *arg, const struct positions *starts)
{
	struct share_claiming *c = arg;
	struct subscription *share = c->share;
	bool go_on = starts && share->state == SUBSCRIPTION_CLAIMING &&
	             may_claim(share->space->dispatch) && is_to_be_made(share);
	enum dispatch_room room = go_on ? space_may_make(share->space) : DISPATCH_ROOM_LATER;

	if (room != DISPATCH_ROOM) {
		if (room == DISPATCH_FULL)
			claim_limited(share);
		claiming_end(c, room != DISPATCH_FULL);
		return;
	}
	c->starts = starts_cursors(starts);
	c->n_starts = starts->layout.n;
	if (share->queue)
		queue_encode(share->queue, &c->filters);
	else
		filters_encode(share, &c->filters);
	claim_send(c);
}

void share_claim(struct subscription *share)
{
	struct share_claiming *c;

	if (!may_claim(share->space->dispatch))
		return; /* when the bus is up again it is asked to */
	if (share->state != SUBSCRIPTION_UNCLAIMED &&
	    !(share->state == SUBSCRIPTION_AWAY && away_may_claim(share)))
		return;
	c = xcalloc(1, sizeof *c);
	c->share = share;
	share->state = SUBSCRIPTION_CLAIMING;
	share->requests++;
	claim_send(c);
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
		filter_set_until(own, f->until);
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
	for (uint32_t i = 0; i < share->n_places; i++) {
		if (share->places[i]->feed.dirty || share->places[i]->feed.committing)
			return false;
	}
	return !share->queue || queue_settled(share->queue) || !share->queue->loaded;
}

void share_leave(struct subscription *share, struct session *s)
{
	packet_ids_void_of(&s->ids, share);
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
