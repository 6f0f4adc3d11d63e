/* Consumers on several nodes, of one share or one after the other: three nodes' dispatch and
 * sessions over the simulator without faults, linked by a mesh, in virtual time. */
#include "base/log.h"
#include "base/mem.h"
#include "cluster/sim.h"
#include "node/delivery/appender.h"
#include "node/delivery/dispatch.h"
#include "node/delivery/session.h"
#include "node/net/loop.h"
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

enum { NODES = 3, CLIENTS = 6, EVENTS_MAX = 4096, LINK_MS = 1 };

struct node {
	uint32_t no;
	struct bus *bus;
	struct loop *loop;
	struct appender *appender;
	struct dispatch *dispatch;
	uint32_t stored;
	bool left;
};

struct got {
	uint32_t n;
	uint16_t packet_id;
};

struct client {
	struct node *node;
	struct session *session;
	uint64_t id;
	bool present;
	bool subscribed;
	uint8_t reason;
	char text[200]; /* why not */
	bool holds;     /* acknowledges nothing by itself */
	struct got got[EVENTS_MAX];
	size_t n_got;
	size_t n_acked;
};

struct world {
	struct sim *sim;
	struct mesh *mesh;
	struct tenant tenant;
	struct node *nodes[NODES];
	struct client clients[CLIENTS];
	uint32_t published;
	uint64_t last_conn;
	uint32_t times[EVENTS_MAX];   /* delivered so often */
	bool settled[EVENTS_MAX];     /* a client acknowledged it */
	uint32_t again_after_settled; /* deliveries of what was settled before */
};

static struct world world;

/* ---- clients ----------------------------------------------------------------------------------
 */

static bool can_send(void *conn)
{
	(void)conn;
	return true;
}

static void ack(struct client *c, struct got g)
{
	c->n_acked++;
	world.settled[g.n] = true;
	assert_true(session_puback(c->session, g.packet_id, 0));
}

struct later {
	struct client *client;
	struct session *session;
	struct got got;
};

static void on_ack_due(void *arg)
{
	struct later *l = arg;

	if (l->client->session == l->session && l->session)
		ack(l->client, l->got);
	free(l);
}

static void send(void *conn, const struct outgoing *out)
{
	struct client *c = conn;
	struct got g = {(uint32_t)strtoul(out->ev->payload.p, NULL, 10), out->packet_id};
	struct later *l;

	world.times[g.n]++;
	world.again_after_settled += world.settled[g.n];
	assert_true(c->n_got < EVENTS_MAX);
	c->got[c->n_got++] = g;
	if (!g.packet_id)
		world.settled[g.n] = true;
	if (c->holds || !g.packet_id)
		return;
	l = xcalloc(1, sizeof *l);
	*l = (struct later){c, c->session, g};
	sim_after(world.sim, 1, on_ack_due, l);
}

static void kick(void *conn, uint8_t reason, const char *text)
{
	struct client *c = conn;

	(void)text;
	c->reason = reason;
	c->session = NULL;
}

static const struct session_conn_ops conn_ops = {.can_send = can_send, .send = send, .kick = kick};

static void on_open(void *conn, struct session *s, bool present, uint8_t reason, const char *text)
{
	struct client *c = conn;

	c->session = s;
	c->present = present;
	c->reason = reason;
	snprintf(c->text, sizeof c->text, "%s", text ? text : "");
	if (s)
		session_start(s);
}

static void on_subscribed(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
                          const char *text)
{
	struct client *c = conn;

	(void)packet_id;
	(void)n;
	snprintf(c->text, sizeof c->text, "%s", text ? text : "");
	c->subscribed = true;
	c->reason = reasons[0];
}

/* The client begins anew there; `open` says who it is, and how it connects. */
static void open_at(struct client *c, uint32_t node, struct session_open open)
{
	open.tenant = &world.tenant;
	open.conn_id = ++world.last_conn;
	open.ops = &conn_ops;
	open.conn = c;
	open.done = on_open;
	*c = (struct client){.node = world.nodes[node], .id = open.conn_id, .holds = c->holds};
	session_open(c->node->dispatch, &open);
}

static struct client *connect_as(uint32_t no, uint32_t node, uint16_t receive_max,
                                 uint32_t expiry_s)
{
	struct client *c = &world.clients[no];
	char id[8];

	snprintf(id, sizeof id, "c%u", no);
	open_at(c, node,
	        (struct session_open){.subject = slice_str("alice"),
	                              .client_id = slice_str(id),
	                              .expiry_s = expiry_s,
	                              .receive_max = receive_max});
	for (int i = 0; i < 100 && !c->session; i++)
		sim_loop_run_for(5);
	assert_non_null(c->session);
	return c;
}

static void subscribe(struct client *c, const char *filter, uint8_t qos)
{
	struct session_filter f = {.filter = slice_str(filter), .qos = qos};
	struct session_subscribe sub = {
	        .filters = &f, .n = 1, .policy = BUS_POLICY_DEFAULT, .done = on_subscribed};

	session_subscribe(c->session, &sub);
	for (int i = 0; i < 400 && !c->subscribed; i++)
		sim_loop_run_for(5);
	assert_int_equal(c->reason, qos);
}

static struct client *join_as(uint32_t no, uint32_t node, uint16_t receive_max, uint8_t qos,
                              uint32_t expiry_s)
{
	struct client *c = connect_as(no, node, receive_max, expiry_s);

	subscribe(c, "$share/g/t/#", qos);
	return c;
}

static struct client *join(uint32_t no, uint32_t node)
{
	return join_as(no, node, 10, 1, 3600);
}

static void leave_for(struct client *c, uint32_t expiry_s)
{
	session_detach(c->session, expiry_s);
	c->session = NULL;
}

static void leave(struct client *c)
{
	leave_for(c, 0);
}

/* ---- nodes ------------------------------------------------------------------------------------
 */

static void on_answer(void *arg, struct publisher to, enum append_result r, const char *reason)
{
	(void)to;
	(void)reason;
	assert_int_equal(r, APPEND_STORED);
	((struct node *)arg)->stored++;
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

static void on_state(void *arg, enum bus_state state)
{
	struct node *n = arg;

	appender_on_state(n->appender, state);
	dispatch_on_state(n->dispatch, state);
}

static void node_start(uint32_t no)
{
	static const char *const names[] = {"n0", "n1", "n2"};
	struct node *n = xcalloc(1, sizeof *n);
	struct appender_events ae = {
	        .on_answer = on_answer, .on_room = on_room, .on_stored = on_stored, .arg = n};

	n->no = no;
	n->loop = loop_new();
	n->bus = sim_bus_new(world.sim, names[no]);
	n->bus->events = (struct bus_events){.on_state = on_state, .arg = n};
	n->appender = appender_new(n->loop, n->bus, &ae);
	n->dispatch = dispatch_new(n->loop, n->bus, NULL);
	world.nodes[no] = n;
	while (n->bus->state != BUS_UP)
		sim_loop_run_for(1);
	mesh_join(world.mesh, no, n->bus, n->dispatch);
	mesh_tick(world.mesh);
}

static void node_kill(uint32_t no)
{
	struct node *n = world.nodes[no];

	for (size_t i = 0; i < CLIENTS; i++) {
		if (world.clients[i].node == n)
			world.clients[i].session = NULL;
	}
	world.nodes[no] = NULL;
	mesh_leave(world.mesh, no);
	dispatch_on_state(n->dispatch, BUS_DOWN);
	sim_loop_turn();
	n->bus->state = BUS_DOWN;
	sim_bus_kill(n->bus);
	dispatch_free(n->dispatch);
	appender_free(n->appender);
	loop_free(n->loop);
	free(n);
}

static void on_left(void *arg)
{
	((struct node *)arg)->left = true;
}

static int setup(void **state)
{
	(void)state;
	world = (struct world){.tenant = {.id = 1, .weight = 1, .partitions = 2}};
	world.sim = sim_new(1, &(struct sim_faults){0});
	sim_loop_begin(world.sim);
	world.mesh = mesh_new(world.sim, LINK_MS);
	for (uint32_t i = 0; i < NODES; i++)
		node_start(i);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < NODES; i++) {
		if (world.nodes[i])
			node_kill(i);
	}
	sim_run_for(world.sim, 10000);
	sim_free(world.sim);
	mesh_free(world.mesh);
	sim_loop_end();
	return 0;
}

/* ---- events -----------------------------------------------------------------------------------
 */

static void publish_at(uint32_t node, uint32_t n)
{
	struct node *at = world.nodes[node];
	uint32_t want = at->stored + n;

	for (uint32_t i = 0; i < n; i++) {
		char text[16];
		struct event ev = {.topic = slice_str("t/1"), .qos = 1};

		snprintf(text, sizeof text, "%u..........", world.published++);
		ev.payload = slice(text, 12);
		appender_publish(at->appender, &world.tenant, &ev, (struct publisher){1, 1});
	}
	for (int i = 0; i < 1000 && at->stored != want; i++)
		sim_loop_run_for(1);
	assert_int_equal(at->stored, want);
	for (uint32_t i = 0; i < NODES; i++) {
		if (world.nodes[i])
			dispatch_on_others_stored(world.nodes[i]->dispatch);
	}
}

static bool all_settled(void)
{
	for (uint32_t i = 0; i < world.published; i++) {
		if (!world.settled[i])
			return false;
	}
	return true;
}

static void until_settled(uint64_t ms)
{
	uint64_t end = sim_now_ms(world.sim) + ms;

	while (!all_settled() && sim_now_ms(world.sim) < end)
		sim_loop_run_for(1);
	for (uint32_t i = 0; i < world.published; i++) {
		if (!world.settled[i])
			fail_msg("event %u was delivered %u times and not settled", i,
			         world.times[i]);
	}
}

static void assert_each_once(void)
{
	for (uint32_t i = 0; i < world.published; i++)
		assert_int_equal(world.times[i], 1);
}

/* ---- tests ------------------------------------------------------------------------------------
 */

/* Two consumers here, one there and three there: each gets its share of one topic's events. */
static void test_everybody_gets_a_share(void **state)
{
	static const uint32_t where[CLIENTS] = {0, 0, 1, 2, 2, 2};

	(void)state;
	for (uint32_t i = 0; i < CLIENTS; i++)
		join(i, where[i]);
	for (int i = 0; i < 40; i++) {
		publish_at((uint32_t)i % NODES, 15);
		sim_loop_run_for(5);
	}
	until_settled(2000);
	assert_each_once();
	for (size_t i = 0; i < CLIENTS; i++)
		assert_in_range(world.clients[i].n_got, 50, 200); /* of 600 / 6 */
}

/* What a consumer holds when it leaves goes to another, wherever that is, and nothing else does. */
static void test_a_consumer_leaves(void **state)
{
	struct client *here;
	struct client *there;
	size_t had;

	(void)state;
	here = join(0, 0);
	world.clients[1].holds = true;
	there = join(1, 1);
	sim_loop_run_for(20);
	publish_at(2, 20);
	sim_loop_run_for(50);
	had = there->n_got;
	assert_int_equal(had, 10); /* its receive maximum */
	leave(there);
	until_settled(1000);
	assert_int_equal(here->n_got, 20);
	for (uint32_t i = 0; i < 20; i++)
		assert_true(world.times[i] <= 2);
}

/* Where one of its tenant rests, whose node has not read on since, it comes with a position that is
 * beyond the head as known there: that is brought on, though nobody publishes there. */
static void test_a_session_that_knows_more(void **state)
{
	struct client *rests;
	struct client *moves;

	(void)state;
	rests = connect_as(0, 1, 10, 3600);
	subscribe(rests, "t/#", 1);
	publish_at(0, 5);
	until_settled(1000);
	leave_for(rests, 3600);
	moves = connect_as(1, 0, 10, 3600);
	subscribe(moves, "t/#", 1);
	publish_at(0, 5);
	until_settled(1000);
	sim_loop_run_for(100);
	leave_for(moves, 3600);
	moves = connect_as(1, 1, 10, 3600);
	assert_true(moves->present);
	publish_at(0, 5);
	until_settled(1000);
	assert_each_once();
}

/* A node whose consumer is slow is given no more than that consumer can have. */
static void test_credit_is_what_there_is_room_for(void **state)
{
	struct client *slow;

	(void)state;
	join(0, 0);
	world.clients[1].holds = true;
	slow = join_as(1, 1, 3, 1, 3600);
	sim_loop_run_for(20);
	publish_at(0, 100);
	sim_loop_run_for(200);
	assert_int_equal(slow->n_got, 3);
	assert_int_equal(world.clients[0].n_got, 97);
	ack(slow, slow->got[0]); /* topped up */
	publish_at(0, 10);
	sim_loop_run_for(50);
	assert_true(slow->n_got > 3);
	leave(slow);
	until_settled(1000);
}

static void test_qos_0_members(void **state)
{
	(void)state;
	join_as(0, 0, 10, 0, 0);
	join_as(1, 1, 10, 0, 0);
	sim_loop_run_for(20);
	for (int i = 0; i < 10; i++)
		publish_at(2, 6);
	until_settled(1000);
	assert_each_once();
	assert_in_range(world.clients[1].n_got, 20, 40);
}

/* Of a queue nobody is a member of QoS 0, on another node either: all is acknowledged, and nobody
 * has more in hand than its Receive Maximum. */
static void test_queue_filters_of_qos_0(void **state)
{
	struct client *owner = connect_as(0, 0, 4, 3600);
	struct client *away = connect_as(1, 1, 4, 3600);

	(void)state;
	owner->holds = away->holds = true;
	subscribe(owner, "$queue/q/t/#", 0);
	subscribe(away, "$queue/q", 0);
	publish_at(2, 20);
	sim_loop_run_for(100);
	assert_int_equal(owner->n_got, 4);
	assert_int_equal(away->n_got, 4);
	for (int i = 0; i < 4; i++)
		assert_true(owner->got[i].packet_id && away->got[i].packet_id);
	leave(owner);
	leave(away);
	subscribe(connect_as(2, 2, 4, 3600), "$queue/q", 0);
	until_settled(2000);
	assert_int_equal(world.clients[2].n_got, 20);
}

/* What takes no room: a burst is shared all the same, with a member on another node, and with one
 * who acknowledges; with both, it has as much as the faster of them. */
static void test_qos_0_in_a_burst(void **state)
{
	static const uint32_t where[3] = {0, 1, 0};
	static const uint8_t qos[3] = {0, 0, 1};
	size_t n[3];

	(void)state;
	for (uint32_t without = 1; without <= 3; without++) {
		for (uint32_t i = 0; i < 3; i++) {
			if (i != without)
				join_as(i, where[i], 100, qos[i], 0);
		}
		sim_loop_run_for(20);
		publish_at(0, 20);
		until_settled(1000);
		publish_at(0, 1000);
		until_settled(2000);
		assert_each_once();
		for (uint32_t i = 0; i < 3; i++) {
			n[i] = world.clients[i].n_got;
			if (i != without)
				leave(&world.clients[i]);
		}
		sim_loop_run_for(50);
		assert_in_range(n[0], 330, without < 3 ? 620 : 450);
		for (uint32_t i = 1; i < 3; i++)
			assert_true(i == without || n[i] >= 200);
	}
}

/* A member whose room comes slowly holds the others up for a moment, not for as long as it takes.
 */
static void test_qos_0_beside_a_slow_member(void **state)
{
	struct client *c = world.clients;

	(void)state;
	c[1].holds = true;
	join_as(0, 0, 10, 0, 0);
	join_as(1, 0, 100, 1, 0);
	sim_loop_run_for(20);
	publish_at(0, 10);
	publish_at(0, 1000);
	sim_loop_run_for(50);
	assert_int_equal(c[1].n_got, 100);
	assert_int_equal(c[0].n_got, 910);
	leave(&c[1]);
	until_settled(100);
}

/* The owner's own consumers go, and it goes on for the others; then those go, and the row with
 * them.
 */
static void test_owner_without_consumers_of_its_own(void **state)
{
	struct client *here;
	struct client *there;

	(void)state;
	here = join_as(0, 0, 10, 1, 0);
	there = join_as(1, 1, 10, 1, 0);
	sim_loop_run_for(20);
	leave(here);
	sim_loop_run_for(20);
	publish_at(0, 30);
	until_settled(500);
	assert_int_equal(there->n_got, 30);
	leave(there);
	sim_loop_run_for(50);
	publish_at(0, 1); /* for nobody: the share is no more */
	world.settled[30] = true;
	here = join_as(0, 0, 10, 1, 0);
	sim_loop_run_for(100);
	assert_int_equal(here->n_got, 0);
}

/* kill -9 of the owner: another goes on as soon as its session is counted dead; what live clients
 * held is not sent to others, and what was settled is not sent again. */
static void test_owner_dies(void **state)
{
	struct id128 dead;
	struct client *holder;

	(void)state;
	join(0, 0);
	world.clients[1].holds = true;
	holder = join(1, 1);
	join(2, 2);
	sim_loop_run_for(20);
	publish_at(2, 30);
	sim_loop_run_for(50);
	assert_int_equal(holder->n_got, 10);
	dead = world.nodes[0]->bus->session_id;
	node_kill(0);
	publish_at(2, 30);
	sim_loop_run_for(300);
	node_start(0); /* of the same name: ends the dead session */
	(void)dead;
	sim_loop_run_for(1500);
	for (size_t i = 0; i < 10; i++)
		ack(holder, holder->got[i]);
	holder->holds = false;
	publish_at(1, 30);
	until_settled(3000);
	for (size_t i = 0; i < 10; i++)
		assert_int_equal(world.times[holder->got[i].n], 1);
	assert_int_equal(world.again_after_settled, 0);
}

/* A node that shuts down hands over at once; what its clients hold is settled with the next owner.
 */
static void test_hand_over(void **state)
{
	uint64_t from;
	struct client *held;

	(void)state;
	world.clients[0].holds = true;
	held = join_as(0, 0, 5, 1, 3600);
	join(1, 1);
	join(2, 2);
	sim_loop_run_for(20);
	publish_at(1, 40);
	sim_loop_run_for(50);
	assert_int_equal(held->n_got, 5);
	from = sim_now_ms(world.sim);
	dispatch_leave(world.nodes[0]->dispatch, on_left, world.nodes[0]);
	while (!world.nodes[0]->left)
		sim_loop_run_for(1);
	publish_at(1, 1);
	while (!world.times[40])
		sim_loop_run_for(1);
	assert_in_range(sim_now_ms(world.sim) - from, 0, 400);
	for (size_t i = 0; i < 4; i++)
		ack(held, held->got[i]);
	leave(held); /* one returns */
	publish_at(2, 40);
	until_settled(1000);
	assert_int_equal(world.again_after_settled, 0);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(world.times[held->got[i].n], 1);
	assert_int_equal(world.times[held->got[4].n], 2);
}

/* The link goes and comes: what was in flight is delivered, at most once more, and it flows on. */
static void test_link_cut(void **state)
{
	struct client *there;

	(void)state;
	join(0, 0);
	there = join(1, 1);
	sim_loop_run_for(20);
	for (int i = 0; i < 20; i++) {
		publish_at(0, 10);
		mesh_cut(world.mesh, 0, 1);
		sim_loop_run_for(30);
		mesh_tick(world.mesh);
		sim_loop_run_for(400);
	}
	until_settled(3000);
	assert_true(there->n_got > 20);
	for (uint32_t i = 0; i < world.published; i++)
		assert_true(world.times[i] <= 2);
}

/* The owner loses its database for a moment, and claims again: consumers elsewhere stay. */
static void test_a_new_generation(void **state)
{
	struct client *there;

	(void)state;
	join(0, 0);
	world.clients[1].holds = true;
	there = join(1, 1);
	sim_loop_run_for(20);
	publish_at(2, 20);
	sim_loop_run_for(50);
	sim_crash(world.sim);
	sim_loop_run_for(10);
	for (size_t i = 0; i < 5; i++) /* settled while nobody owns it */
		ack(there, there->got[i]);
	sim_loop_run_for(3000);
	publish_at(2, 20);
	sim_loop_run_for(100);
	while (there->n_acked < there->n_got)
		ack(there, there->got[there->n_acked]);
	there->holds = false;
	until_settled(2000);
	assert_int_equal(world.again_after_settled, 0);
	for (size_t i = 0; i < 10; i++)
		assert_int_equal(world.times[there->got[i].n], 1);
}

/* The owner claims it twice before those who consume it elsewhere can tell what they hold: nobody
 * came between, so that is theirs still. */
static void test_two_generations_in_a_row(void **state)
{
	struct client *there;

	(void)state;
	join(0, 0);
	world.clients[1].holds = true;
	there = join(1, 1);
	sim_loop_run_for(20);
	publish_at(2, 20);
	sim_loop_run_for(50);
	assert_int_equal(there->n_got, 10);
	mesh_block(world.mesh, 1, true);
	for (int i = 0; i < 2; i++) {
		sim_crash(world.sim);
		sim_loop_run_for(300);
	}
	for (size_t i = 0; i < 5; i++)
		ack(there, there->got[i]);
	mesh_block(world.mesh, 1, false);
	sim_loop_run_for(2000);
	for (size_t i = 5; i < 10; i++)
		ack(there, there->got[i]);
	there->holds = false;
	publish_at(2, 20);
	until_settled(2000);
	assert_int_equal(world.again_after_settled, 0);
	assert_each_once();
}

/* A new generation, and a consumer elsewhere leaves meanwhile: the owner finds that what it had is
 * not in flight any more. */
static void test_a_consumer_leaves_meanwhile(void **state)
{
	struct client *there;
	struct client *stays;

	(void)state;
	join(0, 0);
	world.clients[1].holds = true;
	there = join(1, 1);
	world.clients[2].holds = true;
	stays = join(2, 1);
	sim_loop_run_for(20);
	publish_at(2, 30);
	sim_loop_run_for(50);
	assert_int_equal(there->n_got, 10);
	assert_int_equal(stays->n_got, 10);
	sim_crash(world.sim);
	sim_loop_run_for(5);
	leave(there);
	sim_loop_run_for(2000);
	for (size_t i = 0; i < 10; i++)
		ack(stays, stays->got[i]);
	until_settled(3000);
	assert_int_equal(world.again_after_settled, 0);
	for (size_t i = 0; i < 10; i++)
		assert_int_equal(world.times[stays->got[i].n], 1);
}

/* A client that comes back from another node sooner than this one heard that it was there. */
static void test_there_and_back(void **state)
{
	struct client *c;

	(void)state;
	world.clients[0].holds = true;
	c = connect_as(0, 0, 10, 3600);
	subscribe(c, "t/#", 1);
	publish_at(2, 5);
	sim_loop_run_for(20);
	assert_int_equal(c->n_got, 5);
	leave_for(c, 3600);
	c = connect_as(0, 1, 10, 3600);
	sim_loop_run_for(20);
	assert_int_equal(c->n_got, 5);
	for (size_t i = 0; i < 5; i++)
		ack(c, c->got[i]);
	sim_loop_run_for(50); /* it is written down */
	leave_for(c, 3600);
	c = connect_as(0, 0, 10, 3600);
	assert_true(c->present);
	publish_at(1, 5);
	sim_loop_run_for(50);
	assert_non_null(c->session);
	assert_int_equal(c->n_got, 5);
	for (size_t i = 0; i < 5; i++)
		ack(c, c->got[i]);
	assert_int_equal(world.again_after_settled, 0);
	until_settled(100);
}

/* A new owner waits for who says nothing, and not for longer: its timer may be a little early, and
 * was then taken for one of an earlier claim, so that nothing was delivered any more. */
static void test_a_silent_peer(void **state)
{
	struct client *c;

	(void)state;
	c = join(0, 0);
	sim_loop_run_for(20);
	mesh_block(world.mesh, 1, true);
	sim_loop_early(1);
	sim_crash(world.sim); /* the share is claimed anew, and node 1 asked */
	sim_loop_run_for(500);
	publish_at(0, 5);
	sim_loop_run_for(100);
	assert_int_equal(c->n_got, 0);
	sim_loop_run_for(2000);
	assert_int_equal(c->n_got, 5);
	mesh_block(world.mesh, 1, false);
	until_settled(1000);
}

/* ---- claims that are refused ------------------------------------------------------------------
 */

static struct refusal {
	const struct bus_ops *ops; /* the bus's own */
	struct bus_ops mine;
	enum sql_outcome outcome;
	bool sessions; /* too, not only shares */
	bool makes;    /* only those that make a row */
	uint32_t claims;
	uint32_t settles;
} refusal;

static void answer_refused(void *arg)
{
	struct bus_claim *req = arg;

	req->outcome = refusal.outcome;
	req->done(req);
}

static void refuse_claim(struct bus *bus, struct bus_claim *req)
{
	if ((req->kind == BUS_SUB_SESSION && !refusal.sessions) ||
	    (refusal.makes && !req->create)) {
		refusal.ops->claim(bus, req);
		return;
	}
	refusal.claims++;
	sim_after(world.sim, 1, answer_refused, req);
}

/* From now on, of shares: LOST and no holder is how a paused one is told. */
static void refuse_claims(struct bus *bus, enum sql_outcome outcome)
{
	refusal = (struct refusal){.ops = bus->ops, .mine = *bus->ops, .outcome = outcome};
	refusal.mine.claim = refuse_claim;
	bus->ops = &refusal.mine;
}

/* Who is in stays in, and has its events when it is resumed; who comes is told at once. */
static void test_paused(void **state)
{
	struct bus *bus = world.nodes[0]->bus;
	struct client *in;
	struct client *late;
	struct session_filter f = {.filter = slice_str("$share/g/t/#"), .qos = 1};
	struct session_subscribe sub = {.filters = &f, .n = 1, .done = on_subscribed};

	(void)state;
	in = join(0, 0);
	refuse_claims(bus, SQL_LOST);
	sim_crash(world.sim);
	sim_loop_run_for(2000);
	publish_at(1, 5);
	late = connect_as(1, 0, 10, 3600);
	session_subscribe(late->session, &sub);
	sim_loop_run_for(50);
	assert_true(late->subscribed);
	assert_int_equal(late->reason, 0x83);
	assert_non_null(strstr(late->text, "paused"));
	refusal.claims = 0;
	sim_loop_run_for(10000);
	assert_in_range(refusal.claims, 10, 25);
	assert_int_equal(in->n_got, 0);
	bus->ops = refusal.ops;
	sim_loop_run_for(1500);
	assert_int_equal(in->n_got, 5);
}

/* A claim that the database refuses is not repeated ten times a second for ever. */
static void test_claims_that_are_refused(void **state)
{
	struct bus *bus = world.nodes[0]->bus;
	struct client *c;

	(void)state;
	c = join(0, 0);
	refuse_claims(bus, SQL_FATAL);
	sim_crash(world.sim);
	sim_loop_run_for(10000);
	refusal.claims = 0;
	sim_loop_run_for(60000);
	assert_in_range(refusal.claims, 10, 15);
	bus->ops = refusal.ops;
	publish_at(1, 5);
	sim_loop_run_for(6000);
	assert_int_equal(c->n_got, 5);
}

/* Nor one that finds no row, and may not make it: that it was told so each time makes no odds. */
static void test_making_that_is_refused(void **state)
{
	struct session_filter f = {.filter = slice_str("$share/g/t/#"), .qos = 1};
	struct session_subscribe sub = {.filters = &f, .n = 1, .done = on_subscribed};
	struct bus *bus = world.nodes[0]->bus;
	struct client *c = connect_as(0, 0, 10, 3600);

	(void)state;
	refuse_claims(bus, SQL_FATAL);
	refusal.makes = true;
	session_subscribe(c->session, &sub);
	sim_loop_run_for(5000);
	assert_in_range(refusal.claims, 4, 8);
	assert_false(c->subscribed);
	bus->ops = refusal.ops;
	sim_loop_run_for(3000);
	assert_true(c->subscribed);
	assert_int_equal(c->reason, 1);
}

/* A full disk says nothing of what is stored: a consumer keeps its queue. */
static void test_queue_whose_claim_is_refused(void **state)
{
	struct bus *bus = world.nodes[1]->bus;
	struct client *c = connect_as(0, 0, 10, 3600);

	(void)state;
	subscribe(c, "$queue/q/t/#", 1);
	c = connect_as(0, 1, 10, 3600); /* which has it from the row */
	assert_true(c->present);
	refuse_claims(bus, SQL_FATAL);
	sim_crash(world.sim);
	sim_loop_run_for(3000);
	assert_true(refusal.claims > 0);
	bus->ops = refusal.ops;
	publish_at(0, 5);
	sim_loop_run_for(6000);
	assert_int_equal(c->n_got, 5);
}

/* Nor does it say that there is no session: its client is refused, and finds it later. */
static void test_session_whose_claim_is_refused(void **state)
{
	struct bus *bus = world.nodes[1]->bus;
	struct client *c = connect_as(0, 0, 10, 3600);
	struct session_open open = {
	        .subject = slice_str("alice"), .client_id = slice_str("c0"), .receive_max = 10};

	(void)state;
	subscribe(c, "t/#", 1);
	refuse_claims(bus, SQL_FATAL);
	refusal.sessions = true;
	open_at(c, 1, open); /* without an expiry a session may live in memory */
	sim_loop_run_for(50);
	assert_null(c->session);
	assert_int_equal(c->reason, 0x80);
	assert_non_null(strstr(c->text, "database"));
	bus->ops = refusal.ops;
	assert_true(connect_as(0, 1, 10, 3600)->present);
}

static void count_claim(struct bus *bus, struct bus_claim *req)
{
	refusal.claims += req->kind != BUS_SUB_SESSION;
	refusal.ops->claim(bus, req);
}

/* Its owner lives and cannot be reached: it is asked for now and then only, since who waits for
 * thousands would have the database do nothing else. When that node has ended, at once. */
static void test_owner_that_ends(void **state)
{
	struct bus *bus = world.nodes[1]->bus;
	struct bus_peer peers[2] = {0};
	struct client *there;

	(void)state;
	join(0, 0);
	there = join(1, 1);
	refuse_claims(bus, SQL_OK);
	refusal.mine.claim = count_claim;
	mesh_cut(world.mesh, 0, 1);
	sim_loop_run_for(10000);
	assert_true(refusal.claims > 0);
	refusal.claims = 0;
	sim_loop_run_for(10000);
	assert_in_range(refusal.claims, 4, 6);
	node_kill(0);
	node_start(0);
	peers[0].session_id = world.nodes[0]->bus->session_id;
	peers[1].session_id = world.nodes[2]->bus->session_id;
	dispatch_on_peers(world.nodes[1]->dispatch, peers, 2);
	sim_loop_run_for(20);
	publish_at(2, 5);
	sim_loop_run_for(50);
	assert_int_equal(there->n_got, 5);
	bus->ops = refusal.ops;
}

/* A clean session has no row by which its node would hear of another connection. */
static void test_client_that_connects_elsewhere(void **state)
{
	struct client *old = connect_as(0, 0, 10, 0);
	struct client *other = connect_as(1, 0, 10, 0);
	struct client *now = &world.clients[2];
	struct session_open open = {
	        .subject = slice_str("alice"), .client_id = slice_str("c0"), .receive_max = 10};

	(void)state;
	subscribe(old, "t/#", 1);
	open_at(now, 1, open);
	sim_loop_run_for(50);
	assert_non_null(now->session);
	assert_null(old->session);
	assert_int_equal(old->reason, 0x8e);
	assert_non_null(other->session);
	/* While there is no link neither knows; the one that came last stays when there is. */
	mesh_cut(world.mesh, 0, 1);
	open_at(old, 0, open);
	sim_loop_run_for(50);
	assert_non_null(old->session);
	assert_non_null(now->session);
	mesh_tick(world.mesh);
	sim_loop_run_for(50);
	assert_non_null(old->session);
	assert_null(now->session);
	open.subject = slice_str("bob"); /* whose client ids are his own */
	open_at(now, 1, open);
	sim_loop_run_for(50);
	assert_non_null(now->session);
	assert_non_null(old->session);
}

static void answer_settle(void *arg)
{
	struct bus_settle *req = arg;

	req->outcome = refusal.outcome;
	req->done(req);
}

static void refuse_settle(struct bus *bus, struct bus_settle *req)
{
	(void)bus;
	refusal.settles++;
	sim_after(world.sim, 1, answer_settle, req);
}

/* Nor is a settlement; what was to be written down is, when it can be. */
static void test_settlements_that_are_refused(void **state)
{
	struct bus *bus = world.nodes[0]->bus;
	struct client *c = &world.clients[0];

	(void)state;
	c->holds = true;
	connect_as(0, 0, 10, 3600);
	subscribe(c, "$queue/q/t/#", 1);
	publish_at(0, 1);
	sim_loop_run_for(50);
	assert_int_equal(c->n_got, 1);
	refusal = (struct refusal){.ops = bus->ops, .mine = *bus->ops, .outcome = SQL_FATAL};
	refusal.mine.settle = refuse_settle;
	bus->ops = &refusal.mine;
	assert_true(session_puback(c->session, c->got[0].packet_id, 0x80));
	sim_loop_run_for(120000);
	assert_in_range(refusal.settles, 7, 10); /* 1, 2, 4, 8, 16, 30, 30 s between them */
	assert_int_equal(c->n_got, 1);
	bus->ops = refusal.ops;
	sim_loop_run_for(32000);
	assert_int_equal(c->n_got, 2);
}

/* A link that takes nothing holds nobody up. */
static void test_full_link(void **state)
{
	(void)state;
	join(0, 0);
	join(1, 1);
	sim_loop_run_for(20);
	mesh_block(world.mesh, 0, true);
	publish_at(0, 50);
	sim_loop_run_for(100);
	assert_int_equal(world.clients[0].n_got, 50);
	mesh_block(world.mesh, 0, false);
	publish_at(0, 50);
	until_settled(1000);
	assert_each_once();
	assert_in_range(world.clients[1].n_got, 15, 35);
}

/* A node that says whatever comes to its mind, all but that it has room, and then is gone. */
static void lie(uint32_t to)
{
	static const enum peer_type types[] = {
	        PEER_OWNER,   PEER_HELD,    PEER_RELEASED, PEER_ATTACH, PEER_ATTACHED,
	        PEER_REFUSED, PEER_DELIVER, PEER_SETTLE,   PEER_DETACH, PEER_OPENED,
	};
	static const char *const names[] = {"g/t/#", "g/t/#", "g/x", "", "alice"};
	struct sim *s = world.sim;
	struct peer_delivery pd[3];
	struct peer_message m = {
	        .type = types[sim_random(s, sizeof types / sizeof types[0])],
	        .tenant_id = (uint32_t)sim_random(s, 3),
	        .kind = sim_random(s, 4) ? BUS_SUB_SHARE : BUS_SUB_QUEUE,
	        .name = slice_str(names[sim_random(s, 5)]),
	        .subscription_id = sim_random(s, 6),
	        .epoch = sim_random(s, 4) ? sim_random(s, 6) : UINT64_MAX - sim_random(s, 2),
	        .consumers = (uint32_t)sim_random(s, 3),
	        .expiry_s = (uint32_t)sim_random(s, 3),
	        .filters = slice_str("[{}]"),
	        .attributes =
	                slice_str(sim_random(s, 2) ? "[{\"topic\":\"t\",\"o\":0,\"l\":1}]" : "[{]"),
	        .body = slice_str("0"),
	        .n_deliveries = sim_random(s, 4),
	        .deliveries = pd,
	};

	for (size_t i = 0; i < 3; i++)
		pd[i] = (struct peer_delivery){.partition_id = (uint32_t)sim_random(s, 4),
		                               .seq = sim_random(s, 300),
		                               .stamp = sim_random(s, 3),
		                               .timer_id = sim_random(s, 3),
		                               .result = (uint8_t)sim_random(s, 8),
		                               .reason = slice_str("why not")};
	mesh_say(world.mesh, 2, to, &m);
}

static void test_a_peer_that_lies(void **state)
{
	(void)state;
	join(0, 0);
	join(1, 1);
	sim_loop_run_for(20);
	for (int i = 0; i < 60; i++) {
		for (int k = 0; k < 20; k++)
			lie((uint32_t)sim_random(world.sim, 2));
		publish_at((uint32_t)i % 2, 5);
		sim_loop_run_for(5);
	}
	node_kill(2);
	until_settled(5000);
	assert_in_range(world.clients[1].n_got, 20, 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_everybody_gets_a_share, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_a_consumer_leaves, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_a_session_that_knows_more, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_credit_is_what_there_is_room_for, setup,
	                                        teardown),
	        cmocka_unit_test_setup_teardown(test_qos_0_members, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_queue_filters_of_qos_0, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_qos_0_in_a_burst, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_qos_0_beside_a_slow_member, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_owner_without_consumers_of_its_own, setup,
	                                        teardown),
	        cmocka_unit_test_setup_teardown(test_owner_dies, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_hand_over, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_link_cut, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_a_new_generation, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_two_generations_in_a_row, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_a_consumer_leaves_meanwhile, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_there_and_back, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_a_silent_peer, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_paused, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_claims_that_are_refused, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_making_that_is_refused, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_queue_whose_claim_is_refused, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_owner_that_ends, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_session_whose_claim_is_refused, setup,
	                                        teardown),
	        cmocka_unit_test_setup_teardown(test_client_that_connects_elsewhere, setup,
	                                        teardown),
	        cmocka_unit_test_setup_teardown(test_settlements_that_are_refused, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_full_link, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_a_peer_that_lies, setup, teardown),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
