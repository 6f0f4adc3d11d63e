/* A share that another node owns: this node's sessions are consumers there. We tell the owner how
 * much room they have, it sends what is theirs, and hears what became of it.
 *
 * What is in flight here, and what was settled lately, is kept in the feeds of the share as held
 * entries: whoever becomes the next owner is told of them, and should it be this node, its feeds
 * recognise them when they come by. */
#include "node/delivery/away.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/queue.h"

#include <inttypes.h>
#include <stdlib.h>

enum {
	DONE_MAX = 1024, /* settled lately, per partition */
	/* Until it is claimed, when its owner cannot be reached; doubled each time. When that ends
	 * dispatch is told: thousands that ask for it meanwhile only keep the database busy. */
	PAUSE_MS = 100,
	PAUSE_MAX_MS = 2000,
};

/* ---- what became of its events -----------------------------------------------------------------
 */

struct aging {
	size_t n; /* so many may go yet */
};

static bool is_aged(void *arg, struct feed_entry *e)
{
	struct aging *a = arg;

	if (e->state != FEED_DONE || !a->n)
		return false;
	a->n--;
	return true;
}

void away_settled(struct place *pl, uint64_t seq)
{
	struct feed_entry *e = feed_held(&pl->feed, seq);

	if (!e || !feed_done_held(&pl->feed, seq))
		return;
	reports_add(pl, seq, e->stamp, PEER_ACKED, slice_str(""));
	if (pl->feed.n_held > DONE_MAX + REMOTE_CREDIT_MAX) /* the oldest half */
		feed_unhold_if(&pl->feed, is_aged, &(struct aging){DONE_MAX / 2});
}

void away_result(struct place *pl, uint64_t seq, enum peer_result result, struct slice reason)
{
	struct feed_entry *e = feed_held(&pl->feed, seq);

	if (result == PEER_ACKED) {
		away_settled(pl, seq);
		return;
	}
	if (!e || e->state != FEED_SENT)
		return;
	reports_add(pl, seq, e->stamp, result, reason);
	feed_unhold(&pl->feed, e);
}

static bool is_below(void *arg, struct feed_entry *e)
{
	return e->state == FEED_DONE && e->seq < *(const uint64_t *)arg;
}

/* What came before the last sweep and is settled was written down by the owner long ago. */
void away_sweep(struct subscription *s)
{
	for (uint32_t i = 0; s->away && i < s->n_places; i++) {
		struct feed *f = &s->places[i]->feed;

		feed_unhold_if(f, is_below, &s->places[i]->swept);
		s->places[i]->swept = f->n_held ? f->held[f->n_held - 1].seq + 1 : 0;
	}
	if (s->away && s->queue) {
		struct feed *f = &s->queue->retry.feed;

		feed_unhold_if(f, is_below, &s->away->swept_retry);
		s->away->swept_retry = f->n_held ? f->held[f->n_held - 1].seq + 1 : 0;
	}
}

/* ---- a consumer leaves -------------------------------------------------------------------------
 */

struct parting {
	struct place *pl;
	const struct consumer *gone;
};

static bool part(void *arg, struct feed_entry *e)
{
	struct parting *p = arg;

	if (e->holder != p->gone || !e->packet_id)
		return false;
	reports_add(p->pl, e->seq, e->stamp, PEER_RETURNED, slice_str(""));
	return true;
}

void away_park(struct subscription *s, const struct consumer *gone)
{
	for (uint32_t i = 0; i < s->n_places; i++)
		feed_unhold_if(&s->places[i]->feed, part, &(struct parting){s->places[i], gone});
	if (s->queue)
		feed_unhold_if(&s->queue->retry.feed, part,
		               &(struct parting){&s->queue->retry, gone});
}

/* Our database is away, and what a timer id means may not be what it was: the owner sends these
 * again, if it knows better. */
void away_forget_rows(struct subscription *s)
{
	struct place *pl = &s->queue->retry;

	for (size_t i = 0; i < pl->feed.n_held; i++) {
		const struct feed_entry *e = &pl->feed.held[i];

		if (e->state == FEED_SENT)
			reports_add(pl, e->seq, e->stamp, PEER_RETURNED, slice_str(""));
	}
	retry_forget(s->queue);
}

/* Were it not told, the owner would take what was in flight here to be so still. */
bool away_leave(struct subscription *s)
{
	struct peer_message m = share_message(s, PEER_DETACH);
	struct dispatch *d = s->space->dispatch;
	bool told;

	if (!s->away || s->away->link == AWAY_SEEKING || d->draining || d->freeing)
		return true; /* a link that goes says the same */
	arrivals_give_back(s);
	if (s->away->link == AWAY_ATTACHED)
		told = reports_send(s);
	else
		told = handover_tell(d, &s->away->owner, &m, s);
	return told && peer_send(d, &s->away->owner, &m);
}

/* ---- the owner ---------------------------------------------------------------------------------
 */

bool away_attached(const struct subscription *s)
{
	return s->away && s->away->link == AWAY_ATTACHED;
}

bool away_is_from(const struct subscription *s, const struct id128 *owner)
{
	return s->away && id128_eq(&s->away->owner, owner);
}

/* Not in flight here. */
static bool is_waiting(void *arg, struct feed_entry *e)
{
	(void)arg;
	return e->state == FEED_READY;
}

static void away_new(struct subscription *s)
{
	remotes_release(s);
	for (uint32_t i = 0; i < s->n_places; i++) {
		feed_unhold_if(&s->places[i]->feed, is_waiting, NULL);
		ranges_release(&s->places[i]->feed.ahead);
		gaps_release(&s->places[i]->gaps); /* its owner's now */
	}
	if (s->queue)
		feed_unhold_if(&s->queue->retry.feed, is_waiting, NULL);
	s->epoch = 0;
	s->stepping = false;
	s->away = xcalloc(1, sizeof *s->away);
	s->away->pause_ms = PAUSE_MS;
	STAILQ_INIT(&s->away->arrivals);
}

void away_end(struct subscription *s)
{
	struct away *a = s->away;

	if (!a)
		return;
	arrivals_release(a);
	reports_drop(a);
	free(a->settled);
	free(a);
	s->away = NULL;
}

/* Until it is attached it is claimed again and again: its owner may be dead. */
static void seek(struct subscription *s)
{
	struct away *a = s->away;

	share_claim_later(s, a->pause_ms);
	a->pause_ms = a->pause_ms * 2 < PAUSE_MAX_MS ? a->pause_ms * 2 : PAUSE_MAX_MS;
}

void away_begin(struct subscription *s, const struct id128 *owner)
{
	bool same;

	if (!s->away)
		away_new(s);
	same = away_is_from(s, owner);
	s->away->doubted = false;
	if (s->state != SUBSCRIPTION_CLAIMING)
		s->state = SUBSCRIPTION_AWAY;
	if (same && s->away->link == AWAY_ATTACHED)
		return;
	s->away->owner = *owner;
	s->away->link = AWAY_SEEKING;
	reports_drop(s->away);
	away_attach(s);
	seek(s);
}

bool away_may_claim(const struct subscription *s)
{
	return s->away->link != AWAY_ATTACHED || s->away->doubted;
}

void away_doubt(struct subscription *s)
{
	s->away->doubted = true;
	share_claim(s);
}

void away_attach(struct subscription *s)
{
	struct dispatch *d = s->space->dispatch;
	struct away *a = s->away;
	struct peer_message m = share_message(s, PEER_ATTACH);

	if (a->link != AWAY_SEEKING || !peer_is_up(d, &a->owner))
		return;
	m.consumers = away_is_leaving(s) ? 0 : (uint32_t)s->rota.n;
	m.expiry_s = s->expiry_s;
	if (!handover_tell(d, &a->owner, &m, s) || !peer_send(d, &a->owner, &m))
		return;
	a->link = AWAY_ASKED;
	a->granted = a->told = 0;
}

void away_detach(struct subscription *s)
{
	s->away->link = AWAY_SEEKING;
	s->away->owner = (struct id128){{0}};
	reports_drop(s->away);
}

void away_lost(struct subscription *s)
{
	away_detach(s);
	s->away->pause_ms = PAUSE_MS;
	seek(s);
	share_claim(s); /* it may be free */
}

void away_room(struct subscription *s)
{
	away_attach(s);
	reports_flush(s);
}

static bool is_done(void *arg, struct feed_entry *e)
{
	(void)arg;
	return e->state == FEED_DONE;
}

/* It may have been changed from outside meanwhile: what was settled may be wanted again. */
static void forget_done(struct subscription *s, uint64_t epoch)
{
	for (uint32_t i = 0; i < s->n_places; i++)
		feed_unhold_if(&s->places[i]->feed, is_done, NULL);
	s->held_since = epoch;
}

static void on_attached(struct subscription *s, const struct peer_message *m)
{
	struct away *a = s->away;

	if (a->link != AWAY_ASKED)
		return;
	if (s->held_epoch != m->epoch && s->held_epoch + 1 != m->epoch)
		forget_done(s, m->epoch);
	share_set_id(s, m->subscription_id);
	s->held_epoch = m->epoch;
	if (s->queue)
		queue_know(s->queue, m->filters, &m->policy);
	a->link = AWAY_ATTACHED;
	a->pause_ms = PAUSE_MS;
	share_flows(s);
	if (s->away)
		arrivals_pump(s);
}

static void on_refused(struct subscription *s)
{
	away_detach(s);
	seek(s); /* not at once: it may be about to have it again */
}

void away_on_message(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
{
	struct subscription *s = m->type == PEER_DELIVER
	                                 ? share_find_id(d, m->tenant_id, m->subscription_id)
	                                 : share_find(d, m->tenant_id, m->kind, m->name);

	bool from_owner = s && away_is_from(s, peer);

	if (m->type == PEER_DELIVER) {
		if (from_owner && s->away->link == AWAY_ATTACHED && s->held_epoch == m->epoch)
			arrivals_take(s, m);
		else
			arrivals_decline(d, peer, m);
	} else if (from_owner && m->type == PEER_ATTACHED) {
		on_attached(s, m);
	} else if (from_owner) {
		on_refused(s);
	}
}
