#include "node/leader/issuers.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/leader/role.h"
#include "node/net/fetch.h"
#include "tenancy/issuer.h"
#include "tenancy/issuer_store.h"
#include "tenancy/jwks.h"

#include <stdlib.h>
#include <string.h>

enum {
	LOOK_EVERY_MS = 500,
	FETCH_MS = 10000,
};

/* One that is being fetched, or whose result is being stored. */
struct fetch {
	struct issuers *issuers;
	struct issuer_due
	        *due; /* its own until it is given to the store, which has it until told */
};

struct issuers {
	struct loop *loop;
	struct sql *sql;
	struct role *role;
	struct fetcher *fetcher;
	struct loop_timer *timer;
	struct fetch fetches[ISSUER_FETCHES]; /* due NULL = free */
	bool looking;                         /* the store was asked who is due */
	bool more;                            /* others were due when it was last asked */
	bool stopped;
};

/* ---- who is being fetched -------------------------------------------------------------------- */

static bool is_fetched(const struct issuers *i, const struct issuer_due *d)
{
	for (size_t k = 0; k < ISSUER_FETCHES; k++) {
		const struct issuer_due *other = i->fetches[k].due;

		if (other && strcmp(issuer_due_name(other), issuer_due_name(d)) == 0)
			return true;
	}
	return false;
}

/* A free place, unless those who speak for the same tenant have all that they may: whoever hangs
 * holds up its own kind. */
static struct fetch *place_for(struct issuers *i, const struct issuer_due *d)
{
	unsigned left = issuer_due_tenant(d) ? ISSUER_FETCHES_TENANT : ISSUER_FETCHES_ANY;
	struct fetch *place = NULL;

	for (size_t k = 0; k < ISSUER_FETCHES; k++) {
		const struct issuer_due *other = i->fetches[k].due;

		if (!other)
			place = &i->fetches[k];
		else if (issuer_due_tenant(other) == issuer_due_tenant(d) && --left == 0)
			return NULL;
	}
	return place;
}

static void look(struct issuers *i);

static void end(struct fetch *f)
{
	f->due = NULL;
	if (f->issuers->more)
		look(f->issuers);
}

/* ---- a fetch --------------------------------------------------------------------------------- */

static void on_put(void *arg)
{
	end(arg);
}

static void put(struct fetch *f, struct slice body, const char *error)
{
	if (issuer_store_put(f->issuers->sql, f->due, body, error, on_put, f) < 0)
		f->due = NULL; /* the lane is full: it is fetched again */
}

static void on_fetched(void *arg, struct slice body, const char *error)
{
	struct fetch *f = arg;

	if (!f->issuers->stopped)
		return put(f, body, error);
	issuer_due_free(f->due);
	f->due = NULL;
}

static void fetch(struct issuers *i, struct issuer_due *take)
{
	struct fetch *f = place_for(i, take);
	struct err e;

	if (!f) {
		i->more = true;
		return issuer_due_free(take);
	}
	f->issuers = i;
	f->due = take;
	log_debug("issuers", "issuer=%s fetching", log_quote_str(issuer_due_name(take)));
	if (fetcher_get(i->fetcher, issuer_due_url(take), on_fetched, f, &e) < 0)
		put(f, (struct slice){0}, e.text);
}

static void on_due(void *arg, struct issuer_due **due, size_t n)
{
	struct issuers *i = arg;

	i->looking = false;
	i->more = false;
	for (size_t k = 0; k < n; k++) {
		if (i->stopped || is_fetched(i, due[k]))
			issuer_due_free(due[k]);
		else
			fetch(i, due[k]);
	}
}

static void look(struct issuers *i)
{
	if (i->looking || i->stopped || !role_epoch(i->role))
		return;
	i->looking = issuer_store_due(i->sql, on_due, i) == 0;
}

static void on_timer(void *arg)
{
	look(arg);
}

/* ---- the role -------------------------------------------------------------------------------- */

static void on_held(void *arg, uint64_t epoch)
{
	(void)epoch;
	on_timer(arg);
}

static void on_lost(void *arg)
{
	(void)arg; /* what is under way may end: a result that is late is not stored */
}

void issuers_on_state(struct issuers *i, enum bus_state state)
{
	if (i)
		role_on_state(i->role, state);
}

void issuers_on_peers(struct issuers *i, const struct bus_peer *peers, size_t n)
{
	if (i)
		role_on_peers(i->role, peers, n);
}

void issuers_trust(struct issuers *i, struct authorities *a)
{
	if (i)
		fetcher_trust(i->fetcher, a);
}

void issuers_stop(struct issuers *i)
{
	if (!i)
		return;
	i->stopped = true;
	role_release(i->role);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct issuers *issuers_new(struct loop *loop, struct bus *bus, struct sql *sql)
{
	struct issuers *i = xcalloc(1, sizeof *i);
	struct role_events role = {.on_held = on_held, .on_lost = on_lost, .arg = i};
	struct fetch_settings fetch = {
	        .max_bytes = JWKS_MAX_BYTES, .max_at_once = ISSUER_FETCHES, .timeout_ms = FETCH_MS};

	i->loop = loop;
	i->sql = sql;
	i->fetcher = fetcher_new(loop, &fetch);
	i->timer = loop_every(loop, LOOK_EVERY_MS, on_timer, i);
	i->role = role_new(loop, bus, BUS_ROLE_ISSUERS, &role);
	return i;
}

void issuers_free(struct issuers *i)
{
	if (!i)
		return;
	fetcher_free(i->fetcher);
	for (size_t k = 0; k < ISSUER_FETCHES; k++)
		issuer_due_free(i->fetches[k].due);
	loop_timer_free(i->timer);
	role_free(i->role);
	free(i);
}
