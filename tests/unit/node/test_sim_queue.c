/* A work queue on three linked nodes over the fault simulator: consumers that acknowledge, refuse,
 * give up, hold too long and vanish; nodes that die, or hand over first, and lose their database
 * for a while; links that break or take nothing; partitions that are changed; claims from outside.
 * In the end every stored event was acknowledged or is a dead letter, no attempt has a number above
 * the policy's, and of an ordered queue no event came before an earlier one of its key was over.
 *
 *     test_sim_queue --seed N     one seed
 *     test_sim_queue --seeds N    that many; FIRST-LAST: those */
#include "base/mem.h"
#include "cluster/sim.h"
#include "node/delivery/appender.h"
#include "node/delivery/dispatch.h"
#include "node/delivery/session.h"
#include "node/net/loop.h"
#include "tests/sim_main.h"
#include "tests/unit/node/mesh.h"
#include "tests/unit/node/sim_loop.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
	TENANT = 1,
	NODES = 3,
	CLIENTS = 5,
	KEPT = 2, /* sessions of them that are */
	EVENTS = 120,
	KEYS = 4,
	HELD_MAX = 64,
	ATTEMPTS = 4,
	PARTITIONS = 1, /* at first */
	PARTITIONS_MAX = 4,
	PARTITION_SHIFT = 40,
	CHANGES = 3, /* of them, at most */
	SETTLE_MAX_MS = 240000,
	SEEDS_DEFAULT = 120,
};

struct node {
	uint32_t no;
	struct bus *bus;
	struct loop *loop;
	struct appender *appender;
	struct dispatch *dispatch;
	struct tenant tenant; /* as it knows it */
	bool blinks;          /* its database is away, it thinks */
	bool leaving;         /* it hands over, sees its sessions off, and dies */
	bool drained;
};

struct client {
	uint32_t no;
	struct node *node; /* NULL = away */
	uint64_t conn_id;
	struct session *session;
	struct {
		uint32_t event;
		uint16_t packet_id;
	} held[HELD_MAX];
	size_t n_held;
};

struct event_state {
	bool stored;
	bool acked;
	uint64_t seq; /* below its partition: a later layout's are above; 0 = not known */
};

static struct world {
	struct sim *sim;
	struct mesh *mesh;
	struct node *nodes[NODES];
	struct client clients[CLIENTS];
	struct event_state events[EVENTS];
	uint32_t published;
	uint64_t last_conn;
	uint64_t sub_id;
	bool ordered;
	uint32_t keys;
	uint32_t refused; /* answers, of 1000 */
	uint32_t blinks;  /* of databases, of 1000 each tick */
	uint32_t leaves;  /* of clients, likewise */
	bool flaky;       /* its links are */
	uint32_t changes; /* of partitions, yet to come */
	bool calm;
	char problem[200];
} w;

static bool chance(uint32_t of_1000)
{
	return sim_random(w.sim, 1000) < of_1000;
}

/* ---- what the store says ----------------------------------------------------------------------
 */

struct search {
	uint32_t id;
	bool dead;
	size_t waiting;
};

static uint32_t id_of(const struct batch *b, uint32_t i)
{
	struct event ev;

	batch_event(b, i, &ev);
	return (uint32_t)strtoul(ev.payload.p, NULL, 10);
}

static void on_row(void *arg, const struct bus_failure *row)
{
	struct search *s = arg;

	if (row->kind != BUS_FAILED_DEAD)
		s->waiting++;
	else if (id_of(row->batch, 0) == s->id)
		s->dead = true;
}

static uint32_t key_of(uint32_t id)
{
	return id % w.keys;
}

static struct search look(uint32_t id)
{
	struct search s = {.id = id};

	for (uint64_t sub = 1; sub < 8; sub++) /* whatever id it was given */
		store_each_failure(sim_store(w.sim), sub, on_row, &s);
	return s;
}

static bool is_over(uint32_t id)
{
	return w.events[id].acked || look(id).dead;
}

/* ---- clients ----------------------------------------------------------------------------------
 */

static bool can_send(void *conn)
{
	return ((struct client *)conn)->n_held < HELD_MAX;
}

static void check_order(uint32_t id)
{
	for (uint32_t i = 0; i < EVENTS; i++) {
		const struct event_state *e = &w.events[i];

		if (i != id && key_of(i) == key_of(id) && e->seq && e->seq < w.events[id].seq &&
		    !is_over(i) && !w.problem[0])
			snprintf(w.problem, sizeof w.problem, "%u came while %u was not over", id,
			         i);
	}
}

static void send(void *conn, const struct outgoing *out)
{
	struct client *c = conn;
	uint32_t id = (uint32_t)strtoul(out->ev->payload.p, NULL, 10);

	if (!out->attempt || out->attempt > ATTEMPTS)
		snprintf(w.problem, sizeof w.problem, "attempt %u of event %u", out->attempt, id);
	if (out->dup)
		snprintf(w.problem, sizeof w.problem, "a new attempt with DUP");
	if (w.ordered && w.events[id].seq)
		check_order(id);
	c->held[c->n_held].event = id;
	c->held[c->n_held++].packet_id = out->packet_id;
}

static void kick(void *conn, uint8_t reason, const char *text)
{
	struct client *c = conn;

	(void)reason;
	(void)text;
	c->node = NULL;
	c->session = NULL;
	c->n_held = 0;
}

static const struct session_conn_ops conn_ops = {.can_send = can_send, .send = send, .kick = kick};

/* The sessions of some are kept, and with them their part in the queue. */
static uint32_t expiry_of(const struct client *c)
{
	return c->no < KEPT ? 60 : 0;
}

static void leave(struct client *c)
{
	if (c->session)
		session_detach(c->session, expiry_of(c));
	else
		session_open_cancel(c->node->dispatch, c->conn_id);
	kick(c, 0, NULL);
}

static void on_subscribed(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
                          const char *text)
{
	(void)packet_id;
	(void)n;
	(void)text;
	if (reasons[0] >= 0x80)
		leave(conn);
}

static void on_open(void *conn, struct session *s, bool present, uint8_t reason, const char *text)
{
	struct client *c = conn;
	struct session_filter f = {.filter = slice_str("$queue/work/#"), .qos = 1};
	struct session_subscribe sub = {
	        .filters = &f,
	        .n = 1,
	        .start = SESSION_START_EARLIEST,
	        .policy = {.max_attempts = ATTEMPTS,
	                   .ack_timeout_ms = 1000,
	                   .backoff_ms = 50,
	                   .backoff_max_ms = 200,
	                   .max_failed = 20,
	                   .ordered = w.ordered},
	        .done = on_subscribed,
	};

	(void)present;
	(void)reason;
	(void)text;
	if (!s) {
		kick(c, 0, NULL);
		return;
	}
	c->session = s;
	session_start(s);
	session_subscribe(s, &sub);
}

static void connect_client(struct client *c)
{
	char id[8];
	struct session_open open = {.subject = slice_str("alice"),
	                            .receive_max = (uint16_t)(1 + sim_random(w.sim, 10)),
	                            .clean_start = !expiry_of(c),
	                            .expiry_s = expiry_of(c),
	                            .conn_id = ++w.last_conn,
	                            .ops = &conn_ops,
	                            .conn = c,
	                            .done = on_open};

	c->node = w.nodes[sim_random(w.sim, NODES)];
	if (c->node && c->node->leaving)
		c->node = NULL;
	if (!c->node)
		return;
	c->conn_id = open.conn_id;
	open.tenant = &c->node->tenant;
	snprintf(id, sizeof id, "c%u", c->no);
	open.client_id = slice_str(id);
	session_open(c->node->dispatch, &open);
}

static void answer_one(struct client *c)
{
	size_t i = sim_random(w.sim, c->n_held);
	uint32_t event = c->held[i].event;
	uint16_t packet_id = c->held[i].packet_id;
	uint8_t reason = w.calm || !chance(w.refused) ? 0 : chance(100) ? 0x99 : 0x80;

	c->held[i] = c->held[--c->n_held];
	if (!reason)
		w.events[event].acked = true;
	session_answer(c->session, packet_id, reason, slice_str("why"));
}

static void client_tick(struct client *c)
{
	if (!c->node) {
		if (w.calm || chance(200))
			connect_client(c);
		return;
	}
	if (!w.calm && chance(w.leaves)) {
		leave(c);
		return;
	}
	if (!w.calm && chance(600))
		return; /* it takes its time, at times too much */
	for (uint64_t n = sim_random(w.sim, 4); n && c->session && c->n_held; n--)
		answer_one(c);
}

/* ---- nodes ------------------------------------------------------------------------------------
 */

static void on_answer(void *arg, struct publisher to, enum append_result r, const char *reason)
{
	(void)arg;
	(void)reason;
	w.events[to.packet_id].stored = r == APPEND_STORED;
}

static void on_room(void *arg, uint64_t conn_id)
{
	(void)arg;
	(void)conn_id;
}

static void on_stored(void *arg, struct batch *b)
{
	for (uint32_t i = 0; batch_base_seq(b) && i < batch_count(b); i++)
		w.events[id_of(b, i)].seq =
		        (uint64_t)batch_partition(b) << PARTITION_SHIFT | (batch_base_seq(b) + i);
	dispatch_stored(((struct node *)arg)->dispatch, b);
}

static void on_state(void *arg, enum bus_state state)
{
	struct node *n = arg;

	appender_on_state(n->appender, state);
	dispatch_on_state(n->dispatch, state);
}

static void node_learn(struct node *n)
{
	struct layout l = store_layout(sim_store(w.sim), TENANT);

	n->tenant = (struct tenant){.id = TENANT,
	                            .weight = 1,
	                            .partitions = (uint16_t)(l.n ? l.n : PARTITIONS),
	                            .first_partition = (uint16_t)l.first};
	if (n->dispatch)
		dispatch_tenant_changed(n->dispatch, &n->tenant);
}

static void change_partitions(void)
{
	w.changes--;
	sim_set_partitions(w.sim, TENANT, PARTITIONS,
	                   1 + (uint32_t)sim_random(w.sim, PARTITIONS_MAX));
}

static void node_start(uint32_t no)
{
	static const char *const names[] = {"n0", "n1", "n2"};
	struct node *n = xcalloc(1, sizeof *n);
	struct dispatch_settings ds = {.cache_bytes = sim_random(w.sim, 2) ? 2000 : 1 << 20,
	                               .commit_every_ms = sim_random(w.sim, 2) ? 5 : 50};
	struct appender_events ae = {
	        .on_answer = on_answer, .on_room = on_room, .on_stored = on_stored, .arg = n};

	n->no = no;
	node_learn(n);
	n->loop = loop_new();
	n->bus = sim_bus_new(w.sim, names[no]);
	n->bus->events = (struct bus_events){.on_state = on_state, .arg = n};
	n->appender = appender_new(n->loop, n->bus, &ae);
	n->dispatch = dispatch_new(n->loop, n->bus, &ds);
	w.nodes[no] = n;
	mesh_join(w.mesh, no, n->bus, n->dispatch);
}

static void node_kill(uint32_t no)
{
	struct node *n = w.nodes[no];

	for (size_t i = 0; i < CLIENTS; i++) {
		if (w.clients[i].node == n)
			kick(&w.clients[i], 0, NULL);
	}
	w.nodes[no] = NULL;
	mesh_leave(w.mesh, no);
	dispatch_on_state(n->dispatch, BUS_DOWN);
	sim_loop_turn();
	n->bus->state = BUS_DOWN;
	sim_bus_kill(n->bus);
	dispatch_free(n->dispatch);
	appender_free(n->appender);
	loop_free(n->loop);
	free(n);
}

static void on_drained(void *arg)
{
	((struct node *)arg)->drained = true;
}

static void on_left(void *arg)
{
	struct node *n = arg;

	for (size_t i = 0; i < CLIENTS; i++) {
		if (w.clients[i].node == n)
			leave(&w.clients[i]);
	}
	dispatch_drain(n->dispatch, on_drained, n);
}

static void node_leave(struct node *n)
{
	n->leaving = true;
	dispatch_leave(n->dispatch, on_left, n);
}

static void publish(struct node *n)
{
	char topic[16];
	char payload[32];
	uint32_t id = w.published++;
	struct event ev = {.qos = 1};

	snprintf(topic, sizeof topic, "k%u", key_of(id));
	snprintf(payload, sizeof payload, "%u..........", id);
	ev.topic = slice_str(topic);
	ev.payload = slice(payload, 8);
	appender_publish(n->appender, &n->tenant, &ev, (struct publisher){1, id});
}

/* Links break, and fill up; in the end they are what they should be. */
static void links_tick(void)
{
	uint32_t no = (uint32_t)sim_random(w.sim, NODES);

	if (!w.flaky)
		return;
	if (w.calm) {
		for (uint32_t i = 0; i < NODES; i++)
			mesh_block(w.mesh, i, false);
		w.flaky = false;
	} else if (chance(15)) {
		mesh_cut(w.mesh, no, (no + 1) % NODES);
	} else if (chance(100)) {
		mesh_block(w.mesh, no, chance(300));
	}
}

static void on_forced(struct bus_claim *req)
{
	struct node *n = req->arg;

	n->bus->ops->claim_release(n->bus, req);
	free(req);
}

/* Somebody moves the queue from outside: whoever has it finds that it is not his any more. */
static void force_claim(struct node *n)
{
	struct bus_claim *req = xcalloc(1, sizeof *req);

	*req = (struct bus_claim){.done = on_forced,
	                          .arg = n,
	                          .tenant_id = TENANT,
	                          .kind = BUS_SUB_QUEUE,
	                          .name = slice_str("work"),
	                          .force = true};
	n->bus->ops->claim(n->bus, req);
}

/* It loses its database for a while, and nothing else. */
static void node_blink(struct node *n)
{
	if (n->blinks && chance(200)) {
		n->blinks = false;
		on_state(n, n->bus->state);
	} else if (!n->blinks && n->bus->state == BUS_UP && chance(w.calm ? 0 : w.blinks)) {
		n->blinks = true;
		on_state(n, BUS_DOWN);
	}
}

static void tick(void)
{
	for (uint32_t i = 0; i < NODES; i++) {
		struct node *n = w.nodes[i];

		if (!n && (w.calm || chance(20)))
			node_start(i);
		else if (n && (n->drained || n->bus->state == BUS_ENDED || (!w.calm && chance(2))))
			node_kill(i);
		else if (n && !n->leaving && !w.calm && chance(2))
			node_leave(n);
		else if (n && !w.calm && chance(2))
			force_claim(n);
		else if (n && w.published < EVENTS && chance(200))
			publish(n);
		if (w.nodes[i])
			node_blink(w.nodes[i]);
		if (w.nodes[i] && (w.calm || chance(25)))
			node_learn(w.nodes[i]);
	}
	for (size_t i = 0; i < CLIENTS; i++)
		client_tick(&w.clients[i]);
	if (w.changes && !w.calm && chance(10))
		change_partitions();
	links_tick();
	for (uint32_t i = 0; i < NODES; i++) {
		if (!w.nodes[i])
			continue;
		dispatch_on_others_stored(w.nodes[i]->dispatch);
		dispatch_on_taken(w.nodes[i]->dispatch);
	}
	mesh_tick(w.mesh);
	sim_loop_turn();
	sim_loop_run_for(1 + sim_random(w.sim, 16));
}

/* ---- runs -------------------------------------------------------------------------------------
 */

static uint32_t owed(void)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < EVENTS; i++)
		n += w.events[i].stored && !is_over(i);
	return n;
}

static void run(void)
{
	uint64_t until;

	while (w.published < EVENTS && !w.problem[0])
		tick();
	w.calm = true;
	sim_set_faults(w.sim, &(struct sim_faults){0});
	until = sim_now_ms(w.sim) + SETTLE_MAX_MS;
	sim_loop_run_for(3000);
	while (!w.problem[0] && sim_now_ms(w.sim) < until && (owed() || look(0).waiting))
		tick();
	if (!w.problem[0] && owed())
		snprintf(w.problem, sizeof w.problem, "%u events neither done nor dead", owed());
	else if (!w.problem[0] && look(0).waiting)
		snprintf(w.problem, sizeof w.problem, "%zu rows left behind", look(0).waiting);
}

/* NULL, or what went wrong. */
static const char *run_seed(uint64_t seed, bool trace)
{
	static char text[300];
	struct sim_faults faults = SIM_FAULTS_HARSH;
	struct sim_faults none = {0};

	w = (struct world){.sim = sim_new(seed, seed % 3 ? &faults : &none)};
	w.changes = seed / 4 % 2 ? CHANGES : 0;
	w.ordered = seed % 2;
	w.keys = 1 + (uint32_t)sim_random(w.sim, KEYS);
	w.refused = 100 + (uint32_t)sim_random(w.sim, 500);
	w.blinks = sim_random(w.sim, 2) ? 8 : 40;
	w.leaves = sim_random(w.sim, 2) ? 10 : 80;
	w.flaky = seed / 2 % 2;
	sim_loop_begin(w.sim);
	sim_set_trace(w.sim, trace);
	w.mesh = mesh_new(w.sim, 2);
	for (uint32_t i = 0; i < NODES; i++)
		node_start(i);
	for (uint32_t i = 0; i < CLIENTS; i++)
		w.clients[i].no = i;
	run();
	snprintf(text, sizeof text, "seed %" PRIu64 ": %s", seed, w.problem);
	for (uint32_t i = 0; i < NODES; i++) {
		if (w.nodes[i])
			node_kill(i);
	}
	sim_run_for(w.sim, 10000);
	sim_free(w.sim);
	mesh_free(w.mesh);
	sim_loop_end();
	return w.problem[0] ? text : NULL;
}

int main(int argc, char **argv)
{
	static const struct sim_main sim = {.seeds = SEEDS_DEFAULT, .run_seed = run_seed};

	return sim_main_run(&sim, argc, argv);
}
