#include "node/leader/inbox.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/leader/role.h"

#include <stdlib.h>

enum {
	MOVE_LIMIT = 1000, /* events per transaction */
	LOOK_MS = 20,      /* while there is something now and then */
	LOOK_IDLE_MS =
	        40, /* when there was nothing for a while: the first event waits half of it */
	IDLE_AFTER_MS = 5000,
	LOOK_SHARE = 4,          /* after a look that took long, so much longer a pause: */
	LOOK_PAUSE_MAX_MS = 200, /* up to this, since the next one is narrower */
	PAUSE_MS = 20,           /* after RETRY */
	PAUSE_FATAL_MS = 1000,
};

struct inbox {
	struct bus *bus;
	struct inbox_events events;
	struct role *role;
	struct loop_timer *timer;
	bool busy;         /* `req` is with the bus */
	uint64_t asked_ms; /* when it was made */
	uint64_t found_ms; /* when something was last found; clock_now_ms() */
	struct inbox_stats stats;
	struct bus_collect req;
};

/* ---- moving ------------------------------------------------------------------------------------
 */

static void take_moved(struct inbox *x)
{
	struct bus_collect *req = &x->req;
	uint64_t took_ms = clock_now_ms() - x->asked_ms;

	if (req->n)
		x->events.on_flushed(x->events.arg, req->writer_no, req->flush_no, req->batches,
		                     req->n);
	for (size_t i = 0; i < req->n; i++) {
		x->events.on_stored(x->events.arg, req->batches[i]);
		batch_unref(req->batches[i]);
	}
	if (req->due_in_ms != UINT64_MAX)
		x->events.on_scheduled(x->events.arg, req->due_in_ms);
	for (size_t i = 0; i < req->n_tenants; i++)
		x->events.on_moved(x->events.arg, &req->tenants[i]);
	for (size_t i = 0; i < req->n_late; i++)
		lateness_add(&x->stats.late, req->late_ms[i] + took_ms);
	x->stats.moved += req->n_late;
	x->stats.set_aside += req->set_aside;
	x->stats.waiting = req->waiting;
	x->stats.held = req->held;
	if (req->n_late)
		x->found_ms = clock_now_ms();
	if (req->set_aside)
		log_warn("inbox", "rows=%u set aside: see the view inbox_events", req->set_aside);
	free(req->batches);
	free(req->late_ms);
	free(req->tenants);
}

static uint64_t next_look_ms(const struct inbox *x)
{
	uint64_t at_least = x->req.look_us * LOOK_SHARE / 1000;
	uint64_t ms = clock_now_ms() - x->found_ms < IDLE_AFTER_MS ? LOOK_MS : LOOK_IDLE_MS;

	if (x->req.more)
		return 0;
	if (at_least > LOOK_PAUSE_MAX_MS)
		at_least = LOOK_PAUSE_MAX_MS;
	return ms > at_least ? ms : at_least;
}

static void on_collected(struct bus_collect *req)
{
	struct inbox *x = req->arg;
	uint64_t pause_ms = PAUSE_MS;

	x->busy = false;
	if (req->outcome == SQL_OK) {
		take_moved(x);
		pause_ms = next_look_ms(x);
	} else if (req->outcome == SQL_LOST && role_epoch(x->role) == req->epoch) {
		role_lost(x->role);
	} else if (req->outcome == SQL_FATAL) {
		pause_ms = PAUSE_FATAL_MS;
	}
	if (role_epoch(x->role))
		loop_timer_set(x->timer, pause_ms);
}

static void allow(void *arg, uint32_t tenant_id, bool later, struct bus_allowance *out)
{
	const struct inbox *x = arg;

	x->events.allow(x->events.arg, tenant_id, later, out);
}

static void on_timer(void *arg)
{
	struct inbox *x = arg;

	if (x->busy || !role_epoch(x->role) || x->bus->state != BUS_UP)
		return;
	x->busy = true;
	x->asked_ms = clock_now_ms();
	x->req = (struct bus_collect){.done = on_collected,
	                              .allow = allow,
	                              .arg = x,
	                              .epoch = role_epoch(x->role),
	                              .limit = MOVE_LIMIT};
	x->bus->ops->collect(x->bus, &x->req);
}

/* ---- the role ----------------------------------------------------------------------------------
 */

/* A request that is out sets the timer when it is back. */
static void on_held(void *arg, uint64_t epoch)
{
	struct inbox *x = arg;

	(void)epoch;
	if (!x->busy)
		loop_timer_set(x->timer, 0);
}

static void on_lost(void *arg)
{
	struct inbox *x = arg;

	x->stats.waiting = x->stats.held = 0;
	loop_timer_stop(x->timer);
}

void inbox_on_state(struct inbox *x, enum bus_state state)
{
	role_on_state(x->role, state);
}

void inbox_on_peers(struct inbox *x, const struct bus_peer *peers, size_t n)
{
	role_on_peers(x->role, peers, n);
}

void inbox_stop(struct inbox *x)
{
	role_release(x->role);
}

void inbox_get_stats(const struct inbox *x, struct inbox_stats *out)
{
	*out = x->stats;
	out->leading = role_epoch(x->role) != 0;
}

/* ---- life --------------------------------------------------------------------------------------
 */

struct inbox *inbox_new(struct loop *loop, struct bus *bus, const struct inbox_events *events)
{
	struct inbox *x = xcalloc(1, sizeof *x);
	struct role_events role = {.on_held = on_held, .on_lost = on_lost, .arg = x};

	x->bus = bus;
	x->events = *events;
	x->timer = loop_after(loop, LOOK_IDLE_MS, on_timer, x);
	x->role = role_new(loop, bus, BUS_ROLE_INBOX, &role);
	return x;
}

void inbox_free(struct inbox *x)
{
	if (!x)
		return;
	role_free(x->role);
	loop_timer_free(x->timer);
	free(x);
}
