/* From one layout of a tenant's partitions to the next. A topic's events are in one partition of
 * each layout, so a subscription that has finished one, every event of it settled, before it is
 * given any of the next, has them in order, whatever is shared, tried again or handed over. The
 * cursors of a durable one are those of the layout it reads; the step to the next replaces them in
 * one transaction. That a layout is over, and where it ends, only the database says: heads that are
 * sealed. */
#include "node/delivery/delivery.h"

#include "base/log.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>

enum { ASK_AGAIN_MS = 50 };

struct layouts_waiter {
	struct layouts_waiter *next;
	void (*fn)(void *arg, bool ok);
	void *arg;
};

struct layouts {
	struct space *space;
	size_t n;
	struct layout_head *heads; /* by partition, as last told */
	uint32_t heard_of;         /* the highest partition that there is, by all that was heard */
	bool asking;
	struct layouts_waiter *waiters;
};

/* ---- what is known -----------------------------------------------------------------------------
 */

static struct layouts *layouts_get(struct space *sp)
{
	if (!sp->layouts) {
		sp->layouts = xcalloc(1, sizeof *sp->layouts);
		sp->layouts->space = sp;
	}
	return sp->layouts;
}

void layouts_free(struct layouts *l)
{
	if (!l)
		return;
	dispatch_forget(l->space->dispatch, l);
	free(l->heads);
	free(l);
}

static const struct layout_head *find_head(const struct space *sp, uint32_t partition)
{
	for (size_t i = 0; sp->layouts && i < sp->layouts->n; i++) {
		if (sp->layouts->heads[i].partition_id == partition)
			return &sp->layouts->heads[i];
	}
	return NULL;
}

struct layout layouts_from(const struct space *sp, uint32_t partition,
                           const struct layout_head **heads)
{
	const struct layouts *all = sp->layouts;
	struct layout l = {0, 0};

	for (size_t i = 0; all && i < all->n; i++) {
		const struct layout_head *h = &all->heads[i];

		if (h->partition_id < partition)
			continue;
		if (l.n && h->layout != (*heads)->layout)
			break;
		if (!l.n++) {
			l.first = h->partition_id;
			*heads = h;
		}
	}
	return l;
}

/* ---- asking ------------------------------------------------------------------------------------
 */

struct layouts_look {
	struct bus_layouts req;
	struct space *space; /* one of its requests */
	uint64_t generation;
};

static bool is_behind(const struct space *sp)
{
	return sp->layouts->heard_of >= sp->layout.first + sp->layout.n;
}

static void ask(struct layouts *all);

static void ask_again(void *arg)
{
	ask(arg);
}

static void take_heads(struct layouts *all, struct bus_layouts *req)
{
	struct space *sp = all->space;
	const struct layout_head *last;

	if (!req->n)
		return;
	free(all->heads);
	all->heads = req->heads;
	all->n = req->n;
	req->heads = NULL;
	last = &all->heads[all->n - 1];
	if (last->partition_id >= sp->layout.first + sp->layout.n)
		sp->layout = layouts_from(sp, last->layout, &last);
	for (size_t i = 0; i < all->n; i++) {
		const struct layout_head *h = &all->heads[i];
		struct partition *p = space_find_partition(sp, h->partition_id);

		if (p && h->sealed)
			partition_hint(p, h->next_seq, true);
	}
}

static void tell_waiters(struct layouts *all, bool ok)
{
	struct layouts_waiter *w = all->waiters;

	all->waiters = NULL;
	while (w) {
		struct layouts_waiter *next = w->next;

		w->fn(w->arg, ok);
		free(w);
		w = next;
	}
}

static void on_layouts(struct bus_layouts *req)
{
	struct layouts_look *l = (struct layouts_look *)req;
	struct space *sp = l->space;
	struct dispatch *d = sp->dispatch;
	struct layouts *all = sp->layouts;
	bool ok = req->outcome == SQL_OK && d->up && l->generation == d->bus->generation;

	all->asking = false;
	if (ok)
		take_heads(all, req);
	free(req->heads);
	free(l);
	tell_waiters(all, ok);
	if (ok)
		space_each_subscription(sp, layouts_check);
	if ((!ok || is_behind(sp)) && !all->asking)
		dispatch_after(d, ASK_AGAIN_MS, ask_again, all);
	sp->requests--;
	space_free_if_unused(sp);
}

static void ask(struct layouts *all)
{
	struct space *sp = all->space;
	struct dispatch *d = sp->dispatch;
	struct layouts_look *l;

	if (all->asking || d->freeing)
		return;
	dispatch_forget(d, all);
	l = xcalloc(1, sizeof *l);
	l->space = sp;
	l->generation = d->bus->generation;
	l->req.done = on_layouts;
	l->req.tenant_id = sp->tenant_id;
	all->asking = true;
	sp->requests++;
	d->bus->ops->layouts(d->bus, &l->req);
}

void layouts_ask(struct space *sp, void (*fn)(void *arg, bool ok), void *arg)
{
	struct layouts *all = layouts_get(sp);
	struct layouts_waiter *w = xcalloc(1, sizeof *w);

	*w = (struct layouts_waiter){all->waiters, fn, arg};
	all->waiters = w;
	ask(all);
}

void layouts_heard_of(struct space *sp, uint32_t partition)
{
	struct layouts *all;

	if (partition < sp->layout.first + sp->layout.n)
		return;
	all = layouts_get(sp);
	if (partition <= all->heard_of)
		return; /* it is being asked for */
	all->heard_of = partition;
	ask(all);
}

void layouts_heard(struct space *sp, struct layout l)
{
	layouts_heard_of(sp, l.first + l.n - 1);
}

/* ---- a step ------------------------------------------------------------------------------------
 */

/* Partitions are forgotten, oldest first, when nothing is in them and nobody reads them. */
static bool is_finished(const struct subscription *s, const struct place *pl)
{
	const struct layout_head *h = find_head(s->space, pl->partition->id);
	uint64_t through = place_matched_through(pl);

	if (pl->feed.committing || (s->durable && !pl->has_row) ||
	    feed_acked_through(&pl->feed, through) != through)
		return false;
	return !h || (h->sealed && through + 1 >= h->next_seq && pl->feed.next_seq);
}

static bool has_finished(const struct subscription *s)
{
	for (uint32_t i = 0; i < s->n_places; i++) {
		if (!is_finished(s, s->places[i]))
			return false;
	}
	return true;
}

static void enter(struct subscription *s, struct layout next)
{
	log_info("layouts", "tenant=%u sub=%" PRIu64 " from_partition=%u to_partition=%u",
	         s->space->tenant_id, s->id, s->first_place, next.first);
	places_set(s, next);
	for (uint32_t i = 0; i < s->n_places; i++) {
		feed_begin(&s->places[i]->feed, 0, slice(NULL, 0));
		s->places[i]->has_row = s->durable;
	}
	subscription_wake(s);
	layouts_check(s);
}

struct step {
	struct bus_change req;
	struct subscription *sub; /* one of its requests */
	struct layout next;
	struct bus_cursor cursors[];
};

static void check_again(void *arg)
{
	layouts_check(arg);
}

static void step_failed(struct subscription *s)
{
	for (uint32_t i = 0; i < s->n_places; i++)
		committer_mark(s->space->dispatch, s->places[i]);
	dispatch_after(s->space->dispatch, ASK_AGAIN_MS, check_again, s);
}

static void on_step(struct bus_change *req)
{
	struct step *st = (struct step *)req;
	struct subscription *s = st->sub;

	if (s->stepping && s->state == SUBSCRIPTION_ACTIVE && s->epoch == req->epoch) {
		s->stepping = false;
		if (req->outcome == SQL_OK || req->outcome == SQL_DUP)
			enter(s, st->next);
		else if (req->outcome == SQL_UNKNOWN) /* the rows of the next claim tell */
			subscription_doubt(s);
		else if (req->outcome == SQL_LOST)
			subscription_lost(s);
		else
			step_failed(s);
	}
	free(st);
	subscription_unref(s);
}

static void step_durably(struct subscription *s, struct layout next)
{
	struct dispatch *d = s->space->dispatch;
	struct step *st = xcalloc(1, sizeof *st + next.n * sizeof *st->cursors);

	for (uint32_t i = 0; i < s->n_places; i++)
		committer_forget(d, s->places[i]);
	for (uint32_t i = 0; i < next.n; i++)
		st->cursors[i].partition_id = next.first + i;
	st->sub = s;
	st->next = next;
	st->req = (struct bus_change){
	        .done = on_step,
	        .verb = BUS_CHANGE_LAYOUT,
	        .tenant_id = s->space->tenant_id,
	        .subscription_id = s->id,
	        .epoch = s->epoch,
	        .n_starts = next.n,
	        .starts = st->cursors,
	};
	s->stepping = true;
	s->requests++;
	d->bus->ops->change(d->bus, &st->req);
}

static bool may_step(const struct subscription *s)
{
	return s->state == SUBSCRIPTION_ACTIVE && !s->stepping && s->n_places &&
	       s->first_place < s->space->layout.first;
}

static void step(struct subscription *s)
{
	const struct dispatch *d = s->space->dispatch;
	const struct layout_head *heads;
	struct layout next;

	if (!may_step(s) || !d->up || d->draining || s->n_awaited || s->yielding)
		return;
	next = layouts_from(s->space, s->first_place + s->n_places, &heads);
	if (!next.n && !layouts_get(s->space)->n) /* what this one became is not known yet */
		ask(s->space->layouts);
	if (!next.n || !has_finished(s))
		return;
	if (s->durable)
		step_durably(s, next);
	else
		enter(s, next);
}

static void run_steps(void *arg)
{
	struct dispatch *d = arg;
	struct subscription *s;

	while ((s = TAILQ_FIRST(&d->steps))) {
		TAILQ_REMOVE(&d->steps, s, step_link);
		s->step_due = false;
		step(s);
	}
}

/* Not at once: whoever calls is at work with its places. */
void layouts_check(struct subscription *s)
{
	struct dispatch *d = s->space->dispatch;

	if (s->step_due || !may_step(s))
		return;
	if (TAILQ_EMPTY(&d->steps))
		dispatch_after(d, 0, run_steps, d);
	s->step_due = true;
	TAILQ_INSERT_TAIL(&d->steps, s, step_link);
}
