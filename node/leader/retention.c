#include "node/leader/retention.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/leader/role.h"
#include "node/leader/trouble.h"

#include <stdlib.h>

enum {
	STEP_LIMIT = 500,     /* batches */
	STEP_EVERY_MS = 1000, /* nothing more to do */
	STEP_MORE_MS = 20,    /* more to do: the database has others to serve */
	PAUSE_MS = 1000,      /* after an error */
	MINUTE_MS = 60000,
	EXPIRE_EVERY_MS = 10000,
	EXPIRE_AT_ONCE = 500,
	ASIDE_EVERY_MS = 10000,
};

struct retention {
	struct loop *loop;
	struct bus *bus;
	struct retention_settings settings;
	struct role *role;
	struct loop_timer *timer;
	uint64_t minute_ms; /* when a minute has passed that ended sessions are kept */
	uint64_t expire_ms; /* when the next look at subscriptions is due; clock_now_ms() */
	uint64_t aside_ms;  /* likewise at what was set aside */
	bool stepping;      /* `step` is with the bus */
	bool expiring;      /* likewise `expire` */
	struct retention_stats stats;
	struct trouble trouble; /* of steps */
	struct trouble expiring_trouble;
	struct bus_retain step;
	struct bus_expire expire;
};

/* ---- subscriptions --------------------------------------------------------------------------- */

static void on_expired(struct bus_expire *req)
{
	struct retention *r = req->arg;

	r->expiring = false;
	trouble_note(&r->expiring_trouble, req->outcome, "");
	if (req->outcome != SQL_OK)
		return;
	r->stats.expired += req->removed;
	if (req->removed)
		log_info("retention", "expired_subscriptions=%u", req->removed);
	if (req->removed == req->limit)
		r->expire_ms = 0;
}

/* Whoever does it: it is checked row by row, not by the role. */
static void expire(struct retention *r)
{
	if (r->expiring || clock_now_ms() < r->expire_ms)
		return;
	r->expire_ms = clock_now_ms() + EXPIRE_EVERY_MS;
	r->expiring = true;
	r->expire = (struct bus_expire){.done = on_expired, .arg = r, .limit = EXPIRE_AT_ONCE};
	r->bus->ops->expire(r->bus, &r->expire);
}

/* ---- events ---------------------------------------------------------------------------------- */

static void take_step(struct retention *r)
{
	const struct bus_retain *req = &r->step;

	r->stats.removed += req->removed;
	r->stats.overtaken += req->gaps;
	r->stats.asides += req->asides;
	if (req->aside && !req->aside_more)
		r->aside_ms = clock_now_ms() + ASIDE_EVERY_MS;
	if (req->removed)
		log_debug("retention", "batches=%u gaps=%u removed", req->removed, req->gaps);
	if (req->gaps)
		log_warn("retention", "gaps=%u cursors overtaken: see the table audit", req->gaps);
}

static void on_retained(struct bus_retain *req)
{
	struct retention *r = req->arg;
	uint64_t pause_ms = PAUSE_MS;

	r->stepping = false;
	trouble_note(&r->trouble, req->outcome, req->error);
	if (req->outcome == SQL_OK) {
		if (req->minute)
			r->minute_ms = clock_now_ms() + MINUTE_MS;
		take_step(r);
		pause_ms = req->more ? STEP_MORE_MS : STEP_EVERY_MS;
	} else if (req->outcome == SQL_LOST && role_epoch(r->role) == req->epoch) {
		role_lost(r->role);
	}
	if (role_epoch(r->role))
		loop_timer_set(r->timer, pause_ms);
}

static void on_timer(void *arg)
{
	struct retention *r = arg;

	if (r->stepping || !role_epoch(r->role) || r->bus->state != BUS_UP)
		return;
	expire(r);
	r->stepping = true;
	r->step.epoch = role_epoch(r->role);
	r->step.minute = clock_now_ms() >= r->minute_ms;
	r->step.aside = clock_now_ms() >= r->aside_ms;
	r->bus->ops->retain(r->bus, &r->step);
}

/* ---- the role -------------------------------------------------------------------------------- */

/* A step that is out sets the timer when it is back. */
static void on_held(void *arg, uint64_t epoch)
{
	struct retention *r = arg;

	(void)epoch;
	r->minute_ms = clock_now_ms() + MINUTE_MS;
	if (!r->stepping)
		loop_timer_set(r->timer, STEP_MORE_MS);
}

static void on_lost(void *arg)
{
	struct retention *r = arg;

	trouble_note(&r->trouble, SQL_LOST, ""); /* another's, from now on */
	loop_timer_stop(r->timer);
}

void retention_on_state(struct retention *r, enum bus_state state)
{
	role_on_state(r->role, state);
}

void retention_on_peers(struct retention *r, const struct bus_peer *peers, size_t n)
{
	role_on_peers(r->role, peers, n);
}

void retention_stop(struct retention *r)
{
	role_release(r->role);
}

void retention_get_stats(const struct retention *r, struct retention_stats *out)
{
	*out = r->stats;
	out->failed = r->trouble.total + r->expiring_trouble.total + role_failed(r->role);
	out->leading = role_epoch(r->role) != 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

struct retention *retention_new(struct loop *loop, struct bus *bus,
                                const struct retention_settings *settings)
{
	struct retention *r = xcalloc(1, sizeof *r);
	struct role_events role = {.on_held = on_held, .on_lost = on_lost, .arg = r};

	r->loop = loop;
	r->bus = bus;
	r->settings = *settings;
	r->trouble = (struct trouble){.module = "retention", .what = "old events are not removed"};
	r->expiring_trouble = (struct trouble){.module = "retention",
	                                       .what = "expired subscriptions are not removed"};
	r->step = (struct bus_retain){.done = on_retained,
	                              .arg = r,
	                              .limit = STEP_LIMIT,
	                              .retention_s = settings->retention_s,
	                              .max_stored_bytes = settings->max_stored_bytes,
	                              .aside_s = settings->aside_s,
	                              .max_aside = settings->max_aside};
	r->timer = loop_after(loop, STEP_EVERY_MS, on_timer, r);
	r->role = role_new(loop, bus, BUS_ROLE_RETENTION, &role);
	return r;
}

void retention_free(struct retention *r)
{
	if (!r)
		return;
	role_free(r->role);
	loop_timer_free(r->timer);
	free(r);
}
