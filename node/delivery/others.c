/* What other nodes did: they stored events in partitions that are followed here (known by a look at
 * the heads, or by a hint over a link), or took a subscription from us because its client connected
 * there. */
#include "node/delivery/delivery.h"

#include "base/bug.h"
#include "base/mem.h"

#include <stdlib.h>

enum { PAUSE_AFTER_ERROR_MS = 50 };

/* ---- heads -------------------------------------------------------------------------------------
 */

struct heads_look {
	struct bus_heads req;
	struct dispatch *dispatch;
	uint64_t generation;
	struct bus_head heads[BUS_HEADS_MAX];
};

static void look_end(struct dispatch *d)
{
	d->looks--;
	if (!d->looks && d->look_again)
		others_stored(d);
}

static void look_after_error(void *arg)
{
	others_stored(arg);
}

static void hint_one(struct dispatch *d, const struct bus_head *h, bool confirmed)
{
	struct space *sp = map_get(&d->spaces, &h->tenant_id, sizeof h->tenant_id);

	struct partition *p = sp ? space_find_partition(sp, h->partition_id) : NULL;

	if (p)
		partition_hint(p, h->next_seq, confirmed);
	if (sp)
		layouts_heard_of(sp, h->partition_id);
}

void others_hinted(struct dispatch *d, const struct bus_head *head)
{
	hint_one(d, head, true);
}

static void on_heads(struct bus_heads *req)
{
	struct heads_look *l = (struct heads_look *)req;
	struct dispatch *d = l->dispatch;
	bool current = d->up && l->generation == d->bus->generation;

	for (size_t i = 0; req->outcome == SQL_OK && current && i < req->n; i++)
		hint_one(d, &req->heads[i], BUG("look-is-confirmed")); /* may not be durable yet */
	if (req->outcome != SQL_OK && current)
		dispatch_after(d, PAUSE_AFTER_ERROR_MS, look_after_error, d);
	free(l);
	look_end(d);
}

static struct heads_look *look_new(struct dispatch *d)
{
	struct heads_look *l = xcalloc(1, sizeof *l);

	l->dispatch = d;
	l->generation = d->bus->generation;
	l->req.done = on_heads;
	l->req.heads = l->heads;
	return l;
}

static void look_send(struct heads_look *l)
{
	struct dispatch *d = l->dispatch;

	d->looks++;
	d->bus->ops->heads(d->bus, &l->req);
}

/* Followed: somebody is live there. Whoever lags reads on, and learns of the head with that. */
static bool followed(const struct partition *p)
{
	return p && p->next_seq && !TAILQ_EMPTY(&p->live);
}

static struct heads_look *look_add(struct heads_look *l, const struct partition *p)
{
	struct dispatch *d = p->space->dispatch;

	if (!l)
		l = look_new(d);
	l->heads[l->req.n++] =
	        (struct bus_head){.tenant_id = p->space->tenant_id, .partition_id = p->id};
	if (l->req.n < BUS_HEADS_MAX)
		return l;
	look_send(l);
	return NULL;
}

void others_stored(struct dispatch *d)
{
	struct heads_look *l = NULL;
	struct space *sp;
	size_t at = 0;

	d->look_again = d->looks != 0;
	if (d->looks || !d->up)
		return;
	while ((sp = map_next(&d->spaces, &at))) {
		for (uint32_t i = 0; i < sp->n_partitions; i++) {
			if (followed(sp->partitions[i]))
				l = look_add(l, sp->partitions[i]);
		}
	}
	if (l)
		look_send(l);
}

/* ---- subscriptions taken by force --------------------------------------------------------------
 */

struct owned_look {
	struct bus_owned req;
	struct dispatch *dispatch;
	struct bus_owned_row rows[BUS_CURSORS_MAX];
	struct subscription *subs[BUS_CURSORS_MAX]; /* parallel; each one of its requests */
};

static void on_owned(struct bus_owned *req)
{
	struct owned_look *l = (struct owned_look *)req;

	for (size_t i = 0; i < req->n; i++) {
		struct subscription *s = l->subs[i];

		s->checking = false;
		if (req->outcome == SQL_OK && req->rows[i].lost &&
		    s->state == SUBSCRIPTION_ACTIVE && s->epoch == req->rows[i].epoch)
			subscription_lost(s);
		subscription_unref(s);
	}
	free(l);
}

static void owned_send(struct owned_look *l)
{
	struct dispatch *d = l->dispatch;

	d->bus->ops->owned(d->bus, &l->req);
}

static struct owned_look *owned_new(struct dispatch *d)
{
	struct owned_look *l = xcalloc(1, sizeof *l);

	l->dispatch = d;
	l->req.done = on_owned;
	l->req.rows = l->rows;
	return l;
}

static void owned_add(struct owned_look *l, struct subscription *s)
{
	l->subs[l->req.n] = s;
	l->rows[l->req.n++] = (struct bus_owned_row){
	        .tenant_id = s->space->tenant_id, .subscription_id = s->id, .epoch = s->epoch};
	s->requests++;
}

void others_check(struct subscription *s)
{
	struct owned_look *l;

	if (s->checking || s->state != SUBSCRIPTION_ACTIVE)
		return;
	s->checking = true;
	l = owned_new(s->space->dispatch);
	owned_add(l, s);
	owned_send(l);
}

void others_took(struct dispatch *d)
{
	struct owned_look *l = NULL;
	struct subscription *s;

	TAILQ_FOREACH (s, &d->durable, link) {
		if (s->state != SUBSCRIPTION_ACTIVE)
			continue;
		if (!l)
			l = owned_new(d);
		owned_add(l, s);
		if (l->req.n == BUS_CURSORS_MAX) {
			owned_send(l);
			l = NULL;
		}
	}
	if (l)
		owned_send(l);
}
