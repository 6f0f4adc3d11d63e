/* The consumers that another node has for a subscription of ours: they are one consumer to us, with
 * so much room as that node granted. What it says counts only for what was delivered to it. */
#include "node/delivery/delivery.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/queue.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- life --------------------------------------------------------------------------------------
 */

struct remote *remote_find(const struct subscription *s, const struct id128 *peer)
{
	struct remote *r;

	LIST_FOREACH (r, &s->remotes, link) {
		if (id128_eq(&r->peer, peer))
			return r;
	}
	return NULL;
}

struct remote *remote_get(struct subscription *s, const struct id128 *peer)
{
	struct remote *r = remote_find(s, peer);

	if (r)
		return r;
	r = xcalloc(1, sizeof *r);
	r->consumer.kind = CONSUMER_REMOTE;
	r->sub = s;
	r->peer = *peer;
	r->round = 1;
	LIST_INSERT_HEAD(&s->remotes, r, link);
	return r;
}

void remote_next_round(struct remote *r)
{
	r->round = r->round == UINT16_MAX ? 1 : r->round + 1;
}

/* It is among the consumers while it has some. */
static void set_workers(struct remote *r, uint32_t n)
{
	uint32_t old = r->workers;

	r->workers = n;
	if (!n)
		r->credit = 0;
	if (n && !old)
		rota_add(&r->sub->rota, &r->consumer);
	else if (!n && old)
		rota_remove(&r->sub->rota, &r->consumer);
}

void remote_detach(struct remote *r)
{
	r->attached = r->blocked = false;
	set_workers(r, 0);
}

void remote_free(struct remote *r)
{
	struct subscription *s = r->sub;

	remote_detach(r);
	subscription_park(s, &r->consumer);
	LIST_REMOVE(r, link);
	handover_heard(r);
	free(r);
}

void remotes_dismiss(struct subscription *s)
{
	struct peer_message m;
	struct remote *r;

	s->n_awaited = 0;
	LIST_FOREACH (r, &s->remotes, link) {
		r->awaited = false;
		if (!r->attached)
			continue;
		m = share_message(s, PEER_RELEASED);
		if (!s->yielding) /* else they are told when it is free */
			peer_send(s->space->dispatch, &r->peer, &m);
		remote_detach(r);
	}
}

static bool is_held_by(void *arg, struct feed_entry *e)
{
	return e->holder == arg;
}

void remotes_release(struct subscription *s)
{
	struct remote *r;

	remotes_dismiss(s);
	while ((r = LIST_FIRST(&s->remotes))) {
		for (uint32_t i = 0; i < s->n_places; i++)
			feed_unhold_if(&s->places[i]->feed, is_held_by, &r->consumer);
		if (s->queue)
			feed_unhold_if(&s->queue->retry.feed, is_held_by, &r->consumer);
		LIST_REMOVE(r, link);
		free(r);
	}
}

bool remotes_attached(const struct subscription *s)
{
	const struct remote *r;

	LIST_FOREACH (r, &s->remotes, link) {
		if (r->attached)
			return true;
	}
	return false;
}

/* ---- delivering --------------------------------------------------------------------------------
 */

bool remote_can_begin(const struct remote *r)
{
	return r->credit && !r->blocked && !r->awaited && !r->sub->space->dispatch->draining;
}

/* How this delivery is named; index: where its event is in the batch. */
static struct peer_delivery name_it(const struct place *pl, uint64_t seq, const struct batch *b,
                                    uint32_t *index)
{
	struct peer_delivery pd = {.seq = seq, .stamp = batch_stamp(b), .attempt = 1};

	*index = 0;
	if (queue_is_retry(pl)) {
		pd.timer_id = seq;
		pd.seq = batch_base_seq(b);
		pd.partition_id = batch_partition(b);
		pd.attempt = queue_attempt_of(pl, b);
		return pd;
	}
	pd.partition_id = pl->partition->id;
	*index = (uint32_t)(seq - batch_base_seq(b));
	return pd;
}

bool remote_deliver(struct place *pl, struct remote *r, uint64_t seq, struct batch *b,
                    struct feed_entry *e)
{
	struct dispatch *d = pl->sub->space->dispatch;
	struct peer_message m = share_message(r->sub, PEER_DELIVER);
	uint32_t i;
	struct peer_delivery pd = name_it(pl, seq, b, &i);
	struct batch *one = batch_count(b) > 1 ? batch_split(b, i, i + 1) : batch_ref(b);
	struct gap gap;

	m.attributes = batch_attributes(one);
	m.body = batch_body(one);
	m.n_deliveries = 1;
	m.deliveries = &pd;
	gap = gaps_tell(&pl->gaps, seq);
	m.gap_from = gap.from;
	m.gap_to = gap.to;
	r->blocked = !peer_send(d, &r->peer, &m);
	batch_unref(one);
	if (r->blocked) {
		gaps_unheard(&pl->gaps, seq);
		return false;
	}
	if (!e)
		e = feed_push(&pl->feed, seq, FEED_READY);
	e->packet_id = r->round;
	e->holder = &r->consumer;
	e->stamp = pd.stamp;
	feed_set(&pl->feed, e, FEED_SENT);
	r->credit--;
	d->stats.forwarded++;
	return true;
}

/* ---- what became of it -------------------------------------------------------------------------
 */

static struct feed_entry *entry_of(struct place *pl, uint64_t seq)
{
	struct feed_entry *e = feed_find(&pl->feed, seq);

	return e ? e : feed_held(&pl->feed, seq);
}

/* The place, and the number there, that a peer names; NULL = there is none. */
static struct place *place_named(const struct subscription *s, const struct peer_delivery *pd,
                                 uint64_t *seq)
{
	*seq = pd->timer_id ? pd->timer_id : pd->seq;
	if (pd->timer_id)
		return s->queue ? &s->queue->retry : NULL;
	return place_find(s, pd->partition_id);
}

static void settle_one(struct remote *r, const struct peer_delivery *pd)
{
	struct subscription *s = r->sub;
	uint64_t seq;
	struct place *pl = place_named(s, pd, &seq);
	struct feed_entry *e = pl ? entry_of(pl, seq) : NULL;

	if (!e || e->holder != &r->consumer || e->stamp != pd->stamp)
		return;
	if (pd->result == PEER_RETURNED) {
		place_return(pl, e);
		return;
	}
	if (pd->result > PEER_RETURNED)
		return;
	s->space->dispatch->stats.settled++;
	place_result(pl, seq, (enum peer_result)pd->result, pd->reason);
}

static void on_settle(struct remote *r, const struct peer_message *m)
{
	for (size_t i = 0; i < m->n_deliveries; i++)
		settle_one(r, &m->deliveries[i]);
	subscription_wake(r->sub);
}

/* It has this in flight, or settled it, though we did not send it, or have forgotten that we did:
 * as the owner before us sent it, or we did and took it for lost. */
static void adopt(struct remote *r, const struct peer_delivery *pd)
{
	uint64_t seq;
	struct place *pl = place_named(r->sub, pd, &seq);
	struct feed_entry *e;

	if (!pl)
		return;
	e = entry_of(pl, seq);
	if (!e && r->awaited && (pd->timer_id || (!pl->feed.live && seq >= pl->feed.next_seq)) &&
	    pl->feed.n_held < FEED_MAX) {
		e = feed_hold(&pl->feed, seq, FEED_READY);
		e->stamp = pd->stamp;
	}
	if (!e || e->stamp != pd->stamp || e->state == FEED_DONE)
		return;
	if (e->state == FEED_FAILED || e->state == FEED_MOVING)
		return; /* taken for lost, sent to another, and failed there: it will come again */
	if (e->state == FEED_SENT ? e->holder != &r->consumer : e->packet_id != 0)
		return;
	if (pd->result != PEER_FLYING) {
		place_settle(pl, seq);
		return;
	}
	r->flying = true;
	e->packet_id = r->round;
	e->holder = &r->consumer;
	feed_set(&pl->feed, e, FEED_SENT);
}

struct unnamed {
	struct place *pl;
	uint16_t round;
};

static void return_unnamed(void *arg, struct feed_entry *e)
{
	struct unnamed *u = arg;

	if (e->packet_id != u->round)
		place_return(u->pl, e);
}

/* It has told all: what it did not name got lost on the way, or came when it took nothing from us.
 */
static void told_all(struct remote *r)
{
	struct subscription *s = r->sub;

	for (uint32_t i = 0; i < s->n_places; i++) {
		struct unnamed u = {s->places[i], r->round};

		feed_each_held_by(&s->places[i]->feed, &r->consumer, return_unnamed, &u);
	}
	if (s->queue)
		feed_each_held_by(&s->queue->retry.feed, &r->consumer, return_unnamed,
		                  &(struct unnamed){&s->queue->retry, r->round});
	handover_heard(r);
}

void remote_on_held(struct subscription *s, const struct id128 *peer, const struct peer_message *m)
{
	struct remote *r;

	if (s->state != SUBSCRIPTION_ACTIVE)
		return;
	r = remote_get(s, peer);
	if (!r->telling)
		remote_next_round(r);
	if (s->n_places && m->epoch >= s->held_since && m->epoch <= s->epoch) {
		for (size_t i = 0; i < m->n_deliveries; i++)
			adopt(r, &m->deliveries[i]);
	}
	r->telling = m->n_deliveries == PEER_DELIVERIES_MAX;
	if (r->telling)
		return;
	told_all(r);
	if (!r->attached && !r->flying)
		remote_free(r);
	subscription_wake(s);
}

/* ---- consumers come and go ---------------------------------------------------------------------
 */

static void refuse(struct dispatch *d, const struct id128 *peer, const struct peer_message *asked)
{
	struct peer_message m = {.type = PEER_REFUSED,
	                         .tenant_id = asked->tenant_id,
	                         .kind = asked->kind,
	                         .name = asked->name};

	peer_send(d, peer, &m);
}

static void on_attach(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
{
	struct subscription *s = share_find(d, m->tenant_id, m->kind, m->name);
	struct peer_message answer;
	struct buf filters = {0};
	struct remote *r;

	if (!s || s->state != SUBSCRIPTION_ACTIVE || s->yielding) {
		refuse(d, peer, m);
		if (!s)
			closing_stray(d, m->tenant_id, m->kind, m->name);
		return;
	}
	r = remote_get(s, peer);
	r->attached = true;
	r->credit = 0;
	if (m->expiry_s > s->expiry_s)
		s->expiry_s = m->expiry_s;
	filters_encode(s, &filters);
	answer = share_message(s, PEER_ATTACHED);
	answer.filters = buf_slice(&filters);
	if (s->queue)
		answer.policy = s->queue->policy;
	peer_send(d, peer, &answer);
	buf_release(&filters);
	log_debug("remote", "tenant=%u sub=%" PRIu64 " epoch=%" PRIu64 " consumers=%u attached=1",
	          m->tenant_id, s->id, s->epoch, m->consumers);
}

static void on_credit(struct remote *r, const struct peer_message *m)
{
	uint32_t room;

	if (!r->attached)
		return;
	set_workers(r, m->consumers);
	room = REMOTE_CREDIT_MAX - r->credit;
	if (m->consumers)
		r->credit += m->credit < room ? m->credit : room;
	subscription_wake(r->sub);
}

static void on_detach(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
{
	struct subscription *s = share_find(d, m->tenant_id, m->kind, m->name);
	struct remote *r = s ? remote_find(s, peer) : NULL;

	if (!r)
		return;
	remote_free(r);
	if (s->state == SUBSCRIPTION_ACTIVE)
		share_end_if_unused(s, false);
}

void remote_on_message(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
{
	struct subscription *s;
	struct remote *r;

	if (m->type == PEER_ATTACH) {
		on_attach(d, peer, m);
		return;
	}
	if (m->type == PEER_DETACH) {
		on_detach(d, peer, m);
		return;
	}
	s = share_find_id(d, m->tenant_id, m->subscription_id);
	if (!s || s->state != SUBSCRIPTION_ACTIVE || s->epoch != m->epoch ||
	    !(r = remote_find(s, peer)))
		return;
	if (m->type == PEER_CREDIT)
		on_credit(r, m);
	else
		on_settle(r, m);
}
