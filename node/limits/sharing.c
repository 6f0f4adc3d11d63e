/* What the nodes tell each other, and what follows from it. */
#include "node/limits/account.h"

#include "base/clock.h"
#include "base/mem.h"
#include "tenancy/budget.h"

#include <stdlib.h>
#include <string.h>

enum { COLD_TICKS = 2 }; /* a node that begins has heard of the others by then */

/* ---- parts of a rate ------------------------------------------------------------------------- */

static size_t gather(const struct account *a, bool bytes, struct budget_claim *claims)
{
	uint64_t now = clock_now_ms();
	size_t n = 1;

	claims[0] = (struct budget_claim){
	        .used = account_rate(bytes ? a->bytes_ring : a->events_ring) +
	                moving_rate(a, bytes),
	        .waiting = account_hunger(a) + moving_hunger(a),
	};
	for (size_t i = 0; i < a->n_remotes && n < BUDGET_CLAIMS_MAX; i++) {
		const struct account_remote *r = &a->remotes[i];
		struct budget_claim c = {bytes ? r->use.bytes : r->use.events, r->use.waiting};

		if ((c.used || c.waiting) && now - r->at_ms < ACCOUNT_FORGET_MS)
			claims[n++] = c;
	}
	return n;
}

/* Nodes without a link cannot tell what they need: each has an equal part. One that begins does not
 * know yet who else does. */
uint64_t account_part(const struct limits *l, const struct account *a, uint64_t rate, bool bytes)
{
	struct budget_claim claims[BUDGET_CLAIMS_MAX];
	size_t nodes = 1 + (l->live > l->linked ? l->live : l->linked);
	uint64_t part;
	size_t n;

	if (!rate || nodes == 1)
		return rate;
	n = gather(a, bytes, claims);
	part = budget_part(rate / nodes * (l->linked + 1), claims, n);
	if ((!a->busy || a->awake < COLD_TICKS) && n == 1 && part > rate / nodes)
		part = rate / nodes;
	return part ? part : 1;
}

/* ---- over all nodes -------------------------------------------------------------------------- */

static uint64_t use_of(const struct peer_use *u, enum limit which)
{
	switch (which) {
	case LIMIT_CONNECTIONS:
		return u->connections;
	case LIMIT_SUBSCRIPTIONS:
		return u->subscriptions;
	case LIMIT_EVENTS_PER_S:
		return u->events;
	case LIMIT_BYTES_PER_S:
		return u->bytes;
	default:
		return 0;
	}
}

static struct peer_use own_use(const struct account *a)
{
	return (struct peer_use){
	        .tenant_id = a->tenant_id,
	        .subject = a->subject,
	        .connections = a->guests,
	        .subscriptions = a->subscriptions,
	        .events = account_rate(a->events_ring) + moving_rate(a, false),
	        .bytes = account_rate(a->bytes_ring) + moving_rate(a, true),
	        .waiting = account_hunger(a) + moving_hunger(a),
	        .told = a->told,
	        .watched = !TAILQ_EMPTY(&a->watchers),
	};
}

/* What is in the database is added; what nodes without a link have is known from their reports. */
static uint64_t with_stock(const struct account *a, enum limit which, uint64_t here)
{
	const struct account_stock *s = &a->stock;

	switch (which) {
	case LIMIT_CONNECTIONS:
		return s->unlinked > here ? s->unlinked : here;
	case LIMIT_STORED_BYTES:
		return s->last.stored_bytes;
	default:
		return here + stock_used(a, which);
	}
}

uint64_t account_used(const struct account *a, enum limit which)
{
	bool rate = which == LIMIT_EVENTS_PER_S || which == LIMIT_BYTES_PER_S;
	struct peer_use own = own_use(a);
	uint64_t sum = use_of(&own, which);

	for (size_t i = 0; i < a->n_remotes; i++)
		sum += use_of(&a->remotes[i].use, which);
	return rate ? sum / 1000 : with_stock(a, which, sum);
}

/* ---- telling the peers ----------------------------------------------------------------------- */

void sharing_send(struct limits *l)
{
	struct peer_message m = {.type = PEER_USE, .n_uses = l->n_uses, .uses = l->uses};

	if (l->n_uses && l->port)
		l->port->send_all(l->port->self, &m);
	l->n_uses = 0;
}

void sharing_collect(struct limits *l, struct account *a)
{
	if (!l->linked)
		return;
	l->uses[l->n_uses++] = own_use(a);
	if (l->n_uses == PEER_USES_MAX)
		sharing_send(l);
}

/* ---- hearing them ---------------------------------------------------------------------------- */

static struct account_remote *remote_of(struct account *a, const struct id128 *peer)
{
	for (size_t i = 0; i < a->n_remotes; i++) {
		if (id128_eq(&a->remotes[i].peer, peer))
			return &a->remotes[i];
	}
	a->remotes = xrealloc(a->remotes, (a->n_remotes + 1) * sizeof *a->remotes);
	a->remotes[a->n_remotes] = (struct account_remote){.peer = *peer};
	return &a->remotes[a->n_remotes++];
}

void sharing_forget(struct account *a, const struct id128 *peer)
{
	for (size_t i = 0; i < a->n_remotes; i++) {
		if (id128_eq(&a->remotes[i].peer, peer)) {
			a->remotes[i] = a->remotes[--a->n_remotes];
			return;
		}
	}
}

static bool says_nothing(const struct peer_use *u)
{
	return !u->connections && !u->subscriptions && !u->events && !u->bytes && !u->waiting;
}

static void take(struct limits *l, const struct id128 *peer, const struct peer_use *u)
{
	uint64_t now = clock_now_ms();
	struct account *a = account_get(l, u->tenant_id, u->subject);

	if (!a)
		return;
	if (says_nothing(u))
		sharing_forget(a, peer);
	else
		*remote_of(a, peer) = (struct account_remote){*peer, now, *u};
	for (int i = 0; i < LIMIT_COUNT; i++) {
		if (u->told & 1u << i)
			a->breach[i].told_ms = now;
	}
	if (u->told) /* it is kept while it has to remember that */
		account_touch(l, a);
	if (u->watched) {
		a->asked_until_ms = now + ACCOUNT_ASKED_MS;
		if (a->guests)
			account_touch(l, a);
	}
	if (account_limited(a) && (u->events || u->bytes || u->waiting))
		account_set_rates(l, a);
	account_free_if_unused(l, a);
}

void limits_on_peer_message(struct limits *l, const struct id128 *peer,
                            const struct peer_message *m)
{
	for (size_t i = 0; i < m->n_uses; i++)
		take(l, peer, &m->uses[i]);
}

void limits_set_port(struct limits *l, const struct peer_port *port)
{
	l->port = port;
	l->linked = port ? port->n_up(port->self) : 0;
}

static void set_all(struct limits *l, const struct id128 *gone)
{
	struct account *a;
	size_t at = 0;

	while ((a = map_next(&l->accounts, &at))) {
		if (gone)
			sharing_forget(a, gone);
		else if (a->guests) {
			a->dirty = true;
			account_touch(l, a);
		}
		account_set_rates(l, a);
		/* freed by its tick: it may be the one that another here holds */
		account_touch(l, a);
	}
}

void limits_on_peers(struct limits *l, size_t live)
{
	l->live = live;
}

void limits_on_peer_up(struct limits *l, const struct id128 *peer)
{
	(void)peer;
	l->linked = l->port ? l->port->n_up(l->port->self) : 0;
	set_all(l, NULL);
}

void limits_on_peer_down(struct limits *l, const struct id128 *peer)
{
	l->linked = l->port ? l->port->n_up(l->port->self) : 0;
	set_all(l, peer);
}
