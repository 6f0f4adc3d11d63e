/* What a tenant has in the database: asked when something may have changed, and not often; between
 * the answers what this node adds is counted on. */
#include "node/limits/account.h"

#include "base/clock.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct asking {
	struct bus_stock req;
	struct limits *limits;
	char key[ACCOUNT_KEY]; /* the account may be gone when the answer comes */
};

/* ---- counting ----------------------------------------------------------------------------------
 *
 * The answer has all that was known to be stored when it was asked for, and of what was let in
 * since, or was on its way, it may have any part. So it says what there is up to `doubt`; and
 * within that what was counted here is right. */

static int kind_of(enum limit which)
{
	switch (which) {
	case LIMIT_SUBSCRIPTIONS:
		return STOCK_SUBSCRIPTIONS;
	case LIMIT_SCHEDULED:
		return STOCK_SCHEDULED;
	case LIMIT_DEAD_LETTERS:
		return STOCK_DEAD_LETTERS;
	default:
		return -1;
	}
}

uint64_t stock_used(const struct account *a, enum limit which)
{
	int kind = kind_of(which);

	return kind < 0 ? 0 : a->stock.counts[kind].used;
}

/* A queue is served where its tenant need not have a connection. */
bool stock_is_needed(const struct account *a)
{
	uint64_t dead = a->subject ? 0 : account_allowed(a, LIMIT_DEAD_LETTERS);

	if (dead && stock_used(a, LIMIT_DEAD_LETTERS) > dead / 2)
		return true;
	for (int i = 0; i < STOCK_KINDS; i++) {
		if (a->stock.counts[i].open)
			return true;
	}
	return false;
}

static void count_add(struct account *a, enum limit which)
{
	struct account_count *c = &a->stock.counts[kind_of(which)];

	c->used++;
	c->open++;
	c->doubt++;
}

static void count_settle(struct account_count *c, uint64_t n, bool stored)
{
	n = n < c->open ? n : c->open;
	c->open -= n;
	if (stored)
		return;
	c->used -= n < c->used ? n : c->used;
	c->doubt -= n < c->doubt ? n : c->doubt;
}

static void count_answer(struct account_count *c, uint64_t answer)
{
	if (c->used < answer)
		c->used = answer;
	else if (c->used > answer + c->doubt)
		c->used = answer + c->doubt;
}

/* ---- asking ---------------------------------------------------------------------------------- */

static void let_on(struct limits *l, struct account *a)
{
	struct limits_guest *g;

	while ((g = TAILQ_FIRST(&a->stock.waiting))) {
		rates_leave(l, g);
		l->set.on_room(l->set.arg, g->conn_id);
	}
}

static void take(struct limits *l, struct account *a, const struct bus_stock *answer)
{
	struct account_stock *s = &a->stock;

	s->last = *answer;
	s->at_ms = clock_now_ms();
	s->unlinked = l->live > l->linked ? answer->connections : 0;
	count_answer(&s->counts[STOCK_SUBSCRIPTIONS], answer->subscriptions);
	count_answer(&s->counts[STOCK_SCHEDULED], answer->scheduled);
	count_answer(&s->counts[STOCK_DEAD_LETTERS], answer->dead_letters);
	let_on(l, a);
}

static void on_stock(struct bus_stock *req)
{
	struct asking *q = (struct asking *)req;
	struct limits *l = q->limits;
	struct account *a = map_get(&l->accounts, q->key, sizeof q->key);

	l->stocks--;
	if (a)
		a->stock.asked = false;
	if (a && req->outcome == SQL_OK)
		take(l, a, req);
	else if (a)
		stock_want(l, a);
	if (a)
		telling_untold(l, a);
	free(q);
}

static void ask(struct limits *l, struct account *a)
{
	struct asking *q = xcalloc(1, sizeof *q);

	q->limits = l;
	q->req.done = on_stock;
	q->req.tenant_id = a->tenant_id;
	memcpy(q->key, a->key, sizeof q->key);
	a->stock.asked = true;
	a->stock.wanted = false;
	for (int i = 0; i < STOCK_KINDS; i++)
		a->stock.counts[i].doubt = a->stock.counts[i].open;
	l->stocks++;
	l->set.bus->ops->stock(l->set.bus, &q->req);
}

/* More than half is used, as far as is known; or would be, if all nodes have added as much. */
static bool is_near(const struct limits *l, const struct account *a, enum limit which)
{
	size_t nodes = 1 + (l->live > l->linked ? l->live : l->linked);

	return account_used(a, which) > account_allowed(a, which) / 2 / nodes;
}

/* Whoever is told of it wants to know, and who may be near a limit. */
static uint64_t pause_of(const struct limits *l, const struct account *a)
{
	if (!TAILQ_EMPTY(&a->watchers) || is_near(l, a, LIMIT_CONNECTIONS) ||
	    is_near(l, a, LIMIT_SUBSCRIPTIONS) || is_near(l, a, LIMIT_SCHEDULED) ||
	    is_near(l, a, LIMIT_DEAD_LETTERS))
		return ACCOUNT_STOCK_MS;
	return ACCOUNT_STOCK_FAR_MS;
}

void stock_want(struct limits *l, struct account *a)
{
	if (!l->set.bus)
		return;
	a->stock.wanted = true;
	account_touch(l, a);
}

void stock_tick(struct limits *l, struct account *a)
{
	struct account_stock *s = &a->stock;

	if (!s->wanted || s->asked || l->stocks >= ACCOUNT_STOCKS ||
	    (s->at_ms && clock_now_ms() - s->at_ms < pause_of(l, a)))
		return;
	ask(l, a);
}

/* ---- what it is asked for -------------------------------------------------------------------- */

/* Of tenants that are not known the database is asked at once: somebody waits for it. */
static bool is_known(struct limits *l, struct account *a)
{
	if (!l->set.bus || a->stock.at_ms)
		return true;
	stock_want(l, a);
	if (!a->stock.asked)
		ask(l, a);
	return false;
}

bool stock_is_known(const struct account *a, enum limit which)
{
	return (kind_of(which) < 0 && which != LIMIT_STORED_BYTES) || a->subject || a->stock.at_ms;
}

bool stock_ask(struct limits *l, struct account *a)
{
	if (!l->set.bus)
		return false;
	if (!a->stock.asked)
		ask(l, a);
	return true;
}

bool limits_knows(struct limits *l, struct limits_guest *g)
{
	struct account *a = g->tenant;

	if (!account_allowed(a, LIMIT_SCHEDULED) || is_known(l, a))
		return true;
	g->waits_for_stock = true;
	g->waits_at = a;
	TAILQ_INSERT_TAIL(&a->stock.waiting, g, wait_link);
	return false;
}

static enum limits_verdict room_for(struct limits *l, struct account *a, enum limit which)
{
	uint64_t allowed = account_allowed(a, which);
	uint64_t used = account_used(a, which);

	if (!allowed)
		return LIMITS_PASS;
	stock_want(l, a);
	if (!is_known(l, a))
		return LIMITS_WAIT;
	if (used < allowed)
		return LIMITS_PASS;
	return used - a->stock.counts[kind_of(which)].open < allowed ? LIMITS_WAIT : LIMITS_REFUSE;
}

bool stock_room(struct limits *l, struct account *a, enum limit which, uint64_t *room)
{
	uint64_t allowed = account_allowed(a, which);
	uint64_t used = account_used(a, which);

	*room = UINT64_MAX;
	if (!allowed)
		return true;
	stock_want(l, a);
	*room = used < allowed ? allowed - used : 0;
	return is_known(l, a);
}

void stock_added(struct account *a, enum limit which, uint64_t n)
{
	struct account_count *c = &a->stock.counts[kind_of(which)];

	c->used += n;
	c->doubt += n;
}

enum limits_verdict limits_reserve(struct limits *l, const struct tenant *t, enum limit which)
{
	struct account *a = account_get(l, t->id, 0);
	enum limits_verdict v = a ? room_for(l, a, which) : LIMITS_PASS;

	if (a && v == LIMITS_PASS)
		count_add(a, which);
	else if (a)
		account_touch(l, a); /* freed by its tick */
	return v;
}

bool limits_bury(struct limits *l, const struct tenant *t)
{
	struct account *a = account_get(l, t->id, 0);
	uint64_t allowed = a ? account_allowed(a, LIMIT_DEAD_LETTERS) : 0;

	if (!a)
		return true;
	account_touch(l, a);
	stock_want(l, a);
	if (is_known(l, a) && allowed && account_used(a, LIMIT_DEAD_LETTERS) >= allowed) {
		limits_full(l, t, LIMIT_DEAD_LETTERS);
		return false;
	}
	count_add(a, LIMIT_DEAD_LETTERS);
	return true;
}

void limits_settled(struct limits *l, uint32_t tenant_id, enum limit which, uint64_t n, bool stored)
{
	struct account *a = account_find(l, tenant_id, 0);

	if (!a)
		return;
	count_settle(&a->stock.counts[kind_of(which)], n, stored);
	account_touch(l, a);
}

void limits_full(struct limits *l, const struct tenant *t, enum limit which)
{
	const struct account *a = account_find(l, t->id, 0);

	limits_reached(l, t, which, a ? account_used(a, which) : 0, 1);
}

int limits_schedule(struct limits *l, const struct limits_guest *g, struct err *e)
{
	struct account *a = g->tenant;
	uint64_t allowed = account_allowed(a, LIMIT_SCHEDULED);
	uint64_t used = account_used(a, LIMIT_SCHEDULED);

	if (allowed)
		stock_want(l, a);
	if (allowed && used >= allowed) {
		limits_full(l, a->tenant, LIMIT_SCHEDULED);
		return err_set(e, 0,
		               "the tenant has %" PRIu64 " of %" PRIu64
		               " scheduled events: cancel some, or wait until they are due",
		               used, allowed);
	}
	count_add(a, LIMIT_SCHEDULED);
	return 0;
}
