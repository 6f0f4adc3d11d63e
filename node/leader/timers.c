#include "node/leader/timers.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/leader/role.h"
#include "node/leader/trouble.h"

#include <stdlib.h>

enum {
	FIRE_LIMIT = 1000,     /* events per transaction */
	LOOK_EVERY_MS = 1000,  /* whatever was said about the next */
	PAUSE_MS = 20,         /* after RETRY */
	PAUSE_FATAL_MS = 1000, /* the database refuses it */
	/* What is due sooner than this when it is stored may be due before what was moved last, and
	 * the next look must not begin there. */
	EARLY_MS = 1000,
};

struct timers {
	struct bus *bus;
	struct loop *loop;
	struct timers_events events;
	struct role *role;
	struct loop_timer *timer;
	uint64_t wake_ms;  /* when the next look is to be; clock_now_ms() */
	bool busy;         /* `req` is with the bus */
	bool early;        /* the next look is to begin at the beginning */
	uint64_t fired_ms; /* when `req` was made */
	struct timers_stats stats;
	struct trouble trouble;
	uint32_t *over; /* of `req` */
	struct bus_fire req;
};

/* ---- when --------------------------------------------------------------------------------------
 */

static void arm(struct timers *t)
{
	uint64_t now = clock_now_ms();

	if (role_epoch(t->role) && !t->busy)
		loop_timer_set(t->timer, t->wake_ms > now ? t->wake_ms - now : 0);
}

static void wake_in(struct timers *t, uint64_t ms)
{
	uint64_t at = clock_now_ms() + ms;

	if (at < t->wake_ms)
		t->wake_ms = at;
}

/* ---- moving ------------------------------------------------------------------------------------
 */

static void take_moved(struct timers *t)
{
	struct bus_fire *req = &t->req;
	uint64_t took_ms = clock_now_ms() - t->fired_ms;

	if (req->n && t->events.on_flushed)
		t->events.on_flushed(t->events.arg, req->writer_no, req->flush_no, req->batches,
		                     req->n);
	for (size_t i = 0; i < req->n; i++) {
		t->events.on_stored(t->events.arg, req->batches[i]);
		batch_unref(req->batches[i]);
	}
	for (size_t i = 0; i < req->n_ticked && t->events.on_ticked; i++)
		t->events.on_ticked(t->events.arg, &req->ticked[i]);
	for (size_t i = 0; i < req->n_late; i++)
		lateness_add(&t->stats.late, req->late_ms[i] + took_ms);
	t->stats.fired += req->n_late;
	t->stats.refused += req->refused;
	free(req->batches);
	free(req->late_ms);
	free(req->ticked);
}

static void on_fired(struct bus_fire *req)
{
	struct timers *t = req->arg;

	t->busy = false;
	free(t->over);
	t->over = NULL;
	trouble_note(&t->trouble, req->outcome, req->error);
	switch (req->outcome) {
	case SQL_OK:
		take_moved(t);
		wake_in(t, req->next_in_ms < LOOK_EVERY_MS ? req->next_in_ms : LOOK_EVERY_MS);
		break;
	case SQL_LOST:
		if (role_epoch(t->role) == req->epoch)
			role_lost(t->role);
		break;
	case SQL_FATAL:
		wake_in(t, PAUSE_FATAL_MS);
		break;
	case SQL_RETRY:
	case SQL_UNKNOWN:
	case SQL_DUP:
		t->early = true;
		wake_in(t, PAUSE_MS);
		break;
	}
	arm(t);
}

static void on_timer(void *arg)
{
	struct timers *t = arg;

	if (t->busy || !role_epoch(t->role) || t->bus->state != BUS_UP)
		return;
	t->busy = true;
	t->wake_ms = UINT64_MAX;
	t->fired_ms = clock_now_ms();
	t->req = (struct bus_fire){.done = on_fired,
	                           .arg = t,
	                           .epoch = role_epoch(t->role),
	                           .limit = FIRE_LIMIT,
	                           .early = t->early,
	                           .max_event_bytes = t->events.max_event_bytes};
	if (t->events.over)
		t->req.n_over = t->events.over(t->events.arg, &t->over);
	t->req.over = t->over;
	t->early = false;
	t->bus->ops->fire(t->bus, &t->req);
}

/* ---- the role ----------------------------------------------------------------------------------
 */

static void on_held(void *arg, uint64_t epoch)
{
	struct timers *t = arg;

	(void)epoch;
	t->wake_ms = clock_now_ms();
	t->early = true;
	arm(t);
}

static void on_lost(void *arg)
{
	struct timers *t = arg;

	trouble_note(&t->trouble, SQL_LOST, ""); /* another's, from now on */
	loop_timer_stop(t->timer);
}

void timers_hinted(struct timers *t, uint64_t due_in_ms)
{
	if (!role_epoch(t->role))
		return;
	t->early |= due_in_ms < EARLY_MS;
	wake_in(t, due_in_ms);
	arm(t);
}

void timers_stored(struct timers *t, uint64_t due_in_ms)
{
	if (role_epoch(t->role))
		timers_hinted(t, due_in_ms);
	else if (due_in_ms < LOOK_EVERY_MS)
		t->events.tell(t->events.arg, role_holder(t->role), due_in_ms);
}

void timers_on_state(struct timers *t, enum bus_state state)
{
	role_on_state(t->role, state);
}

void timers_on_peers(struct timers *t, const struct bus_peer *peers, size_t n)
{
	role_on_peers(t->role, peers, n);
}

void timers_stop(struct timers *t)
{
	role_release(t->role);
}

void timers_get_stats(const struct timers *t, struct timers_stats *out)
{
	*out = t->stats;
	out->failed = t->trouble.total + role_failed(t->role);
	out->leading = role_epoch(t->role) != 0;
}

struct timers *timers_new(struct loop *loop, struct bus *bus, const struct timers_events *events)
{
	struct timers *t = xcalloc(1, sizeof *t);
	struct role_events role = {.on_held = on_held, .on_lost = on_lost, .arg = t};

	t->loop = loop;
	t->bus = bus;
	t->events = *events;
	t->wake_ms = UINT64_MAX;
	t->trouble = (struct trouble){.module = "timers", .what = "what is due is not moved"};
	t->timer = loop_after(loop, LOOK_EVERY_MS, on_timer, t);
	t->role = role_new(loop, bus, BUS_ROLE_TIMERS, &role);
	return t;
}

void timers_free(struct timers *t)
{
	if (!t)
		return;
	role_free(t->role);
	loop_timer_free(t->timer);
	free(t);
}
