/* One share, consumers on several nodes: three nodes' dispatch and sessions over the simulator
 * without faults, linked by a mesh, in virtual time. */
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
	bool subscribed;
	uint8_t reason;
	bool holds; /* acknowledges nothing by itself */
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
	(void)reason;
	(void)text;
	((struct client *)conn)->session = NULL;
}

static const struct session_conn_ops conn_ops = {.can_send = can_send, .send = send, .kick = kick};

static void on_open(void *conn, struct session *s, bool present, uint8_t reason, const char *text)
{
	struct client *c = conn;

	(void)present;
	(void)reason;
	(void)text;
	c->session = s;
	session_start(s);
}

static void on_subscribed(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
                          const char *text)
{
	struct client *c = conn;

	(void)packet_id;
	(void)n;
	(void)text;
	c->subscribed = true;
	c->reason = reasons[0];
}

static struct client *join_as(uint32_t no, uint32_t node, uint16_t receive_max, uint8_t qos,
                              uint32_t expiry_s)
{
	struct client *c = &world.clients[no];
	char id[8];
	struct session_open open = {.tenant = &world.tenant,
	                            .subject = slice_str("alice"),
	                            .expiry_s = expiry_s,
	                            .receive_max = receive_max,
	                            .conn_id = ++world.last_conn,
	                            .ops = &conn_ops,
	                            .conn = c,
	                            .done = on_open};
	struct session_filter f = {.filter = slice_str("$share/g/t/#"), .qos = qos};
	struct session_subscribe sub = {.filters = &f, .n = 1, .done = on_subscribed};
	bool holds = c->holds;

	*c = (struct client){.node = world.nodes[node], .id = open.conn_id, .holds = holds};
	snprintf(id, sizeof id, "c%u", no);
	open.client_id = slice_str(id);
	session_open(c->node->dispatch, &open);
	for (int i = 0; i < 100 && !c->session; i++)
		sim_loop_run_for(5);
	assert_non_null(c->session);
	session_subscribe(c->session, &sub);
	for (int i = 0; i < 400 && !c->subscribed; i++)
		sim_loop_run_for(5);
	assert_int_equal(c->reason, qos);
	return c;
}

static struct client *join(uint32_t no, uint32_t node)
{
	return join_as(no, node, 10, 1, 3600);
}

static void leave(struct client *c)
{
	session_detach(c->session, 0);
	c->session = NULL;
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

/* The same, and a consumer elsewhere leaves meanwhile: the owner finds that what it had is not in
 * flight any more. */
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
	        PEER_REFUSED, PEER_DELIVER, PEER_SETTLE,   PEER_DETACH,
	};
	static const char *const names[] = {"g/t/#", "g/t/#", "g/x", ""};
	struct sim *s = world.sim;
	struct peer_delivery pd[3];
	struct peer_message m = {
	        .type = types[sim_random(s, sizeof types / sizeof types[0])],
	        .tenant_id = (uint32_t)sim_random(s, 3),
	        .kind = sim_random(s, 4) ? BUS_SUB_SHARE : BUS_SUB_QUEUE,
	        .name = slice_str(names[sim_random(s, 4)]),
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
	        cmocka_unit_test_setup_teardown(test_credit_is_what_there_is_room_for, setup,
	                                        teardown),
	        cmocka_unit_test_setup_teardown(test_qos_0_members, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_owner_without_consumers_of_its_own, setup,
	                                        teardown),
	        cmocka_unit_test_setup_teardown(test_owner_dies, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_hand_over, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_link_cut, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_a_new_generation, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_a_consumer_leaves_meanwhile, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_full_link, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_a_peer_that_lies, setup, teardown),
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
