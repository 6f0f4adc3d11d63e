/* $queue/NAME: a work queue. Here: its life, who may consume it, and which event goes next. */
#include "node/delivery/queue.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/mqtt/mqtt_reason.h"
#include "tenancy/topic.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- life --------------------------------------------------------------------------------------
 */

struct queue *queue_new(struct subscription *sub)
{
	struct queue *q = xcalloc(1, sizeof *q);

	q->sub = sub;
	q->policy = BUS_POLICY_DEFAULT;
	q->due_ms = UINT64_MAX;
	TAILQ_INIT(&q->failures);
	map_init(&q->rows);
	map_init(&q->row_keys);
	q->retry.sub = sub;
	return q;
}

void queue_free(struct queue *q)
{
	struct dispatch *d = q->sub->space->dispatch;

	queue_suspend(q);
	dispatch_forget(d, q);
	retry_release(q);
	ordering_release(&q->ordering);
	feed_release(&q->retry.feed);
	d->stats.breakers_open -= q->breaker.open;
	free(q->create);
	buf_release(&q->create_until);
	free(q->done);
	free(q);
}

void queue_suspend(struct queue *q)
{
	failure_drop_all(q);
	if (!q->sub->space->dispatch->up)
		retry_forget(q);
	retry_suspend(q);
	ordering_release(&q->ordering);
	q->breaker.probing = false;
}

bool queue_settled(const struct queue *q)
{
	return !q->n_failures && !q->n_done && !q->settling;
}

/* ---- filters and policy of the row -------------------------------------------------------------
 */

static void drop_filters(struct subscription *s)
{
	for (size_t i = 0; i < s->n_filters; i++) {
		if (s->filters[i].text)
			filter_remove(s, &s->filters[i]);
	}
}

static bool same_filters(const struct subscription *s, struct slice json)
{
	struct buf text = {0};
	bool same;

	filters_encode(s, &text);
	same = slice_eq(buf_slice(&text), json);
	buf_release(&text);
	return same;
}

void queue_know(struct queue *q, struct slice filters, const struct bus_policy *policy)
{
	struct subscription *s = q->sub;

	free(q->create); /* should it go, it was deleted on purpose */
	q->create = NULL;
	q->policy = *policy;
	if (!q->policy.max_attempts) /* somebody edited the row */
		q->policy.max_attempts = 1;
	if (!q->policy.max_failed)
		q->policy.max_failed = 1;
	if (q->known && same_filters(s, filters))
		return;
	drop_filters(s);
	if (filters_decode(s, filters) != 0)
		log_error("queue", "tenant=%u sub=%" PRIu64 " stored filters cannot be read",
		          s->space->tenant_id, s->id);
	for (size_t i = 0; i < s->n_filters; i++) {
		if (s->filters[i].text)
			filter_plant(s, &s->filters[i]);
	}
	q->known = true;
}

/* ---- who may consume it ------------------------------------------------------------------------
 */

static bool stores(const struct subscription *s, struct slice filter)
{
	for (size_t i = 0; i < s->n_filters; i++) {
		if (s->filters[i].text && slice_eq(s->filters[i].match, filter))
			return true;
	}
	return false;
}

static struct slice first_filter(const struct subscription *s)
{
	for (size_t i = 0; i < s->n_filters; i++) {
		if (s->filters[i].text)
			return s->filters[i].match;
	}
	return slice_str("");
}

const char *queue_objection(const struct queue *q, const struct session *s, struct slice filter,
                            uint8_t *reason)
{
	static char text[TOPIC_MAX_BYTES + 300];
	const struct subscription *sub = q->sub;
	struct topic_filter parts;

	*reason = MQTT_REASON_TOPIC_FILTER_INVALID;
	if (topic_filter_parse(filter, &parts, NULL) != 0 || parts.kind != FILTER_QUEUE)
		return "this is not the name of a work queue";
	for (size_t i = 0; i < sub->n_filters; i++) {
		const struct filter *f = &sub->filters[i];

		if (!f->text || !s->conn_id || !s->ops->may_subscribe ||
		    s->ops->may_subscribe(s->conn, f->match))
			continue; /* one whose client is away is asked when that is back */
		*reason = MQTT_REASON_NOT_AUTHORIZED;
		return "the token's acl does not allow subscribing to the filter of this queue";
	}
	if (!parts.filter.n || stores(sub, parts.filter))
		return NULL;
	snprintf(text, sizeof text,
	         "the queue %s exists with the filter %.*s: subscribe to $queue/%s, or choose "
	         "another name",
	         sub->name, (int)first_filter(sub).n, first_filter(sub).p, sub->name);
	return text;
}

/* ---- what goes next ----------------------------------------------------------------------------
 */

uint32_t queue_attempt_of(const struct place *pl, const struct batch *b)
{
	return queue_is_retry(pl) ? (uint32_t)batch_stamp(b) : 1;
}

static bool is_full(const struct queue *q)
{
	return q->waiting + q->making >= q->policy.max_failed;
}

static bool may_deliver(struct queue *q, const struct place *pl)
{
	if (!queue_is_retry(pl) && is_full(q))
		return false; /* the cursor waits */
	return breaker_allows(&q->breaker, clock_now_ms());
}

/* The batch that holds it, and where in that; NULL: it is being fetched. */
static struct batch *find_event(struct queue *q, struct place *pl, uint64_t seq, uint32_t *index)
{
	struct batch *b;

	*index = 0;
	if (queue_is_retry(pl))
		return retry_find(q, seq)->batch;
	b = partition_batch(pl->partition, seq);
	if (b)
		*index = (uint32_t)(seq - batch_base_seq(b));
	else
		partition_fetch(pl->partition, seq);
	return b;
}

static uint64_t key_of(const struct event *ev)
{
	return hash_stable(event_ordering(ev).p, event_ordering(ev).n);
}

/* Ordered: it is over, or parked. */
static void pass_turn(struct queue *q, struct place *pl, uint64_t seq)
{
	struct place *next;
	uint64_t next_seq;
	struct feed_entry *e;

	if (!ordering_left(&q->ordering, pl, seq, &next, &next_seq))
		return;
	e = feed_find(&next->feed, next_seq);
	if (e && e->state == FEED_BLOCKED)
		feed_set(&next->feed, e, FEED_READY);
}

/* Ordered: false = not its turn. */
static bool has_turn(struct queue *q, struct place *pl, struct feed_entry *e, struct batch *b,
                     const struct event *ev)
{
	if (!q->policy.ordered || queue_is_retry(pl))
		return true;
	switch (ordering_admit(&q->ordering, pl, e->seq, key_of(ev))) {
	case ORDERING_GO:
		return true;
	case ORDERING_WAIT:
		feed_set(&pl->feed, e, FEED_BLOCKED);
		return false;
	case ORDERING_PARK:
		pass_turn(q, pl, e->seq); /* it was in flight, and came back */
		failure_park(q, pl, e, b, key_of(ev));
		return false;
	}
	return false;
}

/* One waiting event of a place to whoever can take it; false = not now. */
static bool pump_one(struct queue *q, struct place *pl)
{
	static const struct match any = {.qos = 1};
	struct feed_entry *e = queue_is_retry(pl) ? retry_ready(q) : feed_next_ready(&pl->feed);
	struct consumer *c;
	struct batch *b;
	struct event ev;
	uint32_t index;
	uint64_t seq;

	if (!e || !may_deliver(q, pl))
		return false;
	c = subscription_pick(q->sub);
	b = c ? find_event(q, pl, e->seq, &index) : NULL;
	if (!b)
		return false;
	batch_event(b, index, &ev);
	if (!has_turn(q, pl, e, b, &ev))
		return true;
	seq = e->seq;
	breaker_sent(&q->breaker, pl, seq);
	q->sub->space->dispatch->stats.retried += queue_is_retry(pl);
	batch_ref(b); /* settled at once, a row's batch goes */
	if (!place_deliver(pl, c, seq, &ev, b, &any, e))
		breaker_returned(&q->breaker, pl, seq);
	batch_unref(b);
	return true;
}

void queue_pump(struct queue *q)
{
	struct subscription *s = q->sub;
	bool any = true;

	if (s->pumping || s->state != SUBSCRIPTION_ACTIVE || !s->n_places || s->n_awaited)
		return; /* until all nodes have told what they have in flight */
	failure_fetch(q);
	s->pumping = true;
	while (any && q->loaded &&
	       !s->yielding) { /* those that come back and those of each partition in turn */
		any = pump_one(q, &q->retry);
		for (uint32_t i = 0; i < s->n_places; i++)
			any = pump_one(q, s->places[i]) || any;
	}
	s->pumping = false;
	for (uint32_t i = 0; i < s->n_places; i++)
		place_resume(s->places[i]);
	retry_look(q);
}

/* ---- what became of it -------------------------------------------------------------------------
 */

void queue_recalled(struct queue *q, struct place *pl, uint64_t seq, const struct event *ev)
{
	if (q->policy.ordered)
		ordering_in_flight(&q->ordering, pl, seq, key_of(ev));
}

void queue_left(struct queue *q, struct place *pl, uint64_t seq)
{
	breaker_returned(&q->breaker, pl, seq);
	if (q->policy.ordered)
		pass_turn(q, pl, seq);
}

static void on_success(struct queue *q)
{
	struct subscription *s = q->sub;

	if (!breaker_succeeded(&q->breaker))
		return;
	s->space->dispatch->stats.breakers_open--;
	log_info("queue", "tenant=%u sub=%" PRIu64 " breaker=closed", s->space->tenant_id, s->id);
}

void queue_result(struct queue *q, struct place *pl, uint64_t seq, enum peer_result result,
                  struct slice reason)
{
	struct feed_entry *e =
	        queue_is_retry(pl) ? feed_held(&pl->feed, seq) : feed_find(&pl->feed, seq);

	if (result == PEER_ACKED) {
		on_success(q);
		place_settle(pl, seq);
		return;
	}
	if (!e) { /* held while its subscription is not ours: it is tried again when it is */
		e = feed_held(&pl->feed, seq);
		if (e)
			feed_unhold(&pl->feed, e);
		return;
	}
	if (e->state != FEED_SENT)
		return;
	if (result == PEER_RETURNED) {
		place_return(pl, e);
		return;
	}
	if (result == PEER_TIMEOUT) /* perhaps it was not there any more */
		gaps_unheard(&pl->gaps, seq);
	place_heard(pl, seq);
	e->packet_id = 0;
	e->holder = NULL;
	if (q->sub->state == SUBSCRIPTION_ACTIVE)
		failure_add(q, pl, e, result == PEER_DEAD, reason);
	else if (queue_is_retry(pl))
		retry_drop(q, seq); /* it is read again */
}

void queue_returned(struct queue *q, struct place *pl, struct feed_entry *e)
{
	breaker_returned(&q->breaker, pl, e->seq);
	if (e->lost < UINT8_MAX)
		e->lost++;
	if (q->sub->state != SUBSCRIPTION_ACTIVE ||
	    (!queue_is_retry(pl) && feed_find(&pl->feed, e->seq) != e) || e->lost < QUEUE_LOST_MAX)
		return;
	e->lost = 0;
	failure_add(q, pl, e, false, slice_str("20 consumers were lost with it in hand"));
}
