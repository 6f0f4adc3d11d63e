/* The real appender, dispatch and sessions of three nodes over the fault simulator, with links that
 * are slow and break, and hints that come late, in any order, or not at all: clients with durable
 * sessions that connect to any node, are thrown out, and come back, some of them consumers of a
 * share; nodes that die, or hand over first. The history says whether every acknowledged event
 * arrived, in order, and no cursor went back.
 *
 *     test_sim_node --seed N     one seed
 *     test_sim_node --seeds N    that many */
#include "base/hash.h"
#include "base/mem.h"
#include "cluster/sim.h"
#include "node/delivery/appender.h"
#include "node/delivery/dispatch.h"
#include "node/delivery/session.h"
#include "node/net/loop.h"
#include "node/peer/hint.h"
#include "tests/sim_history.h"
#include "tests/sim_main.h"
#include "tests/unit/node/mesh.h"
#include "tests/unit/node/sim_loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
	NODES = 3,
	TENANTS = 2, /* 1 and 2 */
	READERS = 4, /* clients that read everything of their tenant */
	SHARERS = 4, /* clients that share it with the others of their tenant */
	CLIENTS = READERS + SHARERS,
	SUBS = READERS + TENANTS, /* in the history: the readers', then each tenant's share */
	LINK_MS = 12,             /* at most, for a message between nodes */
	EVENTS = 150,
	UNACKED_MAX = 64,
	TICK_MS = 8,
	SETTLE_MAX_MS = 120000,
	SEEDS_DEFAULT = 500,
	WATCH_MS = 100, /* how often a node looks at what others did */
	HINTS_MAX = 32, /* under way */
	PARTITIONS = 2, /* at first */
	PARTITIONS_MAX = 5,
	CHANGES_MAX = 5, /* of a tenant's partitions: HISTORY_PARTITIONS suffice */
};

struct node {
	struct world *world;
	uint32_t no;
	struct bus *bus;
	struct bus_ops ops; /* the simulator's, watched */
	const struct bus_ops *real;
	struct loop *loop;
	struct appender *appender;
	struct dispatch *dispatch;
	struct loop_timer *watch;
	bool leaving; /* it hands over, then it dies */
	bool left;
	struct peer_port port;              /* for hints */
	struct tenant tenants[TENANTS + 1]; /* as it knows them */
};

/* What one node told the other, on its way. */
struct hint {
	uint32_t to;
	size_t n;
	struct bus_head heads[BUS_FLUSH_MAX_HEADS];
};

/* A connection of a client; only its newest counts, what comes over an older one is not read. */
struct link {
	struct client *client;
	struct node *node;
	uint64_t id;
	struct session *session;
	uint16_t unacked[UNACKED_MAX];
	size_t n_unacked;
	struct link *next; /* all there ever were */
};

struct client {
	struct world *world;
	uint32_t no; /* a reader's is also its subscription's in the history */
	char name[8];
	struct link *link; /* NULL = away */
};

struct world {
	struct sim *sim;
	struct mesh *mesh;
	struct history *history;
	struct node *nodes[NODES]; /* NULL = dead */
	struct client clients[CLIENTS];
	struct link *links;
	uint32_t changes[TENANTS + 1]; /* of its partitions */
	uint32_t published;
	uint64_t last_conn;
	uint64_t sub_ids[SUBS];
	struct hint hints[HINTS_MAX];
	size_t n_hints;
	bool calm;
};

static struct world *world; /* the one at work: bus requests do not say */
static uint64_t forwarded;  /* events that went from node to node, all seeds */

static uint32_t tenant_of(const struct client *c)
{
	return 1 + c->no % TENANTS;
}

static bool is_reader(const struct client *c)
{
	return c->no < READERS;
}

static uint32_t share_of(uint32_t tenant)
{
	return READERS + tenant - 1;
}

/* ---- watching the bus -------------------------------------------------------------------------
 */

/* A request under way and whom to tell. */
struct watched {
	struct watched *next;
	const void *req;
	void (*claim_done)(struct bus_claim *);
	void (*commit_done)(struct bus_commit *);
};

static struct watched *under_way;

static struct watched watch(const void *req)
{
	struct watched **at = &under_way;
	struct watched *w;
	struct watched was;

	while ((*at)->req != req)
		at = &(*at)->next;
	w = *at;
	was = *w;
	*at = w->next;
	free(w);
	return was;
}

static struct watched *watch_new(const void *req)
{
	struct watched *w = xcalloc(1, sizeof *w);

	w->req = req;
	w->next = under_way;
	under_way = w;
	return w;
}

static struct node *node_of(const struct bus *bus)
{
	for (size_t i = 0; i < NODES; i++) {
		if (world->nodes[i] && world->nodes[i]->bus == bus)
			return world->nodes[i];
	}
	abort();
}

static void on_claim(struct bus_claim *req)
{
	struct watched w = watch(req);
	uint32_t sub = req->kind == BUS_SUB_SHARE ? share_of(req->tenant_id)
	                                          : (uint32_t)(req->name.p[1] - '0');

	if (req->outcome == SQL_OK && sub < SUBS && (req->kind == BUS_SUB_SHARE || sub < READERS)) {
		world->sub_ids[sub] = req->subscription_id;
		for (uint32_t i = 0; i < req->n_cursors; i++)
			history_claimed(world->history, sub, req->cursors[i].partition_id,
			                req->cursors[i].acked_through);
	}
	w.claim_done(req);
}

static void watched_claim(struct bus *bus, struct bus_claim *req)
{
	watch_new(req)->claim_done = req->done;
	req->done = on_claim;
	node_of(bus)->real->claim(bus, req);
}

static void on_commit(struct bus_commit *req)
{
	struct watched w = watch(req);

	for (size_t i = 0; req->outcome == SQL_OK && i < req->n; i++) {
		const struct bus_cursor_row *row = &req->rows[i];

		for (uint32_t sub = 0; sub < SUBS && !row->fenced; sub++) {
			if (world->sub_ids[sub] == row->subscription_id)
				history_committed(world->history, sub, row->to.partition_id,
				                  row->to.acked_through);
		}
	}
	w.commit_done(req);
}

static void watched_commit(struct bus *bus, struct bus_commit *req)
{
	watch_new(req)->commit_done = req->done;
	req->done = on_commit;
	node_of(bus)->real->commit(bus, req);
}

/* ---- clients ----------------------------------------------------------------------------------
 */

static bool counts(const struct link *l)
{
	return l->client->link == l;
}

static bool can_send(void *conn)
{
	return ((struct link *)conn)->n_unacked < UNACKED_MAX;
}

static uint64_t seq_of(const struct outgoing *out)
{
	struct event ev;
	uint32_t i = 0;

	for (;; i++) {
		batch_event(out->owner, i, &ev);
		if (ev.payload.p == out->ev->payload.p)
			return batch_base_seq(out->owner) + i;
	}
}

static void send(void *conn, const struct outgoing *out)
{
	struct link *l = conn;

	l->unacked[l->n_unacked++] = out->packet_id;
	if (counts(l) && is_reader(l->client))
		history_delivered(world->history, l->client->no, tenant_of(l->client),
		                  batch_partition(out->owner), seq_of(out), out->ev->payload);
	else if (counts(l))
		history_shared(world->history, share_of(tenant_of(l->client)), tenant_of(l->client),
		               batch_partition(out->owner), seq_of(out), out->ev->payload);
}

static void link_over(struct link *l)
{
	l->session = NULL;
	l->node = NULL;
	if (counts(l))
		l->client->link = NULL;
}

static void kick(void *conn, uint8_t reason, const char *text)
{
	(void)reason;
	(void)text;
	link_over(conn);
}

static const struct session_conn_ops link_ops = {.can_send = can_send, .send = send, .kick = kick};

static void client_subscribe(struct link *l);

static void on_subscribed(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
                          const char *text)
{
	struct link *l = conn;

	(void)packet_id;
	(void)n;
	(void)text;
	assert_true(reasons[0] == 1 || (reasons[0] == 0x83 && !is_reader(l->client)));
	if (reasons[0] != 1 && l->session) /* its owner was not reached in time: try again */
		client_subscribe(l);
}

static void client_subscribe(struct link *l)
{
	struct session_filter f = {.filter = slice_str(is_reader(l->client) ? "#" : "$share/g/#"),
	                           .qos = 1};
	struct session_subscribe req = {
	        .filters = &f, .n = 1, .start = SESSION_START_EARLIEST, .done = on_subscribed};

	session_subscribe(l->session, &req);
}

static void on_open(void *conn, struct session *s, bool present, uint8_t reason, const char *text)
{
	struct link *l = conn;

	(void)present;
	(void)reason;
	(void)text;
	if (!s) {
		link_over(l);
		return;
	}
	l->session = s;
	session_start(s);
	client_subscribe(l);
}

static void client_connect(struct client *c)
{
	struct world *w = c->world;
	struct node *n = w->nodes[sim_random(w->sim, NODES)];
	struct link *l;
	struct session_open req = {.tenant = n ? &n->tenants[tenant_of(c)] : NULL,
	                           .subject = slice_str("alice"),
	                           .client_id = slice_str(c->name),
	                           .expiry_s = SESSION_FOREVER,
	                           .receive_max = (uint16_t)(1 + sim_random(w->sim, 40)),
	                           .ops = &link_ops,
	                           .done = on_open};

	if (!n)
		return;
	l = xcalloc(1, sizeof *l);
	l->client = c;
	l->node = n;
	l->id = ++w->last_conn;
	l->next = w->links;
	w->links = l;
	c->link = l;
	req.conn_id = l->id;
	req.conn = l;
	session_open(n->dispatch, &req);
}

static void client_leave(struct client *c)
{
	struct link *l = c->link;

	if (l->session)
		session_detach(l->session, SESSION_FOREVER);
	else
		session_open_cancel(l->node->dispatch, l->id);
	link_over(l);
}

static void client_ack(struct link *l)
{
	size_t i = sim_random(world->sim, l->n_unacked);
	uint16_t id = l->unacked[i];

	l->unacked[i] = l->unacked[--l->n_unacked];
	assert_true(session_puback(l->session, id, 0));
	session_writable(l->session);
}

static void client_tick(struct client *c)
{
	struct sim *s = c->world->sim;

	if (!c->link || (!c->world->calm && sim_random(s, 150) == 0)) {
		client_connect(c); /* an older connection is forgotten, not closed */
	} else if (!c->world->calm && sim_random(s, 100) == 0) {
		client_leave(c);
	} else if (c->link->session) {
		for (uint64_t n = sim_random(s, 6); n && c->link->n_unacked; n--)
			client_ack(c->link);
	}
}

/* ---- nodes ------------------------------------------------------------------------------------
 */

static void on_answer(void *arg, struct publisher to, enum append_result r, const char *reason)
{
	struct node *n = arg;

	(void)reason;
	if (r == APPEND_STORED)
		history_acked(n->world->history, to.packet_id);
	else
		history_refused(n->world->history, to.packet_id);
}

static void on_room(void *arg, uint64_t conn_id)
{
	(void)arg;
	(void)conn_id;
}

static void on_stored(void *arg, struct batch *b)
{
	dispatch_stored(((struct node *)arg)->dispatch, b);
}

static void port_send_all(void *self, const struct peer_message *m)
{
	struct node *n = self;
	struct world *w = n->world;
	struct hint *h = &w->hints[w->n_hints];

	assert_true(m->n_heads <= BUS_FLUSH_MAX_HEADS);
	if (w->n_hints == HINTS_MAX || sim_random(w->sim, 8) == 0)
		return;
	w->n_hints++;
	h->to = !n->no;
	h->n = m->n_heads;
	memcpy(h->heads, m->heads, m->n_heads * sizeof *m->heads);
}

static void on_flushed(void *arg, uint32_t writer_no, uint64_t flush_no,
                       struct batch *const *batches, size_t n_batches)
{
	struct node *n = arg;

	hint_send(&n->port, &n->bus->session_id, writer_no, flush_no, batches, n_batches);
}

/* Some of those under way arrive, perhaps in another life of the node. */
static void hints_arrive(struct world *w)
{
	for (size_t i = w->n_hints; i-- > 0;) {
		struct hint h = w->hints[i];

		if (sim_random(w->sim, 3) == 0)
			continue;
		w->hints[i] = w->hints[--w->n_hints];
		if (w->nodes[h.to])
			dispatch_hinted(w->nodes[h.to]->dispatch, h.heads, h.n);
	}
}

static void on_state(void *arg, enum bus_state state)
{
	struct node *n = arg;

	appender_on_state(n->appender, state);
	dispatch_on_state(n->dispatch, state);
}

static void on_watch(void *arg)
{
	struct node *n = arg;

	dispatch_on_others_stored(n->dispatch);
	dispatch_on_taken(n->dispatch);
}

static void publish(struct node *n)
{
	struct world *w = n->world;
	uint32_t tenant = 1 + (uint32_t)sim_random(w->sim, TENANTS);
	uint32_t topic = (uint32_t)sim_random(w->sim, 4) * NODES + n->no; /* each node its own */
	uint32_t id = history_published(w->history, tenant, topic);
	char payload[16];
	struct event ev = {.topic = slice("abcdefghijkl" + topic, 1), .qos = 1};

	w->published++;
	snprintf(payload, sizeof payload, "%c%u", sim_random(w->sim, 40) ? 'e' : 'x', id);
	ev.payload = slice_str(payload);
	appender_publish(n->appender, &n->tenants[tenant], &ev, (struct publisher){1, id});
}

/* As the rows are now. */
static void node_learn(struct node *n, uint32_t t)
{
	struct layout l = store_layout(sim_store(n->world->sim), t);

	n->tenants[t] = (struct tenant){.id = t,
	                                .weight = 1,
	                                .partitions = (uint16_t)(l.n ? l.n : PARTITIONS),
	                                .first_partition = (uint16_t)l.first};
	if (n->dispatch)
		dispatch_tenant_changed(n->dispatch, &n->tenants[t]);
}

static void change_partitions(struct world *w)
{
	uint32_t t = 1 + (uint32_t)sim_random(w->sim, TENANTS);

	if (w->changes[t]++ < CHANGES_MAX)
		sim_set_partitions(w->sim, t, PARTITIONS,
		                   1 + (uint32_t)sim_random(w->sim, PARTITIONS_MAX));
}

static void node_start(struct world *w, uint32_t no)
{
	static const char *const names[NODES] = {"n0", "n1", "n2"};
	struct node *n = xcalloc(1, sizeof *n);
	struct dispatch_settings ds = {.cache_bytes = sim_random(w->sim, 2) ? 2000 : 1 << 20,
	                               .linger_ms = sim_random(w->sim, 2) ? 50 : 2000};
	struct appender_events ae = {.on_answer = on_answer,
	                             .on_room = on_room,
	                             .on_flushed = on_flushed,
	                             .on_stored = on_stored,
	                             .arg = n};

	n->world = w;
	n->no = no;
	n->port = (struct peer_port){.send_all = port_send_all, .self = n};
	w->nodes[no] = n;
	for (uint32_t t = 1; t <= TENANTS; t++)
		node_learn(n, t);
	n->loop = loop_new();
	n->bus = sim_bus_new(w->sim, names[no]);
	n->real = n->bus->ops;
	n->ops = *n->real;
	n->ops.claim = watched_claim;
	n->ops.commit = watched_commit;
	n->bus->ops = &n->ops;
	n->bus->events = (struct bus_events){.on_state = on_state, .arg = n};
	n->appender = appender_new(n->loop, n->bus, &ae);
	n->dispatch = dispatch_new(n->loop, n->bus, &ds);
	n->watch = loop_every(n->loop, WATCH_MS, on_watch, n);
	mesh_join(w->mesh, no, n->bus, n->dispatch);
}

static void on_left(void *arg)
{
	((struct node *)arg)->left = true;
}

/* An orderly shutdown: its clients are cut off when others have its shares. */
static void node_leave(struct node *n)
{
	n->leaving = true;
	dispatch_leave(n->dispatch, on_left, n);
}

/* The process dies: its connections break, what it asked for may still happen. */
static void node_kill(struct node *n)
{
	struct world *w = n->world;
	struct dispatch_stats stats;

	dispatch_get_stats(n->dispatch, &stats);
	forwarded += stats.forwarded;
	for (struct link *l = w->links; l; l = l->next) {
		if (l->node == n)
			link_over(l);
	}
	loop_timer_free(n->watch);
	mesh_leave(w->mesh, n->no);
	dispatch_on_state(n->dispatch, BUS_DOWN);
	sim_loop_turn();
	w->nodes[n->no] = NULL;
	n->bus->state = BUS_DOWN;
	sim_bus_kill(n->bus);
	dispatch_free(n->dispatch);
	appender_free(n->appender);
	loop_free(n->loop);
	free(n);
}

static void world_tick(struct world *w)
{
	uint64_t cut = sim_random(w->sim, NODES);

	for (uint32_t i = 0; i < NODES; i++) {
		struct node *n = w->nodes[i];

		if (!n) {
			if (w->calm || sim_random(w->sim, 60) == 0)
				node_start(w, i);
			continue;
		}
		if (n->left || n->bus->state == BUS_ENDED ||
		    (!w->calm && sim_random(w->sim, 400) == 0)) {
			node_kill(n);
			continue;
		}
		if (!w->calm && !n->leaving && sim_random(w->sim, 300) == 0)
			node_leave(n);
		if (!w->calm && sim_random(w->sim, 2) && w->published < EVENTS)
			publish(n);
		if (w->calm || sim_random(w->sim, 40) == 0)
			node_learn(n, 1 + (uint32_t)sim_random(w->sim, TENANTS));
	}
	if (!w->calm && sim_random(w->sim, 50) == 0)
		change_partitions(w);
	if (!w->calm && sim_random(w->sim, 60) == 0)
		mesh_cut(w->mesh, (uint32_t)cut, (uint32_t)(cut + 1) % NODES);
	if (w->calm || sim_random(w->sim, 4) == 0)
		mesh_tick(w->mesh);
	for (size_t i = 0; i < CLIENTS; i++)
		client_tick(&w->clients[i]);
	hints_arrive(w);
	sim_loop_turn();
	sim_loop_run_for(1 + sim_random(w->sim, 2 * TICK_MS));
}

/* ---- runs -------------------------------------------------------------------------------------
 */

static bool world_quiet(const struct world *w)
{
	for (uint32_t i = 0; i < READERS; i++) {
		if (history_owed(w->history, i, tenant_of(&w->clients[i])))
			return false;
	}
	for (uint32_t t = 1; t <= TENANTS; t++) {
		if (history_owed(w->history, share_of(t), t))
			return false;
	}
	for (size_t i = 0; i < NODES; i++) {
		if (!w->nodes[i] || appender_pending(w->nodes[i]->appender))
			return false;
	}
	return true;
}

static const char *run_world(struct world *w)
{
	uint64_t until;

	while (w->published < EVENTS && !history_problem(w->history))
		world_tick(w);
	w->calm = true;
	sim_set_faults(w->sim, &(struct sim_faults){0});
	until = sim_now_ms(w->sim) + SETTLE_MAX_MS;
	sim_loop_run_for(3000); /* ghosts come and go */
	while (!world_quiet(w) && sim_now_ms(w->sim) < until && !history_problem(w->history))
		world_tick(w);
	if (!history_problem(w->history) && !world_quiet(w))
		return "an acknowledged event never came, or a publisher was never answered";
	return history_check(w->history, sim_store(w->sim));
}

/* NULL, or what went wrong, good until the next call. */
static const char *run_seed(uint64_t seed, bool trace)
{
	static char text[300];
	struct sim_faults faults = SIM_FAULTS_HARSH;
	struct sim *sim = sim_new(seed, &faults);
	struct world w = {.sim = sim, .mesh = mesh_new(sim, LINK_MS), .history = history_new()};
	const char *problem;

	world = &w;
	sim_loop_begin(w.sim);
	sim_set_trace(w.sim, trace);
	sim_set_poison(w.sim, 'x');
	for (uint32_t i = 0; i < CLIENTS; i++) {
		w.clients[i] = (struct client){.world = &w, .no = i};
		snprintf(w.clients[i].name, sizeof w.clients[i].name, "c%u", i);
	}
	for (uint32_t i = 0; i < NODES; i++)
		node_start(&w, i);
	problem = run_world(&w);
	if (problem)
		snprintf(text, sizeof text, "seed %llu: %s", (unsigned long long)seed, problem);
	for (int i = 0; i < NODES; i++) {
		if (w.nodes[i])
			node_kill(w.nodes[i]);
	}
	sim_run_for(w.sim, 10000); /* what the dead had asked for */
	sim_free(w.sim);
	mesh_free(w.mesh);
	sim_loop_end();
	history_free(w.history);
	while (w.links) {
		struct link *next = w.links->next;

		free(w.links);
		w.links = next;
	}
	return problem ? text : NULL;
}

static void after(uint64_t seeds)
{
	assert_true(forwarded > seeds); /* else it tries nothing of that */
}

int main(int argc, char **argv)
{
	static const struct sim_main sim = {
	        .seeds = SEEDS_DEFAULT, .run_seed = run_seed, .after = after};

	return sim_main_run(&sim, argc, argv);
}
