/* What the owner of a share is told of those who consume it here: what became of its deliveries,
 * and how much more they can take. Once a turn. */
#include "node/delivery/away.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* The first n are not to be sent (any more). */
static void drop(struct away *a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free((char *)a->settled[i].reason.p);
	a->n_settled -= n;
	if (a->n_settled)
		memmove(a->settled, a->settled + n, a->n_settled * sizeof *a->settled);
}

void reports_drop(struct away *a)
{
	drop(a, a->n_settled);
}

bool reports_send(struct subscription *s)
{
	struct away *a = s->away;
	struct peer_message m = share_message(s, PEER_SETTLE);
	size_t sent = 0;

	if (!a->n_settled)
		return true;
	m.epoch = s->held_epoch;
	while (sent < a->n_settled) {
		size_t left = a->n_settled - sent;

		m.deliveries = a->settled + sent;
		m.n_deliveries = left < PEER_DELIVERIES_MAX ? left : PEER_DELIVERIES_MAX;
		if (!peer_send(s->space->dispatch, &a->owner, &m))
			break;
		sent += m.n_deliveries;
	}
	drop(a, sent);
	return !a->n_settled;
}

/* How much more our consumers can take now. */
static uint32_t room(const struct subscription *s)
{
	uint32_t n = 0;

	for (size_t i = 0; i < s->rota.n && n < REMOTE_CREDIT_MAX; i++) {
		const struct session *c = session_of(s->rota.places[i].consumer);

		if (!session_can_begin(c))
			continue;
		if (s->queue || session_share_filter(c, s)->qos)
			n += (uint32_t)(c->receive_max - c->in_flight);
		else
			n += REMOTE_CREDIT_MAX; /* it needs none */
	}
	if (n > REMOTE_CREDIT_MAX)
		n = REMOTE_CREDIT_MAX;
	return n > s->away->n_arrivals ? n - s->away->n_arrivals : 0;
}

/* Topped up when half of it is used, so that a stream of events does not make a stream of these. */
static void send_credit(struct subscription *s)
{
	struct away *a = s->away;
	struct peer_message m = share_message(s, PEER_CREDIT);
	uint32_t want = room(s);

	m.epoch = s->held_epoch;
	m.consumers = away_is_leaving(s) ? 0 : (uint32_t)s->rota.n;
	if (m.consumers && want > a->granted && a->granted <= want / 2)
		m.credit = want - a->granted;
	if (m.consumers == a->told && !m.credit)
		return;
	if (!peer_send(s->space->dispatch, &a->owner, &m))
		return;
	a->told = m.consumers;
	a->granted = m.consumers ? a->granted + m.credit : 0;
}

void reports_flush(struct subscription *s)
{
	if (s->away->link == AWAY_ATTACHED && reports_send(s))
		send_credit(s);
}

static void on_turn_end(void *arg)
{
	struct subscription *s = arg;

	if (s->away && s->away->scheduled) {
		s->away->scheduled = false;
		reports_flush(s);
	}
	subscription_unref(s);
}

void reports_schedule(struct subscription *s)
{
	if (s->away->scheduled || s->space->dispatch->freeing)
		return;
	s->away->scheduled = true;
	s->requests++;
	loop_defer(s->space->dispatch->loop, on_turn_end, s);
}

void reports_add(struct place *pl, uint64_t seq, uint64_t stamp, enum peer_result result,
                 struct slice reason)
{
	struct subscription *s = pl->sub;
	struct away *a = s->away;
	struct peer_delivery *pd;

	if (a->link == AWAY_SEEKING)
		return; /* the next owner is told when it asks; one that has asked, once we are
		           attached */
	if (a->n_settled == a->cap_settled) {
		a->cap_settled = a->cap_settled ? a->cap_settled * 2 : 16;
		a->settled = xrealloc(a->settled, a->cap_settled * sizeof *a->settled);
	}
	if (reason.n > BUS_REASON_MAX)
		reason.n = BUS_REASON_MAX;
	pd = &a->settled[a->n_settled++];
	*pd = peer_delivery_of(pl, seq, stamp);
	pd->result = (uint8_t)result;
	if (reason.n)
		pd->reason = slice(xstrndup(reason.p, reason.n), reason.n);
	reports_schedule(s);
}
