/* What is published in SQL, which no connection brings and nobody can be told to send more slowly:
 * the node that moves it takes what the rates allow, and the rest waits where it is. To the rates
 * it is one connection among the tenant's: of what is this node's, it has a bucket of its own, and
 * to the other nodes it is part of this one's use. */
#include "node/limits/account.h"

#include "base/clock.h"
#include "base/mem.h"
#include "tenancy/budget.h"

#include <stdlib.h>

enum { OVER_STEP = 64 };

/* ---- its part of the rates ------------------------------------------------------------------- */

uint64_t moving_rate(const struct account *a, bool bytes)
{
	return a->moving ? account_rate(bytes ? a->moving->bytes_ring : a->moving->events_ring) : 0;
}

uint32_t moving_hunger(const struct account *a)
{
	return a->moving && a->moving->waits_for;
}

uint64_t moving_set_rate(struct account *a, uint64_t part, bool bytes)
{
	struct budget_claim inbox = {moving_rate(a, bytes), moving_hunger(a)};
	struct budget_claim guests = {account_rate(bytes ? a->bytes_ring : a->events_ring),
	                              account_hunger(a)};
	uint64_t now = clock_now_ms();

	if (!a->moving)
		return part;
	bucket_set(bytes ? &a->moving->bytes : &a->moving->events,
	           budget_part(part, (struct budget_claim[]){inbox, guests}, 2), now);
	return budget_part(part, (struct budget_claim[]){guests, inbox}, 2);
}

/* Also who owes something is remembered: what was too large for the rate. */
void moving_roll(struct account *a)
{
	struct account_moving *m = a->moving;
	uint64_t now = clock_now_ms();
	uint32_t at;

	if (!m)
		return;
	at = m->tick++ % ACCOUNT_TICKS;
	if (m->waits)
		m->waits_for = ACCOUNT_WAIT_TICKS;
	else if (m->waits_for)
		m->waits_for--;
	m->idle = m->events_now || m->waits_for ? 0 : m->idle + 1;
	m->events_ring[at] = m->events_now;
	m->bytes_ring[at] = m->bytes_now;
	m->events_now = m->bytes_now = 0;
	m->waits = false; /* unless that is said again */
	if (m->idle <= ACCOUNT_TICKS || bucket_wait_ms(&m->events, now) ||
	    bucket_wait_ms(&m->bytes, now))
		return;
	free(m);
	a->moving = NULL;
}

static struct account_moving *begin(struct limits *l, struct account *a)
{
	if (!a->moving) {
		a->moving = xcalloc(1, sizeof *a->moving);
		account_set_rates(l, a);
	}
	account_touch(l, a);
	return a->moving;
}

/* ---- what may be moved ----------------------------------------------------------------------- */

static uint64_t room_in(struct bucket *b, uint64_t now)
{
	if (!b->rate)
		return UINT64_MAX;
	if (!bucket_open(b, now))
		return 0;
	return (uint64_t)((b->level + 999999) / 1000000);
}

static enum limit shut_of(const struct account_moving *m)
{
	return bucket_wait_ms(&m->events, clock_now_ms()) || !m->bytes.rate ? LIMIT_EVENTS_PER_S
	                                                                    : LIMIT_BYTES_PER_S;
}

/* It waits, and from now on it counts as one that does. */
static void wait_for(struct limits *l, struct account *a)
{
	struct account_moving *m = a->moving;
	enum limit which = shut_of(m);

	if (!m->waits_for)
		l->stats.slowed[which]++;
	m->waits = true;
	m->waits_for = ACCOUNT_WAIT_TICKS;
	account_breached(l, a, which, account_used(a, which));
}

static void take_rates(struct limits *l, uint32_t tenant_id, struct bus_allowance *out)
{
	uint64_t now = clock_now_ms();
	struct account *a = account_get(l, tenant_id, 0);
	struct account_moving *m = begin(l, a);

	out->events = room_in(&m->events, now);
	out->bytes = room_in(&m->bytes, now);
	if (!out->events || !out->bytes)
		wait_for(l, a);
}

static void take_room(struct limits *l, uint32_t tenant_id, struct bus_allowance *out)
{
	struct account *a = account_get(l, tenant_id, 0);
	struct account_moving *m = begin(l, a);

	if (stock_room(l, a, LIMIT_SCHEDULED, &out->scheduled))
		return;
	m->asks = true;
	out->events = 0;
}

/* Nothing of it goes into a storage that is full: it waits where it is. */
static void hold_back(struct limits *l, const struct tenant *t, struct bus_allowance *out)
{
	struct account *a = account_get(l, t->id, 0);
	struct account_moving *m = begin(l, a);

	if (!m->full)
		l->stats.slowed[LIMIT_STORED_BYTES]++;
	m->full = m->waits = true;
	account_breached(l, a, LIMIT_STORED_BYTES, t->limits.max_stored_bytes);
	out->events = 0;
}

static void has_room_again(const struct limits *l, uint32_t tenant_id)
{
	const struct account *a = account_find(l, tenant_id, 0);

	if (a && a->moving)
		a->moving->full = false;
}

void limits_may_move(struct limits *l, uint32_t tenant_id, bool later, struct bus_allowance *out)
{
	const struct tenant *t = registry_tenant(l->set.registry, tenant_id);

	*out = BUS_ALLOWANCE_ALL;
	if (!t)
		return;
	if (t->limits.max_event_bytes)
		out->event_bytes = t->limits.max_event_bytes;
	if (t->storage_full) {
		hold_back(l, t, out);
		return;
	}
	has_room_again(l, tenant_id);
	if (t->limits.max_events_per_s || t->limits.max_bytes_per_s)
		take_rates(l, tenant_id, out);
	if (later)
		take_room(l, tenant_id, out);
}

void limits_moved(struct limits *l, const struct bus_collected *of)
{
	const struct tenant *t = registry_tenant(l->set.registry, of->tenant_id);
	struct account *a;
	struct account_moving *m;

	if (!t)
		return;
	if (of->too_large)
		limits_reached(l, t, LIMIT_EVENT_BYTES, of->largest, of->too_large);
	a = account_get(l, t->id, 0);
	m = a->guests || a->moving ? begin(l, a) : NULL;
	if (m) {
		bucket_take(&m->events, of->events);
		bucket_take(&m->bytes, of->bytes);
		m->events_now += of->events;
		m->bytes_now += of->bytes;
		if (of->held && !m->asks && !m->full)
			wait_for(l, a);
		m->asks = false;
	}
	if (of->scheduled)
		stock_added(a, LIMIT_SCHEDULED, of->scheduled);
	if (of->refused)
		limits_reached(l, t, LIMIT_SCHEDULED, account_used(a, LIMIT_SCHEDULED),
		               of->refused);
	else
		account_free_if_unused(l, a);
}

/* ---- schedules ------------------------------------------------------------------------------- */

size_t limits_over(struct limits *l, uint32_t **tenants)
{
	uint64_t now = clock_now_ms();
	const struct account *a;
	size_t n = 0;

	*tenants = NULL;
	TAILQ_FOREACH (a, &l->busy, busy_link) {
		if (a->subject || !a->moving ||
		    (!bucket_wait_ms(&a->moving->events, now) &&
		     !bucket_wait_ms(&a->moving->bytes, now)))
			continue;
		if (n % OVER_STEP == 0)
			*tenants = xrealloc(*tenants, (n + OVER_STEP) * sizeof **tenants);
		(*tenants)[n++] = a->tenant_id;
	}
	return n;
}

/* It takes of the rates what it published, whatever was in them, and what it did not counts as
 * waiting. */
static void take_ticks(struct limits *l, const struct tenant *t, const struct bus_ticked *of)
{
	struct account *a = account_get(l, t->id, 0);
	struct account_moving *m = begin(l, a);
	uint32_t left_out = of->left_out[BUS_LEFT_OUT_RATE];

	bucket_take(&m->events, of->ticks);
	bucket_take(&m->bytes, of->bytes);
	m->events_now += of->ticks;
	m->bytes_now += of->bytes;
	if (!left_out)
		return;
	m->waits = true;
	m->waits_for = ACCOUNT_WAIT_TICKS;
	limits_reached(l, t, shut_of(m), account_used(a, shut_of(m)), left_out);
}

void limits_ticked(struct limits *l, const struct bus_ticked *of)
{
	const struct tenant *t = registry_tenant(l->set.registry, of->tenant_id);
	struct bus_allowance none;

	if (!t)
		return;
	if (of->left_out[BUS_LEFT_OUT_LARGE])
		limits_reached(l, t, LIMIT_EVENT_BYTES, of->largest,
		               of->left_out[BUS_LEFT_OUT_LARGE]);
	if (of->left_out[BUS_LEFT_OUT_FULL])
		limits_reached(l, t, LIMIT_STORED_BYTES, t->limits.max_stored_bytes,
		               of->left_out[BUS_LEFT_OUT_FULL]);
	if (of->held)
		hold_back(l, t, &none);
	if ((of->ticks || of->left_out[BUS_LEFT_OUT_RATE]) &&
	    (t->limits.max_events_per_s || t->limits.max_bytes_per_s))
		take_ticks(l, t, of);
}
