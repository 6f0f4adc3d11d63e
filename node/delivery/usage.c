#include "node/delivery/usage.h"

#include "base/id128.h"
#include "base/map.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/queue.h>

enum { DEFAULT_EVERY_MS = 500 };

struct usage_row {
	struct bus_usage now;
	struct usage *usage;
	TAILQ_ENTRY(usage_row) link; /* in `changed` */
	bool changed;                /* since it was last told */
};

TAILQ_HEAD(usage_rows, usage_row);

struct usage {
	struct bus *bus;
	struct map rows;           /* tenant_id -> row */
	struct usage_rows changed; /* who waits longest first */
	struct loop_timer *timer;
	struct id128 session_id; /* the counts are of this one */
	uint32_t every_ms;
	bool armed;
	bool busy; /* `req` is with the bus */
	struct bus_report req;
	struct bus_usage told[BUS_REPORT_MAX];
};

/* ---- telling --------------------------------------------------------------------------------- */

static void arm(struct usage *u)
{
	if (u->armed || u->busy || TAILQ_EMPTY(&u->changed))
		return;
	u->armed = true;
	loop_timer_set(u->timer, u->every_ms);
}

static void mark(struct usage_row *r)
{
	if (r->changed)
		return;
	r->changed = true;
	TAILQ_INSERT_TAIL(&r->usage->changed, r, link);
	arm(r->usage);
}

/* What may not have been stored is said again: of a row, all there is to say. */
static void on_reported(struct bus_report *req)
{
	struct usage *u = req->arg;

	u->busy = false;
	for (size_t i = 0; req->outcome != SQL_OK && i < req->n; i++)
		mark(usage_of(u, u->told[i].tenant_id));
	arm(u);
}

static void on_timer(void *arg)
{
	struct usage *u = arg;
	struct usage_row *r;
	size_t n = 0;

	u->armed = false;
	if (u->busy || u->bus->state != BUS_UP)
		return; /* usage_on_state() or the answer goes on */
	while (n < BUS_REPORT_MAX && (r = TAILQ_FIRST(&u->changed))) {
		TAILQ_REMOVE(&u->changed, r, link);
		r->changed = false;
		u->told[n++] = r->now;
	}
	if (!n)
		return;
	u->busy = true;
	u->req = (struct bus_report){.done = on_reported, .arg = u, .n = n, .rows = u->told};
	u->bus->ops->report(u->bus, &u->req);
}

static void begin_again(struct usage_row *r)
{
	r->now = (struct bus_usage){.tenant_id = r->now.tenant_id,
	                            .connections = r->now.connections,
	                            .durable = r->now.durable,
	                            .subscriptions = r->now.subscriptions,
	                            .ephemeral = r->now.ephemeral};
	if (r->now.connections || r->now.subscriptions)
		mark(r);
}

void usage_on_state(struct usage *u, enum bus_state state)
{
	struct usage_row *r;
	size_t at = 0;

	if (state != BUS_UP)
		return;
	if (!id128_eq(&u->session_id, &u->bus->session_id)) {
		u->session_id = u->bus->session_id;
		while ((r = map_next(&u->rows, &at)))
			begin_again(r);
	}
	arm(u);
}

/* ---- counting -------------------------------------------------------------------------------- */

struct usage_row *usage_of(struct usage *u, uint32_t tenant_id)
{
	struct usage_row *r;

	if (!u)
		return NULL;
	r = map_get(&u->rows, &tenant_id, sizeof tenant_id);
	if (r)
		return r;
	r = xcalloc(1, sizeof *r);
	r->usage = u;
	r->now.tenant_id = tenant_id;
	map_put(&u->rows, &r->now.tenant_id, sizeof r->now.tenant_id, r);
	return r;
}

static void move(uint32_t *count, int by)
{
	assert(by >= 0 || *count >= (uint32_t)-by);
	*count += (uint32_t)by;
}

void usage_connected(struct usage_row *row, int by, bool durable)
{
	if (!row)
		return;
	move(&row->now.connections, by);
	move(&row->now.durable, durable ? by : 0);
	mark(row);
}

void usage_subscribed(struct usage_row *row, int by, int ephemeral)
{
	if (!row)
		return;
	move(&row->now.subscriptions, by);
	move(&row->now.ephemeral, ephemeral);
	mark(row);
}

void usage_in(struct usage_row *row, uint64_t events, uint64_t bytes)
{
	if (!row || !events)
		return;
	row->now.events_in += events;
	row->now.bytes_in += bytes;
	mark(row);
}

void usage_out(struct usage_row *row, uint64_t bytes)
{
	if (!row)
		return;
	row->now.events_out++;
	row->now.bytes_out += bytes;
	mark(row);
}

void usage_refused(struct usage_row *row, uint64_t times)
{
	if (!row || !times)
		return;
	row->now.refused += times;
	mark(row);
}

const struct bus_usage *usage_get(const struct usage_row *row)
{
	return &row->now;
}

/* ---- life ------------------------------------------------------------------------------------ */

struct usage *usage_new(struct loop *loop, struct bus *bus, uint32_t every_ms)
{
	struct usage *u = xcalloc(1, sizeof *u);

	u->bus = bus;
	u->every_ms = every_ms ? every_ms : DEFAULT_EVERY_MS;
	u->session_id = bus->session_id;
	map_init(&u->rows);
	TAILQ_INIT(&u->changed);
	u->timer = loop_after(loop, u->every_ms, on_timer, u);
	return u;
}

void usage_free(struct usage *u)
{
	struct usage_row *r;
	size_t at = 0;

	if (!u)
		return;
	loop_timer_free(u->timer);
	while ((r = map_next(&u->rows, &at)))
		free(r);
	map_release(&u->rows);
	free(u);
}
