/* Seeing a subscription's row off after the subscription itself has left memory: release it for the
 * next owner, or delete it. The request carries its own copy of what it needs and is repeated until
 * the database has answered; every verb is fenced by the epoch, so a repeat is harmless. */
#include "node/delivery/delivery.h"

#include "base/log.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/queue.h>

enum {
	CLOSING_PAUSE_MS = 200,
	STRAY_EXPIRY_S = 60,   /* at least: somebody is about to claim it */
	STRAYS_MAX = 4,        /* at a time: whoever asks for them may ask again */
	STRAY_NAME_MAX = 1024, /* bytes: the column's */
};

struct closing {
	struct bus_change req;
	LIST_ENTRY(closing) link; /* in dispatch.closings */
	struct dispatch *dispatch;
	enum bus_sub_kind kind;
	char *name; /* of a share: others are told when it is free; or NULL */
};

static void closing_send(void *arg)
{
	struct closing *c = arg;

	c->dispatch->bus->ops->change(c->dispatch->bus, &c->req);
}

static void closing_end(struct closing *c)
{
	struct dispatch *d = c->dispatch;

	LIST_REMOVE(c, link);
	free(c->name);
	free(c);
	dispatch_drain_check(d);
}

/* It is free: whoever has consumers for it may claim it at once. */
static void tell_released(const struct closing *c)
{
	struct peer_message m = {
	        .type = PEER_RELEASED, .tenant_id = c->req.tenant_id, .kind = c->kind};

	if (!c->name || c->req.verb != BUS_CHANGE_RELEASE)
		return;
	m.name = slice_str(c->name);
	peer_send_all(c->dispatch, &m);
}

static void on_change(struct bus_change *req)
{
	struct closing *c = (struct closing *)req;

	switch (req->outcome) {
	case SQL_RETRY:
	case SQL_UNKNOWN:
		dispatch_after(c->dispatch, CLOSING_PAUSE_MS, closing_send, c);
		return;
	case SQL_OK:
	case SQL_DUP:
		tell_released(c);
		break;
	case SQL_LOST: /* somebody else has it: it is theirs to see off */
		break;
	case SQL_FATAL:
		log_error("closing", "tenant=%u sub=%" PRIu64 " verb=%d refused=1", req->tenant_id,
		          req->subscription_id, (int)req->verb);
		break;
	}
	closing_end(c);
}

static struct closing *closing_new(struct dispatch *d, bool delete_row, uint32_t expiry_s)
{
	struct closing *c = xcalloc(1, sizeof *c);

	c->dispatch = d;
	c->req.done = on_change;
	c->req.verb = delete_row ? BUS_CHANGE_DELETE : BUS_CHANGE_RELEASE;
	c->req.expiry_s = expiry_s;
	LIST_INSERT_HEAD(&d->closings, c, link);
	return c;
}

void closing_start(struct subscription *s, bool delete_row, uint32_t expiry_s, uint32_t idle_s)
{
	struct dispatch *d = s->space->dispatch;
	struct closing *c;

	if (!s->durable || !s->epoch || d->freeing)
		return;
	c = closing_new(d, delete_row, expiry_s);
	c->req.idle_s = idle_s;
	c->req.tenant_id = s->space->tenant_id;
	c->req.subscription_id = s->id;
	c->req.epoch = s->epoch;
	c->kind = s->kind;
	if (s->kind != BUS_SUB_SESSION && d->n_peers)
		c->name = xstrdup(s->name);
	closing_send(c);
}

void closing_claimed(struct dispatch *d, const struct bus_claim *claim)
{
	struct closing *c;

	if (d->freeing)
		return;
	c = closing_new(d, claim->created, claim->stored_expiry_s);
	c->req.tenant_id = claim->tenant_id;
	c->req.subscription_id = claim->subscription_id;
	c->req.epoch = claim->epoch;
	c->kind = claim->kind;
	if (c->kind != BUS_SUB_SESSION && d->n_peers)
		c->name = xstrndup(claim->name.p, claim->name.n);
	closing_send(c);
}

/* ---- strays ------------------------------------------------------------------------------------
 */

struct stray {
	struct bus_claim req;
	struct dispatch *dispatch;
	char name[];
};

static void on_stray(struct bus_claim *req)
{
	struct stray *st = (struct stray *)req;
	struct dispatch *d = st->dispatch;

	d->strays--;
	if (req->stored_expiry_s < STRAY_EXPIRY_S)
		req->stored_expiry_s = STRAY_EXPIRY_S;
	if (req->outcome == SQL_OK && !share_find(d, req->tenant_id, req->kind, req->name))
		closing_claimed(d, req);
	d->bus->ops->claim_release(d->bus, req);
	free(st);
}

static bool is_closing(const struct dispatch *d, uint32_t tenant_id, enum bus_sub_kind kind,
                       struct slice name)
{
	const struct closing *c;

	LIST_FOREACH (c, &d->closings, link) {
		if (c->name && c->req.tenant_id == tenant_id && c->kind == kind &&
		    slice_eq(slice_str(c->name), name))
			return true;
	}
	return false;
}

void closing_stray(struct dispatch *d, uint32_t tenant_id, enum bus_sub_kind kind,
                   struct slice name)
{
	struct stray *st;

	if (is_closing(d, tenant_id, kind, name))
		return; /* they will hear of it */
	if (!d->up || d->draining || d->leaving || d->strays >= STRAYS_MAX ||
	    name.n > STRAY_NAME_MAX)
		return; /* it is asked for again */
	st = xcalloc(1, sizeof *st + name.n + 1);
	memcpy(st->name, name.p, name.n);
	st->dispatch = d;
	st->req.done = on_stray;
	st->req.tenant_id = tenant_id;
	st->req.kind = kind;
	st->req.name = slice(st->name, name.n);
	d->strays++;
	d->bus->ops->claim(d->bus, &st->req);
}

void closing_release_all(struct dispatch *d)
{
	struct closing *c;

	while ((c = LIST_FIRST(&d->closings))) {
		LIST_REMOVE(c, link);
		free(c->name);
		free(c);
	}
}
