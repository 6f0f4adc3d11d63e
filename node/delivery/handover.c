/* From one owner of a share to the next. The new one asks all nodes what they have in flight of it
 * and delivers nothing before they have told, or a second has passed: what a live client has in
 * hand is not sent to another, and what was settled is not sent again. An owner that shuts down
 * stops delivering first, then writes down what was settled, then lets go of the row and says so.
 */
#include "node/delivery/delivery.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/queue.h"

#include <inttypes.h>

enum {
	AWAIT_MS = 1000,
	LEAVE_MS = 100,     /* for settlements that are under way */
	LEAVE_TICK_MS = 2,  /* is everything written? */
	LEAVE_EXPIRY_S = 60 /* at least, for those who are to claim it */
};

/* ---- the new owner -----------------------------------------------------------------------------
 */

static void ask(struct subscription *s, const struct id128 *peer)
{
	struct remote *r = remote_get(s, peer);

	remote_detach(r);
	r->flying = false;
	r->telling = false;
	remote_next_round(r);
	r->awaited = true;
	s->n_awaited++;
}

/* Whoever has not told by now is not waited for; and if nobody has come, nobody wants it. */
static void await_over(void *arg)
{
	struct subscription *s = arg;

	if (s->state != SUBSCRIPTION_ACTIVE)
		return;
	if (clock_now_ms() < s->await_until_ms) { /* of an earlier claim, or a little early */
		dispatch_after(s->space->dispatch, (uint32_t)(s->await_until_ms - clock_now_ms()),
		               await_over, s);
		return;
	}
	if (s->n_awaited)
		log_warn("handover", "tenant=%u sub=%" PRIu64 " silent_peers=%u",
		         s->space->tenant_id, s->id, s->n_awaited);
	s->n_awaited = 0;
	subscription_wake(s);
	share_end_if_unused(s, true);
}

void handover_begin(struct subscription *s, bool created)
{
	struct dispatch *d = s->space->dispatch;
	struct peer_message m = share_message(s, PEER_OWNER);

	s->n_awaited = 0;
	s->yielding = false;
	for (size_t i = 0; i < d->n_peers && !created; i++)
		ask(s, &d->peers[i]);
	peer_send_all(d, &m);
	if (!d->n_peers && s->members)
		return;
	s->await_until_ms = clock_now_ms() + AWAIT_MS;
	dispatch_after(d, AWAIT_MS, await_over, s);
}

void handover_ask_again(struct remote *r)
{
	struct peer_message m = share_message(r->sub, PEER_OWNER);

	if (r->awaited)
		peer_send(r->sub->space->dispatch, &r->peer, &m);
}

void handover_heard(struct remote *r)
{
	struct subscription *s = r->sub;

	if (!r->awaited)
		return;
	r->awaited = false;
	if (s->n_awaited && !--s->n_awaited)
		subscription_wake(s);
}

/* ---- telling the new owner what is in flight ---------------------------------------------------
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
	*pd = peer_delivery_of(pl, e->seq, e->stamp);
	pd->result = e->state == FEED_DONE ? PEER_ACKED : PEER_FLYING;
	t->m.n_deliveries++;
	if (t->m.n_deliveries < PEER_DELIVERIES_MAX)
		return;
	t->failed = !peer_send(t->dispatch, t->to, &t->m);
	t->m.n_deliveries = 0;
}

bool handover_tell(struct dispatch *d, const struct id128 *to, const struct peer_message *asked,
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
	for (uint32_t i = 0; s && i < s->n_places; i++) {
		const struct feed *f = &s->places[i]->feed;

		for (size_t h = 0; h < f->n_held; h++) {
			if (s->away || f->held[h].state != FEED_READY)
				tell_one(&t, s->places[i], &f->held[h]);
		}
	}
	for (size_t h = 0; s && s->queue && h < s->queue->retry.feed.n_held; h++) {
		const struct feed_entry *e = &s->queue->retry.feed.held[h];

		if (s->away || e->state == FEED_SENT)
			tell_one(&t, &s->queue->retry, e);
	}
	return !t.failed && peer_send(d, to, &t.m);
}

/* ---- the old owner, when its node shuts down ---------------------------------------------------
 */

static bool in_flight(const struct subscription *s)
{
	for (uint32_t i = 0; i < s->n_places; i++) {
		if (feed_in_flight(&s->places[i]->feed))
			return true;
	}
	return s->queue && feed_in_flight(&s->queue->retry.feed);
}

static bool written(const struct subscription *s)
{
	for (uint32_t i = 0; i < s->n_places; i++) {
		const struct place *pl = s->places[i];

		if (pl->feed.dirty || pl->feed.committing)
			return false;
	}
	return !s->queue || !s->queue->loaded || queue_settled(s->queue);
}

/* Sessions without an expiry take the share with them, unless others consume it. */
static void yield_begin(struct subscription *s, const void *arg)
{
	(void)arg;
	if (s->away)
		arrivals_pump(s); /* no more credit */
	if (s->state != SUBSCRIPTION_ACTIVE || (!s->expiry_s && !remotes_attached(s)))
		return;
	s->yielding = true;
	for (uint32_t i = 0; i < s->n_places; i++) {
		struct place *pl = s->places[i];

		if (pl->feed.live)
			place_lag(pl, pl->partition->next_seq, false);
		committer_mark(s->space->dispatch, pl);
	}
}

/* What is in flight to our sessions goes on: they settle it with the next owner. */
static void yield(struct subscription *s)
{
	uint32_t expiry_s = s->expiry_s;

	if (remotes_attached(s) && expiry_s < LEAVE_EXPIRY_S)
		expiry_s = LEAVE_EXPIRY_S;
	closing_start(s, false, expiry_s, 0);
	subscription_suspend(s);
	away_begin(s, &(struct id128){{0}});
	s->yielding = false;
	share_end_if_unused(s, true);
}

static void yield_step(struct subscription *s, const void *arg)
{
	struct dispatch *d = s->space->dispatch;
	bool *waits = *(bool *const *)arg;

	if (!s->yielding || s->state != SUBSCRIPTION_ACTIVE)
		return;
	if (written(s) && (clock_now_ms() >= d->leave_by_ms || !in_flight(s)))
		yield(s);
	else
		*waits = true;
}

static void leave_step(void *arg)
{
	struct dispatch *d = arg;
	bool waits = false;
	bool *p = &waits;

	committer_flush(d);
	share_each(d, yield_step, &p);
	if ((waits || !LIST_EMPTY(&d->closings)) && d->up) {
		dispatch_after(d, LEAVE_TICK_MS, leave_step, d);
		return;
	}
	d->left(d->left_arg);
}

void dispatch_leave(struct dispatch *d, void (*fn)(void *arg), void *arg)
{
	d->leaving = true;
	d->left = fn;
	d->left_arg = arg;
	d->leave_by_ms = clock_now_ms() + LEAVE_MS;
	if (d->n_peers)
		share_each(d, yield_begin, NULL);
	dispatch_after(d, 0, leave_step, d);
}
