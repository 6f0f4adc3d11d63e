#include "node/cli/client.h"

#include "base/clock.h"
#include "base/mem.h"
#include "node/net/conn.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	CONNACK_MS = 10000,
	PAYLOAD_REF_BYTES = 64 * 1024, /* never copied twice from here on */
	LINGER_MS = 2000,
	RECEIVED_BYTES = 65536 / 8,
};

enum deadline { DEADLINE_CONNACK = 1, DEADLINE_PING };

enum slot_state {
	SLOT_FREE,
	SLOT_ACK,  /* PUBACK or PUBREC is due */
	SLOT_COMP, /* PUBREL is sent, PUBCOMP is due */
};

/* A publish that is under way; slot i has packet id i + 1. */
struct slot {
	uint64_t tag;
	uint8_t state; /* enum slot_state */
	uint8_t qos;
};

struct client {
	struct conn_table *table;
	const struct client_config *config;
	const struct client_ops *ops;
	void *arg;
	uint64_t conn_id; /* 0 = none */
	bool up;
	bool wants_room; /* client_can_publish() said no */
	bool pinged;     /* PINGREQ is out and nothing came since */

	/* what the server allows in this connection */
	uint16_t window;
	uint8_t max_qos;
	uint32_t max_packet;
	uint16_t keep_alive_s;

	struct slot *slots; /* config->window */
	uint16_t *free_ids; /* stack of free slots' packet ids */
	uint32_t free_count;
	uint8_t *received; /* QoS 2: bit of a packet id = PUBREC is sent; NULL until needed */
	uint16_t sub_id;   /* packet id of the last SUBSCRIBE */

	struct buf acks; /* encoded, for messages taken and not yet acknowledged */
	struct buf out;  /* one packet being made */
	uint8_t down_reason;
	char down_text[256]; /* "" = the connection's own reason will do */
};

static struct conn *conn_of(struct client *c)
{
	return c->conn_id ? conn_find(c->table, c->conn_id) : NULL;
}

static void send_out(struct client *c)
{
	struct conn *conn = conn_of(c);

	if (conn && c->out.len)
		conn_write(conn, c->out.data, c->out.len);
	buf_clear(&c->out);
}

/* ---- the end of a connection ----------------------------------------------------------------- */

static void set_down(struct client *c, uint8_t reason, const char *what, struct slice text)
{
	if (c->down_text[0])
		return;
	c->down_reason = reason;
	if (text.n)
		snprintf(c->down_text, sizeof c->down_text, "%s: %s (%.*s)", what,
		         mqtt_reason_text(reason), (int)text.n, text.p);
	else if (reason)
		snprintf(c->down_text, sizeof c->down_text, "%s: %s", what,
		         mqtt_reason_text(reason));
	else
		snprintf(c->down_text, sizeof c->down_text, "%s", what);
}

/* The server broke the protocol, or is silent: say so and go. */
static void give_up(struct client *c, uint8_t reason, const char *what)
{
	struct conn *conn = conn_of(c);

	set_down(c, 0, what, slice(NULL, 0));
	if (!conn)
		return;
	if (c->up && reason) {
		mqtt_encode_disconnect(&c->out, c->config->version, reason, NULL);
		send_out(c);
	}
	conn_finish(conn, "protocol", LINGER_MS);
}

static void reset(struct client *c)
{
	c->up = false;
	c->pinged = false;
	c->wants_room = false;
	c->window = c->config->window;
	c->max_qos = 2;
	c->max_packet = UINT32_MAX;
	c->free_count = c->config->window;
	for (uint32_t i = 0; i < c->config->window; i++) {
		c->slots[i].state = SLOT_FREE;
		c->free_ids[i] = (uint16_t)(c->config->window - i);
	}
	buf_clear(&c->acks);
	buf_clear(&c->out);
}

static void on_closed(struct conn *conn, void *arg, const char *reason)
{
	struct client *c = arg;

	(void)conn;
	set_down(c, 0, reason, slice(NULL, 0));
	c->conn_id = 0;
	reset(c);
	if (c->ops->on_down)
		c->ops->on_down(c, c->arg, c->down_reason, c->down_text);
}

static void on_error(struct conn *conn, void *arg, const char *text)
{
	struct client *c = arg;
	char line[sizeof c->down_text];

	(void)conn;
	snprintf(line, sizeof line, "cannot connect to %s: %s", c->config->addr, text);
	set_down(c, 0, c->up ? text : line, slice(NULL, 0));
}

static void on_eof(struct conn *conn, void *arg)
{
	set_down(arg, 0, "the server closed the connection", slice(NULL, 0));
	conn_close(conn, "eof");
}

/* ---- packets from the server ----------------------------------------------------------------- */

static void take_limits(struct client *c, const struct mqtt_props *p)
{
	if (mqtt_has(p, MQTT_PROP_RECEIVE_MAX) && p->receive_max < c->window)
		c->window = p->receive_max;
	if (mqtt_has(p, MQTT_PROP_MAX_QOS))
		c->max_qos = p->max_qos;
	if (mqtt_has(p, MQTT_PROP_MAX_PACKET_SIZE))
		c->max_packet = p->max_packet_size;
	c->keep_alive_s = mqtt_has(p, MQTT_PROP_SERVER_KEEP_ALIVE) ? p->server_keep_alive_s
	                                                           : c->config->keep_alive_s;
}

static void arm_ping(struct client *c, struct conn *conn)
{
	conn_set_deadline(conn, (uint64_t)c->keep_alive_s * 500, DEADLINE_PING);
}

static void take_connack(struct client *c, const struct mqtt_packet *p)
{
	struct conn *conn = conn_of(c);

	if (c->up) {
		give_up(c, MQTT_REASON_PROTOCOL_ERROR, "the server sent a second CONNACK");
		return;
	}
	if (p->connack.reason) {
		set_down(c, p->connack.reason, "connection refused", p->props.reason_string);
		conn_close(conn, "refused");
		return;
	}
	c->up = true;
	take_limits(c, &p->props);
	arm_ping(c, conn);
	if (c->received && !p->connack.session_present)
		memset(c->received, 0, RECEIVED_BYTES);
	if (c->ops->on_up)
		c->ops->on_up(c, c->arg, p);
}

static bool received_test(struct client *c, uint16_t id)
{
	return c->received && c->received[id / 8] >> id % 8 & 1;
}

static void received_set(struct client *c, uint16_t id, bool on)
{
	if (!c->received)
		c->received = xcalloc(1, RECEIVED_BYTES);
	if (on)
		c->received[id / 8] |= (uint8_t)(1 << id % 8);
	else
		c->received[id / 8] &= (uint8_t) ~(1 << id % 8);
}

static void take_publish(struct client *c, const struct mqtt_packet *p)
{
	uint16_t id = p->publish.packet_id;
	bool again = p->publish.qos == 2 && received_test(c, id);
	bool taken = again || !c->ops->on_message || c->ops->on_message(c, c->arg, p);

	if (!taken || p->publish.qos == 0)
		return;
	if (p->publish.qos == 2)
		received_set(c, id, true);
	mqtt_encode_ack(&c->acks, c->config->version,
	                p->publish.qos == 2 ? MQTT_PUBREC : MQTT_PUBACK, id, 0, slice(NULL, 0));
}

static void take_pubrel(struct client *c, const struct mqtt_packet *p)
{
	received_set(c, p->ack.packet_id, false);
	mqtt_encode_ack(&c->out, c->config->version, MQTT_PUBCOMP, p->ack.packet_id, 0,
	                slice(NULL, 0));
}

static void settle(struct client *c, struct slot *s, const struct mqtt_packet *p)
{
	s->state = SLOT_FREE;
	c->free_ids[c->free_count++] = p->ack.packet_id;
	if (c->ops->on_acked)
		c->ops->on_acked(c, c->arg, s->tag, p->ack.reason, p->props.reason_string);
}

static void take_ack(struct client *c, const struct mqtt_packet *p)
{
	static const struct {
		uint8_t state;
		uint8_t qos;
	} due[16] = {
	        [MQTT_PUBACK] = {SLOT_ACK, 1},
	        [MQTT_PUBREC] = {SLOT_ACK, 2},
	        [MQTT_PUBCOMP] = {SLOT_COMP, 2},
	};
	uint16_t id = p->ack.packet_id;
	struct slot *s = id <= c->config->window ? &c->slots[id - 1] : NULL;

	if (!s || s->state != due[p->type].state || s->qos != due[p->type].qos) {
		give_up(c, MQTT_REASON_PROTOCOL_ERROR, "the server acknowledged what was not sent");
		return;
	}
	if (p->type != MQTT_PUBREC || p->ack.reason >= 0x80) {
		settle(c, s, p);
		return;
	}
	s->state = SLOT_COMP;
	mqtt_encode_ack(&c->out, c->config->version, MQTT_PUBREL, id, 0, slice(NULL, 0));
}

static void take_suback(struct client *c, const struct mqtt_packet *p)
{
	if (c->ops->on_suback)
		c->ops->on_suback(c, c->arg, p);
}

static void take_disconnect(struct client *c, const struct mqtt_packet *p)
{
	set_down(c, p->disconnect.reason, "disconnected by the server", p->props.reason_string);
	conn_close(conn_of(c), "disconnect");
}

static void take_nothing(struct client *c, const struct mqtt_packet *p)
{
	(void)c;
	(void)p;
}

static void (*const takers[16])(struct client *c, const struct mqtt_packet *p) = {
        [MQTT_CONNACK] = take_connack,  [MQTT_PUBLISH] = take_publish,
        [MQTT_PUBACK] = take_ack,       [MQTT_PUBREC] = take_ack,
        [MQTT_PUBREL] = take_pubrel,    [MQTT_PUBCOMP] = take_ack,
        [MQTT_SUBACK] = take_suback,    [MQTT_UNSUBACK] = take_nothing,
        [MQTT_PINGRESP] = take_nothing, [MQTT_DISCONNECT] = take_disconnect,
};

static void take(struct client *c, const struct mqtt_packet *p)
{
	if (!takers[p->type])
		give_up(c, MQTT_REASON_PROTOCOL_ERROR, "the server sent an unexpected packet");
	else if (!c->up && p->type != MQTT_CONNACK)
		give_up(c, 0, "the server's first packet is not CONNACK");
	else
		takers[p->type](c, p);
}

/* Room is told by the quarter of a window: acknowledgements trickle in, and a system call and a TLS
 * record for each single publish would cost both ends more than the publish. */
static void tell_room(struct client *c)
{
	if (!c->wants_room || !c->up || client_inflight(c) > c->window - (c->window + 3U) / 4)
		return;
	c->wants_room = false;
	if (c->ops->on_room)
		c->ops->on_room(c, c->arg);
}

static size_t on_data(struct conn *conn, void *arg, const char *bytes, size_t n)
{
	struct client *c = arg;
	const struct mqtt_side side = {.version = c->config->version,
	                               .from_server = true,
	                               .max_packet = CLIENT_PACKET_MAX};
	size_t used = 0;

	c->pinged = false;
	while (conn_state(conn) == CONN_READY && !conn_paused(conn, CONN_PAUSE_USER)) {
		struct mqtt_packet p;
		struct mqtt_bad bad;
		enum mqtt_result r = mqtt_decode(&side, bytes + used, n - used, &p, &bad);

		if (r == MQTT_BAD)
			give_up(c, bad.reason, bad.text);
		if (r != MQTT_PACKET)
			break;
		used += p.size;
		take(c, &p);
	}
	if (!c->config->hold_acks)
		client_send_acks(c);
	send_out(c);
	tell_room(c);
	return used;
}

/* ---- the life of a connection ---------------------------------------------------------------- */

static void on_ready(struct conn *conn, void *arg)
{
	struct client *c = arg;
	const struct client_config *o = c->config;
	struct mqtt_connect connect = {
	        .version = o->version,
	        .clean_start = o->clean_start,
	        .has_username = o->username.p != NULL,
	        .has_password = o->password.p != NULL,
	        .keep_alive_s = o->keep_alive_s,
	        .client_id = o->client_id,
	        .username = o->username,
	        .password = o->password,
	};
	struct mqtt_props props = {0};

	if (o->session_expiry_s)
		mqtt_set_session_expiry_s(&props, o->session_expiry_s);
	if (o->receive_max)
		mqtt_set_receive_max(&props, o->receive_max);
	mqtt_set_max_packet_size(&props, CLIENT_PACKET_MAX);
	mqtt_encode_connect(&c->out, &connect, &props);
	send_out(c);
	conn_set_deadline(conn, CONNACK_MS, DEADLINE_CONNACK);
}

static void on_timeout(struct conn *conn, void *arg, int kind)
{
	struct client *c = arg;

	if (kind == DEADLINE_CONNACK) {
		give_up(c, 0, "the server does not answer CONNECT");
	} else if (c->pinged) {
		give_up(c, 0, "the server does not answer PINGREQ");
	} else {
		/* while input is paused its answer could not be seen */
		c->pinged = !conn_paused(conn, CONN_PAUSE_USER);
		mqtt_encode_pingreq(&c->out);
		send_out(c);
		arm_ping(c, conn);
	}
}

static void on_lowat(struct conn *conn, void *arg)
{
	(void)conn;
	tell_room(arg);
}

static const struct conn_ops conn_callbacks = {
        .on_ready = on_ready,
        .on_data = on_data,
        .on_lowat = on_lowat,
        .on_eof = on_eof,
        .on_timeout = on_timeout,
        .on_error = on_error,
        .on_closed = on_closed,
};

struct client *client_new(struct conn_table *t, const struct client_config *config,
                          const struct client_ops *ops, void *arg)
{
	struct client *c = xcalloc(1, sizeof *c);

	assert(config->window > 0 && config->window <= CLIENT_WINDOW_MAX);
	c->table = t;
	c->config = config;
	c->ops = ops;
	c->arg = arg;
	c->sub_id = CLIENT_WINDOW_MAX;
	c->slots = xcalloc(config->window, sizeof *c->slots);
	c->free_ids = xcalloc(config->window, sizeof *c->free_ids);
	reset(c);
	return c;
}

void client_free(struct client *c)
{
	static const struct conn_ops nobody;
	struct conn *conn;

	if (!c)
		return;
	conn = conn_of(c);
	if (conn) {
		conn_set_ops(conn, &nobody, NULL);
		conn_close(conn, "client freed");
	}
	free(c->slots);
	free(c->free_ids);
	free(c->received);
	buf_release(&c->acks);
	buf_release(&c->out);
	free(c);
}

int client_connect(struct client *c, struct err *e)
{
	struct conn *conn;

	assert(!c->conn_id);
	reset(c);
	c->down_reason = 0;
	c->down_text[0] = '\0';
	conn = conn_connect(c->table, c->config->addr, c->config->tls, &conn_callbacks, c, e);
	if (!conn)
		return -1;
	conn_set_max_pending(conn, CLIENT_PACKET_MAX);
	c->conn_id = conn_id(conn);
	return 0;
}

void client_disconnect(struct client *c)
{
	struct conn *conn = conn_of(c);

	if (!conn)
		return;
	set_down(c, 0, "disconnected", slice(NULL, 0));
	if (!c->config->hold_acks)
		client_send_acks(c);
	if (c->up) {
		struct mqtt_props props = {0};

		if (c->config->drop_session)
			mqtt_set_session_expiry_s(&props, 0);
		mqtt_encode_disconnect(&c->out, c->config->version, 0, &props);
		send_out(c);
	}
	conn_finish(conn, "disconnect", LINGER_MS);
}

bool client_is_up(const struct client *c)
{
	return c->up;
}

uint32_t client_inflight(const struct client *c)
{
	return c->config->window - c->free_count;
}

/* ---- publish and subscribe ------------------------------------------------------------------- */

bool client_can_publish(struct client *c, uint8_t qos)
{
	struct conn *conn = conn_of(c);

	if (c->up && conn && !conn_above_high(conn) && (qos == 0 || client_inflight(c) < c->window))
		return true;
	c->wants_room = true;
	return false;
}

static struct mqtt_publish_out publish_out(const struct client_message *m)
{
	return (struct mqtt_publish_out){
	        .topic = m->topic,
	        .props = m->props,
	        .payload_len = m->payload.n,
	        .expiry_s = m->expiry_s,
	        .qos = m->qos,
	        .retain = m->retain,
	};
}

size_t client_message_size(const struct client *c, const struct client_message *m)
{
	struct mqtt_publish_out out = publish_out(m);

	return mqtt_publish_size(c->config->version, &out);
}

void client_publish(struct client *c, const struct client_message *m, uint64_t tag)
{
	struct mqtt_publish_out out = publish_out(m);
	struct conn *conn = conn_of(c);

	if (!conn)
		return;
	if (m->qos) {
		assert(c->free_count);
		out.packet_id = c->free_ids[--c->free_count];
		c->slots[out.packet_id - 1] =
		        (struct slot){.tag = tag, .state = SLOT_ACK, .qos = m->qos};
	}
	mqtt_encode_publish(&c->out, c->config->version, &out);
	if (m->payload.n < PAYLOAD_REF_BYTES) {
		buf_append_slice(&c->out, m->payload);
		send_out(c);
	} else {
		send_out(c);
		conn_write(conn, m->payload.p, m->payload.n);
	}
}

uint32_t client_max_packet(const struct client *c)
{
	return c->max_packet;
}

uint8_t client_max_qos(const struct client *c)
{
	return c->max_qos;
}

void client_subscribe(struct client *c, const struct mqtt_filter *filters, size_t n,
                      const struct mqtt_props *props)
{
	c->sub_id = c->sub_id == UINT16_MAX ? CLIENT_WINDOW_MAX + 1 : c->sub_id + 1;
	mqtt_encode_subscribe(&c->out, c->config->version, c->sub_id, filters, n, props);
	send_out(c);
}

void client_send_acks(struct client *c)
{
	struct conn *conn = conn_of(c);

	if (conn && c->acks.len)
		conn_write(conn, c->acks.data, c->acks.len);
	buf_clear(&c->acks);
}

void client_pause(struct client *c)
{
	struct conn *conn = conn_of(c);

	if (conn)
		conn_pause_read(conn, CONN_PAUSE_USER);
}

void client_resume(struct client *c)
{
	struct conn *conn = conn_of(c);

	if (conn)
		conn_resume_read(conn, CONN_PAUSE_USER);
}

/* ---- URLs ------------------------------------------------------------------------------------ */

/* A port at the end: behind the last colon, unless that belongs to [v6]. */
static bool has_port(const char *host, size_t n)
{
	const char *colon = memrchr(host, ':', n);

	return colon && !memchr(colon, ']', n - (size_t)(colon - host));
}

int client_url_parse(struct client_url *out, const char *text, struct err *e)
{
	const char *host;
	const char *at;
	size_t n;

	*out = (struct client_url){0};
	if (strncmp(text, "mqtts://", 8) == 0)
		out->tls = true;
	else if (strncmp(text, "mqtt://", 7) != 0)
		return err_set(e, 0, "'%.80s' is not mqtts://HOST[:PORT] or mqtt://HOST[:PORT]",
		               text);
	host = text + (out->tls ? 8 : 7);
	n = strcspn(host, "/?#");
	if (host[n] && strcmp(host + n, "/") != 0)
		return err_set(e, 0, "'%.80s': nothing may follow the port", text);
	at = memrchr(host, '@', n);
	if (at) {
		size_t user = (size_t)(at - host);

		if (memchr(host, ':', user))
			return err_set(e, 0,
			               "a password does not belong in the URL: use --token "
			               "or --password-file");
		if (user >= sizeof out->user)
			return err_set(e, 0, "the user name of the URL is longer than %zu bytes",
			               sizeof out->user - 1);
		memcpy(out->user, host, user);
		host = at + 1;
		n -= user + 1;
	}
	if (!n)
		return err_set(e, 0, "'%.80s' has no host", text);
	if (n + 6 > sizeof out->addr)
		return err_set(e, 0, "the host of the URL is longer than %zu bytes",
		               sizeof out->addr - 6);
	snprintf(out->addr, sizeof out->addr, "%.*s%s", (int)n, host,
	         has_port(host, n) ? ""
	         : out->tls        ? ":8883"
	                           : ":1883");
	return 0;
}
