/* Limits on nodes of one cluster, whose links carry what they say at once, with a clock and timers
 * of the test's own. */
#include "node/limits/limits.h"

#include "base/clock.h"
#include "base/mem.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NODES = 3, GUESTS_MAX = 40, TENANTS = 2 };

/* ---- the loop: timers in the test's time ----------------------------------------------------- */

struct loop_timer {
	LIST_ENTRY(loop_timer) link;
	uint64_t due_ms; /* UINT64_MAX = not set */
	uint64_t every_ms;
	loop_fn *fn;
	void *arg;
};

static LIST_HEAD(, loop_timer) timers;
static uint64_t now_ms;

static struct loop_timer *timer_new(uint64_t ms, uint64_t every_ms, loop_fn *fn, void *arg)
{
	struct loop_timer *t = xcalloc(1, sizeof *t);

	*t = (struct loop_timer){.due_ms = now_ms + ms, .every_ms = every_ms, .fn = fn, .arg = arg};
	LIST_INSERT_HEAD(&timers, t, link);
	return t;
}

struct loop_timer *loop_every(struct loop *l, uint64_t ms, loop_fn *fn, void *arg)
{
	(void)l;
	return timer_new(ms, ms, fn, arg);
}

struct loop_timer *loop_after(struct loop *l, uint64_t ms, loop_fn *fn, void *arg)
{
	(void)l;
	return timer_new(ms, 0, fn, arg);
}

void loop_timer_set(struct loop_timer *t, uint64_t ms)
{
	t->due_ms = now_ms + ms;
}

void loop_timer_stop(struct loop_timer *t)
{
	t->due_ms = UINT64_MAX;
}

void loop_timer_free(struct loop_timer *t)
{
	LIST_REMOVE(t, link);
	free(t);
}

/* ---- the cluster ----------------------------------------------------------------------------- */

struct guest {
	struct limits_guest guest; /* first */
	uint64_t passed;
	uint64_t refused;
	size_t behind;
	size_t node;
	bool publishes; /* all it can */
	bool ready;     /* not waiting */
	bool may_refuse;
};

static struct node {
	struct id128 id;
	struct limits *limits;
	struct registry *registry;
	struct peer_port port;
	bool linked;
	char told[400]; /* the last */
	uint32_t n_told;
	uint32_t told_tenant;
	char usage[2000];
	uint32_t n_usage;
} nodes[NODES];

static size_t n_nodes;
static struct guest guests[GUESTS_MAX];
static size_t n_guests;
static struct tenant tenants[TENANTS];

static void on_room(void *arg, uint64_t conn_id)
{
	(void)arg;
	assert_in_range(conn_id, 1, n_guests);
	assert_false(guests[conn_id - 1].ready);
	guests[conn_id - 1].ready = true;
}

static void publish(void *arg, const struct tenant *t, const char *topic, struct slice json)
{
	struct node *n = arg;

	assert_string_equal(topic, "$leat/limits");
	n->n_told++;
	n->told_tenant = t->id;
	snprintf(n->told, sizeof n->told, "%.*s", (int)json.n, json.p);
}

static void on_usage(void *arg, uint64_t conn_id, struct slice json)
{
	struct node *n = arg;

	(void)conn_id;
	n->n_usage++;
	snprintf(n->usage, sizeof n->usage, "%.*s", (int)json.n, json.p);
}

static bool is_linked(const struct node *a, const struct node *b)
{
	return a != b && a->linked && b->linked;
}

static void send_all(void *self, const struct peer_message *m)
{
	const struct node *me = self;

	for (size_t i = 0; i < n_nodes; i++) {
		if (is_linked(me, &nodes[i]))
			limits_on_peer_message(nodes[i].limits, &me->id, m);
	}
}

static size_t n_up(void *self)
{
	size_t n = 0;

	for (size_t i = 0; i < n_nodes; i++)
		n += is_linked(self, &nodes[i]);
	return n;
}

static void set_link(size_t no, bool up)
{
	nodes[no].linked = up;
	for (size_t i = 0; i < n_nodes; i++) {
		if (i == no || !nodes[i].linked)
			continue;
		if (up) {
			limits_on_peer_up(nodes[i].limits, &nodes[no].id);
			limits_on_peer_up(nodes[no].limits, &nodes[i].id);
		} else {
			limits_on_peer_down(nodes[i].limits, &nodes[no].id);
			limits_on_peer_down(nodes[no].limits, &nodes[i].id);
		}
	}
}

static void apply(void)
{
	for (size_t i = 0; i < n_nodes; i++) {
		registry_apply(nodes[i].registry, tenants, TENANTS, NULL, 0);
		for (size_t t = 0; t < TENANTS; t++)
			limits_on_tenant(nodes[i].limits,
			                 registry_tenant(nodes[i].registry, tenants[t].id));
	}
}

/* ---- the database: it answers when the test says so -------------------------------------------
 */

static struct bus_stock *asked;

static void stock(struct bus *bus, struct bus_stock *req)
{
	(void)bus;
	assert_null(asked);
	asked = req;
}

static struct bus_ops ops = {.stock = stock};
static struct bus bus = {.ops = &ops};
static bool has_bus;

static uint64_t dead_letters; /* as it will answer */

static void answer(uint64_t subscriptions, uint64_t scheduled)
{
	struct bus_stock *req = asked;

	assert_non_null(req);
	asked = NULL;
	req->outcome = SQL_OK;
	req->subscriptions = subscriptions;
	req->scheduled = scheduled;
	req->dead_letters = dead_letters;
	req->done(req);
}

static void begin(size_t n, bool linked)
{
	n_nodes = n;
	for (size_t i = 0; i < n; i++) {
		struct limits_settings set = {.node = i ? "n2" : "n1",
		                              .bus = has_bus ? &bus : NULL,
		                              .on_room = on_room,
		                              .publish = publish,
		                              .on_usage = on_usage,
		                              .arg = &nodes[i]};

		nodes[i] = (struct node){.id = {{(uint8_t)(i + 1)}}};
		nodes[i].registry = set.registry = registry_new(NULL, NULL);
		nodes[i].limits = limits_new(&set);
		nodes[i].port =
		        (struct peer_port){.send_all = send_all, .n_up = n_up, .self = &nodes[i]};
		limits_set_port(nodes[i].limits, &nodes[i].port);
		limits_on_peers(nodes[i].limits, n - 1);
	}
	apply();
	for (size_t i = 0; linked && i < n; i++)
		set_link(i, true);
}

static int setup(void **state)
{
	(void)state;
	now_ms = 1000000;
	clock_set(now_ms, UINT64_C(1800000000000));
	LIST_INIT(&timers);
	memset(guests, 0, sizeof guests);
	n_guests = 0;
	has_bus = false;
	dead_letters = 0;
	for (uint32_t i = 0; i < TENANTS; i++) {
		tenants[i] = (struct tenant){
		        .id = i + 1, .weight = 1, .partitions = 1, .state = TENANT_ACTIVE};
		snprintf(tenants[i].name, sizeof tenants[i].name, "t%u", i + 1);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (asked)
		answer(0, 0);
	for (size_t i = 0; i < n_guests; i++)
		limits_leave(nodes[guests[i].node].limits, &guests[i].guest);
	for (size_t i = 0; i < n_nodes; i++) {
		limits_free(nodes[i].limits);
		registry_free(nodes[i].registry);
	}
	assert_true(LIST_EMPTY(&timers));
	return 0;
}

static struct claims claims_of(size_t node, uint32_t tenant, const char *subject)
{
	return (struct claims){.tenant = registry_tenant(nodes[node].registry, tenant),
	                       .subject = slice_str(subject)};
}

static struct guest *let_in(size_t node, const struct claims *who, struct err *e)
{
	struct guest *g = &guests[n_guests];

	assert_true(n_guests < GUESTS_MAX);
	*g = (struct guest){.node = node, .ready = true};
	if (limits_enter(nodes[node].limits, &g->guest, n_guests + 1, who, false, e) < 0)
		return NULL;
	n_guests++;
	return g;
}

static struct guest *enter(size_t node, uint32_t tenant)
{
	struct claims who = claims_of(node, tenant, "alice");
	struct err e;
	struct guest *g = let_in(node, &who, &e);

	if (!g)
		fail_msg("%s", e.text);
	return g;
}

static bool refused(size_t node, uint32_t tenant, const char *says)
{
	struct claims who = claims_of(node, tenant, "alice");
	struct err e = {0};

	if (let_in(node, &who, &e))
		return false;
	if (!strstr(e.text, says))
		fail_msg("refused with: %s", e.text);
	return true;
}

static struct guest *publisher(size_t node, uint32_t tenant)
{
	struct guest *g = enter(node, tenant);

	g->publishes = true;
	return g;
}

static void publish_all(struct guest *g)
{
	struct limits_publish p = {
	        .bytes = 100, .packet = 120, .behind = g->behind, .may_refuse = g->may_refuse};
	struct err e;

	for (int i = 0; g->ready && i < 1000; i++) {
		switch (limits_publish(nodes[g->node].limits, &g->guest, &p, &e)) {
		case LIMITS_PASS:
			g->passed++;
			break;
		case LIMITS_REFUSE:
			g->refused++;
			break;
		case LIMITS_WAIT:
			g->ready = false;
			break;
		}
	}
}

static void run_timers(void)
{
	struct loop_timer *t;

	LIST_FOREACH (t, &timers, link) {
		if (t->due_ms > now_ms)
			continue;
		t->due_ms = t->every_ms ? now_ms + t->every_ms : UINT64_MAX;
		t->fn(t->arg);
	}
}

static void run(uint64_t ms)
{
	for (uint64_t end = now_ms + ms; now_ms < end;) {
		now_ms++;
		clock_set(now_ms, UINT64_C(1800000000000) + now_ms);
		run_timers();
		for (size_t i = 0; i < n_guests; i++) {
			if (guests[i].publishes)
				publish_all(&guests[i]);
		}
	}
}

/* What the guest published meanwhile. */
static uint64_t passed(struct guest *g)
{
	uint64_t n = g->passed;

	g->passed = 0;
	return n;
}

/* ---- connections ----------------------------------------------------------------------------- */

static void test_connections(void **state)
{
	struct claims who;
	struct limits_guest other = {0};
	struct err e;
	struct limits_stats stats;

	(void)state;
	tenants[0].limits.max_connections = 2;
	begin(1, false);
	enter(0, 1);
	enter(0, 1);
	assert_true(refused(0, 1, "the tenant has 2 of 2 connections"));
	assert_true(refused(0, 1, "connections"));
	enter(0, 2); /* another tenant's business */
	limits_get_stats(nodes[0].limits, &stats);
	assert_int_equal(stats.refused[LIMIT_CONNECTIONS], 2);
	assert_int_equal(nodes[0].n_told, 1); /* once in ten seconds */
	assert_int_equal(nodes[0].told_tenant, 1);
	assert_non_null(strstr(nodes[0].told, "\"limit\":\"connections\",\"allowed\":2,\"used\":2,"
	                                      "\"node\":\"n1\",\"since\":\"2027-01-15T08:00:00."));
	run(LIMITS_TELL_MS);
	assert_true(refused(0, 1, "connections"));
	assert_int_equal(nodes[0].n_told, 2);

	who = claims_of(0, 1, "alice"); /* its client comes back: the old connection goes */
	assert_int_equal(limits_enter(nodes[0].limits, &other, 99, &who, true, &e), 0);
	limits_leave(nodes[0].limits, &guests[0].guest);
	assert_true(refused(0, 1, "connections"));
	limits_leave(nodes[0].limits, &other);
	enter(0, 1);

	tenants[0].limits.max_connections = 1; /* who is in stays */
	apply();
	assert_true(refused(0, 1, "the tenant has 2 of 1 connections"));
	tenants[0].limits.max_connections = 0; /* no limit */
	apply();
	enter(0, 1);
}

static void test_connections_of_all_nodes(void **state)
{
	(void)state;
	tenants[0].limits.max_connections = 3;
	begin(3, true);
	enter(0, 1);
	enter(1, 1);
	enter(2, 1);
	run(200);
	for (size_t i = 0; i < 3; i++)
		assert_true(refused(i, 1, "the tenant has 3 of 3 connections"));
	assert_int_equal(nodes[0].n_told, 1); /* the others hear of it a tick later */
	run(5000);
	assert_true(refused(1, 1, "connections"));
	assert_int_equal(nodes[1].n_told, 1); /* told before it heard; not again */
	limits_leave(nodes[2].limits, &guests[2].guest);
	run(200);
	enter(0, 1);
	run(200);
	set_link(0, false); /* with two connections: they count no more */
	enter(1, 1);
	enter(1, 1);
	run(200);
	assert_true(refused(2, 1, "connections"));
	set_link(0, true);
	run(200);
	assert_true(refused(1, 1, "the tenant has 5 of 3 connections"));
}

/* ---- rates ----------------------------------------------------------------------------------- */

static void test_rate(void **state)
{
	struct guest *a, *b, *other;
	struct limits_stats stats;
	uint64_t na;

	(void)state;
	tenants[0].limits.max_events_per_s = 1000;
	begin(1, false);
	a = publisher(0, 1);
	b = publisher(0, 1);
	other = publisher(0, 2);
	run(10000);
	na = passed(a);
	assert_in_range(na, 4000, 6000); /* in turn */
	assert_in_range(na + passed(b), 9990, 10210);
	assert_true(passed(other) > 1000000);
	limits_get_stats(nodes[0].limits, &stats);
	assert_true(stats.slowed[LIMIT_EVENTS_PER_S] >= 2);
	assert_int_equal(stats.slowed[LIMIT_BYTES_PER_S], 0);
	assert_int_equal(stats.refused[LIMIT_EVENTS_PER_S], 0);
	assert_int_equal(nodes[0].n_told, 1);

	tenants[0].limits.max_events_per_s = 100; /* at once */
	apply();
	run(2000);
	assert_in_range(passed(a) + passed(b), 190, 260);
	tenants[0].limits.max_events_per_s = 0;
	tenants[0].limits.max_bytes_per_s = 100000; /* 100 bytes each */
	apply();
	run(5000);
	assert_in_range(passed(a) + passed(b), 4900, 5300);
	limits_get_stats(nodes[0].limits, &stats);
	assert_true(stats.slowed[LIMIT_BYTES_PER_S] >= 1);
	assert_int_equal(nodes[0].n_told, 3); /* bytes too, and events again */
	tenants[0].limits.max_bytes_per_s = 0;
	apply();
	run(100);
	assert_true(passed(a) > 50000);
}

/* Who sends one event and then rests is not behind one who never rests. */
static void test_rate_is_shared_among_connections(void **state)
{
	struct guest *g[20];

	(void)state;
	tenants[0].limits.max_events_per_s = 100;
	begin(1, false);
	for (size_t i = 0; i < 20; i++)
		g[i] = publisher(0, 1);
	run(20000);
	for (size_t i = 0; i < 20; i++)
		assert_in_range(passed(g[i]), 60, 140);
}

static void test_rate_of_two_nodes(void **state)
{
	struct guest *a, *b;
	uint64_t na, nb;

	(void)state;
	tenants[0].limits.max_events_per_s = 1000;
	begin(2, true);
	a = publisher(0, 1);
	b = publisher(1, 1);
	b->publishes = false;
	run(2000);
	assert_in_range(passed(a), 1800, 2200); /* all of it is here: nearly all of it is allowed */
	run(2000);
	assert_in_range(passed(a), 1990, 2010);

	b->publishes = true; /* and there, too */
	run(2000);
	na = passed(a);
	nb = passed(b);
	assert_in_range(na + nb, 1900, 2400);
	run(4000);
	na = passed(a);
	nb = passed(b);
	assert_in_range(na + nb, 3960, 4040);
	assert_in_range(na, 1900, 2100);

	a->publishes = false; /* it goes there */
	run(2000);
	passed(a);
	assert_in_range(passed(b), 1500, 2200);
	run(2000);
	assert_in_range(passed(b), 1950, 2050);
}

static void test_rate_begins_everywhere_at_once(void **state)
{
	struct guest *g[3];
	uint64_t sum = 0;

	(void)state;
	tenants[0].limits.max_events_per_s = 1000;
	begin(3, true);
	for (size_t i = 0; i < 3; i++)
		g[i] = publisher(i, 1);
	run(2000);
	for (size_t i = 0; i < 3; i++)
		sum += passed(g[i]);
	assert_in_range(sum, 1900, 2400);
}

static void test_rate_without_links(void **state)
{
	struct guest *a, *b;

	(void)state;
	tenants[0].limits.max_events_per_s = 1000;
	begin(2, false);
	a = publisher(0, 1);
	b = publisher(1, 1);
	run(4000);
	assert_in_range(passed(a), 1950, 2200);
	assert_in_range(passed(b), 1950, 2200);
	set_link(0, true);
	set_link(1, true);
	b->publishes = false;
	run(2000);
	passed(a);
	run(2000);
	assert_in_range(passed(a), 1950, 2050);
	limits_on_peers(nodes[0].limits, 2); /* a third one lives, and has no link */
	run(1000);
	passed(a);
	run(3000);
	assert_in_range(passed(a), 1950, 2050); /* two thirds are for those that can be asked */
}

static void test_rate_goes_too_far(void **state)
{
	struct guest *g;
	struct guest *many[30];
	struct limits_stats stats;

	(void)state;
	tenants[0].limits.max_events_per_s = 10;
	begin(1, false);
	g = publisher(0, 1);
	g->may_refuse = true;
	g->behind = 120 * 40; /* 40 more events: four seconds */
	run(3000);
	assert_int_equal(g->refused, 0);
	g->behind = 120 * 60; /* six */
	run(1000);
	assert_true(g->refused > 100);
	assert_in_range(g->refused, 100, 1000); /* and it is slowed in being refused */
	assert_in_range(passed(g), 38, 44);     /* what may pass does */
	limits_get_stats(nodes[0].limits, &stats);
	assert_int_equal(stats.refused[LIMIT_EVENTS_PER_S], g->refused);
	g->may_refuse = false; /* who cannot be told is slowed alone */
	g->refused = 0;
	run(1000);
	assert_int_equal(g->refused, 0);
	assert_in_range(passed(g), 9, 11);

	g->behind = 0; /* many connections that send little: whose turn comes too late is told */
	for (size_t i = 0; i < 30; i++) {
		many[i] = publisher(0, 1);
		many[i]->may_refuse = true;
	}
	run(4000);
	assert_int_equal(many[29]->refused, 0);
	tenants[0].limits.max_events_per_s = 1;
	apply();
	run(6000);
	assert_true(many[29]->refused > 0);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static void test_token_narrows(void **state)
{
	struct claims alice, bob;
	struct guest *a, *a2, *b;
	struct err e = {0};

	(void)state;
	tenants[0].limits.max_events_per_s = 1000;
	begin(2, true);
	alice = claims_of(0, 1, "alice");
	alice.limits = (struct token_limits){.any = true, .connections = 2, .events_per_s = 100};
	a = let_in(0, &alice, &e);
	run(200);
	alice.tenant = registry_tenant(nodes[1].registry, 1);
	a2 = let_in(1, &alice, &e);
	run(200);
	assert_null(let_in(1, &alice, &e));
	assert_non_null(strstr(e.text, "the token's subject has 2 of 2 connections"));
	assert_non_null(strstr(nodes[1].told, "\"subject\":\"alice\""));
	alice.limits.events_per_s = 1; /* who is not let in changes nothing for those who are */
	assert_null(let_in(1, &alice, &e));
	bob = claims_of(0, 1, "bob");
	b = let_in(0, &bob, &e);
	assert_non_null(b);
	a->publishes = a2->publishes = b->publishes = true;
	run(3000);
	passed(a);
	passed(a2);
	passed(b);
	run(4000);
	assert_in_range(passed(a) + passed(a2), 390, 420); /* on both nodes together */
	assert_in_range(passed(b), 3400, 3700);

	alice.tenant = registry_tenant(nodes[0].registry, 1);
	alice.limits = (struct token_limits){.any = true, .events_per_s = 5000};
	limits_renew(nodes[0].limits, &a->guest, &alice); /* it cannot widen */
	a2->publishes = false;
	run(2000);
	passed(a);
	passed(b);
	run(2000);
	assert_in_range(passed(a) + passed(b), 1950, 2050);
	alice.limits = (struct token_limits){0};
	limits_renew(nodes[0].limits, &a->guest, &alice);
	assert_null(a->guest.subject);
}

static void reach(const char *subject)
{
	struct claims who = claims_of(0, 1, subject);
	struct limits_guest a = {0};
	struct limits_guest b = {0};
	struct err e = {0};

	who.limits = (struct token_limits){.any = true, .connections = 1};
	assert_int_equal(limits_enter(nodes[0].limits, &a, 98, &who, false, &e), 0);
	assert_int_equal(limits_enter(nodes[0].limits, &b, 99, &who, false, &e), -1);
	limits_leave(nodes[0].limits, &a);
}

/* A subject at its limit does not keep its tenant from hearing of its own, nor another subject. */
static void test_token_is_told_beside_its_tenant(void **state)
{
	char subject[16];

	(void)state;
	tenants[0].limits.max_connections = 3;
	begin(1, false);
	enter(0, 1);
	reach("alice");
	assert_non_null(strstr(nodes[0].told, "\"subject\":\"alice\""));
	reach("alice"); /* once in ten seconds */
	assert_int_equal(nodes[0].n_told, 1);
	enter(0, 1);
	enter(0, 1);
	assert_true(refused(0, 1, "the tenant has 3 of 3"));
	assert_int_equal(nodes[0].n_told, 2);
	assert_null(strstr(nodes[0].told, "subject"));
	limits_leave(nodes[0].limits, &guests[0].guest);
	limits_leave(nodes[0].limits, &guests[1].guest);
	for (int i = 0; i < 100; i++) { /* there may be many */
		snprintf(subject, sizeof subject, "s%d", i);
		reach(subject);
	}
	assert_int_equal(nodes[0].n_told, 2 + 19);
	run(LIMITS_TELL_MS);
	reach("alice");
	assert_int_equal(nodes[0].n_told, 2 + 20);
}

/* ---- wills ----------------------------------------------------------------------------------- */

/* So many are lost at once: how many are to be published, and the last of them when. */
static uint64_t lose(struct guest *g, int n, uint64_t *last_ms)
{
	uint64_t went = 0;
	uint64_t in_ms;

	*last_ms = 0;
	for (int i = 0; i < n; i++) {
		if (!limits_will(nodes[g->node].limits, &g->guest, 10, &in_ms))
			continue;
		assert_true(in_ms >= *last_ms);
		*last_ms = in_ms;
		went++;
	}
	return went;
}

/* As publishes: what would have to wait longer than they do is not published. */
static void test_wills_at_a_rate(void **state)
{
	struct limits_stats stats;
	struct guest *g, *p;
	uint64_t last_ms;

	(void)state;
	tenants[0].limits.max_events_per_s = 2;
	begin(1, false);
	g = enter(0, 1);
	assert_int_equal(lose(g, 60, &last_ms), 11); /* one at once, and two a second */
	assert_in_range(last_ms, 4500, 4510);
	limits_get_stats(nodes[0].limits, &stats);
	assert_int_equal(stats.refused[LIMIT_EVENTS_PER_S], 49);
	assert_int_equal(stats.slowed[LIMIT_EVENTS_PER_S], 10);
	assert_int_equal(nodes[0].n_told, 1);
	assert_non_null(strstr(nodes[0].told, "\"limit\":\"events_per_s\""));
	p = publisher(0, 1); /* others wait for what was put off: the rate is one */
	run(4000);
	assert_int_equal(passed(p), 0);
	run(3000);
	assert_in_range(passed(p), 2, 5);
}

static void test_wills_of_who_may_publish_nothing(void **state)
{
	struct limits_stats stats;
	struct guest *g;
	uint64_t last_ms;

	(void)state;
	begin(1, false);
	g = enter(0, 1);
	assert_int_equal(lose(g, 100, &last_ms), 100);
	assert_int_equal(last_ms, 0);
	tenants[0].storage_full = true;
	apply();
	assert_int_equal(lose(g, 3, &last_ms), 0);
	tenants[0].storage_full = false;
	tenants[0].limits.max_event_bytes = 9;
	apply();
	assert_int_equal(lose(g, 2, &last_ms), 0);
	limits_get_stats(nodes[0].limits, &stats);
	assert_int_equal(stats.refused[LIMIT_STORED_BYTES], 3);
	assert_int_equal(stats.refused[LIMIT_EVENT_BYTES], 2);
	assert_int_equal(nodes[0].n_told, 2);
}

/* ---- events, subscriptions, usage ------------------------------------------------------------ */

static void test_event_bytes(void **state)
{
	struct claims who;
	struct guest *g;
	struct err e = {0};

	(void)state;
	tenants[0].limits.max_event_bytes = 100;
	begin(1, false);
	who = claims_of(0, 1, "alice");
	who.limits = (struct token_limits){.any = true, .event_bytes = 50};
	g = let_in(0, &who, &e);
	assert_int_equal(limits_event(nodes[0].limits, &g->guest, 50, &e), 0);
	assert_int_equal(limits_event(nodes[0].limits, &g->guest, 51, &e), -1);
	assert_non_null(
	        strstr(e.text, "the payload has 51 bytes; this token's events may have 50"));
	who.limits.event_bytes = 500; /* it cannot widen */
	limits_renew(nodes[0].limits, &g->guest, &who);
	assert_int_equal(limits_event(nodes[0].limits, &g->guest, 100, &e), 0);
	assert_int_equal(limits_event(nodes[0].limits, &g->guest, 101, &e), -1);
	assert_non_null(strstr(e.text, "this tenant's events may have 100"));
}

static void test_subscriptions(void **state)
{
	struct guest *a, *b, *c;
	struct err e = {0};

	(void)state;
	tenants[0].limits.max_subscriptions = 2;
	begin(2, true);
	a = enter(0, 1);
	b = enter(1, 1);
	c = enter(1, 1);
	limits_subscribed(nodes[0].limits, &a->guest, true);
	limits_subscribed(nodes[1].limits, &b->guest, true);
	limits_subscribed(nodes[1].limits, &b->guest, true); /* counted once */
	run(200);
	assert_int_equal(limits_subscribe(nodes[1].limits, &b->guest, &e), 0); /* it is one */
	assert_int_equal(limits_subscribe(nodes[1].limits, &c->guest, &e), -1);
	assert_non_null(strstr(e.text, "the tenant has 2 of 2 subscriptions"));
	limits_leave(nodes[0].limits, &a->guest);
	run(200);
	assert_int_equal(limits_subscribe(nodes[1].limits, &c->guest, &e), 0);
}

/* ---- what is in the database ----------------------------------------------------------------- */

static bool schedule(struct guest *g)
{
	struct err e = {0};

	if (limits_schedule(nodes[g->node].limits, &g->guest, &e) == 0)
		return true;
	assert_non_null(strstr(e.text, "scheduled events"));
	return false;
}

static void scheduled(uint64_t n, bool stored)
{
	limits_settled(nodes[0].limits, 1, LIMIT_SCHEDULED, n, stored);
}

/* Thousands come at once when a node goes: what those have that may have anything is not asked. */
static void test_who_has_no_limit_is_not_asked_about(void **state)
{
	(void)state;
	tenants[1].limits.max_subscriptions = 10;
	has_bus = true;
	begin(1, false);
	enter(0, 1);
	run(2000);
	assert_null(asked);
	enter(0, 2);
	run(1100);
	assert_non_null(asked);
	assert_int_equal(asked->tenant_id, 2);
	answer(3, 0);
}

static void ask_again(void)
{
	run(1100);
	assert_non_null(asked);
}

static struct guest *begin_scheduling(uint64_t most, uint64_t there)
{
	struct guest *g;

	tenants[0].limits.max_scheduled = (uint32_t)most;
	has_bus = true;
	begin(1, false);
	g = enter(0, 1);
	assert_false(limits_knows(nodes[0].limits, &g->guest)); /* it waits, and is not read */
	g->ready = false;
	run(500);
	assert_false(g->ready);
	answer(0, there);
	assert_true(g->ready);
	assert_true(limits_knows(nodes[0].limits, &g->guest));
	return g;
}

/* What is on its way when the database is asked is counted once: whether the answer has it or not,
 * and whenever it is stored. */
static void test_scheduled_on_its_way(void **state)
{
	static const uint64_t answers[] = {10, 11, 12, 13};

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct guest *g = begin_scheduling(15, 10);

		assert_true(schedule(g));
		ask_again(); /* with one on its way, and two more come while it is asked */
		assert_true(schedule(g) && schedule(g));
		if (i % 2)
			scheduled(3, true);
		answer(0, answers[i]);
		assert_true(schedule(g) && schedule(g));
		assert_false(schedule(g));
		scheduled(5, true);
		ask_again(); /* nothing is on its way any more: the answer is exact */
		assert_false(schedule(g));
		answer(0, 15);
		assert_false(schedule(g));
		ask_again();
		answer(0, 13); /* two came due */
		assert_true(schedule(g) && schedule(g));
		assert_false(schedule(g));
		if (i < 3) {
			teardown(state);
			setup(state);
		}
	}
}

static void test_scheduled_and_refused(void **state)
{
	struct guest *g = begin_scheduling(2, 0);

	(void)state;
	assert_true(schedule(g) && schedule(g));
	assert_false(schedule(g));
	scheduled(1, false); /* the database did not take it */
	assert_true(schedule(g));
	assert_false(schedule(g));
	ask_again();
	scheduled(2, false); /* while it is asked: the answer cannot have them */
	answer(0, 1);        /* another node's */
	assert_true(schedule(g));
	assert_false(schedule(g));
	ask_again();
	answer(0, 1);
	limits_leave(nodes[0].limits, &g->guest);
	run(20000); /* it is not forgotten while one is on its way */
	g = enter(0, 1);
	assert_true(limits_knows(nodes[0].limits, &g->guest));
	assert_false(schedule(g));
}

static void test_scheduled_without_an_answer(void **state)
{
	struct guest *g;

	(void)state;
	tenants[0].limits.max_scheduled = 2;
	has_bus = true;
	begin(1, false);
	g = enter(0, 1);
	assert_false(limits_knows(nodes[0].limits, &g->guest));
	g->ready = false;
	asked->outcome = SQL_RETRY;
	asked->done(asked);
	asked = NULL;
	assert_false(g->ready);
	run(200);
	answer(0, 2); /* it was asked again */
	assert_true(g->ready);
	assert_false(schedule(g));
	ask_again();
	answer(0, 2);
	limits_leave(nodes[0].limits, &g->guest);
	run(20000);
	g = enter(0, 1);
	assert_false(limits_knows(nodes[0].limits, &g->guest));
	limits_leave(nodes[0].limits, &g->guest); /* it waits no more */
	answer(0, 2);
}

static enum limits_verdict reserve(void)
{
	return limits_reserve(nodes[0].limits, registry_tenant(nodes[0].registry, 1),
	                      LIMIT_SUBSCRIPTIONS);
}

static void made(bool yes)
{
	limits_settled(nodes[0].limits, 1, LIMIT_SUBSCRIPTIONS, 1, yes);
}

static void test_subscriptions_with_a_row(void **state)
{
	struct limits_stats stats;
	struct guest *g;
	struct err e;

	(void)state;
	tenants[0].limits.max_subscriptions = 3;
	has_bus = true;
	begin(1, false);
	assert_int_equal(reserve(), LIMITS_WAIT); /* how many there are is not known */
	answer(1, 0);
	assert_int_equal(reserve(), LIMITS_PASS);
	assert_int_equal(reserve(), LIMITS_PASS);
	assert_int_equal(reserve(), LIMITS_WAIT); /* if one of these is not made there is room */
	ask_again();
	answer(2, 0);
	assert_int_equal(reserve(), LIMITS_WAIT);
	made(false); /* it was there already */
	made(true);
	assert_int_equal(reserve(), LIMITS_PASS);
	made(true);
	assert_int_equal(reserve(), LIMITS_REFUSE);
	g = enter(0, 1);
	assert_int_equal(limits_subscribe(nodes[0].limits, &g->guest, &e), -1);
	limits_get_stats(nodes[0].limits, &stats);
	assert_int_equal(stats.refused[LIMIT_SUBSCRIPTIONS], 1);
	ask_again(); /* who is refused wants to know when there is room */
	answer(2, 0);
	assert_int_equal(limits_subscribe(nodes[0].limits, &g->guest, &e), 0);
	limits_subscribed(nodes[0].limits, &g->guest, true);
	assert_int_equal(reserve(), LIMITS_REFUSE);
}

static bool bury(void)
{
	return limits_bury(nodes[0].limits, registry_tenant(nodes[0].registry, 1));
}

static void buried(bool yes)
{
	limits_settled(nodes[0].limits, 1, LIMIT_DEAD_LETTERS, 1, yes);
}

/* Of a tenant that has no connection here, too: what is full is not forgotten. */
static void test_dead_letters(void **state)
{
	(void)state;
	tenants[0].limits.max_dead_letters = 3;
	has_bus = true;
	begin(1, false);
	assert_true(bury()); /* nobody waits for the answer */
	dead_letters = 1;
	answer(0, 0);
	buried(true);
	assert_true(bury());
	buried(false);
	assert_true(bury());
	buried(true);
	ask_again();
	dead_letters = 2; /* another node's among them */
	answer(0, 0);
	assert_true(bury());
	assert_false(bury());
	assert_non_null(
	        strstr(nodes[0].told, "\"limit\":\"dead_letters\",\"allowed\":3,\"used\":3"));
	buried(true);
	ask_again();
	dead_letters = 3;
	answer(0, 0);
	run(60000);
	assert_null(asked);
	assert_false(bury());
	ask_again();
	dead_letters = 2; /* somebody discarded one */
	answer(0, 0);
	assert_true(bury());
	buried(true);
}

static json_int_t usage(size_t node, const char *limit, const char *what)
{
	json_t *v = json_loads(nodes[node].usage, 0, NULL);
	const json_t *n;
	json_int_t value;

	assert_non_null(v);
	n = json_object_get(json_object_get(json_object_get(v, "limits"), limit), what);
	value = json_is_integer(n) ? json_integer_value(n) : -1;
	json_decref(v);
	return value;
}

static void watch(size_t node, struct guest *g)
{
	limits_watch(nodes[node].limits, &g->guest, false);
	limits_watch(nodes[node].limits, &g->guest, true);
}

static void test_usage(void **state)
{
	struct guest *g, *p;

	(void)state;
	tenants[0].limits.max_connections = 10;
	begin(2, true);
	g = enter(0, 1);
	enter(1, 1);
	p = publisher(1, 1);
	p->publishes = false;
	limits_watch(nodes[0].limits, &g->guest, true);
	assert_int_equal(nodes[0].n_usage, 1); /* at once */
	assert_int_equal(usage(0, "connections", "allowed"), 10);
	run(300);
	watch(0, g);
	assert_int_equal(usage(0, "connections", "used"), 3);
	assert_int_equal(usage(0, "events_per_s", "allowed"), -1); /* null: no limit */
	for (int i = 0; i < 1000; i++) { /* elsewhere, where nothing is limited */
		struct limits_publish pub = {.bytes = 10, .packet = 20};
		struct err e;

		if (i % 50 == 0)
			run(50);
		limits_publish(nodes[1].limits, &p->guest, &pub, &e);
	}
	run(100);
	watch(0, g);
	assert_in_range(usage(0, "events_per_s", "used"), 800, 1100);
	nodes[0].n_usage = 0;
	run(20000);
	assert_int_equal(nodes[0].n_usage, 2);
	limits_watch(nodes[0].limits, &g->guest, false);
	run(20000);
	assert_int_equal(nodes[0].n_usage, 2);
}

/* The first message is told when what the database has is known; and if that cannot be had, it says
 * that it does not know it. */
static void test_usage_waits_for_the_database(void **state)
{
	struct guest *g, *other;

	(void)state;
	has_bus = true;
	begin(1, false);
	g = enter(0, 1);
	limits_watch(nodes[0].limits, &g->guest, true);
	assert_int_equal(nodes[0].n_usage, 0);
	answer(3, 17);
	assert_int_equal(nodes[0].n_usage, 1);
	assert_int_equal(usage(0, "scheduled", "used"), 17);
	other = enter(0, 1);
	limits_watch(nodes[0].limits, &other->guest, true); /* not what it was a while ago */
	answer(3, 18);
	assert_int_equal(nodes[0].n_usage, 2);
	assert_int_equal(usage(0, "scheduled", "used"), 18);

	g = enter(0, 2);
	limits_watch(nodes[0].limits, &g->guest, true);
	asked->outcome = SQL_RETRY;
	asked->done(asked);
	asked = NULL;
	assert_int_equal(nodes[0].n_usage, 3);
	assert_non_null(
	        strstr(nodes[0].usage, "\"stored_bytes\":{\"allowed\":null,\"used\":null}"));
	assert_int_equal(usage(0, "connections", "used"), 1);
	if (asked)
		answer(0, 0);
}

static void test_in_flight(void **state)
{
	struct limits_stats stats;

	(void)state;
	tenants[0].limits.max_in_flight = 5;
	begin(1, false);
	enter(0, 1);
	for (int i = 0; i < 3; i++)
		limits_slowed(nodes[0].limits, registry_tenant(nodes[0].registry, tenants[0].id),
		              LIMIT_IN_FLIGHT, 5);
	limits_get_stats(nodes[0].limits, &stats);
	assert_int_equal(stats.slowed[LIMIT_IN_FLIGHT], 3);
	assert_int_equal(stats.refused[LIMIT_IN_FLIGHT], 0);
	assert_int_equal(nodes[0].n_told, 1);
	assert_non_null(strstr(nodes[0].told, "\"limit\":\"in_flight\",\"allowed\":5,\"used\":5"));
}

/* ---- what is published in SQL ---------------------------------------------------------------- */

/* For so long, node 0 moves all it may of a tenant that has no end of events, looking every 20 ms.
 */
static uint64_t move_for(uint64_t ms, uint64_t bytes)
{
	uint64_t moved = 0;

	for (uint64_t t = 0; t < ms; t += 20) {
		struct bus_allowance may;
		struct bus_collected of = {.tenant_id = 1, .held = true};
		uint64_t n;

		limits_may_move(nodes[0].limits, 1, false, &may);
		n = may.events < 1000 ? may.events : 1000;
		if (n > may.bytes / bytes + (may.bytes % bytes != 0))
			n = may.bytes / bytes + (may.bytes % bytes != 0);
		of.events = (uint32_t)n;
		of.bytes = n * bytes;
		limits_moved(nodes[0].limits, &of);
		moved += n;
		run(20);
	}
	return moved;
}

static void test_moving_at_a_rate(void **state)
{
	struct limits_stats stats;

	(void)state;
	tenants[0].limits.max_events_per_s = 100;
	begin(1, false);
	assert_in_range(move_for(10000, 10), 950, 1040);
	assert_in_range(nodes[0].n_told, 1, 2);
	assert_int_equal(nodes[0].told_tenant, 1);
	limits_get_stats(nodes[0].limits, &stats);
	assert_int_equal(stats.slowed[LIMIT_EVENTS_PER_S], 1); /* it never stopped waiting */
	tenants[0].limits.max_events_per_s = 0;
	apply();
	assert_int_equal(move_for(200, 10), 10 * 1000);
}

static void test_moving_bytes(void **state)
{
	(void)state;
	tenants[0].limits.max_bytes_per_s = 10000;
	begin(1, false);
	assert_in_range(move_for(10000, 100), 950, 1040);
	run(2000);
	/* what is too large for the rate passes, and is paid for */
	assert_int_equal(move_for(200, 50000), 1);
	run(3000);
	assert_int_equal(move_for(1000, 1), 0);
}

/* It stands for one connection: with one that publishes all it can, half and half; with three a
 * quarter, wherever they are. And what it leaves is the others'. */
static void test_moving_beside_connections(void **state)
{
	struct guest *g[3];
	uint64_t moved;
	uint64_t others;

	(void)state;
	tenants[0].limits.max_events_per_s = 200;
	begin(2, true);
	g[0] = publisher(0, 1);
	move_for(3000, 10);
	passed(g[0]);
	moved = move_for(10000, 10);
	others = passed(g[0]);
	assert_in_range(moved, 900, 1100);
	assert_in_range(others, 900, 1100);

	g[1] = publisher(1, 1);
	g[2] = publisher(1, 1);
	move_for(3000, 10);
	for (int i = 0; i < 3; i++)
		passed(g[i]);
	moved = move_for(10000, 10);
	others = passed(g[0]) + passed(g[1]) + passed(g[2]);
	assert_in_range(moved, 400, 600);
	assert_in_range(moved + others, 1900, 2100);

	run(3000);
	for (int i = 0; i < 3; i++)
		passed(g[i]);
	run(10000);
	assert_in_range(passed(g[0]) + passed(g[1]) + passed(g[2]), 1900, 2050);
}

/* Nobody moves any more, here at least: the tenant's account is forgotten. */
/* What SQL published waits while the storage is full; how large one may be, whoever set it. */
static void test_moving_into_a_full_storage(void **state)
{
	struct bus_collected of = {.tenant_id = 1, .too_large = 2, .largest = 700};
	struct bus_allowance may;
	struct limits_stats stats;

	(void)state;
	begin(1, false);
	limits_may_move(nodes[0].limits, 1, false, &may);
	assert_true(may.events == UINT64_MAX && may.event_bytes == UINT64_MAX);
	tenants[0].limits.max_event_bytes = 500;
	tenants[0].storage_full = true;
	apply();
	for (int i = 0; i < 3; i++) {
		limits_may_move(nodes[0].limits, 1, false, &may);
		assert_int_equal(may.events, 0);
		run(20);
	}
	limits_get_stats(nodes[0].limits, &stats);
	assert_int_equal(stats.slowed[LIMIT_STORED_BYTES], 1);
	assert_int_equal(nodes[0].n_told, 1);
	assert_non_null(strstr(nodes[0].told, "\"limit\":\"stored_bytes\""));
	tenants[0].storage_full = false;
	apply();
	limits_may_move(nodes[0].limits, 1, false, &may);
	assert_true(may.events == UINT64_MAX && may.event_bytes == 500);
	limits_moved(nodes[0].limits, &of);
	limits_get_stats(nodes[0].limits, &stats);
	assert_int_equal(stats.refused[LIMIT_EVENT_BYTES], 2);
	assert_non_null(strstr(nodes[0].told, "\"used\":700"));
}

static void test_moving_ends(void **state)
{
	struct guest *g;

	(void)state;
	tenants[0].limits.max_events_per_s = 10;
	begin(1, false);
	move_for(1000, 10);
	run(5000);
	g = publisher(0, 1);
	run(10000);
	assert_in_range(passed(g), 99, 103);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
	        TEST(test_connections),
	        TEST(test_connections_of_all_nodes),
	        TEST(test_rate),
	        TEST(test_who_has_no_limit_is_not_asked_about),
	        TEST(test_rate_is_shared_among_connections),
	        TEST(test_rate_of_two_nodes),
	        TEST(test_rate_begins_everywhere_at_once),
	        TEST(test_rate_without_links),
	        TEST(test_rate_goes_too_far),
	        TEST(test_token_narrows),
	        TEST(test_token_is_told_beside_its_tenant),
	        TEST(test_wills_at_a_rate),
	        TEST(test_wills_of_who_may_publish_nothing),
	        TEST(test_event_bytes),
	        TEST(test_subscriptions),
	        TEST(test_scheduled_on_its_way),
	        TEST(test_scheduled_and_refused),
	        TEST(test_scheduled_without_an_answer),
	        TEST(test_subscriptions_with_a_row),
	        TEST(test_dead_letters),
	        TEST(test_usage),
	        TEST(test_usage_waits_for_the_database),
	        TEST(test_in_flight),
	        TEST(test_moving_at_a_rate),
	        TEST(test_moving_bytes),
	        TEST(test_moving_beside_connections),
	        TEST(test_moving_into_a_full_storage),
	        TEST(test_moving_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
