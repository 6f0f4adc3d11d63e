/* A subscription this node owns: its consumers, who take turns, its places (place.c), and how it is
 * claimed again. */
#include "node/delivery/delivery.h"

#include "base/mem.h"
#include "node/delivery/queue.h"
#include "node/delivery/usage.h"
#include "node/mqtt/mqtt_reason.h"

#include <assert.h>
#include <stdlib.h>

enum { RECLAIM_PAUSE_MS = 100 };

/* ---- consumers ---------------------------------------------------------------------------------
 */

static void wait_over(void *arg)
{
	struct subscription *s = arg;

	s->rota_due = false;
	subscription_pump(s);
}

struct consumer *subscription_pick(struct subscription *s)
{
	struct consumer *c = rota_pick(&s->rota);

	if (!c && s->rota.waits && !s->rota_due) {
		s->rota_due = true;
		dispatch_after(s->space->dispatch, ROTA_KEPT_MS, wait_over, s);
	}
	return c;
}

static void ready_entry(void *arg, struct feed_entry *e)
{
	place_ready(arg, e);
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
	for (uint32_t i = 0; !s->away && i < s->n_places; i++)
		feed_each_held_by(&s->places[i]->feed, gone, keep ? ready_entry : return_entry,
		                  s->places[i]);
	if (s->queue && !s->away)
		feed_each_held_by(&s->queue->retry.feed, gone, return_entry, &s->queue->retry);
	rota_remove(&s->rota, gone);
	if (s->rota.n || s->away)
		subscription_pump(s);
}

void subscription_pump(struct subscription *s)
{
	if (s->away) {
		arrivals_pump(s);
		return;
	}
	if (s->queue) {
		queue_pump(s->queue);
		return;
	}
	if (s->pumping || s->state != SUBSCRIPTION_ACTIVE || !s->n_places || s->n_awaited ||
	    s->yielding)
		return;
	s->pumping = true;
	for (uint32_t i = 0; i < s->n_places; i++)
		place_pump(s->places[i]);
	s->pumping = false;
}

void subscription_wake(struct subscription *s)
{
	for (uint32_t i = 0; i < s->n_places; i++)
		place_resume(s->places[i]);
	subscription_pump(s);
	layouts_check(s);
}

/* ---- places ------------------------------------------------------------------------------------
 */

void subscription_begin(struct subscription *s, const struct positions *starts)
{
	places_set(s, starts->layout);
	for (uint32_t i = 0; i < s->n_places; i++) {
		feed_begin(&s->places[i]->feed, starts->seqs[i] - 1, slice(NULL, 0));
		s->places[i]->feed.committed_through = starts->seqs[i] - 1;
	}
}

/* From a stored cursor. was_ours: nobody else had it since we suspended it, so that what we know
 * beyond the cursor still holds. */
static void begin_at(struct place *pl, const struct bus_cursor *cursor, bool was_ours)
{
	struct feed *f = &pl->feed;

	if (!was_ours || f->next_seq <= cursor->acked_through) {
		feed_begin(f, cursor->acked_through, cursor->acked_ahead);
		gaps_release(&pl->gaps);
		pl->gaps.next = (struct gap){cursor->gap_from, cursor->gap_to};
	} else
		feed_learn(f, cursor->acked_through, cursor->acked_ahead);
	f->commit_no = cursor->commit_no;
	f->committed_through = cursor->acked_through;
	f->committing = false;
	pl->has_row = true;
}

void subscription_stored(struct subscription *s)
{
	for (uint32_t i = 0; i < s->n_places; i++) {
		s->places[i]->has_row = true;
		committer_mark(s->space->dispatch, s->places[i]);
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
	for (uint32_t i = 0; i < s->n_places; i++) {
		struct place *pl = s->places[i];

		if (pl->feed.live)
			place_lag(pl, pl->partition->next_seq, false);
		feed_suspend(&pl->feed, pl->feed.next_seq - 1);
		committer_forget(s->space->dispatch, pl);
		pl->feed.committing = false;
	}
	s->stepping = false;
	if (s->durable && s->state == SUBSCRIPTION_ACTIVE) {
		s->state = SUBSCRIPTION_UNCLAIMED;
		s->held_epoch = s->epoch;
	}
	remotes_dismiss(s);
}

void subscription_forget_held(struct subscription *s)
{
	for (uint32_t i = 0; i < s->n_places; i++)
		place_forget_held(s->places[i]);
	if (s->queue)
		place_forget_held(&s->queue->retry);
}

/* ---- claims ------------------------------------------------------------------------------------
 */

/* Its rows are those of one layout: the one it reads. */
static void claim_places(struct subscription *s, const struct bus_claim *req, bool was_ours)
{
	struct layout l = {UINT32_MAX, 0};
	uint32_t end = 0;

	for (uint32_t i = 0; i < req->n_cursors; i++) {
		uint32_t id = req->cursors[i].partition_id;

		l.first = id < l.first ? id : l.first;
		end = id >= end ? id + 1 : end;
	}
	if (!req->n_cursors)
		return;
	l.n = end - l.first;
	places_set(s, l);
	for (uint32_t i = 0; i < req->n_cursors; i++)
		begin_at(place_find(s, req->cursors[i].partition_id), &req->cursors[i], was_ours);
	layouts_heard_of(s->space, end - 1);
	layouts_check(s);
}

void subscription_claimed(struct subscription *s, const struct bus_claim *req)
{
	bool was_ours = s->epoch && req->epoch == s->epoch + 1 && !req->created;

	if (!s->durable) {
		s->durable = true;
		usage_subscribed(s->space->usage, s->kind != BUS_SUB_SESSION,
		                 -(s->kind == BUS_SUB_SESSION));
		TAILQ_INSERT_TAIL(&s->space->dispatch->durable, s, link);
	}
	if (s->kind != BUS_SUB_SESSION) {
		away_end(s);
		share_set_id(s, req->subscription_id);
		/* under no other epoch between, or somebody changed it from outside: it was told to
		 * begin elsewhere, perhaps */
		if (s->held_epoch + 1 != req->epoch) {
			subscription_forget_held(s);
			s->held_since = req->epoch - 1;
		}
	}
	s->id = req->subscription_id;
	s->epoch = req->epoch;
	s->state = SUBSCRIPTION_ACTIVE;
	if (s->queue) {
		s->expiry_s = req->stored_expiry_s;
		queue_know(s->queue, req->stored_filters, &req->policy);
	}
	claim_places(s, req, was_ours);
	for (uint32_t i = 0; i < s->n_places; i++)
		committer_mark(s->space->dispatch,
		               s->places[i]); /* settled while it was not ours */
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
		} else if (req->outcome == SQL_LOST || req->absent) {
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
		session_lost(s->session);
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
	if (kind == BUS_SUB_SESSION) /* of the others, once they are ours */
		usage_subscribed(sp->usage, 1, 1);
	return s;
}

static void subscription_free(struct subscription *s)
{
	struct space *sp = s->space;

	dispatch_forget(sp->dispatch, s);

	free(s->filters);
	rota_release(&s->rota);
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
	assert(s->state != SUBSCRIPTION_DEAD && !s->rota.n);
	if (s->queue)
		queue_free(s->queue);
	s->queue = NULL;
	for (size_t i = 0; i < s->n_filters; i++) {
		if (s->filters[i].text)
			filter_remove(s, &s->filters[i]);
	}
	places_set(s, (struct layout){0, 0});
	if (s->step_due)
		TAILQ_REMOVE(&d->steps, s, step_link);
	s->step_due = false;
	if (s->durable)
		TAILQ_REMOVE(&d->durable, s, link);
	d->stats.subscriptions--;
	if (s->durable || s->kind == BUS_SUB_SESSION)
		usage_subscribed(s->space->usage, -1, s->durable ? 0 : -1);
	s->state = SUBSCRIPTION_DEAD;
	s->requests++;
	subscription_unref(s);
}
