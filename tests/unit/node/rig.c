#include "tests/unit/node/rig.h"

#include "node/delivery/delivery.h"
#include "node/net/timeshare.h"

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

static bool may_bury(void *arg, const struct tenant *t)
{
	struct node *n = arg;

	(void)t;
	if (n->few_graves && n->graves == 0) {
		n->denied_graves++;
		return false;
	}
	n->graves--;
	return true;
}

static void on_buried(void *arg, const struct tenant *t, bool buried)
{
	struct node *n = arg;

	(void)t;
	n->graves += !buried;
}

static enum dispatch_room may_make(void *arg, const struct tenant *t)
{
	struct node *n = arg;

	(void)t;
	n->asked_room++;
	return n->room;
}

static void on_made(void *arg, const struct tenant *t, bool made)
{
	(void)t;
	(void)made;
	((struct node *)arg)->told_made++;
}

static void nothing(void *arg)
{
	(void)arg;
}

void node_init_with(struct node *n, size_t cache_bytes, uint32_t linger_ms)
{
	node_init_keeping(n, cache_bytes, linger_ms, 64 << 20);
}

void node_init_keeping(struct node *n, size_t cache_bytes, uint32_t linger_ms,
                       size_t retention_bytes)
{
	struct bus_memory_settings ms = {.retention_bytes = retention_bytes, .defer = defer};
	struct dispatch_settings ds = {.cache_bytes = cache_bytes,
	                               .linger_ms = linger_ms,
	                               .may_bury = may_bury,
	                               .on_buried = on_buried,
	                               .may_make = may_make,
	                               .on_made = on_made,
	                               .arg = n};
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

void node_share_time(struct node *n, uint32_t turn_us, uint64_t (*now_us)(void))
{
	struct timeshare_settings s = {
	        .turn_us = turn_us, .bug = "unfair-dispatch", .now_us = now_us};

	n->time = n->dispatch->settings.time = timeshare_new(n->loop, &s);
}

void on_drained(void *arg)
{
	*(bool *)arg = true;
}

void node_release(struct node *n)
{
	bool drained = false;

	if (!n->drained)
		dispatch_drain(n->dispatch, on_drained, &drained);
	for (int i = 0; i < 50 || !(drained || n->drained); i++)
		loop_turn(n->loop);
	dispatch_free(n->dispatch);
	timeshare_free(n->time);
	appender_free(n->appender);
	n->bus->ops->free(n->bus);
	loop_timer_free(n->tick);
	loop_free(n->loop);
}

void publish(struct node *n, const char *topic, unsigned number)
{
	char text[300];
	struct event ev = {.topic = slice_str(topic), .qos = 1};

	memset(text, '.', sizeof text);
	snprintf(text, sizeof text, "%u", number);
	ev.payload = slice(text, sizeof text);
	appender_publish(n->appender, &n->tenant, &ev, (struct publisher){1, number});
}

void publish_many(struct node *n, const char *topic, unsigned from, unsigned to)
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

/* What it says to this event: a PUBACK code. */
static uint8_t answer_of(const struct client *c, unsigned number)
{
	return c->answer ? c->answer(number) : 0;
}

struct ack {
	struct client *c;
	uint16_t packet_id;
	uint8_t reason;
};

static void do_ack(void *arg)
{
	struct ack *a = arg;

	if (a->c->session)
		session_puback(a->c->session, a->packet_id, a->reason);
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
	g->attempt = out->attempt;
	g->gap = out->gap.to ? out->gap.to - out->gap.from : 0;
	if (c->auto_ack && out->packet_id) {
		struct ack *a = xcalloc(1, sizeof *a);

		a->c = c;
		a->packet_id = out->packet_id;
		a->reason = answer_of(c, g->n);
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

static bool may_subscribe(void *conn, struct slice filter)
{
	const struct client *c = conn;

	return !c->denied || !slice_eq(filter, slice_str(c->denied));
}

static const struct session_conn_ops client_ops = {
        .can_send = can_send, .send = send, .kick = kick, .may_subscribe = may_subscribe};

static void on_open(void *conn, struct session *s, bool present, uint8_t reason, const char *text)
{
	struct client *c = conn;

	(void)text;
	c->opened = true;
	c->session = s;
	c->present = present;
	c->reason = reason;
}

void connect_as(struct node *n, struct client *c, const char *id, bool clean, uint32_t expiry,
                uint16_t receive_max)
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
	*c = (struct client){.node = n,
	                     .id = req.conn_id,
	                     .auto_ack = !c->never_ack,
	                     .never_ack = c->never_ack,
	                     .answer = c->answer,
	                     .denied = c->denied};
	c->got = xcalloc(MAX_GOT, sizeof *c->got);
	session_open(n->dispatch, &req);
	until(n, c->opened);
	if (c->session)
		session_start(c->session);
}

void on_answered(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n, const char *text)
{
	struct client *c = conn;

	(void)packet_id;
	snprintf(c->text, sizeof c->text, "%s", text ? text : "");
	c->answered = true;
	c->reason = n ? reasons[0] : 0;
}

uint8_t subscribe_from(struct client *c, const char *filter, uint8_t qos, enum session_start_at at,
                       uint64_t value)
{
	struct session_filter f = {.filter = slice_str(filter), .qos = qos};
	struct session_subscribe req = {
	        .filters = &f, .n = 1, .start = at, .start_value = value, .done = on_answered};

	req.policy = c->node->policy.max_attempts ? c->node->policy : BUS_POLICY_DEFAULT;

	c->answered = false;
	session_subscribe(c->session, &req);
	until(c->node, c->answered);
	return c->reason;
}

uint8_t subscribe(struct client *c, const char *filter, uint8_t qos)
{
	return subscribe_from(c, filter, qos, SESSION_START_NEW, 0);
}

void disconnect(struct client *c, uint32_t expiry)
{
	session_detach(c->session, expiry);
	c->session = NULL;
}

/* Numbers from..to-1, each once, in order. */
void assert_got(const struct client *c, unsigned from, unsigned to)
{
	assert_int_equal(c->n_got, to - from);
	for (unsigned i = from; i < to; i++)
		assert_int_equal(c->got[i - from].n, i);
}
