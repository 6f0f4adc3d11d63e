#include "node/limits/limits.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/limits/account.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
#define LIMIT(NAME, name, column, narrowed, advice) name,
#include "node/limits/limits.def"
#undef LIMIT
};

const char *limit_name(enum limit which)
{
	return names[which];
}

/* ---- accounts -------------------------------------------------------------------------------- */

static uint64_t tenant_allowed(const struct tenant_limits *t, enum limit which)
{
	const uint64_t allowed[] = {
#define LIMIT(NAME, name, column, narrowed, advice) t->column,
#include "node/limits/limits.def"
#undef LIMIT
	};

	return allowed[which];
}

static uint64_t token_allowed(const struct token_limits *n, enum limit which)
{
	const uint64_t allowed[] = {
#define LIMIT(NAME, name, column, narrowed, advice) narrowed,
#include "node/limits/limits.def"
#undef LIMIT
	};

	return allowed[which];
}

uint64_t account_allowed(const struct account *a, enum limit which)
{
	return a->subject ? token_allowed(&a->narrow, which)
	                  : tenant_allowed(&a->tenant->limits, which);
}

static void key_of(char out[ACCOUNT_KEY], uint32_t tenant_id, uint64_t subject)
{
	memcpy(out, &tenant_id, sizeof tenant_id);
	memcpy(out + sizeof tenant_id, &subject, sizeof subject);
}

struct account *account_find(const struct limits *l, uint32_t tenant_id, uint64_t subject)
{
	char key[ACCOUNT_KEY];

	key_of(key, tenant_id, subject);
	return map_get(&l->accounts, key, sizeof key);
}

struct account *account_get(struct limits *l, uint32_t tenant_id, uint64_t subject)
{
	char key[ACCOUNT_KEY];
	const struct tenant *t;
	struct account *a;

	key_of(key, tenant_id, subject);
	a = map_get(&l->accounts, key, sizeof key);
	if (a)
		return a;
	t = registry_tenant(l->set.registry, tenant_id);
	if (!t)
		return NULL;
	a = xcalloc(1, sizeof *a);
	memcpy(a->key, key, sizeof key);
	a->tenant_id = tenant_id;
	a->subject = subject;
	a->tenant = t;
	TAILQ_INIT(&a->waiting);
	TAILQ_INIT(&a->watchers);
	TAILQ_INIT(&a->stock.waiting);
	map_put(&l->accounts, a->key, sizeof a->key, a);
	if (subject) {
		a->whole = account_get(l, tenant_id, 0);
		a->whole->holders++;
	}
	account_set_rates(l, a);
	return a;
}

void account_touch(struct limits *l, struct account *a)
{
	if (a->busy)
		return;
	a->busy = true;
	a->awake = 0;
	a->idle = ACCOUNT_TICKS;
	TAILQ_INSERT_TAIL(&l->busy, a, busy_link);
}

static void account_free(struct limits *l, struct account *a)
{
	map_del(&l->accounts, a->key, sizeof a->key);
	free(a->remotes);
	free(a->moving);
	free(a->name);
	free(a);
}

void account_free_if_unused(struct limits *l, struct account *a)
{
	struct account *whole = a->whole;

	if (a->guests || a->n_remotes || a->busy || a->holders || stock_is_needed(a))
		return;
	account_free(l, a);
	if (!whole)
		return;
	whole->holders--;
	account_free_if_unused(l, whole);
}

static void changed(struct limits *l, struct account *a)
{
	a->dirty = true;
	account_touch(l, a);
}

/* ---- coming and going ------------------------------------------------------------------------ */

static uint64_t subject_hash(struct slice subject)
{
	uint64_t hash = hash_stable(subject.p, subject.n);

	return hash ? hash : 1;
}

static bool is_full(const struct account *a, enum limit which)
{
	uint64_t allowed = a ? account_allowed(a, which) : 0;

	return allowed && account_used(a, which) >= allowed;
}

/* 0, or -1 when there are as many as there may be. */
static int check(struct limits *l, struct account *a, enum limit which, struct err *e)
{
	uint64_t allowed = account_allowed(a, which);
	uint64_t used = account_used(a, which);

	if (!is_full(a, which))
		return 0;
	l->stats.refused[which]++;
	account_breached(l, a, which, used);
	return err_set(e, 0, "%s has %" PRIu64 " of %" PRIu64 " %s: %s",
	               a->subject ? "the token's subject" : "the tenant", used, allowed,
	               limit_name(which),
	               a->subject ? "the token's claim limits" : "a limit of the tenant");
}

static void set_narrow(struct limits *l, struct account *a, const struct token_limits *n)
{
	a->narrow = *n;
	account_set_rates(l, a);
}

/* The account of the token's subject, if it narrows anything; was: its limits so far. */
static struct account *narrow(struct limits *l, const struct claims *who, struct token_limits *was)
{
	struct account *a;

	if (!who->limits.any)
		return NULL;
	a = account_get(l, who->tenant->id, subject_hash(who->subject));
	if (!a)
		return NULL;
	if (!a->name)
		a->name = xstrndup(who->subject.p, who->subject.n);
	if (was)
		*was = a->narrow;
	set_narrow(l, a, &who->limits);
	return a;
}

bool limits_has_room(const struct limits *l, const struct claims *who)
{
	const struct account *whole = account_find(l, who->tenant->id, 0);
	const struct account *subject =
	        account_find(l, who->tenant->id, subject_hash(who->subject));
	uint64_t narrowed = who->limits.connections;

	return !is_full(whole, LIMIT_CONNECTIONS) &&
	       (!narrowed || !subject || account_used(subject, LIMIT_CONNECTIONS) < narrowed);
}

static void join(struct limits *l, struct account *a, const struct limits_guest *g)
{
	if (!a)
		return;
	a->guests++;
	a->subscriptions += g->subscribed;
	changed(l, a);
}

static void part(struct limits *l, struct account *a, const struct limits_guest *g)
{
	if (!a)
		return;
	a->guests--;
	a->subscriptions -= g->subscribed;
	changed(l, a);
}

/* Without such a limit nobody asks what the tenant has, unless it is watched, or asks for more. */
static bool wants_stock(const struct limits *l, const struct account *a)
{
	static const enum limit counted[] = {LIMIT_CONNECTIONS, LIMIT_SUBSCRIPTIONS,
	                                     LIMIT_SCHEDULED, LIMIT_DEAD_LETTERS};

	if (a->stock.at_ms && l->live <= l->linked)
		return false;
	for (size_t i = 0; i < sizeof counted / sizeof *counted; i++) {
		if (account_allowed(a, counted[i]))
			return true;
	}
	return false;
}

int limits_enter(struct limits *l, struct limits_guest *g, uint64_t conn_id,
                 const struct claims *who, bool replaces, struct err *e)
{
	struct account *whole = account_get(l, who->tenant->id, 0);
	struct token_limits was = {0};
	struct account *subject = narrow(l, who, &was);

	assert(!g->tenant);
	if (!whole)
		return err_set(e, 0, "the tenant is not known any more");
	if (!replaces && (check(l, whole, LIMIT_CONNECTIONS, e) < 0 ||
	                  (subject && check(l, subject, LIMIT_CONNECTIONS, e) < 0))) {
		if (subject)
			set_narrow(l, subject, &was);
		account_free_if_unused(l, subject ? subject : whole);
		return -1;
	}
	*g = (struct limits_guest){.tenant = whole,
	                           .subject = subject,
	                           .conn_id = conn_id,
	                           .event_bytes = who->limits.event_bytes};
	join(l, whole, g);
	join(l, subject, g);
	if (wants_stock(l, whole))
		stock_want(l, whole);
	return 0;
}

void limits_renew(struct limits *l, struct limits_guest *g, const struct claims *who)
{
	struct account *was = g->subject;

	if (!g->tenant)
		return;
	g->event_bytes = who->limits.event_bytes;
	g->subject = narrow(l, who, NULL);
	if (g->subject == was)
		return;
	rates_leave(l, g);
	join(l, g->subject, g);
	part(l, was, g);
}

void limits_leave(struct limits *l, struct limits_guest *g)
{
	if (!g->tenant)
		return;
	limits_watch(l, g, false);
	rates_leave(l, g);
	part(l, g->subject, g);
	part(l, g->tenant, g);
	g->tenant = g->subject = NULL;
}

/* ---- events and subscriptions ---------------------------------------------------------------- */

int limits_event(struct limits *l, const struct limits_guest *g, size_t bytes, struct err *e)
{
	uint64_t allowed = g->tenant->tenant->limits.max_event_bytes;
	bool narrowed = g->event_bytes && (!allowed || g->event_bytes < allowed);

	if (narrowed)
		allowed = g->event_bytes;
	if (!allowed || bytes <= allowed)
		return 0;
	l->stats.refused[LIMIT_EVENT_BYTES]++;
	account_breached(l, narrowed ? g->subject : g->tenant, LIMIT_EVENT_BYTES, bytes);
	return err_set(e, 0, "the payload has %zu bytes; %s's events may have %" PRIu64, bytes,
	               narrowed ? "this token" : "this tenant", allowed);
}

int limits_subscribe(struct limits *l, const struct limits_guest *g, struct err *e)
{
	if (g->subscribed || !g->tenant)
		return 0;
	if (g->subject && check(l, g->subject, LIMIT_SUBSCRIPTIONS, e) < 0)
		return -1;
	return check(l, g->tenant, LIMIT_SUBSCRIPTIONS, e);
}

static void subscribed(struct limits *l, struct account *a, bool yes)
{
	if (!a)
		return;
	if (yes)
		a->subscriptions++;
	else
		a->subscriptions--;
	changed(l, a);
}

void limits_subscribed(struct limits *l, struct limits_guest *g, bool yes)
{
	if (!g->tenant || g->subscribed == yes)
		return;
	g->subscribed = yes;
	subscribed(l, g->tenant, yes);
	subscribed(l, g->subject, yes);
}

void limits_reached(struct limits *l, const struct tenant *t, enum limit which, uint64_t used,
                    uint64_t times)
{
	struct account *a = account_get(l, t->id, 0);

	l->stats.refused[which] += times;
	if (!a)
		return;
	account_breached(l, a, which, used);
	account_free_if_unused(l, a);
}

void limits_slowed(struct limits *l, const struct tenant *t, enum limit which, uint64_t used)
{
	l->stats.slowed[which]++;
	limits_reached(l, t, which, used, 0);
}

/* ---- time, and what changes ------------------------------------------------------------------ */

static bool has_work(const struct account *a, uint64_t now)
{
	return a->stock.wanted || a->moving || a->idle < ACCOUNT_TICKS || a->n_waiting ||
	       a->dirty || account_remembers(a) || !TAILQ_EMPTY(&a->watchers) ||
	       a->asked_until_ms > now;
}

static void tick_account(struct limits *l, struct account *a, uint64_t now)
{
	stock_tick(l, a);
	account_roll(a);
	moving_roll(a);
	if (account_limited(a))
		account_set_rates(l, a);
	if (a->dirty || a->told || a->asked_until_ms > now || !TAILQ_EMPTY(&a->watchers) ||
	    (account_limited(a) && (a->idle <= ACCOUNT_TICKS || a->moving)))
		sharing_collect(l, a);
	a->dirty = false;
	a->told = 0;
	if (has_work(a, now))
		return;
	a->busy = false;
	TAILQ_REMOVE(&l->busy, a, busy_link);
	account_free_if_unused(l, a);
}

static void refresh(struct limits *l)
{
	struct account *a;
	size_t at = 0;

	while ((a = map_next(&l->accounts, &at))) {
		if (a->guests)
			changed(l, a);
	}
}

static void on_tick(void *arg)
{
	struct limits *l = arg;
	uint64_t now = clock_now_ms();
	struct account *a;
	struct account *next;

	if (now - l->refresh_ms >= ACCOUNT_REFRESH_MS) {
		l->refresh_ms = now;
		if (l->linked)
			refresh(l);
	}
	if (now - l->usage_ms >= ACCOUNT_USAGE_MS) {
		l->usage_ms = now;
		TAILQ_FOREACH (a, &l->busy, busy_link)
			telling_usage(l, a);
	}
	for (a = TAILQ_FIRST(&l->busy); a; a = next) {
		next = TAILQ_NEXT(a, busy_link);
		tick_account(l, a, now);
	}
	sharing_send(l);
	rates_tick(l);
}

void limits_on_tenant(struct limits *l, const struct tenant *t)
{
	struct account *a;
	size_t at = 0;

	while ((a = map_next(&l->accounts, &at))) {
		if (a->tenant == t)
			account_set_rates(l, a);
	}
	rates_resume(l);
}

/* ---- life ------------------------------------------------------------------------------------ */

struct limits *limits_new(const struct limits_settings *settings)
{
	struct limits *l = xcalloc(1, sizeof *l);

	l->set = *settings;
	map_init(&l->accounts);
	TAILQ_INIT(&l->busy);
	TAILQ_INIT(&l->waiting);
	l->refresh_ms = l->usage_ms = clock_now_ms();
	l->room_ms = UINT64_MAX;
	l->uses = xcalloc(PEER_USES_MAX, sizeof *l->uses);
	l->ticker = loop_every(l->set.loop, LIMITS_TICK_MS, on_tick, l);
	l->room = loop_after(l->set.loop, LIMITS_TICK_MS, rates_resume, l);
	loop_timer_stop(l->room);
	return l;
}

void limits_free(struct limits *l)
{
	struct account *a;
	size_t at = 0;

	if (!l)
		return;
	loop_timer_free(l->ticker);
	loop_timer_free(l->room);
	while ((a = map_next(&l->accounts, &at))) {
		assert(!a->guests);
		account_free(l, a);
	}
	map_release(&l->accounts);
	free(l->uses);
	free(l);
}

void limits_get_stats(const struct limits *l, struct limits_stats *out)
{
	const struct account *a;

	*out = l->stats;
	TAILQ_FOREACH (a, &l->waiting, wait_link)
		out->waiting += a->n_waiting;
}
