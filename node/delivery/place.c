/* A subscription's position in one partition: from an event that matched to a consumer that can
 * take it, and what became of it. Who takes turns is subscription.c's; where it reads,
 * partition.c's. */
#include "node/delivery/delivery.h"

#include "base/bug.h"
#include "base/clock.h"
#include "node/delivery/queue.h"
#include "tenancy/topic.h"

/* ---- delivering --------------------------------------------------------------------------------
 */

/* 0 = it never expires; what began before it expired is finished, with the shortest of times. */
static uint32_t remaining_s(const struct event *ev)
{
	uint64_t now = clock_wall_ms();

	if (!ev->expires_ms)
		return 0;
	return ev->expires_ms > now ? (uint32_t)((ev->expires_ms - now + 999) / 1000) : 1;
}

/* A queue is not a plain subscription: its events are done when they are acknowledged, so that each
 * goes out at QoS 1, also one that was published at QoS 0 (see ARCHITECTURE.md), and to a filter of
 * QoS 0 that somebody wrote into a session's row. */
static uint8_t qos_of(const struct place *pl, const struct match *m, const struct event *ev)
{
	if (pl->sub->queue)
		return 1;
	return m->qos < ev->qos ? m->qos : ev->qos;
}

void place_outgoing(struct place *pl, const struct session *c, const struct event *ev,
                    struct batch *b, const struct match *m, struct match *own, struct outgoing *out)
{
	if (pl->sub->kind != BUS_SUB_SESSION) { /* each member has options of its own */
		match_clear(own);
		match_add(own, session_share_filter(c, pl->sub));
		m = own;
	}
	*out = (struct outgoing){
	        .ev = ev,
	        .owner = b,
	        .qos = qos_of(pl, m, ev),
	        .subscription_ids = m->ids,
	        .n_subscription_ids = m->n_ids,
	        .expiry_s = remaining_s(ev),
	        .attempt = pl->sub->queue ? queue_attempt_of(pl, b) : 0,
	};
}

/* Send one event to a session; e is its entry if it waited. What began on an earlier connection,
 * and so has a packet id, is sent again whatever became of its filter and its expiry [MQTT-4.4.0-1,
 * MQTT-3.10.4-3]. The last thing done with e: the connection may settle it at once. */
static void send_to_session(struct place *pl, struct session *c, uint64_t seq,
                            const struct event *ev, struct batch *b, const struct match *m,
                            struct feed_entry *e)
{
	bool begun = e && e->packet_id;
	struct match own;
	struct outgoing out;

	place_outgoing(pl, c, ev, b, m, &own, &out);
	if (begun)
		out.qos = 1;
	if (pl->partition) {
		out.gap = gaps_tell(&pl->gaps, seq);
		out.gap_partition = pl->partition->id;
	}
	pl->sub->space->dispatch->stats.delivered++;
	if (!begun)
		rota_gave(&pl->sub->rota, out.qos != 0);
	if (!out.qos) {
		session_send(c, &out);
		place_heard(pl, seq);
		if (e)
			place_settle(pl, seq);
		return;
	}
	if (!e)
		e = feed_push(&pl->feed, seq, FEED_READY);
	out.dup = begun;
	if (!begun)
		e->packet_id = packet_ids_take(&c->ids, pl, seq);
	e->holder = &c->consumer;
	e->stamp = batch_stamp(b);
	out.packet_id = e->packet_id;
	if (pl->sub->queue)
		ack_timeout_watch(c, e->packet_id, pl->sub->queue->policy.ack_timeout_ms);
	feed_set(&pl->feed, e, FEED_SENT);
	session_send(c, &out);
}

/* One event to a consumer that can take it; e is its entry if it waited. False = its link turned
 * out to be full. */
bool place_deliver(struct place *pl, struct consumer *c, uint64_t seq, const struct event *ev,
                   struct batch *b, const struct match *m, struct feed_entry *e)
{
	bool begun = e && e->packet_id;

	if (!begun && ev->expires_ms && ev->expires_ms <= clock_wall_ms()) {
		pl->sub->space->dispatch->stats.expired++;
		if (e)
			place_settle(pl, seq);
		return true;
	}
	if (c->kind == CONSUMER_REMOTE)
		return remote_deliver(pl, remote_of(c), seq, b, e);
	send_to_session(pl, session_of(c), seq, ev, b, m, e);
	return true;
}

bool place_wants(struct place *pl)
{
	struct subscription *s = pl->sub;

	return s->state == SUBSCRIPTION_ACTIVE && s->rota.n && !pl->feed.live &&
	       pl->feed.next_seq && feed_has_room(&pl->feed) && !s->n_awaited && !s->yielding &&
	       !s->space->dispatch->draining;
}

uint64_t place_matched_through(const struct place *pl)
{
	return (pl->feed.live ? pl->partition->next_seq : pl->feed.next_seq) - 1;
}

static bool recall(struct place *pl, uint64_t seq, const struct event *ev, uint64_t stamp)
{
	struct feed_entry stale;

	switch (feed_recall(&pl->feed, seq, stamp, &stale)) {
	case FEED_OLD:
		return true;
	case FEED_HELD:
		if (pl->sub->queue)
			queue_recalled(pl->sub->queue, pl, seq, ev);
		if (pl->feed.n_ready)
			subscription_pump(pl->sub);
		return true;
	case FEED_NEW:
		break;
	}
	if (stale.packet_id && stale.holder->kind == CONSUMER_SESSION)
		packet_ids_void(&session_of(stale.holder)->ids, stale.packet_id);
	return false;
}

bool place_offer(struct place *pl, uint64_t seq, const struct event *ev, struct batch *b,
                 const struct match *m)
{
	struct consumer *c;

	if (!pl->sub->rota.n || feed_full(&pl->feed))
		return false;
	if (feed_recalls(&pl->feed) && recall(pl, seq, ev, batch_stamp(b)))
		return true;
	if (pl->sub->queue) {
		feed_push(&pl->feed, seq, FEED_READY);
		queue_pump(pl->sub->queue);
		return true;
	}
	while (!pl->feed.n_ready && (c = subscription_pick(pl->sub))) {
		if (place_deliver(pl, c, seq, ev, b, m, NULL))
			return true;
	}
	feed_push(&pl->feed, seq, FEED_READY);
	return true;
}

/* ---- what waits --------------------------------------------------------------------------------
 */

/* An event that was matched before and waited; false = no filter wants it any more. */
static bool match_again(const struct place *pl, uint64_t seq, const struct event *ev,
                        struct match *m)
{
	const struct subscription *s = pl->sub;
	bool any = false;

	match_clear(m);
	for (size_t i = 0; i < s->n_filters; i++) {
		const struct filter *f = &s->filters[i];

		if (!f->text || f->share || !filter_applies(f, s, pl->partition->id, seq, ev) ||
		    !topic_match(f->match, ev->topic))
			continue;
		match_add(m, f);
		any = true;
	}
	return any;
}

/* One waiting event of a place to whoever can take it; false = not now. */
static bool pump_one(struct place *pl)
{
	struct feed_entry *e = feed_next_ready(&pl->feed);
	struct consumer *c;
	struct batch *b;
	struct event ev;
	struct match m;
	uint64_t seq;

	if (!e)
		return false;
	if (e->packet_id)
		c = session_can_take(session_of(e->holder)) ? e->holder : NULL;
	else
		c = subscription_pick(pl->sub);
	if (!c)
		return false;
	seq = e->seq;
	b = partition_batch(pl->partition, seq);
	if (!b) {
		partition_fetch(pl->partition, seq);
		return false;
	}
	batch_event(b, (uint32_t)(seq - batch_base_seq(b)), &ev);
	if (match_again(pl, seq, &ev, &m) || e->packet_id)
		place_deliver(pl, c, seq, &ev, b, &m, e);
	else
		place_settle(pl, seq); /* unsubscribed meanwhile */
	return true;
}

void place_pump(struct place *pl)
{
	while (pump_one(pl))
		;
	place_resume(pl);
}

/* ---- what became of it -------------------------------------------------------------------------
 */

void place_heard(struct place *pl, uint64_t seq)
{
	if (gaps_heard(&pl->gaps, seq))
		committer_mark(pl->partition->space->dispatch, pl);
}

void place_settle(struct place *pl, uint64_t seq)
{
	struct queue *q = pl->sub->queue;
	struct feed_entry *e;

	if (pl->sub->away) {
		away_settled(pl, seq);
		return;
	}
	if (queue_is_retry(pl)) {
		retry_done(q, seq);
		return;
	}
	e = feed_find(&pl->feed, seq);
	if (e && e->state != FEED_DONE)
		feed_done(&pl->feed, e);
	else if (!e && !feed_done_held(&pl->feed, seq))
		return;
	gaps_heard(&pl->gaps, seq);
	committer_mark(pl->partition->space->dispatch, pl);
	if (q)
		queue_left(q, pl, seq);
}

void place_result(struct place *pl, uint64_t seq, enum peer_result result, struct slice reason)
{
	if (pl->sub->away && pl->sub->queue)
		away_result(pl, seq, result, reason);
	else if (pl->sub->queue)
		queue_result(pl->sub->queue, pl, seq, result, reason);
	else
		place_settle(pl, seq);
}

void place_ready(struct place *pl, struct feed_entry *e)
{
	gaps_unheard(&pl->gaps, e->seq);
	/* an entry that is only held is not in the ring: its state is plain data */
	feed_set(&pl->feed, e, FEED_READY);
	if (pl->sub->queue)
		queue_returned(pl->sub->queue, pl, e);
}

void place_return(struct place *pl, struct feed_entry *e)
{
	e->packet_id = 0;
	e->holder = NULL;
	place_ready(pl, e);
}

/* ---- what retention took -----------------------------------------------------------------------
 */

/* e is not sent (again): a packet id that it had on an earlier connection is free. */
static void settle_unsent(struct place *pl, struct feed_entry *e)
{
	if (e->packet_id)
		packet_ids_free(&session_of(e->holder)->ids, e->packet_id);
	place_settle(pl, e->seq);
}

static void note_gap(struct place *pl, uint64_t from, uint64_t to)
{
	struct dispatch_stats *stats = &pl->partition->space->dispatch->stats;

	if (!BUG("gap-untold"))
		gap_add(&pl->gaps.next, (struct gap){from, to});
	stats->gaps++;
	stats->gap_events += to - from;
}

uint64_t place_give_up(struct place *pl, uint64_t to)
{
	struct feed *f = &pl->feed;
	struct feed_entry *e;
	uint64_t at = 0;
	uint64_t n = 0;

	while ((e = feed_ready_within(f, at, to))) {
		at = e->seq + 1;
		if (e->packet_id)
			continue; /* it began on an earlier connection: [MQTT-4.4.0-1] */
		note_gap(pl, e->seq, at);
		settle_unsent(pl, e);
		n++;
	}
	if (!f->live && f->next_seq && f->next_seq < to) {
		n += to - f->next_seq;
		note_gap(pl, f->next_seq, to);
		f->next_seq = to;
	}
	if (n)
		committer_mark(pl->partition->space->dispatch, pl);
	return n;
}

void place_skip(struct place *pl, uint64_t from, uint64_t to)
{
	struct partition *p = pl->partition;
	struct feed *f = &pl->feed;
	struct feed_entry *e;
	uint64_t at = from;

	if (!f->live && f->next_seq >= from && f->next_seq < to &&
	    !partition_batch(p, f->next_seq)) {
		note_gap(pl, f->next_seq, to);
		f->next_seq = to;
	}
	while ((e = feed_ready_within(f, at, to))) {
		at = e->seq + 1;
		if (partition_batch(p, e->seq))
			continue;
		note_gap(pl, e->seq, at);
		settle_unsent(pl, e);
	}
	if (pl->sub->queue)
		failure_skip(pl->sub->queue, pl, from, to);
	committer_mark(pl->partition->space->dispatch, pl);
	place_resume(pl);
}
