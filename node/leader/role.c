#include "node/leader/role.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/leader/trouble.h"

#include <inttypes.h>
#include <stdlib.h>

enum { CLAIM_EVERY_MS = 500 };

struct role {
	struct loop *loop;
	struct bus *bus;
	enum bus_role which;
	struct role_events events;
	struct loop_timer *timer;
	uint64_t epoch; /* 0 = not held */
	struct id128 holder;
	bool busy;           /* `req` is with the bus */
	bool again;          /* claim when it is back */
	bool closing;        /* released for good */
	uint64_t generation; /* the request was made in */
	struct trouble trouble;
	struct bus_role_claim req;
};

static const char *role_name(const struct role *r)
{
	static const char *const names[] = {
	        [BUS_ROLE_TIMERS] = "timers",
	        [BUS_ROLE_RETENTION] = "retention",
	        [BUS_ROLE_INBOX] = "inbox",
	        [BUS_ROLE_ISSUERS] = "issuers",
	};

	return names[r->which];
}

static void ask(struct role *r);

static void take(struct role *r)
{
	r->epoch = r->req.epoch;
	r->holder = (struct id128){0};
	log_info("role", "role=%s epoch=%" PRIu64 " held", role_name(r), r->epoch);
	r->events.on_held(r->events.arg, r->epoch);
}

static void note_holder(struct role *r)
{
	char hex[ID128_HEX];

	if (id128_eq(&r->holder, &r->req.holder.session_id))
		return;
	r->holder = r->req.holder.session_id;
	id128_hex(&r->holder, hex);
	log_info("role", "role=%s holder=%s", role_name(r), hex);
}

static void on_asked(struct bus_role_claim *req)
{
	struct role *r = req->arg;
	bool current = r->bus->state == BUS_UP && r->generation == r->bus->generation;

	r->busy = false;
	trouble_note(&r->trouble, req->outcome, role_name(r));
	if (!req->release && current && !r->closing) {
		if (req->outcome == SQL_OK)
			take(r);
		else if (req->outcome == SQL_LOST)
			note_holder(r);
	}
	if (r->again || (r->closing && !req->release && req->outcome == SQL_OK))
		ask(r);
}

/* Claim it, or give it up when closing. */
static void ask(struct role *r)
{
	uint64_t epoch;

	r->again = r->busy;
	if (r->busy || r->bus->state != BUS_UP)
		return;
	epoch = r->epoch ? r->epoch : r->req.epoch; /* not while the request is a worker's */
	r->busy = true;
	r->generation = r->bus->generation;
	r->req = (struct bus_role_claim){.done = on_asked,
	                                 .arg = r,
	                                 .role = r->which,
	                                 .release = r->closing,
	                                 .epoch = r->closing ? epoch : 0};
	r->bus->ops->role_claim(r->bus, &r->req);
}

static void on_tick(void *arg)
{
	struct role *r = arg;

	if (!r->epoch && !r->closing && !r->busy)
		ask(r);
}

static void drop(struct role *r)
{
	if (!r->epoch)
		return;
	log_info("role", "role=%s epoch=%" PRIu64 " lost", role_name(r), r->epoch);
	r->epoch = 0;
	r->events.on_lost(r->events.arg);
}

void role_lost(struct role *r)
{
	drop(r);
}

void role_on_state(struct role *r, enum bus_state state)
{
	r->again = false;
	if (state != BUS_UP)
		drop(r);
	else if (!r->closing)
		ask(r);
}

void role_on_peers(struct role *r, const struct bus_peer *peers, size_t n)
{
	if (id128_is_zero(&r->holder))
		return;
	for (size_t i = 0; i < n; i++) {
		if (id128_eq(&peers[i].session_id, &r->holder))
			return;
	}
	r->holder = (struct id128){0};
	on_tick(r);
}

void role_release(struct role *r)
{
	bool held = r->epoch != 0;

	if (r->closing)
		return;
	r->closing = true;
	if (held)
		ask(r);
	drop(r);
}

uint64_t role_epoch(const struct role *r)
{
	return r->epoch;
}

uint64_t role_failed(const struct role *r)
{
	return r->trouble.total;
}

const struct id128 *role_holder(const struct role *r)
{
	return &r->holder;
}

struct role *role_new(struct loop *loop, struct bus *bus, enum bus_role which,
                      const struct role_events *events)
{
	struct role *r = xcalloc(1, sizeof *r);

	r->loop = loop;
	r->bus = bus;
	r->which = which;
	r->events = *events;
	r->trouble = (struct trouble){.module = "role", .what = "a role is not claimed"};
	r->timer = loop_every(loop, CLAIM_EVERY_MS, on_tick, r);
	if (bus->state == BUS_UP)
		ask(r);
	return r;
}

void role_free(struct role *r)
{
	if (!r)
		return;
	loop_timer_free(r->timer);
	free(r);
}
