/* A share that another node owns: this node's sessions are consumers there. We tell the owner how
 * much room they have, it sends what is theirs, and hears what became of it.
 *
 * What is in flight here, and what was settled lately, is kept in the feeds of the share as held
 * entries: whoever becomes the next owner is told of them, and should it be this node, its feeds
 * recognise them when they come by. */
#include "node/delivery/delivery.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/queue.h"

#include <inttypes.h>
#include <stdlib.h>

enum {
	DONE_MAX = 1024, /* settled lately, per partition */
	/* Until it is claimed, when its owner cannot be reached; doubled each time. */
	PAUSE_MS = 100,
	PAUSE_MAX_MS = 500,
};

enum away_link {
	AWAY_SEEKING,  /* the owner is not known or not linked */
	AWAY_ASKED,    /* ATTACH is on its way */
	AWAY_ATTACHED, /* the owner knows our consumers */
};

/* An event that nobody here had room for when it came. */
struct arrival {
	STAILQ_ENTRY(arrival) link;
	struct place *place;
	struct batch *batch;
};

struct away {
	enum away_link link;
	struct id128 owner; /* zero = not known */
	uint32_t pause_ms;
	uint32_t granted; /* and not used yet */
	uint32_t told;    /* consumers, as the owner knows */
	/* Attached, but another says that it owns it: a claim will tell. */
	bool doubted;
	bool scheduled;                /* flush runs at the end of the turn */
	struct peer_delivery *settled; /* not sent yet */
	size_t n_settled;
	size_t cap_settled;
	STAILQ_HEAD(, arrival) arrivals; /* in the order they came */
	uint32_t n_arrivals;
	uint64_t *swept; /* by partition: events below it came before the last sweep */
	uint64_t swept_retry;
};

/* ---- settling ----------------------------------------------------------------------------------
 */

static bool is_leaving(const struct subscription *s)
{
	return s->space->dispatch->leaving || s->space->dispatch->draining;
}

/* The first n are not to be sent (any more). */
static void drop_settled(struct away *a, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free((char *)a->settled[i].reason.p);
	a->n_settled -= n;
	if (a->n_settled)
		memmove(a->settled, a->settled + n, a->n_settled * sizeof *a->settled);
}

static bool send_settled(struct subscription *s)
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
	drop_settled(a, sent);
	return !a->n_settled;
}

/* How much more our consumers can take now. */
static uint32_t room(const struct subscription *s)
{
	uint32_t n = 0;

	for (size_t i = 0; i < s->n_consumers && n < REMOTE_CREDIT_MAX; i++) {
		const struct session *c = session_of(s->consumers[i]);

		if (session_can_begin(c))
			n += (uint32_t)(c->receive_max - c->in_flight);
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
	m.consumers = is_leaving(s) ? 0 : (uint32_t)s->n_consumers;
	if (m.consumers && want > a->granted && a->granted <= want / 2)
		m.credit = want - a->granted;
	if (m.consumers == a->told && !m.credit)
		return;
	if (!peer_send(s->space->dispatch, &a->owner, &m))
		return;
	a->told = m.consumers;
	a->granted = m.consumers ? a->granted + m.credit : 0;
}

static void flush(struct subscription *s)
{
	if (s->away->link == AWAY_ATTACHED && send_settled(s))
		send_credit(s);
}

static void on_turn_end(void *arg)
{
	struct subscription *s = arg;

	if (s->away && s->away->scheduled) {
		s->away->scheduled = false;
		flush(s);
	}
	subscription_unref(s);
}

static void schedule(struct subscription *s)
{
	if (s->away->scheduled || s->space->dispatch->freeing)
		return;
	s->away->scheduled = true;
	s->requests++;
	loop_defer(s->space->dispatch->loop, on_turn_end, s);
}

/* What a peer calls it. */
static struct peer_delivery name_of(const struct place *pl, uint64_t seq, uint64_t stamp)
{
	struct peer_delivery pd = {.seq = seq, .stamp = stamp, .attempt = 1};

	if (queue_is_retry(pl)) {
		pd.timer_id = seq;
		pd.attempt = (uint32_t)stamp;
	} else {
		pd.partition_id = pl->partition->id;
	}
	return pd;
}

static void report(struct place *pl, uint64_t seq, uint64_t stamp, enum peer_result result,
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
	*pd = name_of(pl, seq, stamp);
	pd->result = (uint8_t)result;
	if (reason.n)
		pd->reason = slice(xstrndup(reason.p, reason.n), reason.n);
	schedule(s);
}

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
	report(pl, seq, e->stamp, PEER_ACKED, slice_str(""));
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
	report(pl, seq, e->stamp, result, reason);
	feed_unhold(&pl->feed, e);
}

static bool is_below(void *arg, struct feed_entry *e)
{
	return e->state == FEED_DONE && e->seq < *(const uint64_t *)arg;
}

/* What came before the last sweep and is settled was written down by the owner long ago. */
void away_sweep(struct subscription *s)
{
	for (uint32_t i = 0; s->away && i < s->space->n_partitions; i++) {
		struct feed *f = &s->places[i].feed;

		feed_unhold_if(f, is_below, &s->away->swept[i]);
		s->away->swept[i] = f->n_held ? f->held[f->n_held - 1].seq + 1 : 0;
	}
	if (s->away && s->queue) {
		struct feed *f = &s->queue->retry.feed;

		feed_unhold_if(f, is_below, &s->away->swept_retry);
		s->away->swept_retry = f->n_held ? f->held[f->n_held - 1].seq + 1 : 0;
	}
}

/* ---- what comes --------------------------------------------------------------------------------
 */

static void send_to(struct place *pl, struct session *c, const struct event *ev, struct batch *b)
{
	static const struct match nothing;
	const struct queue *q = pl->sub->queue;
	uint64_t seq = batch_base_seq(b);
	struct feed_entry *e = feed_held(&pl->feed, seq);
	struct match own;
	struct outgoing out;

	place_outgoing(pl, c, ev, b, &nothing, &own, &out);
	pl->sub->space->dispatch->stats.delivered++;
	if (!out.qos) {
		session_send(c, &out);
		away_settled(pl, seq);
		return;
	}
	out.packet_id = session_take_packet_id(c, pl, seq);
	e->packet_id = out.packet_id;
	e->holder = &c->consumer;
	e->state = FEED_SENT;
	if (q)
		ack_timeout_watch(c, out.packet_id, q->policy.ack_timeout_ms);
	session_send(c, &out); /* the last thing done with e: it may be settled at once */
}

/* One event to whoever can take it; false = nobody. */
static bool give(struct place *pl, struct batch *b)
{
	struct consumer *c;
	struct event ev;

	batch_event(b, 0, &ev);
	if (ev.expires_ms && ev.expires_ms <= clock_wall_ms()) {
		pl->sub->space->dispatch->stats.expired++;
		away_settled(pl, batch_base_seq(b));
		return true;
	}
	c = subscription_pick(pl->sub);
	if (c)
		send_to(pl, session_of(c), &ev, b);
	return c != NULL;
}

static void arrival_end(struct away *a)
{
	struct arrival *at = STAILQ_FIRST(&a->arrivals);

	STAILQ_REMOVE_HEAD(&a->arrivals, link);
	a->n_arrivals--;
	batch_unref(at->batch);
	free(at);
}

static void give_back(struct subscription *s)
{
	struct arrival *at;

	while ((at = STAILQ_FIRST(&s->away->arrivals))) {
		uint64_t seq = batch_base_seq(at->batch);
		struct feed_entry *e = feed_held(&at->place->feed, seq);

		feed_unhold(&at->place->feed, e);
		report(at->place, seq, batch_stamp(at->batch), PEER_RETURNED, slice_str(""));
		arrival_end(s->away);
	}
}

void away_pump(struct subscription *s)
{
	struct away *a = s->away;
	struct arrival *at;

	if (s->pumping)
		return;
	s->pumping = true;
	while ((at = STAILQ_FIRST(&a->arrivals)) && give(at->place, at->batch))
		arrival_end(a);
	if (!s->n_consumers || is_leaving(s))
		give_back(s);
	s->pumping = false;
	if (a->link == AWAY_ATTACHED)
		schedule(s);
}

static void take(struct place *pl, struct batch *b, uint64_t stamp)
{
	struct away *a = pl->sub->away;
	struct arrival *at;

	batch_set_stamp(b, stamp);
	feed_hold(&pl->feed, batch_base_seq(b), FEED_READY)->stamp = stamp;
	if (!a->n_arrivals && give(pl, b)) {
		batch_unref(b);
		return;
	}
	at = xcalloc(1, sizeof *at);
	at->place = pl;
	at->batch = b;
	STAILQ_INSERT_TAIL(&a->arrivals, at, link);
	a->n_arrivals++;
}

/* Something of that number is here already. False = it was another event: it is forgotten. */
static bool is_here(struct place *pl, uint64_t seq, const struct peer_delivery *pd)
{
	struct feed_entry *e = feed_held(&pl->feed, seq);

	if (!e)
		return false;
	if (e->stamp == pd->stamp) {
		if (e->state == FEED_DONE)
			report(pl, seq, pd->stamp, PEER_ACKED, slice_str(""));
		return true;
	}
	if (e->packet_id)
		session_void_packet_id(session_of(e->holder), e->packet_id);
	feed_unhold(&pl->feed, e);
	return false;
}

static void on_deliver(struct subscription *s, const struct peer_message *m)
{
	const struct peer_delivery *pd = m->deliveries;
	struct batch *b;
	struct place *pl;
	uint64_t seq;
	bool room_for_it;
	struct err e;

	if (m->n_deliveries != 1 || pd->partition_id >= s->space->n_partitions ||
	    (pd->timer_id && !s->queue))
		return;
	pl = pd->timer_id ? &s->queue->retry : &s->places[pd->partition_id];
	seq = pd->timer_id ? pd->timer_id : pd->seq;
	room_for_it = s->away->granted && s->n_consumers && !is_leaving(s);
	if (s->away->granted)
		s->away->granted--;
	schedule(s);
	if (is_here(pl, seq, pd))
		return;
	if (!room_for_it) {
		report(pl, seq, pd->stamp, PEER_RETURNED, slice_str(""));
		return;
	}
	b = batch_decode(s->space->tenant_id, pd->partition_id, seq, 1, m->attributes, m->body, &e);
	if (!b) { /* it did not come from a journal: it stays with whoever made it up */
		log_warn("away", "tenant=%u sub=%" PRIu64 " seq=%" PRIu64 " unreadable: %s",
		         s->space->tenant_id, s->id, pd->seq, e.text);
		return;
	}
	if (m->gap_from < m->gap_to && !pd->timer_id && pl->partition)
		place_note_gap(pl, m->gap_from, m->gap_to);
	take(pl, b, pd->stamp);
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
	report(p->pl, e->seq, e->stamp, PEER_RETURNED, slice_str(""));
	return true;
}

void away_park(struct subscription *s, const struct consumer *gone)
{
	for (uint32_t i = 0; i < s->space->n_partitions; i++)
		feed_unhold_if(&s->places[i].feed, part, &(struct parting){&s->places[i], gone});
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
			report(pl, e->seq, e->stamp, PEER_RETURNED, slice_str(""));
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
	give_back(s);
	if (s->away->link == AWAY_ATTACHED)
		told = send_settled(s);
	else
		told = away_tell_held(d, &s->away->owner, &m, s);
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
	subscription_make_places(s);
	for (uint32_t i = 0; i < s->space->n_partitions; i++) {
		feed_unhold_if(&s->places[i].feed, is_waiting, NULL);
		ranges_release(&s->places[i].feed.ahead);
	}
	if (s->queue)
		feed_unhold_if(&s->queue->retry.feed, is_waiting, NULL);
	s->epoch = 0;
	s->away = xcalloc(1, sizeof *s->away);
	s->away->pause_ms = PAUSE_MS;
	s->away->swept = xcalloc(s->space->n_partitions, sizeof *s->away->swept);
	STAILQ_INIT(&s->away->arrivals);
}

void away_end(struct subscription *s)
{
	struct away *a = s->away;

	if (!a)
		return;
	while (!STAILQ_EMPTY(&a->arrivals))
		arrival_end(a);
	drop_settled(a, a->n_settled);
	free(a->settled);
	free(a->swept);
	free(a);
	s->away = NULL;
}

/* Until it is attached it is claimed again and again: its owner may be dead. */
static void seek(struct subscription *s)
{
	struct away *a = s->away;

	share_claim_later(s, a->pause_ms);
	if (a->pause_ms < PAUSE_MAX_MS)
		a->pause_ms *= 2;
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
	drop_settled(s->away, s->away->n_settled);
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
	m.consumers = is_leaving(s) ? 0 : (uint32_t)s->n_consumers;
	m.expiry_s = s->expiry_s;
	if (!away_tell_held(d, &a->owner, &m, s) || !peer_send(d, &a->owner, &m))
		return;
	a->link = AWAY_ASKED;
	a->granted = a->told = 0;
}

void away_detach(struct subscription *s)
{
	s->away->link = AWAY_SEEKING;
	s->away->owner = (struct id128){{0}};
	drop_settled(s->away, s->away->n_settled);
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
	flush(s);
}

static bool is_done(void *arg, struct feed_entry *e)
{
	(void)arg;
	return e->state == FEED_DONE;
}

static void on_attached(struct subscription *s, const struct peer_message *m)
{
	struct away *a = s->away;

	if (a->link != AWAY_ASKED)
		return;
	/* changed from outside meanwhile: what was settled may be wanted again */
	for (uint32_t i = 0; i < s->space->n_partitions && s->held_epoch != m->epoch &&
	                     s->held_epoch + 1 != m->epoch;
	     i++)
		feed_unhold_if(&s->places[i].feed, is_done, NULL);
	share_set_id(s, m->subscription_id);
	s->held_epoch = m->epoch;
	if (s->queue)
		queue_know(s->queue, m->filters, &m->policy);
	a->link = AWAY_ATTACHED;
	a->pause_ms = PAUSE_MS;
	share_flows(s);
	if (s->away)
		away_pump(s);
}

static void on_refused(struct subscription *s)
{
	away_detach(s);
	seek(s); /* not at once: it may be about to have it again */
}

/* Nobody here consumes it, and its owner has not heard of that. */
static void decline(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
{
	struct peer_message answer = {.type = PEER_SETTLE,
	                              .tenant_id = m->tenant_id,
	                              .subscription_id = m->subscription_id,
	                              .epoch = m->epoch,
	                              .n_deliveries = 1};
	struct peer_delivery pd;

	if (m->n_deliveries != 1)
		return;
	pd = m->deliveries[0];
	pd.result = PEER_RETURNED;
	answer.deliveries = &pd;
	peer_send(d, peer, &answer);
}

void away_on_message(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
{
	struct subscription *s = m->type == PEER_DELIVER
	                                 ? share_find_id(d, m->tenant_id, m->subscription_id)
	                                 : share_find(d, m->tenant_id, m->kind, m->name);

	bool from_owner = s && away_is_from(s, peer);

	if (m->type == PEER_DELIVER) {
		if (from_owner && s->away->link == AWAY_ATTACHED && s->held_epoch == m->epoch)
			on_deliver(s, m);
		else
			decline(d, peer, m);
	} else if (from_owner && m->type == PEER_ATTACHED) {
		on_attached(s, m);
	} else if (from_owner) {
		on_refused(s);
	}
}

/* ---- telling what is in flight -----------------------------------------------------------------
 */

struct telling {
	struct dispatch *dispatch;
	const struct id128 *to;
	bool failed;
	struct peer_message m;
	struct peer_delivery deliveries[PEER_DELIVERIES_MAX];
};

static void tell_one(struct telling *t, const struct place *pl, const struct feed_entry *e)
{
	struct peer_delivery *pd = &t->deliveries[t->m.n_deliveries];

	if (t->failed || (e->holder && e->holder->kind == CONSUMER_REMOTE))
		return; /* its node tells */
	*pd = name_of(pl, e->seq, e->stamp);
	pd->result = e->state == FEED_DONE ? PEER_ACKED : PEER_FLYING;
	t->m.n_deliveries++;
	if (t->m.n_deliveries < PEER_DELIVERIES_MAX)
		return;
	t->failed = !peer_send(t->dispatch, t->to, &t->m);
	t->m.n_deliveries = 0;
}

bool away_tell_held(struct dispatch *d, const struct id128 *to, const struct peer_message *asked,
                    struct subscription *s)
{
	struct telling t = {.dispatch = d,
	                    .to = to,
	                    .m = {.type = PEER_HELD,
	                          .tenant_id = asked->tenant_id,
	                          .kind = asked->kind,
	                          .name = asked->name,
	                          .deliveries = t.deliveries}};

	if (s)
		t.m.epoch = s->held_epoch;
	for (uint32_t i = 0; s && s->places && i < s->space->n_partitions; i++) {
		const struct feed *f = &s->places[i].feed;

		for (size_t h = 0; h < f->n_held; h++) {
			if (s->away || f->held[h].state != FEED_READY)
				tell_one(&t, &s->places[i], &f->held[h]);
		}
	}
	for (size_t h = 0; s && s->queue && h < s->queue->retry.feed.n_held; h++) {
		const struct feed_entry *e = &s->queue->retry.feed.held[h];

		if (s->away || e->state == FEED_SENT)
			tell_one(&t, &s->queue->retry, e);
	}
	return !t.failed && peer_send(d, to, &t.m);
}
