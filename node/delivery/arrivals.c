/* What the owner of a share sends: each event is a batch of one, given to a session that can take
 * it, or kept until one can; it is held in its feed all that time. */
#include "node/delivery/away.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/queue.h"

#include <inttypes.h>
#include <stdlib.h>

/* An event that nobody here had room for when it came. */
struct arrival {
	STAILQ_ENTRY(arrival) link;
	struct place *place;
	struct batch *batch;
	struct gap gap; /* that its delivery tells of; to 0 = none */
};

static void send_to(struct place *pl, struct session *c, const struct event *ev, struct batch *b,
                    struct gap gap)
{
	static const struct match nothing;
	const struct queue *q = pl->sub->queue;
	uint64_t seq = batch_base_seq(b);
	struct feed_entry *e = feed_held(&pl->feed, seq);
	struct match own;
	struct outgoing out;

	place_outgoing(pl, c, ev, b, &nothing, &own, &out);
	out.gap = gap;
	gap_add(&out.gap, pl->gaps.next);
	gaps_release(&pl->gaps);
	out.gap_partition = batch_partition(b);
	pl->sub->space->dispatch->stats.delivered++;
	rota_gave(&pl->sub->rota, out.qos != 0);
	if (!out.qos) {
		session_send(c, &out);
		away_settled(pl, seq);
		return;
	}
	out.packet_id = packet_ids_take(&c->ids, pl, seq);
	e->packet_id = out.packet_id;
	e->holder = &c->consumer;
	e->state = FEED_SENT;
	if (q)
		ack_timeout_watch(c, out.packet_id, q->policy.ack_timeout_ms);
	session_send(c, &out); /* the last thing done with e: it may be settled at once */
}

/* One event to whoever can take it; false = nobody. */
static bool give(struct place *pl, struct batch *b, struct gap gap)
{
	struct consumer *c;
	struct event ev;

	batch_event(b, 0, &ev);
	if (ev.expires_ms && ev.expires_ms <= clock_wall_ms()) {
		pl->sub->space->dispatch->stats.expired++;
		gap_add(&pl->gaps.next, gap); /* the next one here tells it */
		away_settled(pl, batch_base_seq(b));
		return true;
	}
	c = subscription_pick(pl->sub);
	if (c)
		send_to(pl, session_of(c), &ev, b, gap);
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

void arrivals_release(struct away *a)
{
	while (!STAILQ_EMPTY(&a->arrivals))
		arrival_end(a);
}

void arrivals_give_back(struct subscription *s)
{
	struct arrival *at;

	while ((at = STAILQ_FIRST(&s->away->arrivals))) {
		uint64_t seq = batch_base_seq(at->batch);
		struct feed_entry *e = feed_held(&at->place->feed, seq);

		feed_unhold(&at->place->feed, e);
		reports_add(at->place, seq, batch_stamp(at->batch), PEER_RETURNED, slice_str(""));
		arrival_end(s->away);
	}
}

void arrivals_pump(struct subscription *s)
{
	struct away *a = s->away;
	struct arrival *at;

	if (s->pumping)
		return;
	s->pumping = true;
	while ((at = STAILQ_FIRST(&a->arrivals)) && give(at->place, at->batch, at->gap))
		arrival_end(a);
	if (!s->rota.n || away_is_leaving(s))
		arrivals_give_back(s);
	s->pumping = false;
	if (a->link == AWAY_ATTACHED)
		reports_schedule(s);
}

static void take(struct place *pl, struct batch *b, uint64_t stamp, struct gap gap)
{
	struct away *a = pl->sub->away;
	struct arrival *at;

	batch_set_stamp(b, stamp);
	feed_hold(&pl->feed, batch_base_seq(b), FEED_READY)->stamp = stamp;
	if (!a->n_arrivals && give(pl, b, gap)) {
		batch_unref(b);
		return;
	}
	at = xcalloc(1, sizeof *at);
	at->place = pl;
	at->batch = b;
	at->gap = gap;
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
			reports_add(pl, seq, pd->stamp, PEER_ACKED, slice_str(""));
		return true;
	}
	if (e->packet_id)
		packet_ids_void(&session_of(e->holder)->ids, e->packet_id);
	feed_unhold(&pl->feed, e);
	return false;
}

void arrivals_take(struct subscription *s, const struct peer_message *m)
{
	const struct peer_delivery *pd = m->deliveries;
	struct batch *b;
	struct place *pl;
	uint64_t seq;
	bool room_for_it;
	struct gap gap = {0, 0};
	struct err e;

	if (m->n_deliveries != 1 || pd->partition_id > PARTITION_ID_MAX ||
	    (pd->timer_id && !s->queue))
		return;
	pl = pd->timer_id ? &s->queue->retry : places_need(s, pd->partition_id);
	seq = pd->timer_id ? pd->timer_id : pd->seq;
	room_for_it = s->away->granted && s->rota.n && !away_is_leaving(s);
	if (s->away->granted)
		s->away->granted--;
	reports_schedule(s);
	if (is_here(pl, seq, pd))
		return;
	if (!room_for_it) {
		reports_add(pl, seq, pd->stamp, PEER_RETURNED, slice_str(""));
		return;
	}
	b = batch_decode(s->space->tenant_id, pd->partition_id, seq, 1, m->attributes, m->body, &e);
	if (!b) { /* it did not come from a journal: it stays with whoever made it up */
		log_warn("away", "tenant=%u sub=%" PRIu64 " seq=%" PRIu64 " unreadable: %s",
		         s->space->tenant_id, s->id, pd->seq, e.text);
		return;
	}
	if (m->gap_from < m->gap_to)
		gap = (struct gap){m->gap_from, m->gap_to};
	take(pl, b, pd->stamp, gap);
}

void arrivals_decline(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
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
