/* $share/NAME/FILTER: one subscription, many sessions that take turns. Its row is made by the first
 * member that comes and kept as long as the longest-lived of its members may be away. */
#include "node/delivery/delivery.h"

#include "base/log.h"
#include "base/mem.h"

#include <stdlib.h>

enum {
	SHARE_PAUSE_MS = 100,
	SHARE_PREFIX = sizeof "$share/" - 1,
};

static const char *share_name(const struct filter *f)
{
	return f->text + SHARE_PREFIX; /* NAME/FILTER */
}

static void wake_waiting(struct subscription *share)
{
	struct op *op;

	while ((op = TAILQ_FIRST(&share->waiting))) {
		TAILQ_REMOVE(&share->waiting, op, waits_link);
		op->waiting = NULL;
		op_step(op);
	}
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
	share_claim(arg);
}

static void claiming_end(struct share_claiming *c, bool again)
{
	struct subscription *share = c->share;

	if (again && share->state == SUBSCRIPTION_CLAIMING) {
		share->state = SUBSCRIPTION_UNCLAIMED;
		dispatch_after(share->space->dispatch, SHARE_PAUSE_MS, claim_again, share);
	}
	buf_release(&c->filters);
	free(c->starts);
	free(c);
	subscription_unref(share);
}

static void on_claim(struct bus_claim *req)
{
	struct share_claiming *c = req->arg;
	struct subscription *share = c->share;
	struct dispatch *d = share->space->dispatch;
	bool taken = req->outcome == SQL_OK && c->generation == d->bus->generation &&
	             share->state == SUBSCRIPTION_CLAIMING;

	if (taken)
		subscription_claimed(share, req);
	else if (req->outcome == SQL_OK && share->state == SUBSCRIPTION_DEAD)
		closing_claimed(d, req);
	d->bus->ops->claim_release(d->bus, req);
	if (taken) {
		subscription_wake(share);
		wake_waiting(share);
	}
	claiming_end(c, !taken);
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
	filters_encode(share, &c->filters);
	c->generation = d->bus->generation;
	c->claim.done = on_claim;
	c->claim.arg = c;
	c->claim.tenant_id = share->space->tenant_id;
	c->claim.kind = BUS_SUB_SHARE;
	c->claim.name = slice_str(share->name);
	c->claim.create = true;
	c->claim.expiry_s = share->expiry_s;
	c->claim.filters = buf_slice(&c->filters);
	c->claim.n_starts = n;
	c->claim.starts = c->starts;
	d->bus->ops->claim(d->bus, &c->claim);
}

void share_claim(struct subscription *share)
{
	const struct dispatch *d = share->space->dispatch;
	struct share_claiming *c;

	if (share->state != SUBSCRIPTION_UNCLAIMED || d->draining || !d->up)
		return; /* when the bus is up again it is asked to */
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
	if (share->state == SUBSCRIPTION_ACTIVE)
		return false;
	op->waiting = share;
	TAILQ_INSERT_TAIL(&share->waiting, op, waits_link);
	return true;
}

void share_leave(struct subscription *share, struct session *s)
{
	session_void_subscription(s, share);
	subscription_park(share, &s->consumer);
	if (--share->members)
		return;
	wake_waiting(share); /* whoever waits for it is leaving too */
	map_del(&share->space->shares, share->name, strlen(share->name));
	closing_start(share, share->expiry_s == 0, share->expiry_s, 0);
	subscription_kill(share);
}
