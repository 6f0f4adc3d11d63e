/* A subscription this node owns: its places, its consumers, and the step from a matched event to a
 * consumer that can take it. */
#include "node/delivery/delivery.h"

#include "base/clock.h"
#include "base/mem.h"
#include "node/delivery/queue.h"
#include "node/mqtt/mqtt_reason.h"
#include "tenancy/topic.h"

#include <assert.h>
#include <stdlib.h>

enum { RECLAIM_PAUSE_MS = 100 };

/* ---- matching ----------------------------------------------------------------------------------
 */

/* The same for an event that was matched before and waited; false = no filter wants it any more. */
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

/* ---- delivering --------------------------------------------------------------------------------
 */

/* Who is next: a remote has its turn as often as it has consumers. */
struct consumer *subscription_pick(struct subscription *s)
{
	for (size_t i = 0; i <= s->n_consumers && s->n_consumers; i++) {
		struct consumer *c = s->consumers[s->turn % s->n_consumers];

		if (s->served < consumer_weight(c) && consumer_can_begin(c)) {
			s->served++;
			return c;
		}
		s->turn++;
		s->served = 0;
	}
	return NULL;
}

/* 0 = it never expires; what began before it expired is finished, with the shortest of times. */
static uint32_t remaining_s(const struct event *ev)
{
	uint64_t now = clock_wall_ms();

	if (!ev->expires_ms)
		return 0;
	return ev->expires_ms > now ? (uint32_t)((ev->expires_ms - now + 999) / 1000) : 1;
}

/* e is not sent (again): a packet id that it had on an earlier connection is free. */
static void settle_unsent(struct place *pl, struct feed_entry *e)
{
	if (e->packet_id)
		session_free_packet_id(session_of(e->holder), e->packet_id);
	place_settle(pl, e->seq);
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
	        .qos = m->qos < ev->qos ? m->qos : ev->qos,
	        .subscription_ids = m->ids,
	        .n_subscription_ids = m->n_ids,
	        .expiry_s = remaining_s(ev),
	        .attempt = pl->sub->queue ? queue_attempt_of(pl, b) : 0,
	        .gap = pl->gap,
	};
	pl->gap.to = 0; /* told */
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
	pl->sub->space->dispatch->stats.delivered++;
	if (!out.qos) {
		session_send(c, &out);
		if (e)
			place_settle(pl, seq);
		return;
	}
	if (!e)
		e = feed_push(&pl->feed, seq, FEED_READY);
	out.dup = begun;
	if (!begun)
		e->packet_id = session_take_packet_id(c, pl, seq);
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

	return s->state == SUBSCRIPTION_ACTIVE && s->n_consumers && !pl->feed.live &&
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
		session_void_packet_id(session_of(stale.holder), stale.packet_id);
	return false;
}

bool place_offer(struct place *pl, uint64_t seq, const struct event *ev, struct batch *b,
                 const struct match *m)
{
	struct consumer *c;

	if (!pl->sub->n_consumers || feed_full(&pl->feed))
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

/* It is told of once, with the next delivery; what comes until then is added. */
void place_note_gap(struct place *pl, uint64_t from, uint64_t to)
{
	if (!pl->gap.to)
		pl->gap = (struct gap){pl->partition->id, from, to};
	if (from < pl->gap.from)
		pl->gap.from = from;
	if (to > pl->gap.to)
		pl->gap.to = to;
}

static void note_gap(struct place *pl, uint64_t from, uint64_t to)
{
	struct dispatch_stats *stats = &pl->partition->space->dispatch->stats;

	place_note_gap(pl, from, to);
	stats->gaps++;
	stats->gap_events += to - from;
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

void subscription_pump(struct subscription *s)
{
	if (s->away) {
		away_pump(s);
		return;
	}
	if (s->queue) {
		queue_pump(s->queue);
		return;
	}
	if (s->pumping || s->state != SUBSCRIPTION_ACTIVE || !s->places || s->n_awaited ||
	    s->yielding)
		return;
	s->pumping = true;
	for (uint32_t i = 0; i < s->space->n_partitions; i++) {
		struct place *pl = &s->places[i];

		while (pump_one(pl))
			;
		place_resume(pl);
	}
	s->pumping = false;
}

/* ---- consumers ---------------------------------------------------------------------------------
 */

void subscription_add_consumer(struct subscription *s, struct consumer *c)
{
	s->consumers = xrealloc(s->consumers, (s->n_consumers + 1) * sizeof(struct consumer *));
	s->consumers[s->n_consumers++] = c;
}

void subscription_remove_consumer(struct subscription *s, const struct consumer *c)
{
	for (size_t i = 0; i < s->n_consumers; i++) {
		if (s->consumers[i] == c) {
			s->consumers[i] = s->consumers[--s->n_consumers];
			return;
		}
	}
}

static void make_ready(void *arg, struct feed_entry *e)
{
	struct place *pl = arg;

	/* an entry that is only held is not in the ring: its state is plain data */
	feed_set(&pl->feed, e, FEED_READY);
	if (pl->sub->queue)
		queue_returned(pl->sub->queue, pl, e);
}

void place_return(struct place *pl, struct feed_entry *e)
{
	e->packet_id = 0;
	e->holder = NULL;
	make_ready(pl, e);
}

static void return_entry(void *arg, struct feed_entry *e)
{
	place_return(arg, e);
}

/* A consumer is gone: what it had in flight is to be sent again: to itself under the same packet
 * ids when it is a session that may come back, to others when the subscription is shared. */
void subscription_park(struct subscription *s, struct consumer *gone)
{
	bool keep = s->kind == BUS_SUB_SESSION;

	if (s->away)
		away_park(s, gone);
	for (uint32_t i = 0; !s->away && s->places && i < s->space->n_partitions; i++)
		feed_each_held_by(&s->places[i].feed, gone, keep ? make_ready : return_entry,
		                  &s->places[i]);
	if (s->queue && !s->away)
		feed_each_held_by(&s->queue->retry.feed, gone, return_entry, &s->queue->retry);
	subscription_remove_consumer(s, gone);
	if (s->n_consumers || s->away)
		subscription_pump(s);
}

void subscription_wake(struct subscription *s)
{
	for (uint32_t i = 0; s->places && i < s->space->n_partitions; i++)
		place_resume(&s->places[i]);
	subscription_pump(s);
}

/* ---- places ------------------------------------------------------------------------------------
 */

void subscription_make_places(struct subscription *s)
{
	if (s->places)
		return;
	s->places = xcalloc(s->space->n_partitions, sizeof *s->places);
	for (uint32_t i = 0; i < s->space->n_partitions; i++) {
		s->places[i].sub = s;
		partition_join(space_partition(s->space, i), &s->places[i]);
	}
}

void subscription_begin(struct subscription *s, const uint64_t *starts)
{
	subscription_make_places(s);
	for (uint32_t i = 0; i < s->space->n_partitions; i++) {
		feed_begin(&s->places[i].feed, starts[i] - 1, slice(NULL, 0));
		s->places[i].feed.committed_through = starts[i] - 1;
	}
}

void subscription_begin_at(struct subscription *s, const struct bus_cursor *cursor, bool was_ours)
{
	struct place *pl;
	struct feed *f;

	if (cursor->partition_id >= s->space->n_partitions)
		return;
	subscription_make_places(s);
	pl = &s->places[cursor->partition_id];
	f = &pl->feed;
	if (!was_ours || f->next_seq <= cursor->acked_through)
		feed_begin(f, cursor->acked_through, cursor->acked_ahead);
	else
		feed_learn(f, cursor->acked_through, cursor->acked_ahead);
	f->commit_no = cursor->commit_no;
	f->committed_through = cursor->acked_through;
	f->committing = false;
	s->places[cursor->partition_id].has_row = true;
}

void subscription_stored(struct subscription *s)
{
	for (uint32_t i = 0; s->places && i < s->space->n_partitions; i++) {
		s->places[i].has_row = true;
		committer_mark(s->space->dispatch, &s->places[i]);
	}
}

void subscription_suspend(struct subscription *s)
{
	if (s->away && s->queue && !s->space->dispatch->up)
		away_forget_rows(s);
	if (s->away)
		return;
	if (s->queue)
		queue_suspend(s->queue);
	for (uint32_t i = 0; s->places && i < s->space->n_partitions; i++) {
		struct place *pl = &s->places[i];

		if (pl->feed.live)
			place_lag(pl, pl->partition->next_seq, false);
		feed_suspend(&pl->feed, pl->feed.next_seq - 1);
		committer_forget(s->space->dispatch, pl);
		pl->feed.committing = false;
	}
	if (s->durable && s->state == SUBSCRIPTION_ACTIVE) {
		s->state = SUBSCRIPTION_UNCLAIMED;
		s->held_epoch = s->epoch;
	}
	remotes_dismiss(s);
}

static bool forget_one(void *arg, struct feed_entry *e)
{
	(void)arg;
	if (e->packet_id && e->holder->kind == CONSUMER_SESSION)
		session_void_packet_id(session_of(e->holder), e->packet_id);
	return true;
}

void subscription_forget_held(struct subscription *s)
{
	for (uint32_t i = 0; s->places && i < s->space->n_partitions; i++)
		feed_unhold_if(&s->places[i].feed, forget_one, NULL);
	if (s->queue)
		feed_unhold_if(&s->queue->retry.feed, forget_one, NULL);
}

/* ---- claims ------------------------------------------------------------------------------------
 */

void subscription_claimed(struct subscription *s, const struct bus_claim *req)
{
	bool was_ours = s->epoch && req->epoch == s->epoch + 1 && !req->created;

	if (!s->durable) {
		s->durable = true;
		TAILQ_INSERT_TAIL(&s->space->dispatch->durable, s, link);
	}
	if (s->kind != BUS_SUB_SESSION) {
		away_end(s);
		share_set_id(s, req->subscription_id);
		/* under no other epoch between, or somebody changed it from outside: it was told to
		 * begin elsewhere, perhaps */
		if (s->held_epoch + 1 != req->epoch)
			subscription_forget_held(s);
	}
	s->id = req->subscription_id;
	s->epoch = req->epoch;
	s->state = SUBSCRIPTION_ACTIVE;
	if (s->queue) {
		s->expiry_s = req->stored_expiry_s;
		queue_know(s->queue, req->stored_filters, &req->policy);
	}
	for (uint32_t i = 0; i < req->n_cursors; i++)
		subscription_begin_at(s, &req->cursors[i], was_ours);
	for (uint32_t i = 0; s->places && i < s->space->n_partitions; i++)
		committer_mark(s->space->dispatch,
		               &s->places[i]); /* settled while it was not ours */
	if (s->kind != BUS_SUB_SESSION)
		handover_begin(s, req->created);
}

struct reclaim {
	struct bus_claim req;
	struct subscription *sub;
	uint64_t generation;
};

static void reclaim_again(void *arg)
{
	subscription_reclaim(arg);
}

static void on_reclaim(struct bus_claim *req)
{
	struct reclaim *r = (struct reclaim *)req;
	struct subscription *s = r->sub;
	struct dispatch *d = s->space->dispatch;

	if (s->state == SUBSCRIPTION_CLAIMING) {
		s->state = SUBSCRIPTION_UNCLAIMED;
		if (r->generation == d->bus->generation && req->outcome == SQL_OK &&
		    req->epoch != s->epoch + 1) {
			/* others had it meanwhile, and may have changed its filters */
			s->epoch = req->epoch;
			session_let_go(s->session);
		} else if (r->generation == d->bus->generation && req->outcome == SQL_OK) {
			subscription_claimed(s, req);
			subscription_wake(s);
		} else if (req->outcome == SQL_LOST || req->outcome == SQL_FATAL) {
			subscription_lost(s);
		} else {
			if (req->outcome == SQL_OK && req->epoch == s->epoch + 1)
				s->epoch = req->epoch; /* nobody came between: it is still ours */
			dispatch_after(d, RECLAIM_PAUSE_MS, reclaim_again, s);
		}
	}
	d->bus->ops->claim_release(d->bus, req);
	free(r);
	subscription_unref(s);
}

void subscription_reclaim(struct subscription *s)
{
	struct dispatch *d = s->space->dispatch;
	struct reclaim *r;

	if (s->state != SUBSCRIPTION_UNCLAIMED || !d->up || d->draining)
		return; /* when the bus is up again it is asked to */
	if (!s->session) {
		share_claim(s);
		return;
	}
	r = xcalloc(1, sizeof *r);
	r->sub = s;
	r->generation = d->bus->generation;
	r->req.done = on_reclaim;
	r->req.tenant_id = s->space->tenant_id;
	r->req.kind = s->kind;
	r->req.subject = session_subject(s->session);
	r->req.name = session_client_id(s->session);
	s->state = SUBSCRIPTION_CLAIMING;
	s->requests++;
	d->bus->ops->claim(d->bus, &r->req);
}

void subscription_doubt(struct subscription *s)
{
	subscription_suspend(s);
	dispatch_after(s->space->dispatch, RECLAIM_PAUSE_MS, reclaim_again, s);
}

void subscription_lost(struct subscription *s)
{
	if (s->session) {
		session_kill(s->session, MQTT_REASON_SESSION_TAKEN_OVER,
		             "the session is held by another node now");
		return;
	}
	/* a shared subscription: somebody changed it from outside; look at it afresh */
	subscription_doubt(s);
	s->epoch = 0;
}

/* ---- life --------------------------------------------------------------------------------------
 */

struct subscription *subscription_new(struct space *sp, enum bus_sub_kind kind, const char *name)
{
	struct subscription *s = xcalloc(1, sizeof *s);

	s->space = sp;
	s->kind = kind;
	s->name = name ? xstrdup(name) : NULL;
	s->state = SUBSCRIPTION_ACTIVE;
	TAILQ_INIT(&s->waiting);
	LIST_INIT(&s->remotes);
	sp->dispatch->stats.subscriptions++;
	return s;
}

static void subscription_free(struct subscription *s)
{
	struct space *sp = s->space;

	dispatch_forget(sp->dispatch, s);

	free(s->filters);
	free(s->consumers);
	free(s->name);
	if (s->session)
		session_unref(s->session);
	free(s);
	sp->requests--;
	space_free_if_unused(sp);
}

void subscription_unref(struct subscription *s)
{
	s->requests--;
	if (s->state == SUBSCRIPTION_DEAD && !s->requests)
		subscription_free(s);
}

void subscription_kill(struct subscription *s)
{
	struct dispatch *d = s->space->dispatch;

	s->space->requests++; /* until it is freed */
	away_end(s);
	remotes_release(s);
	assert(s->state != SUBSCRIPTION_DEAD && !s->n_consumers);
	if (s->queue)
		queue_free(s->queue);
	s->queue = NULL;
	for (size_t i = 0; i < s->n_filters; i++) {
		if (s->filters[i].text)
			filter_remove(s, &s->filters[i]);
	}
	for (uint32_t i = 0; s->places && i < s->space->n_partitions; i++) {
		committer_forget(d, &s->places[i]);
		partition_leave(&s->places[i]);
		feed_release(&s->places[i].feed);
	}
	free(s->places);
	s->places = NULL;
	if (s->durable)
		TAILQ_REMOVE(&d->durable, s, link);
	d->stats.subscriptions--;
	s->state = SUBSCRIPTION_DEAD;
	s->requests++;
	subscription_unref(s);
}
