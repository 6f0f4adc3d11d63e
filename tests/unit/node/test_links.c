/* Nodes' links, several of them on one loop over loopback: what they are told, what they refuse. */
#include "node/peer/links.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/net/conn.h"
#include "node/net/loop.h"
#include "node/net/tls.h"
#include "node/net/tls_psk.h"
#include "node/peer/peer_codec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PATIENCE_MS = 10000, NODES = 3, SILENT_MS = 500 };

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
static struct loop_timer *ticks;
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
static void start_at(struct node *n, const char *key, uint16_t port)
{
	struct tls_psks psks = {0};
	struct links_settings s = {
	        .loop = loop,
	        .listen = {.host = "127.0.0.1", .port = port},
	        .psks = &psks,
	        .silent_ms = SILENT_MS,
	        .events = {on_up, on_down, on_room, on_message, n},
	        .look = on_look,
	        .arg = n,
	};
	struct err e;

	tls_psks_add(&psks, slice_str(key));
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

static void start(struct node *n, const char *key)
{
	start_at(n, key, 0);
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

static struct links_stats stats_of(const struct node *n)
{
	struct links_stats s;

	links_get_stats(n->links, &s);
	return s;
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

static void on_tick(void *arg)
{
	(void)arg;
}

static int setup(void **state)
{
	(void)state;
	log_set_level(getenv("LINKS_LOG") ? LOG_DEBUG : LOG_ERROR);
	loop = loop_new();
	ticks = loop_every(loop, 10, on_tick, NULL); /* so that a turn ends */
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < NODES; i++) {
		links_free(nodes[i].links);
		nodes[i].links = NULL;
	}
	loop_timer_free(ticks);
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
		assert_int_equal(stats_of(&nodes[i]).messages_in[PEER_CREDIT], 1000);
		assert_int_equal(stats_of(&nodes[i]).messages_out[PEER_CREDIT], 1000);
		assert_int_equal(stats_of(&nodes[i]).known, 1);
	}
}

static void join(struct node *a, struct node *b)
{
	meet(a, b);
	meet(b, a);
	turn_until(both_up, PATIENCE_MS);
	assert_true(both_up());
}

static bool never(void)
{
	return false;
}

/* ---- coming up ------------------------------------------------------------------------------- */

/* Both dial at once, and one link stays: nobody hears of the other. */
static void test_one_link_per_pair(void **state)
{
	(void)state;
	for (int round = 0; round < 10; round++) {
		start(&nodes[0], secret);
		start(&nodes[1], secret);
		join(&nodes[0], &nodes[1]);
		turn_until(never, 30);
		for (int i = 0; i < 2; i++) {
			assert_int_equal(nodes[i].ups, 1);
			assert_int_equal(nodes[i].downs, 0);
			assert_int_equal(stats_of(&nodes[i]).up, 1);
			links_free(nodes[i].links);
			nodes[i].links = NULL;
		}
	}
}

static bool all_up(void)
{
	for (int i = 0; i < NODES; i++) {
		if (nodes[i].port->n_up(nodes[i].port->self) != NODES - 1)
			return false;
	}
	return true;
}

static bool all_told(void)
{
	return nodes[1].messages && nodes[2].messages;
}

static void test_three_nodes(void **state)
{
	struct peer_message m = {.type = PEER_DUE, .due_in_ms = 5};
	struct bus_peer all[NODES];

	(void)state;
	for (int i = 0; i < NODES; i++) {
		start(&nodes[i], secret);
		all[i] = nodes[i].self;
	}
	links_on_peers(nodes[0].links, all + 1, 2);
	links_on_peers(nodes[2].links, all, 2);
	links_on_peers(nodes[1].links, (struct bus_peer[]){all[0], all[2]}, 2);
	turn_until(all_up, PATIENCE_MS);
	assert_true(all_up());
	nodes[0].port->send_all(nodes[0].port->self, &m);
	turn_until(all_told, PATIENCE_MS);
	assert_true(all_told());
	assert_int_equal(nodes[0].messages, 0);
}

static bool stranger_seen(void)
{
	return nodes[0].looks > 0;
}

/* A node that the last look did not show: it waits for the next one, and is not read from. */
static void test_stranger(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	links_on_peers(nodes[0].links, NULL, 0);
	meet(&nodes[1], &nodes[0]);
	turn_until(stranger_seen, PATIENCE_MS);
	assert_int_equal(nodes[0].looks, 1);
	turn_until(never, 50);
	assert_false(nodes[1].port->is_up(nodes[1].port->self, &nodes[0].self.session_id));
	assert_int_equal(nodes[0].ups + nodes[1].ups, 0);
	meet(&nodes[0], &nodes[1]);
	turn_until(both_up, PATIENCE_MS);
	assert_true(both_up());
	assert_int_equal(nodes[0].looks, 1); /* it was the same connection */
}

static bool refused(void)
{
	return stats_of(&nodes[0]).refused > 0;
}

static void test_stranger_for_good(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	meet(&nodes[1], &nodes[0]);
	turn_until(refused, PATIENCE_MS);
	assert_true(refused());
	assert_int_equal(nodes[0].ups + nodes[1].ups, 0);
}

static void test_wrong_key(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], "fedcba9876543210fedcba9876543210");
	meet(&nodes[0], &nodes[1]);
	meet(&nodes[1], &nodes[0]);
	turn_until(never, 500);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(nodes[i].ups, 0);
		assert_true(stats_of(&nodes[i]).refused > 0);
		assert_int_equal(stats_of(&nodes[i]).bytes_in, 0);
	}
}

static void test_expected(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	links_on_peers(nodes[0].links, NULL, 0);
	meet(&nodes[1], &nodes[0]);
	nodes[0].port->expect(nodes[0].port->self, &nodes[0].self); /* not itself */
	nodes[0].port->expect(nodes[0].port->self, &nodes[1].self);
	turn_until(both_up, PATIENCE_MS);
	assert_true(both_up());
}

/* Its row names a host, not an address: that is looked up beside the loop. */
static void test_host_name(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	snprintf(nodes[1].self.addr, sizeof nodes[1].self.addr, "localhost:%s",
	         strrchr(links_addr(nodes[1].links), ':') + 1);
	meet(&nodes[0], &nodes[1]);
	links_on_peers(nodes[1].links, &(struct bus_peer){.session_id = nodes[0].self.session_id},
	               1);
	turn_until(both_up, PATIENCE_MS);
	assert_true(both_up());
}

/* ---- going ----------------------------------------------------------------------------------- */

static bool first_down(void)
{
	return nodes[0].downs > 0;
}

static void test_session_ends(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	join(&nodes[0], &nodes[1]);
	links_on_peers(nodes[0].links, NULL, 0);
	assert_int_equal(nodes[0].downs, 1); /* at once: who asks is told no */
	assert_false(send_credit(&nodes[0], &nodes[1], 1));
	turn_until(never, 100);
	assert_int_equal(nodes[1].downs, 1);
	assert_int_equal(nodes[0].downs, 1);
}

static void test_new_session_of_ours(void **state)
{
	struct id128 other = id128_random();

	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	join(&nodes[0], &nodes[1]);
	links_on_session(nodes[0].links, &nodes[0].self.session_id); /* nothing new */
	assert_int_equal(nodes[0].downs, 0);
	links_on_session(nodes[0].links, &other);
	assert_int_equal(nodes[0].downs, 1);
	nodes[0].self.session_id = other;
	join(&nodes[0], &nodes[1]);
	assert_int_equal(nodes[0].ups, 2);
}

static void test_dialled_again(void **state)
{
	struct id128 same;
	unsigned port;

	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	join(&nodes[0], &nodes[1]);
	same = nodes[1].self.session_id;
	port = (unsigned)strtoul(strrchr(links_addr(nodes[1].links), ':') + 1, NULL, 10);
	links_free(nodes[1].links);
	turn_until(first_down, PATIENCE_MS);
	assert_true(first_down());
	start_at(&nodes[1], secret, (uint16_t)port);
	nodes[1].self.session_id = same;
	links_on_session(nodes[1].links, &same);
	links_on_peers(nodes[1].links, &(struct bus_peer){.session_id = nodes[0].self.session_id},
	               1);
	turn_until(both_up, PATIENCE_MS);
	assert_true(both_up());
	assert_true(stats_of(&nodes[0]).lost > 0);
}

/* ---- credentials change ---------------------------------------------------------------------- */

static const char new_secret[] = "fedcba9876543210fedcba9876543210";

static void change_key(struct node *n, const char *key, const char *also)
{
	struct tls_psks psks = {0};
	struct err e;

	tls_psks_add(&psks, slice_str(key));
	if (also)
		tls_psks_add(&psks, slice_str(also));
	assert_int_equal(links_reload(n->links, &psks, &e), 0);
}

static void link_anew(void)
{
	for (int i = 0; i < 2; i++)
		links_on_peers(nodes[i].links, NULL, 0);
	assert_false(both_up());
	meet(&nodes[0], &nodes[1]);
	meet(&nodes[1], &nodes[0]);
}

/* One node after the other is given the new key, then calls by it, then forgets the old one: at any
 * time whoever has to link anew can, and links that are up stay. */
static void test_key_is_changed(void **state)
{
	static const char *const steps[][2] = {
	        {secret, new_secret}, {new_secret, secret}, {new_secret, NULL}};
	int downs = 0;

	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	join(&nodes[0], &nodes[1]);
	for (int i = 0; i < 6; i++) {
		change_key(&nodes[i % 2], steps[i / 2][0], steps[i / 2][1]);
		turn_until(never, 20);
		assert_true(both_up());
		assert_int_equal(nodes[0].downs, downs);
		link_anew();
		turn_until(both_up, PATIENCE_MS);
		turn_until(never, 20);
		assert_true(both_up());
		downs = nodes[0].downs;
	}
	change_key(&nodes[0], secret, NULL);
	assert_true(both_up());
	link_anew();
	turn_until(both_up, 300);
	assert_false(both_up());
}

/* A call that was begun before goes on with the new keys: once it was made with what had been
 * freed. */
static void test_key_is_changed_while_dialling(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	meet(&nodes[0], &nodes[1]);
	meet(&nodes[1], &nodes[0]);
	change_key(&nodes[0], new_secret, NULL);
	change_key(&nodes[1], new_secret, NULL);
	turn_until(both_up, PATIENCE_MS);
	assert_true(both_up());
}

/* ---- somebody who has the key and does not keep to the rules --------------------------------- */

struct rogue {
	struct conn_table *table;
	struct tls_client *tls;
	struct conn *conn;
	bool ready;
	bool closed;
	struct bus_peer self;
	struct buf got;
} rogue;

static void on_rogue_ready(struct conn *c, void *arg)
{
	(void)c;
	(void)arg;
	rogue.ready = true;
}

static size_t on_rogue_data(struct conn *c, void *arg, const char *p, size_t n)
{
	(void)c;
	(void)arg;
	buf_append(&rogue.got, p, n);
	return n;
}

static void on_rogue_closed(struct conn *c, void *arg, const char *reason)
{
	(void)c;
	(void)arg;
	(void)reason;
	rogue.closed = true;
	rogue.conn = NULL;
}

static const struct conn_ops rogue_ops = {
        .on_ready = on_rogue_ready, .on_data = on_rogue_data, .on_closed = on_rogue_closed};

static bool rogue_ready(void)
{
	return rogue.ready || rogue.closed;
}

static bool rogue_closed(void)
{
	return rogue.closed;
}

static void rogue_connect(const struct tls_client_options *tls)
{
	struct tls_psks psks = {0};
	struct err e;

	rogue = (struct rogue){.table = conn_table_new(loop)};
	tls_psks_add(&psks, slice_str(secret));
	rogue.tls = tls_client_new(tls ? tls : &(struct tls_client_options){.psks = &psks}, &e);
	assert_non_null(rogue.tls);
	rogue.conn = conn_connect(rogue.table, links_addr(nodes[0].links), rogue.tls, &rogue_ops,
	                          NULL, &e);
	assert_non_null(rogue.conn);
	rogue.self.session_id = (struct id128){{0xee}};
	turn_until(rogue_ready, PATIENCE_MS);
}

static void rogue_hello(void)
{
	struct peer_hello hello = {.version = PEER_VERSION, .session_id = rogue.self.session_id};
	struct buf b = {0};

	peer_hello_encode(&b, &hello);
	conn_write(rogue.conn, b.data, b.len);
	buf_release(&b);
}

static bool rogue_up(void)
{
	return nodes[0].ups == 1 && rogue.got.len;
}

/* A peer with the key and a live session, as far as node 0 can tell. */
static void rogue_join(void)
{
	rogue_connect(NULL);
	assert_true(rogue.ready);
	links_on_peers(nodes[0].links, &rogue.self, 1);
	rogue_hello();
	turn_until(rogue_up, PATIENCE_MS);
	assert_true(rogue_up());
}

static void rogue_leave(void)
{
	conn_table_free(rogue.table);
	tls_client_free(rogue.tls);
	buf_release(&rogue.got);
}

static void rogue_ping(void *arg)
{
	struct buf b = {0};

	(void)arg;
	peer_ping_encode(&b);
	if (rogue.conn)
		conn_write(rogue.conn, b.data, b.len);
	buf_release(&b);
}

static void test_silent_peer_is_cut(void **state)
{
	uint64_t began_us;

	(void)state;
	start(&nodes[0], secret);
	rogue_join();
	began_us = clock_us();
	turn_until(first_down, PATIENCE_MS);
	assert_int_equal(nodes[0].downs, 1);
	assert_in_range(clock_us() - began_us, SILENT_MS * 900, SILENT_MS * 3000);
	assert_true(rogue.got.len > 3 * PEER_FRAME_HEAD); /* it was pinged meanwhile */
	rogue_leave();
}

static void test_says_no_hello(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	rogue_connect(NULL);
	turn_until(rogue_closed, PATIENCE_MS);
	assert_true(rogue.closed);
	assert_int_equal(rogue.got.len, 0); /* nothing is told to who has not said who it is */
	assert_int_equal(nodes[0].ups, 0);
	rogue_leave();
}

/* TLS without the key: whatever it offers, there is no certificate to take it. */
static void test_no_key(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	rogue_connect(&(struct tls_client_options){.any_name = true});
	assert_true(rogue.closed && !rogue.ready);
	assert_true(refused());
	rogue_leave();
}

static void check_cut(const void *bytes, size_t n)
{
	start(&nodes[0], secret);
	rogue_join();
	conn_write(rogue.conn, bytes, n);
	turn_until(first_down, PATIENCE_MS);
	assert_int_equal(nodes[0].downs, 1);
	assert_int_equal(nodes[0].messages, 0);
	turn_until(rogue_closed, PATIENCE_MS);
	assert_true(rogue.closed);
	rogue_leave();
	links_free(nodes[0].links);
	nodes[0].links = NULL;
}

static void test_bad_frames(void **state)
{
	(void)state;
	check_cut("\0\0\0\0\x01", 5);             /* no type */
	check_cut("\xff\xff\xff\xff\x01", 5);     /* 4 GiB */
	check_cut("\0\0\0\x09\xf0two bytes", 13); /* no such type */
	check_cut("\0\0\0\x01\x80", 5);           /* a second hello */
	check_cut("\0\0\0\x03\x02xx", 7);         /* a message too short for its type */
	check_cut("GET / HTTP/1.1\r\n\r\n", 18);
}

static void test_bad_hello(void **state)
{
	struct peer_message m = {.type = PEER_DUE};
	struct buf b = {0};

	(void)state;
	start(&nodes[0], secret);
	rogue_connect(NULL);
	peer_encode(&b, &m);
	conn_write(rogue.conn, b.data, b.len);
	turn_until(rogue_closed, PATIENCE_MS);
	assert_true(rogue.closed && refused());
	assert_int_equal(nodes[0].messages, 0);
	buf_release(&b);
	rogue_leave();
}

static void test_other_version(void **state)
{
	struct peer_hello hello = {.version = PEER_VERSION + 1, .session_id = {{9}}};
	struct buf b = {0};

	(void)state;
	start(&nodes[0], secret);
	rogue_connect(NULL);
	peer_hello_encode(&b, &hello);
	conn_write(rogue.conn, b.data, b.len);
	turn_until(rogue_closed, PATIENCE_MS);
	assert_true(rogue.closed && refused());
	buf_release(&b);
	rogue_leave();
}

static void test_own_session(void **state)
{
	(void)state;
	start(&nodes[0], secret);
	rogue_connect(NULL);
	rogue.self.session_id = nodes[0].self.session_id;
	rogue_hello();
	turn_until(rogue_closed, PATIENCE_MS);
	assert_true(rogue.closed);
	assert_int_equal(nodes[0].ups, 0);
	rogue_leave();
}

/* ---- a peer that does not read --------------------------------------------------------------- */

static struct peer_message big_message(void)
{
	static char bytes[256 * 1024];
	static const struct peer_delivery one = {.seq = 1};

	return (struct peer_message){.type = PEER_DELIVER,
	                             .n_deliveries = 1,
	                             .deliveries = &one,
	                             .body = slice(bytes, sizeof bytes)};
}

static size_t flood(const struct id128 *to)
{
	struct peer_message m = big_message();
	size_t sent = 0;

	while (sent < 1000 && nodes[0].port->send(nodes[0].port->self, to, &m))
		sent++;
	return sent;
}

static bool has_room(void)
{
	return nodes[0].rooms > 0;
}

static void test_queue_is_bounded(void **state)
{
	struct peer_message due = {.type = PEER_DUE};
	struct loop_timer *pings;

	(void)state;
	start(&nodes[0], secret);
	rogue_join();
	pings = loop_every(loop, 50, rogue_ping, NULL);
	conn_pause_read(rogue.conn, CONN_PAUSE_USER);
	for (int i = 0; i < 5; i++) { /* what the kernel takes is not ours */
		flood(&rogue.self.session_id);
		turn_until(never, 20);
	}
	assert_int_equal(nodes[0].rooms, 0);
	assert_in_range(flood(&rogue.self.session_id), 0, 0);
	/* hints are not worth waiting for */
	assert_true(nodes[0].port->send(nodes[0].port->self, &rogue.self.session_id, &due));
	assert_int_equal(stats_of(&nodes[0]).dropped, 1);
	conn_resume_read(rogue.conn, CONN_PAUSE_USER);
	turn_until(has_room, PATIENCE_MS);
	assert_int_equal(nodes[0].rooms, 1);
	assert_true(flood(&rogue.self.session_id) > 0);
	assert_int_equal(nodes[0].downs, 0);
	loop_timer_free(pings);
	rogue_leave();
}

static void test_who_takes_nothing_is_cut(void **state)
{
	struct loop_timer *pings;

	(void)state;
	start(&nodes[0], secret);
	rogue_join();
	pings = loop_every(loop, 50, rogue_ping, NULL);
	conn_pause_read(rogue.conn, CONN_PAUSE_USER);
	flood(&rogue.self.session_id);
	turn_until(first_down, PATIENCE_MS);
	assert_int_equal(nodes[0].downs, 1);
	loop_timer_free(pings);
	rogue_leave();
}

static bool got_big(void)
{
	return nodes[1].messages >= 3;
}

/* Events of several megabytes pass, and what is sent behind them too. */
static void test_large_messages(void **state)
{
	size_t n = 9 << 20;
	char *bytes = xcalloc(1, n);
	struct peer_message m = big_message();

	(void)state;
	start(&nodes[0], secret);
	start(&nodes[1], secret);
	join(&nodes[0], &nodes[1]);
	m.body = slice(bytes, n);
	assert_true(nodes[0].port->send(nodes[0].port->self, &nodes[1].self.session_id, &m));
	assert_false(nodes[0].port->send(nodes[0].port->self, &nodes[1].self.session_id, &m));
	turn_until(has_room, PATIENCE_MS);
	assert_true(nodes[0].port->send(nodes[0].port->self, &nodes[1].self.session_id, &m));
	turn_until(never, 200);
	assert_true(send_credit(&nodes[0], &nodes[1], 1));
	turn_until(got_big, PATIENCE_MS);
	assert_int_equal(nodes[1].messages, 3);
	assert_int_equal(nodes[0].downs, 0);
	free(bytes);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        TEST(test_up_and_messages),
	        TEST(test_one_link_per_pair),
	        TEST(test_three_nodes),
	        TEST(test_stranger),
	        TEST(test_stranger_for_good),
	        TEST(test_wrong_key),
	        TEST(test_expected),
	        TEST(test_host_name),
	        TEST(test_session_ends),
	        TEST(test_new_session_of_ours),
	        TEST(test_dialled_again),
	        TEST(test_key_is_changed),
	        TEST(test_key_is_changed_while_dialling),
	        TEST(test_silent_peer_is_cut),
	        TEST(test_says_no_hello),
	        TEST(test_no_key),
	        TEST(test_bad_frames),
	        TEST(test_bad_hello),
	        TEST(test_other_version),
	        TEST(test_own_session),
	        TEST(test_queue_is_bounded),
	        TEST(test_who_takes_nothing_is_cut),
	        TEST(test_large_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
