/* Dispatch, sessions and the appender over the memory backend, with connections of our own. */
#include "base/buf.h"
#include "base/mem.h"
#include "cluster/bus_memory.h"
#include "node/appender.h"
#include "node/dispatch.h"
#include "node/loop.h"
#include "node/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX_GOT = 40000, PATIENCE_TURNS = 20000 };

struct got {
	unsigned n; /* the number in the payload */
	uint16_t packet_id;
	uint8_t qos;
	bool dup;
};

struct client {
	struct node *node;
	uint64_t id;
	struct session *session;
	bool opened;
	bool present;
	bool answered;
	uint8_t reason;
	uint8_t kicked; /* reason code */
	bool deaf;      /* can_send says no */
	bool auto_ack;
	struct got *got;
	size_t n_got;
	size_t unacked_from;
};

struct node {
	struct loop *loop;
	struct bus *bus;
	struct appender *appender;
	struct dispatch *dispatch;
	struct tenant tenant;
	struct loop_timer *tick;
	size_t stored;
	bool drained;
	uint64_t next_conn;
};

static void defer(void *loop, void (*fn)(void *), void *arg)
{
	loop_defer(loop, fn, arg);
}

static void on_answer(void *arg, struct publisher to, enum append_result r, const char *reason)
{
	struct node *n = arg;

	(void)to;
	(void)reason;
	assert_int_equal(r, APPEND_STORED);
	n->stored++;
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

static void nothing(void *arg)
{
	(void)arg;
}

static void node_init_with(struct node *n, size_t cache_bytes, uint32_t linger_ms)
{
	struct bus_memory_settings ms = {.retention_bytes = 64 << 20, .defer = defer};
	struct dispatch_settings ds = {.cache_bytes = cache_bytes, .linger_ms = linger_ms};
	struct appender_events ae = {
	        .on_answer = on_answer, .on_room = on_room, .on_stored = on_stored, .arg = n};

	*n = (struct node){.tenant = {.id = 7, .weight = 1, .partitions = 1}};
	n->loop = loop_new();
	n->tick = loop_every(n->loop, 1, nothing, NULL);
	ms.loop = n->loop;
	n->bus = bus_memory_new(&ms);
	n->bus->events = (struct bus_events){.on_state = on_state, .arg = n};
	n->appender = appender_new(n->loop, n->bus, &ae);
	n->dispatch = dispatch_new(n->loop, n->bus, &ds);
	while (n->bus->state != BUS_UP)
		loop_turn(n->loop);
}

static void on_drained(void *arg)
{
	*(bool *)arg = true;
}

static void node_release(struct node *n)
{
	bool drained = false;

	if (!n->drained)
		dispatch_drain(n->dispatch, on_drained, &drained);
	for (int i = 0; i < 50 || !(drained || n->drained); i++)
		loop_turn(n->loop);
	dispatch_free(n->dispatch);
	appender_free(n->appender);
	n->bus->ops->free(n->bus);
	loop_timer_free(n->tick);
	loop_free(n->loop);
}

#define until(n, condition)                                              \
	do {                                                             \
		for (int turns_ = 0; !(condition); turns_++) {           \
			if (turns_ == PATIENCE_TURNS)                    \
				fail_msg("never happened: " #condition); \
			loop_turn((n)->loop);                            \
		}                                                        \
	} while (0)

static void publish(struct node *n, const char *topic, unsigned number)
{
	char text[300];
	struct event ev = {.topic = slice_str(topic), .qos = 1};

	memset(text, '.', sizeof text);
	snprintf(text, sizeof text, "%u", number);
	ev.payload = slice(text, sizeof text);
	appender_publish(n->appender, &n->tenant, &ev, (struct publisher){1, number});
}

static void publish_many(struct node *n, const char *topic, unsigned from, unsigned to)
{
	size_t want = n->stored + to - from;

	for (unsigned i = from; i < to; i++) {
		publish(n, topic, i);
		if (i % 97 == 0)
			loop_turn(n->loop);
	}
	until(n, n->stored == want);
}

/* ---- clients -----------------------------------------------------------------------------------
 */

static bool can_send(void *conn)
{
	return !((struct client *)conn)->deaf;
}

struct ack {
	struct client *c;
	uint16_t packet_id;
};

static void do_ack(void *arg)
{
	struct ack *a = arg;

	if (a->c->session)
		session_puback(a->c->session, a->packet_id, 0);
	free(a);
}

static void send(void *conn, const struct outgoing *out)
{
	struct client *c = conn;
	struct got *g = &c->got[c->n_got++];

	assert_true(c->n_got <= MAX_GOT);
	g->n = (unsigned)strtoul(out->ev->payload.p, NULL, 10);
	g->packet_id = out->packet_id;
	g->qos = out->qos;
	g->dup = out->dup;
	if (c->auto_ack && out->packet_id) {
		struct ack *a = xcalloc(1, sizeof *a);

		a->c = c;
		a->packet_id = out->packet_id;
		loop_defer(c->node->loop, do_ack, a);
	}
}

static void kick(void *conn, uint8_t reason, const char *text)
{
	struct client *c = conn;

	(void)text;
	c->kicked = reason;
	c->session = NULL;
}

static const struct session_conn_ops client_ops = {can_send, send, kick};

static void on_open(void *conn, struct session *s, bool present, uint8_t reason, const char *text)
{
	struct client *c = conn;

	(void)text;
	c->opened = true;
	c->session = s;
	c->present = present;
	c->reason = reason;
}

static void connect_as(struct node *n, struct client *c, const char *id, bool clean,
                       uint32_t expiry, uint16_t receive_max)
{
	struct session_open req = {
	        .tenant = &n->tenant,
	        .subject = slice_str("alice"),
	        .client_id = slice_str(id),
	        .clean_start = clean,
	        .expiry_s = expiry,
	        .receive_max = receive_max,
	        .conn_id = ++n->next_conn,
	        .ops = &client_ops,
	        .conn = c,
	        .done = on_open,
	};

	free(c->got);
	*c = (struct client){.node = n, .id = req.conn_id, .auto_ack = true};
	c->got = xcalloc(MAX_GOT, sizeof *c->got);
	session_open(n->dispatch, &req);
	until(n, c->opened);
	if (c->session)
		session_start(c->session);
}

static void on_answered(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
                        const char *text)
{
	struct client *c = conn;

	(void)packet_id;
	(void)text;
	c->answered = true;
	c->reason = n ? reasons[0] : 0;
}

static uint8_t subscribe_from(struct client *c, const char *filter, uint8_t qos,
                              enum session_start_at at, uint64_t value)
{
	struct session_filter f = {.filter = slice_str(filter), .qos = qos};
	struct session_subscribe req = {
	        .filters = &f, .n = 1, .start = at, .start_value = value, .done = on_answered};

	c->answered = false;
	session_subscribe(c->session, &req);
	until(c->node, c->answered);
	return c->reason;
}

static uint8_t subscribe(struct client *c, const char *filter, uint8_t qos)
{
	return subscribe_from(c, filter, qos, SESSION_START_NEW, 0);
}

static void disconnect(struct client *c, uint32_t expiry)
{
	session_detach(c->session, expiry);
	c->session = NULL;
}

/* Numbers from..to-1, each once, in order. */
static void assert_got(const struct client *c, unsigned from, unsigned to)
{
	assert_int_equal(c->n_got, to - from);
	for (unsigned i = from; i < to; i++)
		assert_int_equal(c->got[i - from].n, i);
}

/* ---- tests -------------------------------------------------------------------------------------
 */

static void test_live(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", true, 0, 100);
	assert_false(c.present);
	assert_int_equal(subscribe(&c, "a/+", 1), 1);
	publish_many(&n, "a/b", 0, 500);
	publish_many(&n, "other", 0, 10);
	until(&n, c.n_got == 500);
	assert_got(&c, 0, 500);
	free(c.got);
	node_release(&n);
}

static void test_slow_consumer_lags_and_catches_up(void **state)
{
	struct node n;
	struct client slow = {0};
	struct client fast = {0};

	(void)state;
	node_init_with(&n, 200 * 1000,
	               0); /* far less than what is published: the journal is read */
	connect_as(&n, &slow, "slow", true, 0, 10);
	connect_as(&n, &fast, "fast", true, 0, 1000);
	subscribe(&slow, "#", 1);
	subscribe(&fast, "#", 1);
	slow.deaf = true;
	publish_many(&n, "t", 0, 20000);
	until(&n, fast.n_got == 20000);
	assert_got(&fast, 0, 20000);
	assert_int_equal(slow.n_got, 0);
	slow.deaf = false;
	session_writable(slow.session);
	until(&n, slow.n_got == 20000);
	assert_got(&slow, 0, 20000);
	free(slow.got);
	free(fast.got);
	node_release(&n);
}

static void test_window(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", true, 0, 5);
	c.auto_ack = false;
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 20);
	assert_int_equal(c.n_got, 5);
	assert_true(session_puback(c.session, c.got[2].packet_id, 0));
	assert_int_equal(c.n_got, 6);
	assert_false(session_puback(c.session, 999, 0));
	c.auto_ack = true;
	for (int i = 0; i < 6; i++)
		session_puback(c.session, c.got[i].packet_id, 0);
	until(&n, c.n_got == 20);
	assert_got(&c, 0, 20);
	free(c.got);
	node_release(&n);
}

static void resume(uint32_t linger_ms, bool same_ids)
{
	struct node n;
	struct client c = {0};
	uint16_t second;
	int turns = 60;

	node_init_with(&n, 0, linger_ms);
	connect_as(&n, &c, "c", false, 3600, 5);
	assert_false(c.present);
	c.auto_ack = false;
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 10);
	until(&n, c.n_got == 5);
	session_puback(c.session, c.got[0].packet_id, 0);
	session_puback(c.session, c.got[2].packet_id, 0);
	second = c.got[1].packet_id;
	while (turns--) /* the cursor is committed */
		loop_turn(n.loop);
	disconnect(&c, 3600);
	publish_many(&n, "t", 10, 30);
	for (turns = 0; turns < 60; turns++)
		loop_turn(n.loop);
	connect_as(&n, &c, "c", false, 3600, 100);
	assert_true(c.present);
	until(&n, c.n_got == 28);
	assert_int_equal(c.got[0].n, 1);
	assert_int_equal(c.got[0].dup, same_ids);
	if (same_ids)
		assert_int_equal(c.got[0].packet_id, second);
	for (unsigned i = 1; i < 28; i++)
		assert_int_equal(c.got[i].n, i + 2);
	/* Clean Start forgets it all */
	connect_as(&n, &c, "c", true, 3600, 100);
	assert_false(c.present);
	publish_many(&n, "t", 30, 40);
	assert_int_equal(c.n_got, 0);
	free(c.got);
	node_release(&n);
}

static void test_resume_in_memory(void **state)
{
	(void)state;
	resume(60000, true);
}

static void test_resume_from_the_bus(void **state)
{
	(void)state;
	resume(1, false);
}

static void test_takeover(void **state)
{
	struct node n;
	struct client old = {0};
	struct client new = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &old, "c", false, 3600, 5);
	old.auto_ack = false;
	subscribe(&old, "#", 1);
	publish_many(&n, "t", 0, 10);
	connect_as(&n, &new, "c", false, 3600, 100);
	assert_int_equal(old.kicked, 0x8e);
	assert_true(new.present);
	until(&n, new.n_got == 10);
	assert_got(&new, 0, 10);
	assert_true(new.got[4].dup);
	assert_false(new.got[5].dup);
	free(old.got);
	free(new.got);
	node_release(&n);
}

static void test_share(void **state)
{
	struct node n;
	struct client a = {0};
	struct client b = {0};
	bool *seen = xcalloc(2000, 1);

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &a, "a", true, 0, 50);
	connect_as(&n, &b, "b", true, 0, 50);
	assert_int_equal(subscribe(&a, "$share/g/t/#", 1), 1);
	assert_int_equal(subscribe(&b, "$share/g/t/#", 1), 1);
	publish_many(&n, "t/x", 0, 1000);
	until(&n, a.n_got + b.n_got == 1000);
	assert_true(a.n_got > 300 && b.n_got > 300);
	b.auto_ack = false;
	publish_many(&n, "t/x", 1000, 1400);
	until(&n, b.n_got >= 50);
	for (int i = 0; i < 50; i++)
		loop_turn(n.loop);
	disconnect(&b, 0); /* its deliveries go to the other */
	until(&n, a.n_got + b.n_got >= 1450);
	for (size_t i = 0; i < a.n_got; i++) {
		assert_false(seen[a.got[i].n]);
		seen[a.got[i].n] = true;
	}
	for (unsigned i = 1000; i < 1400; i++)
		assert_true(seen[i]);
	free(a.got);
	free(b.got);
	free(seen);
	node_release(&n);
}

static void test_generation(void **state)
{
	struct node n;
	struct client c = {0};
	struct client e = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "durable", false, 3600, 10);
	connect_as(&n, &e, "ephemeral", true, 0, 10);
	c.auto_ack = e.auto_ack = false;
	subscribe(&c, "#", 1);
	subscribe(&e, "#", 1);
	publish_many(&n, "t", 0, 30);
	assert_int_equal(c.n_got, 10);
	n.bus->generation++;
	dispatch_on_state(n.dispatch, BUS_DOWN);
	session_puback(c.session, c.got[3].packet_id, 0); /* while the database is away */
	session_puback(e.session, e.got[3].packet_id, 0);
	for (int i = 0; i < 20; i++)
		loop_turn(n.loop);
	dispatch_on_state(n.dispatch, BUS_UP);
	c.auto_ack = e.auto_ack = true;
	for (int i = 0; i < 10; i++) {
		if (i != 3) {
			session_puback(c.session, c.got[i].packet_id, 0);
			session_puback(e.session, e.got[i].packet_id, 0);
		}
	}
	until(&n, c.n_got >= 30 && e.n_got >= 30);
	publish_many(&n, "t", 30, 60);
	until(&n, c.n_got >= 60 && e.n_got >= 60);
	assert_got(&c, 0, 60); /* nothing twice on a live connection, nothing lost */
	assert_got(&e, 0, 60);
	free(c.got);
	free(e.got);
	node_release(&n);
}

/* What was acknowledged and not yet written when the database went away was written only with the
 * next acknowledgement, or by the sweep: a node that died before delivered it all again. */
static void cursors_are_written_after_an_outage(bool acked_before)
{
	struct node n;
	struct client c = {0};
	struct dispatch_stats before, now;

	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "durable", false, 3600, 10);
	c.auto_ack = false;
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 5);
	until(&n, c.n_got == 5);
	dispatch_get_stats(n.dispatch, &before);
	for (int i = 0; i < 5 && acked_before; i++)
		session_puback(c.session, c.got[i].packet_id, 0);
	n.bus->generation++;
	dispatch_on_state(n.dispatch, BUS_DOWN);
	for (int i = 0; i < 5 && !acked_before; i++)
		session_puback(c.session, c.got[i].packet_id, 0);
	for (int i = 0; i < 20; i++)
		loop_turn(n.loop);
	dispatch_on_state(n.dispatch, BUS_UP);
	for (int i = 0; i < 500; i++) { /* far less than a sweep */
		loop_turn(n.loop);
		dispatch_get_stats(n.dispatch, &now);
		if (now.cursor_commits > before.cursor_commits)
			break;
	}
	assert_true(now.cursor_commits > before.cursor_commits);
	free(c.got);
	node_release(&n);
}

static void test_cursors_after_an_outage(void **state)
{
	(void)state;
	cursors_are_written_after_an_outage(true);
	cursors_are_written_after_an_outage(false);
}

/* A backend whose read answers late: what it saw of the head is old by then. */
static struct bus_ops slow_ops;
static const struct bus_ops *real_ops;
static struct bus_read *held_read;
static void (*held_done)(struct bus_read *);
static bool hold_reads;

static void on_slow_read(struct bus_read *req)
{
	req->done = held_done;
	if (hold_reads)
		held_read = req;
	else
		req->done(req);
}

static void slow_read(struct bus *bus, struct bus_read *req)
{
	held_done = req->done;
	req->done = on_slow_read;
	real_ops->read(bus, req);
}

/* An event that was stored while the first read was under way, and after that read had seen the
 * head, was delivered only when another one followed it. */
static void test_stored_during_the_first_read(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	real_ops = n.bus->ops;
	slow_ops = *real_ops;
	slow_ops.read = slow_read;
	n.bus->ops = &slow_ops;
	publish_many(&n, "t", 0, 10);
	hold_reads = true;
	connect_as(&n, &c, "c", true, 0, 1000);
	subscribe(&c, "#", 1);
	until(&n, held_read);
	publish_many(&n, "t", 10, 11);
	hold_reads = false;
	held_read->done(held_read);
	until(&n, c.n_got == 1);
	assert_got(&c, 10, 11);
	free(c.got);
	node_release(&n);
}

static void test_start_positions(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	publish_many(&n, "t", 1, 101);
	connect_as(&n, &c, "earliest", true, 0, 1000);
	subscribe_from(&c, "#", 1, SESSION_START_EARLIEST, 0);
	until(&n, c.n_got == 100);
	assert_got(&c, 1, 101);
	disconnect(&c, 0);
	connect_as(&n, &c, "seq", true, 0, 1000);
	subscribe_from(&c, "#", 1, SESSION_START_SEQ, 51);
	until(&n, c.n_got == 50);
	assert_got(&c, 51, 101);
	disconnect(&c, 0);
	connect_as(&n, &c, "new", true, 0, 1000);
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 101, 111);
	until(&n, c.n_got == 10);
	assert_got(&c, 101, 111);
	free(c.got);
	node_release(&n);
}

static void test_unsubscribe(void **state)
{
	struct node n;
	struct client c = {0};
	struct slice gone = slice_str("a");
	struct session_unsubscribe req = {.filters = &gone, .n = 1, .done = on_answered};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", false, 60, 1000);
	subscribe(&c, "a", 1);
	subscribe(&c, "b", 0);
	publish_many(&n, "a", 0, 5);
	publish_many(&n, "b", 5, 10);
	until(&n, c.n_got == 10);
	assert_int_equal(c.got[9].qos, 0);
	c.answered = false;
	session_unsubscribe(c.session, &req);
	until(&n, c.answered);
	assert_int_equal(c.reason, 0);
	publish_many(&n, "a", 10, 15);
	publish_many(&n, "b", 15, 20);
	until(&n, c.n_got == 15);
	assert_int_equal(c.got[10].n, 15);
	c.answered = false;
	session_unsubscribe(c.session, &req);
	until(&n, c.answered);
	assert_int_equal(c.reason, 0x11);
	free(c.got);
	node_release(&n);
}

static void test_drain_releases(void **state)
{
	struct node n;
	struct client c = {0};

	(void)state;
	node_init_with(&n, 0, 0);
	connect_as(&n, &c, "c", false, 3600, 1000);
	subscribe(&c, "#", 1);
	publish_many(&n, "t", 0, 50);
	until(&n, c.n_got == 50);
	dispatch_drain(n.dispatch, on_drained, &n.drained);
	until(&n, n.drained);
	assert_int_equal(c.kicked, 0x8b);
	free(c.got);
	node_release(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_live),
	        cmocka_unit_test(test_slow_consumer_lags_and_catches_up),
	        cmocka_unit_test(test_window),
	        cmocka_unit_test(test_resume_in_memory),
	        cmocka_unit_test(test_resume_from_the_bus),
	        cmocka_unit_test(test_takeover),
	        cmocka_unit_test(test_share),
	        cmocka_unit_test(test_generation),
	        cmocka_unit_test(test_cursors_after_an_outage),
	        cmocka_unit_test(test_stored_during_the_first_read),
	        cmocka_unit_test(test_start_positions),
	        cmocka_unit_test(test_unsubscribe),
	        cmocka_unit_test(test_drain_releases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
