/* Nodes' links, several of them on one loop over loopback: what they are told, what they refuse. */
#include "node/peer/links.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/net/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PATIENCE_MS = 10000, NODES = 3 };

/* One node: its links, and all it was told. */
struct node {
	struct links *links;
	struct peer_port *port;
	struct bus_peer self;
	int ups;
	int downs;
	int rooms;
	int looks;
	size_t messages;
	enum peer_type type;
	uint64_t sum; /* of the messages' credit */
	uint32_t last;
	bool disorder;
	struct id128 from;
};

static struct loop *loop;
static struct node nodes[NODES];
static const char secret[] = "0123456789abcdef0123456789abcdef";

static void on_up(void *arg, const struct id128 *peer)
{
	struct node *n = arg;

	n->ups++;
	n->from = *peer;
}

static void on_down(void *arg, const struct id128 *peer)
{
	struct node *n = arg;

	n->downs++;
	n->from = *peer;
}

static void on_room(void *arg, const struct id128 *peer)
{
	struct node *n = arg;

	(void)peer;
	n->rooms++;
}

static void on_message(void *arg, const struct id128 *peer, const struct peer_message *m)
{
	struct node *n = arg;

	n->messages++;
	n->type = m->type;
	n->sum += m->credit;
	n->disorder |= m->type == PEER_CREDIT && m->credit != n->last + 1;
	n->last = m->credit;
	n->from = *peer;
}

static void on_look(void *arg)
{
	struct node *n = arg;

	n->looks++;
}

/* Ids are in the order of the nodes. */
static void start(struct node *n, const char *key)
{
	struct links_settings s = {
	        .loop = loop,
	        .listen = {.host = "127.0.0.1"},
	        .secret = slice_str(key),
	        .events = {on_up, on_down, on_room, on_message, n},
	        .look = on_look,
	        .arg = n,
	};
	struct err e;

	*n = (struct node){0};
	n->links = links_new(&s, &e);
	if (!n->links)
		fail_msg("%s", e.text);
	n->port = links_port(n->links);
	n->self.session_id = id128_random();
	n->self.session_id.b[0] = (uint8_t)(n - nodes + 1);
	snprintf(n->self.addr, sizeof n->self.addr, "%s", links_addr(n->links));
	links_on_session(n->links, &n->self.session_id);
}

static void turn_until(bool (*done)(void), uint64_t ms)
{
	uint64_t end = clock_us() + ms * 1000;

	while (!done() && clock_us() < end)
		loop_turn(loop);
}

static void meet(struct node *a, const struct node *b)
{
	links_on_peers(a->links, &b->self, 1);
}

static bool both_up(void)
{
	return nodes[0].port->is_up(nodes[0].port->self, &nodes[1].self.session_id) &&
	       nodes[1].port->is_up(nodes[1].port->self, &nodes[0].self.session_id);
}

static bool send_credit(struct node *from, const struct node *to, uint32_t credit)
{
	struct peer_message m = {.type = PEER_CREDIT, .credit = credit};

	return from->port->send(from->port->self, &to->self.session_id, &m);
}

static int setup(void **state)
{
	(void)state;
	log_set_level(getenv("LINKS_LOG") ? LOG_DEBUG : LOG_ERROR);
	loop = loop_new();
	loop_every(loop, 10, (loop_fn *)loop_again, loop);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < NODES; i++) {
		links_free(nodes[i].links);
		nodes[i].links = NULL;
	}
	loop_free(loop);
	return 0;
}

static bool all_messages(void)
{
	return nodes[0].messages >= 1000 && nodes[1].messages >= 1000;
}

static void test_up_and_messages(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	assert_false(send_credit(&nodes[0], &nodes[1], 1));
	meet(&nodes[0], &nodes[1]);
	meet(&nodes[1], &nodes[0]);
	turn_until(both_up, PATIENCE_MS);
	assert_true(both_up());
	for (uint32_t i = 1; i <= 1000; i++) {
		assert_true(send_credit(&nodes[0], &nodes[1], i));
		assert_true(send_credit(&nodes[1], &nodes[0], i));
	}
	turn_until(all_messages, PATIENCE_MS);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(nodes[i].messages, 1000);
		assert_int_equal(nodes[i].sum, 500500);
		assert_int_equal(nodes[i].type, PEER_CREDIT);
		assert_true(id128_eq(&nodes[i].from, &nodes[!i].self.session_id));
		assert_false(nodes[i].disorder);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_up_and_messages, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
