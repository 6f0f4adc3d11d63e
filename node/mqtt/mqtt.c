#include "node/mqtt/mqtt.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/mqtt/mqtt_client.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	LOG_LINES_PER_S = 20,
	DEFAULT_MAX_PACKET = 1 << 20,
	DEFAULT_SESSION_EXPIRY_S = 7 * 24 * 3600,
	DEFAULT_KEEP_ALIVE_S = 3600,
	DEFAULT_OPENING_MS = 10 * 1000, /* longer than the database takes to fail over */
	YIELD_EVERY = 32,               /* packets: is it still its turn? */
};

/* ---- packets: what the server does with each type from a client ------------------------------ */

typedef void packet_fn(struct mqtt_client *c, const struct mqtt_packet *p);

static void on_second_connect(struct mqtt_client *c, const struct mqtt_packet *p)
{
	(void)p;
	mqtt_client_fail(c, MQTT_REASON_PROTOCOL_ERROR, "a second CONNECT on one connection");
}

static void on_qos2(struct mqtt_client *c, const struct mqtt_packet *p)
{
	mqtt_client_fail(c, MQTT_REASON_PROTOCOL_ERROR,
	                 "%s belongs to QoS 2, and Maximum QoS is 1 here", mqtt_type_name(p->type));
}

static void on_pingreq(struct mqtt_client *c, const struct mqtt_packet *p)
{
	(void)p;
	mqtt_encode_pingresp(&c->mqtt->out);
	mqtt_client_send(c);
}

/* DISCONNECT may change the session's expiry, but not make a session durable that was not
 * [MQTT-3.14.2-2]. */
static void on_disconnect(struct mqtt_client *c, const struct mqtt_packet *p)
{
	uint32_t expiry_s = c->session_expiry_s;

	if (mqtt_has(&p->props, MQTT_PROP_SESSION_EXPIRY)) {
		expiry_s = p->props.session_expiry_s;
		if (expiry_s && !c->session_expiry_s) {
			mqtt_client_fail(
			        c, MQTT_REASON_PROTOCOL_ERROR,
			        "DISCONNECT cannot give a session an expiry that CONNECT set to 0");
			return;
		}
		if (expiry_s > c->mqtt->set.session_expiry_max_s)
			expiry_s = c->mqtt->set.session_expiry_max_s;
	}
	c->took_leave = p->disconnect.reason == MQTT_REASON_SUCCESS;
	mqtt_client_end(c, expiry_s, "disconnect");
}

/* Types that are missing come from servers only, which the codec has refused; PUBLISH has its own
 * way.
 */
static packet_fn *const handlers[] = {
        [MQTT_CONNECT] = on_second_connect,
        [MQTT_PUBACK] = mqtt_on_puback,
        [MQTT_PUBREC] = on_qos2,
        [MQTT_PUBREL] = on_qos2,
        [MQTT_PUBCOMP] = on_qos2,
        [MQTT_SUBSCRIBE] = mqtt_on_subscribe,
        [MQTT_UNSUBSCRIBE] = mqtt_on_unsubscribe,
        [MQTT_PINGREQ] = on_pingreq,
        [MQTT_DISCONNECT] = on_disconnect,
        [MQTT_AUTH] = mqtt_on_auth,
};

/* False: not now. behind: bytes that came after it. */
static bool handle(struct mqtt_client *c, const struct mqtt_packet *p, size_t behind)
{
	packet_fn *fn = p->type < sizeof handlers / sizeof handlers[0] ? handlers[p->type] : NULL;

	if (c->state == MQTT_AWAIT_CONNECT) {
		if (p->type == MQTT_CONNECT)
			mqtt_on_connect(c, p);
		else
			mqtt_client_fail(c, MQTT_REASON_PROTOCOL_ERROR, "%s before CONNECT",
			                 mqtt_type_name(p->type));
		return true;
	}
	if (p->type == MQTT_PUBLISH)
		return mqtt_on_publish(c, p, behind);
	if (fn)
		fn(c, p);
	else
		mqtt_client_fail(c, MQTT_REASON_PROTOCOL_ERROR, "%s is not for servers",
		                 mqtt_type_name(p->type));
	return true;
}

static void on_bad(struct mqtt_client *c, const struct mqtt_bad *bad)
{
	if (c->state == MQTT_AWAIT_CONNECT)
		mqtt_connect_refuse(c, bad->version, bad->reason, bad->text);
	else
		mqtt_client_fail(c, bad->reason, "%s", bad->text);
}

static bool reading_paused(const struct mqtt_client *c)
{
	const unsigned any = CONN_PAUSE_RATE | CONN_PAUSE_OUTPUT | CONN_PAUSE_JOURNAL |
	                     CONN_PAUSE_SESSION | CONN_PAUSE_USER;

	return conn_paused(c->conn, (enum conn_pause)any);
}

/* ---- the connection's callbacks -------------------------------------------------------------- */

static size_t on_data(struct conn *conn, void *arg, const char *p, size_t n)
{
	struct mqtt_client *c = arg;
	struct mqtt_side side = {.from_server = false};
	struct mqtt_packet packet;
	struct mqtt_bad bad;
	size_t done = 0;
	unsigned packets = 0;
	bool yields = false;

	c->heard_ms = clock_now_ms();
	c->read_us = clock_us();
	while (done < n && c->state != MQTT_CLOSING && !reading_paused(c) && !yields) {
		side.version = c->version;
		side.max_packet =
		        c->state == MQTT_AWAIT_CONNECT ? MQTT_CONNECT_MAX : c->mqtt->set.max_packet;
		switch (mqtt_decode(&side, p + done, n - done, &packet, &bad)) {
		case MQTT_NEED_MORE:
			return done;
		case MQTT_BAD:
			on_bad(c, &bad);
			return n;
		case MQTT_PACKET:
			if (c->mqtt->stopping && packet.type == MQTT_PUBLISH) {
				/* never taken in, so never answered: another node gets it */
				conn_pause_read(conn, CONN_PAUSE_USER);
				return done;
			}
			if (!handle(c, &packet, n - done - packet.size))
				return done;
			done += packet.size;
			yields = ++packets % YIELD_EVERY == 0 && conn_yield(conn);
		}
	}
	/* A client that sends without reading its answers: stop reading until it does. */
	if (conn_above_high(conn))
		conn_pause_read(conn, CONN_PAUSE_OUTPUT);
	return c->state == MQTT_CLOSING ? n : done;
}

/* It has gone while we did not read. What it published, and what it answered, is taken in yet; the
 * rest was for an answer that it does not wait for. */
static bool on_left(struct conn *conn, void *arg, const char *p, size_t n)
{
	struct mqtt_client *c = arg;
	struct mqtt_side side = {.version = c->version, .max_packet = c->mqtt->set.max_packet};
	struct mqtt_packet packet;
	struct mqtt_bad bad;

	(void)conn;
	for (size_t done = 0; done < n; done += packet.size) {
		if (mqtt_decode(&side, p + done, n - done, &packet, &bad) != MQTT_PACKET)
			return true;
		if (packet.type == MQTT_PUBLISH || packet.type == MQTT_PUBACK)
			return false;
		if (packet.type == MQTT_DISCONNECT && c->state == MQTT_CONNECTED) {
			on_disconnect(c, &packet); /* its will is not wanted */
			return true;
		}
	}
	return true;
}

static void on_lowat(struct conn *conn, void *arg)
{
	struct mqtt_client *c = arg;

	conn_resume_read(conn, CONN_PAUSE_OUTPUT);
	if (c->session)
		session_writable(c->session);
}

/* What a client sent while we did not read waits unheard, and that is our doing; unless we did not
 * read because it does not. One that takes its answers slowly is alive; one that takes none at all
 * for as long as it may be silent would otherwise hold them until its token expires. */
static void hear_what_waits(struct mqtt_client *c, uint64_t now)
{
	size_t unread = conn_output_bytes(c->conn);

	if (!reading_paused(c))
		return;
	if (!conn_paused(c->conn, CONN_PAUSE_OUTPUT) || unread != c->unread)
		c->heard_ms = now;
	c->unread = unread;
}

static void on_timeout(struct conn *conn, void *arg, int kind)
{
	struct mqtt_client *c = arg;
	uint64_t now = clock_now_ms();

	(void)kind;
	if (c->state == MQTT_AWAIT_CONNECT) {
		mqtt_client_fail(c, MQTT_REASON_KEEP_ALIVE_TIMEOUT, "no CONNECT within %d s",
		                 MQTT_CONNECT_MS / 1000);
		return;
	}
	if (c->state == MQTT_OPENING) {
		mqtt_client_fail(c, MQTT_REASON_SERVER_UNAVAILABLE,
		                 "the database has not answered within %u s: connect again, to "
		                 "another node if there is one",
		                 c->mqtt->set.opening_ms / 1000);
		return;
	}
	if (c->who.expires_s && clock_wall_ms() / 1000 >= c->who.expires_s) {
		mqtt_client_fail(c, MQTT_REASON_MAXIMUM_CONNECT_TIME,
		                 "the %s has expired: connect with a new one%s",
		                 c->who.by_certificate ? "client certificate" : "token",
		                 c->auth_method ? ", or renew it in time with AUTH" : "");
		return;
	}
	hear_what_waits(c, now);
	if (c->keep_alive_s && now - c->heard_ms >= c->keep_alive_s * UINT64_C(1500)) {
		mqtt_client_fail(c, MQTT_REASON_KEEP_ALIVE_TIMEOUT,
		                 "nothing received for one and a half times the keep alive of %u s",
		                 c->keep_alive_s);
		return;
	}
	if (!c->inbound.n) /* a burst's ring must not stay with an idle client */
		mqtt_ring_release(&c->inbound);
	mqtt_client_arm(c);
	(void)conn;
}

static void on_error(struct conn *conn, void *arg, const char *text)
{
	struct mqtt_client *c = arg;

	(void)conn;
	if (mqtt_may_log(c->mqtt))
		log_info("mqtt", "%s error=%s", mqtt_client_name(c), log_quote_str(text));
}

static void on_closed(struct conn *conn, void *arg, const char *reason)
{
	struct mqtt_client *c = arg;

	(void)conn;
	log_debug("mqtt", "%s closed reason=%s", mqtt_client_name(c), log_quote_str(reason));
	if (c->state == MQTT_OPENING)
		session_open_cancel(c->mqtt->set.dispatch, c->conn_id);
	mqtt_will_end(c, c->state == MQTT_CONNECTED, c->session_expiry_s);
	limits_leave(c->mqtt->set.limits, &c->guest);
	if (c->session)
		session_detach(c->session, c->session_expiry_s);
	c->session = NULL;
	mqtt_client_set_state(c, MQTT_CLOSING);
	LIST_REMOVE(c, link);
	claims_release(&c->who);
	mqtt_ring_release(&c->inbound);
	free(c->client_id);
	free(c->subscribe_text);
	free(c);
}

static const struct conn_ops client_ops = {
        .on_data = on_data,
        .on_left = on_left,
        .on_lowat = on_lowat,
        .on_timeout = on_timeout,
        .on_error = on_error,
        .on_closed = on_closed,
};

/* ---- accepting ------------------------------------------------------------------------------- */

static void on_ready(struct conn *conn, void *arg)
{
	struct mqtt_listener_slot *slot = arg;
	struct mqtt_client *c;

	c = xcalloc(1, sizeof *c);
	c->mqtt = slot->mqtt;
	c->conn = conn;
	c->conn_id = conn_id(conn);
	c->insecure_tenant = slot->tenant;
	c->problem_info = true;
	c->heard_ms = clock_now_ms();
	LIST_INSERT_HEAD(&c->mqtt->clients, c, link);
	conn_set_ops(conn, &client_ops, c);
	conn_set_max_pending(conn, MQTT_CONNECT_MAX);
	conn_set_deadline(conn, MQTT_CONNECT_MS, 0);
}

/* Until the handshake is done a connection has no client; what fails before is the conn's to log.
 */
static const struct conn_ops accept_ops = {.on_ready = on_ready};

const struct conn_ops *mqtt_conn_ops(void)
{
	return &accept_ops;
}

void *mqtt_listener_arg(struct mqtt *m, const char *tenant)
{
	struct mqtt_listener_slot *slot = xcalloc(1, sizeof *slot);

	slot->mqtt = m;
	slot->tenant = tenant ? xstrdup(tenant) : NULL;
	slot->next = m->slots;
	m->slots = slot;
	return slot;
}

/* ---- a client's life ------------------------------------------------------------------------- */

static void count_client(struct mqtt_client *c, int by)
{
	c->mqtt->stats.clients += (size_t)by;
	usage_connected(c->usage, by, c->session_expiry_s != 0);
}

void mqtt_client_set_state(struct mqtt_client *c, enum mqtt_state to)
{
	static const char *const names[] = {"await-connect", "opening", "connected", "closing"};

	if (c->state == to)
		return;
	if (to == MQTT_CONNECTED)
		count_client(c, 1);
	if (c->state == MQTT_CONNECTED)
		count_client(c, -1);
	log_debug("mqtt", "%s state=%s was=%s", mqtt_client_name(c), names[to], names[c->state]);
	c->state = to;
}

void mqtt_client_end(struct mqtt_client *c, uint32_t expiry_s, const char *why)
{
	if (c->state == MQTT_CLOSING)
		return;
	if (c->state == MQTT_OPENING)
		session_open_cancel(c->mqtt->set.dispatch, c->conn_id);
	mqtt_will_end(c, c->state == MQTT_CONNECTED && !c->took_leave, expiry_s);
	limits_leave(c->mqtt->set.limits, &c->guest);
	mqtt_client_set_state(c, MQTT_CLOSING);
	if (c->session)
		session_detach(c->session, expiry_s);
	c->session = NULL;
	conn_finish(c->conn, why, MQTT_LINGER_MS);
}

/* A reason string must not make the packet larger than the client takes [MQTT-3.14.2-3]. */
static void encode_disconnect(struct mqtt_client *c, uint8_t reason, const char *text)
{
	struct buf *out = &c->mqtt->out;
	struct mqtt_props props = {0};

	mqtt_set_reason_string(&props, slice_str(text));
	mqtt_encode_disconnect(out, c->version, reason, &props);
	if (c->max_packet && out->len > c->max_packet) {
		buf_clear(out);
		mqtt_encode_disconnect(out, c->version, reason, NULL);
	}
}

void mqtt_client_fail(struct mqtt_client *c, uint8_t reason, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	if (c->state == MQTT_CLOSING)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (c->state == MQTT_OPENING) {
		mqtt_connect_refuse(c, c->version, reason, text);
		return;
	}
	c->mqtt->stats.disconnects[reason]++;
	if (mqtt_may_log(c->mqtt))
		log_info("mqtt", "%s disconnected code=0x%02x why=%s", mqtt_client_name(c), reason,
		         log_quote_str(text));
	if (c->state == MQTT_CONNECTED && c->version == MQTT_V5) {
		encode_disconnect(c, reason, text);
		mqtt_client_send(c);
	}
	mqtt_client_end(c, c->session_expiry_s, mqtt_reason_text(reason));
}

void mqtt_client_arm(struct mqtt_client *c)
{
	uint64_t now = clock_now_ms();
	uint64_t wall = clock_wall_ms();
	uint64_t wait = MQTT_DEADLINE_MAX_MS;
	uint64_t due;

	if (c->keep_alive_s) {
		due = c->heard_ms + c->keep_alive_s * UINT64_C(1500);
		if (due < now + wait)
			wait = due > now ? due - now : 1;
	}
	if (c->who.expires_s && c->who.expires_s * 1000 < wall + wait)
		wait = c->who.expires_s * 1000 > wall ? c->who.expires_s * 1000 - wall : 1;
	conn_set_deadline(c->conn, wait, 0);
}

void mqtt_client_send(struct mqtt_client *c)
{
	struct buf *out = &c->mqtt->out;

	conn_write(c->conn, out->data, out->len);
	buf_clear(out);
}

bool mqtt_may_log(struct mqtt *m)
{
	uint64_t second = clock_now_ms() / 1000;

	if (second != m->log_second) {
		if (m->log_dropped)
			log_warn("mqtt", "log_lines_dropped=%u within one second", m->log_dropped);
		m->log_second = second;
		m->log_lines = 0;
		m->log_dropped = 0;
	}
	if (m->log_lines++ < LOG_LINES_PER_S)
		return true;
	m->log_dropped++;
	m->stats.log_lines_dropped++;
	return false;
}

const char *mqtt_client_name(const struct mqtt_client *c)
{
	static char text[320];
	char peer[CONN_PEER_TEXT];

	snprintf(text, sizeof text, "conn=%" PRIx64 " peer=%s tenant=%s client=%s", c->conn_id,
	         conn_peer(c->conn, peer), c->who.tenant ? c->who.tenant->name : "",
	         log_quote_str(c->client_id ? c->client_id : ""));
	return text;
}

/* ---- all clients ----------------------------------------------------------------------------- */

/* Ending a client does not free it: that is on_closed's, at the end of the turn. */

/* 0, or -1 with a DISCONNECT reason: may a client with these claims stay? */
static int still_good(const struct registry *r, const struct claims *who, enum registry_change what,
                      uint64_t key_id, struct err *e)
{
	if (what == REGISTRY_TENANT_DELETED)
		return err_set(e, MQTT_REASON_ADMINISTRATIVE_ACTION, "the tenant was deleted");
	if (what == REGISTRY_TENANT_CHANGED && who->tenant->state != TENANT_ACTIVE)
		return err_set(e, MQTT_REASON_ADMINISTRATIVE_ACTION, "the tenant is %s",
		               tenant_state_name(who->tenant->state));
	if (what == REGISTRY_KEY_GONE && key_id == who->key_id)
		return err_set(e, MQTT_REASON_NOT_AUTHORIZED,
		               who->by_certificate
		                       ? "the client certificate is not registered any more"
		                       : "the key that signed the token was revoked or replaced");
	if (what == REGISTRY_REVOKED && claims_revoked(r, who))
		return err_set(e, MQTT_REASON_NOT_AUTHORIZED, "the %s was revoked: get a new one",
		               who->by_certificate ? "certificate" : "token");
	return 0;
}

void mqtt_on_registry_change(void *arg, const struct tenant *t, enum registry_change what,
                             uint64_t key_id)
{
	struct mqtt *m = arg;
	struct mqtt_client *c;
	struct err e;

	if (what == REGISTRY_TENANT_ADDED)
		return;
	for (c = LIST_FIRST(&m->clients); c; c = LIST_NEXT(c, link)) {
		if ((!t || c->who.tenant == t) &&
		    still_good(m->set.registry, &c->who, what, key_id, &e) < 0)
			mqtt_client_fail(c, (uint8_t)e.code, "%s", e.text);
	}
}

void mqtt_stop_publishing(struct mqtt *m)
{
	m->stopping = true;
}

void mqtt_disconnect_all(struct mqtt *m)
{
	struct mqtt_client *c;

	for (c = LIST_FIRST(&m->clients); c; c = LIST_NEXT(c, link)) {
		mqtt_client_fail(c, MQTT_REASON_SERVER_SHUTTING_DOWN,
		                 "this node is shutting down: connect again to reach another");
	}
}

void mqtt_on_session(struct mqtt *m)
{
	struct mqtt_client *c;

	for (c = LIST_FIRST(&m->clients); c; c = LIST_NEXT(c, link)) {
		if (!c->will_stored)
			continue;
		if (BUG("will-anew"))
			mqtt_will_store(c, false);
		else
			mqtt_client_fail(
			        c, MQTT_REASON_IMPLEMENTATION_ERROR,
			        "this node was given up by the others, and the will is published");
	}
}

static void on_turn_end(void *arg)
{
	struct mqtt *m = arg;

	m->answer_us = 0;
}

struct mqtt *mqtt_new(const struct mqtt_settings *settings)
{
	struct mqtt *m = xcalloc(1, sizeof *m);

	m->set = *settings;
	if (!m->set.max_packet)
		m->set.max_packet = DEFAULT_MAX_PACKET;
	if (!m->set.session_expiry_max_s)
		m->set.session_expiry_max_s = DEFAULT_SESSION_EXPIRY_S;
	if (!m->set.keep_alive_max_s)
		m->set.keep_alive_max_s = DEFAULT_KEEP_ALIVE_S;
	if (!m->set.opening_ms)
		m->set.opening_ms = DEFAULT_OPENING_MS;
	loop_on_turn_end(m->set.loop, on_turn_end, m);
	return m;
}

void mqtt_free(struct mqtt *m)
{
	struct mqtt_listener_slot *slot;

	if (!m)
		return;
	loop_hook_del(m->set.loop, on_turn_end, m);
	while ((slot = m->slots)) {
		m->slots = slot->next;
		free(slot->tenant);
		free(slot);
	}
	buf_release(&m->out);
	buf_release(&m->props);
	buf_release(&m->more);
	free(m->too_large);
	free(m);
}

const struct mqtt_stats *mqtt_get_stats(const struct mqtt *m)
{
	return &m->stats;
}
