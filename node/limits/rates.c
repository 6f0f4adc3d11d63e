/* How much tenants publish: a bucket for each of the two rates. A connection whose publish finds
 * one shut stops being read, so that its client is slowed by TCP, and waits in line; the line moves
 * as fast as the bucket fills. Who had its turn goes to the end, who had none keeps its place. */
#include "node/limits/account.h"

#include "base/clock.h"

#include <inttypes.h>

enum {
	RESUME_MAX = 16,     /* connections let on at a time where bytes alone are limited */
	IMPATIENT_MAX = 256, /* looked at in one tick */
	REFUSALS_MAX = 64,   /* in a row; then the connection waits all the same */
};

bool account_limited(const struct account *a)
{
	return a->events.rate || a->bytes.rate;
}

static uint64_t rate_of(const struct account *a, enum limit which)
{
	uint64_t units = account_allowed(a, which);

	return units > BUCKET_RATE_MAX ? 0 : units * 1000;
}

void account_set_rates(struct limits *l, struct account *a)
{
	uint64_t events = account_part(l, a, rate_of(a, LIMIT_EVENTS_PER_S), false);
	uint64_t bytes = account_part(l, a, rate_of(a, LIMIT_BYTES_PER_S), true);
	uint64_t now = clock_now_ms();

	bucket_set(&a->events, moving_set_rate(a, events, false), now);
	bucket_set(&a->bytes, moving_set_rate(a, bytes, true), now);
}

/* ---- what passed ----------------------------------------------------------------------------- */

static bool shut(struct account *a, uint64_t now)
{
	return !bucket_open(&a->events, now) || !bucket_open(&a->bytes, now);
}

static enum limit which_is_shut(const struct account *a, uint64_t now)
{
	return bucket_wait_ms(&a->events, now) ? LIMIT_EVENTS_PER_S : LIMIT_BYTES_PER_S;
}

static void pass(struct limits *l, struct account *a, size_t bytes)
{
	bucket_take(&a->events, 1);
	bucket_take(&a->bytes, bytes);
	a->events_now++;
	a->bytes_now += bytes;
	if (!a->busy)
		account_touch(l, a);
}

void account_roll(struct account *a)
{
	uint32_t at = a->tick++ % ACCOUNT_TICKS;

	a->idle = a->events_now || a->n_waiting ? 0 : a->idle + 1;
	a->awake++;
	a->events_ring[at] = a->events_now;
	a->bytes_ring[at] = a->bytes_now;
	a->waiting_ring[a->tick % ACCOUNT_WAIT_TICKS] = a->peak_waiting;
	a->events_now = a->bytes_now = 0;
	a->peak_waiting = a->n_waiting;
}

uint64_t account_rate(const uint64_t ring[ACCOUNT_TICKS])
{
	uint64_t sum = 0;

	for (int i = 0; i < ACCOUNT_TICKS; i++)
		sum += ring[i];
	return sum * 1000;
}

uint32_t account_hunger(const struct account *a)
{
	uint32_t most = a->peak_waiting;

	for (int i = 0; i < ACCOUNT_WAIT_TICKS; i++) {
		if (a->waiting_ring[i] > most)
			most = a->waiting_ring[i];
	}
	return most;
}

/* ---- the line -------------------------------------------------------------------------------- */

static uint64_t wait_of(const struct account *a, uint64_t now)
{
	uint64_t events = bucket_wait_ms(&a->events, now);
	uint64_t bytes = bucket_wait_ms(&a->bytes, now);

	return events > bytes ? events : bytes;
}

static void set_timer(struct limits *l, uint64_t wait, uint64_t now)
{
	l->room_ms = now + (wait ? wait : 1);
	loop_timer_set(l->room, wait ? wait : 1);
}

static void wait_at(struct limits *l, struct limits_guest *g, struct account *a, uint64_t now)
{
	if (!g->waits_since_ms) {
		g->waits_since_ms = now;
		l->stats.slowed[which_is_shut(a, now)]++;
	}
	if (g->resumed)
		TAILQ_INSERT_HEAD(&a->waiting, g, wait_link);
	else
		TAILQ_INSERT_TAIL(&a->waiting, g, wait_link);
	g->resumed = false;
	g->refusals = 0;
	g->waits_at = a;
	if (!a->n_waiting++)
		TAILQ_INSERT_TAIL(&l->waiting, a, wait_link);
	if (a->n_waiting > a->peak_waiting)
		a->peak_waiting = a->n_waiting;
	account_touch(l, a);
	if (now + wait_of(a, now) < l->room_ms)
		set_timer(l, wait_of(a, now), now);
}

void rates_leave(struct limits *l, struct limits_guest *g)
{
	struct account *a = g->waits_at;

	if (!a)
		return;
	g->waits_at = NULL;
	if (g->waits_for_stock) {
		g->waits_for_stock = false;
		TAILQ_REMOVE(&a->stock.waiting, g, wait_link);
		return;
	}
	TAILQ_REMOVE(&a->waiting, g, wait_link);
	if (!--a->n_waiting)
		TAILQ_REMOVE(&l->waiting, a, wait_link);
}

static void resume(struct limits *l, struct limits_guest *g)
{
	rates_leave(l, g);
	g->resumed = true;
	l->set.on_room(l->set.arg, g->conn_id);
}

static void resume_some(struct limits *l, struct account *a)
{
	int64_t n = a->events.rate ? a->events.level / 1000000 : RESUME_MAX;

	for (n = n > 1 ? n : 1; n > 0 && a->n_waiting; n--)
		resume(l, TAILQ_FIRST(&a->waiting));
}

void rates_resume(void *arg)
{
	struct limits *l = arg;
	uint64_t now = clock_now_ms();
	uint64_t wait = UINT64_MAX;
	struct account *a;
	struct account *next;

	l->room_ms = UINT64_MAX;
	for (a = TAILQ_FIRST(&l->waiting); a; a = next) {
		next = TAILQ_NEXT(a, wait_link);
		if (!shut(a, now))
			resume_some(l, a);
		if (a->n_waiting && wait_of(a, now) < wait)
			wait = wait_of(a, now);
	}
	if (wait != UINT64_MAX)
		set_timer(l, wait, now);
}

static void resume_impatient(struct limits *l, struct account *a, uint64_t now)
{
	struct limits_guest *g;
	struct limits_guest *next;
	int looked = 0;

	for (g = TAILQ_FIRST(&a->waiting); g && looked < IMPATIENT_MAX; g = next, looked++) {
		next = TAILQ_NEXT(g, wait_link);
		if (g->may_refuse && now - g->waits_since_ms >= LIMITS_PATIENCE_MS)
			resume(l, g);
	}
}

/* Those who waited too long come before their turn, to hear so. */
void rates_tick(struct limits *l)
{
	uint64_t now = clock_now_ms();
	struct account *a;
	struct account *next;

	for (a = TAILQ_FIRST(&l->waiting); a; a = next) {
		next = TAILQ_NEXT(a, wait_link);
		resume_impatient(l, a, now);
	}
	rates_resume(l);
}

/* ---- a publish ------------------------------------------------------------------------------- */

/* How long what the client has sent already takes at the account's rate. */
static uint64_t behind_ms(const struct account *a, const struct limits_publish *p)
{
	uint64_t events = p->packet ? p->behind / p->packet : 0;
	uint64_t by_events = a->events.rate ? events * 1000000 / a->events.rate : 0;
	uint64_t by_bytes = a->bytes.rate ? p->behind * UINT64_C(1000000) / a->bytes.rate : 0;

	return by_events > by_bytes ? by_events : by_bytes;
}

static bool goes_too_far(const struct account *a, const struct limits_guest *g,
                         const struct limits_publish *p, uint64_t now)
{
	if (!p->may_refuse || g->refusals >= REFUSALS_MAX)
		return false;
	return (g->waits_since_ms && now - g->waits_since_ms >= LIMITS_PATIENCE_MS) ||
	       behind_ms(a, p) >= LIMITS_PATIENCE_MS;
}

static enum limits_verdict hold(struct limits *l, struct limits_guest *g, struct account *a,
                                const struct limits_publish *p, struct err *e)
{
	uint64_t now = clock_now_ms();
	enum limit which = which_is_shut(a, now);
	uint64_t used = account_used(a, which);

	account_breached(l, a, which, used);
	g->may_refuse = p->may_refuse;
	if (!goes_too_far(a, g, p, now)) {
		wait_at(l, g, a, now);
		return LIMITS_WAIT;
	}
	g->refusals++;
	l->stats.refused[which]++;
	err_set(e, 0, "%s publishes more than its %s of %" PRIu64 ": publish more slowly",
	        a->subject ? "the token's subject" : "the tenant", limit_name(which),
	        account_allowed(a, which));
	return LIMITS_REFUSE;
}

enum limits_verdict limits_publish(struct limits *l, struct limits_guest *g,
                                   const struct limits_publish *p, struct err *e)
{
	uint64_t now = clock_now_ms();

	if (shut(g->tenant, now))
		return hold(l, g, g->tenant, p, e);
	if (g->subject && shut(g->subject, now))
		return hold(l, g, g->subject, p, e);
	pass(l, g->tenant, p->bytes);
	if (g->subject)
		pass(l, g->subject, p->bytes);
	g->waits_since_ms = 0;
	g->refusals = 0;
	g->resumed = false;
	return LIMITS_PASS;
}

/* ---- a will ---------------------------------------------------------------------------------- */

/* false: it would have to wait too long. */
static bool put_off(struct limits *l, struct account *a, uint64_t now, uint64_t *wait_ms)
{
	enum limit which;
	uint64_t wait;

	if (!shut(a, now))
		return true;
	which = which_is_shut(a, now);
	wait = wait_of(a, now);
	account_breached(l, a, which, account_used(a, which));
	if (wait >= LIMITS_PATIENCE_MS) {
		l->stats.refused[which]++;
		return false;
	}
	l->stats.slowed[which]++;
	*wait_ms = wait > *wait_ms ? wait : *wait_ms;
	return true;
}

bool limits_will(struct limits *l, const struct limits_guest *g, size_t bytes, uint64_t *put_off_ms)
{
	const struct tenant *t = g->tenant->tenant;
	uint64_t now = clock_now_ms();
	struct err e;

	*put_off_ms = 0;
	if (t->storage_full) {
		limits_reached(l, t, LIMIT_STORED_BYTES, t->limits.max_stored_bytes, 1);
		return false;
	}
	if (limits_event(l, g, bytes, &e) < 0 || !put_off(l, g->tenant, now, put_off_ms) ||
	    (g->subject && !put_off(l, g->subject, now, put_off_ms)))
		return false;
	pass(l, g->tenant, bytes);
	if (g->subject)
		pass(l, g->subject, bytes);
	return true;
}
