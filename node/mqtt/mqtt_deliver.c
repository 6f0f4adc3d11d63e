/* PUBLISH out, and the PUBACKs that settle it. */
#include "base/mem.h"
#include "base/point.h"
#include "node/mqtt/mqtt_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static bool can_send(void *conn)
{
	struct mqtt_client *c = conn;

	return c->state == MQTT_CONNECTED && !conn_above_high(c->conn);
}

/* ---- deliveries above the client's Maximum Packet Size: done, unsent [MQTT-3.1.2-25] --------- */

static void settle_too_large(void *arg)
{
	struct mqtt *m = arg;
	struct mqtt_too_large *list = m->too_large;
	size_t n = m->n_too_large;

	m->too_large = NULL; /* settling may send more of them */
	m->n_too_large = m->cap_too_large = 0;
	m->too_large_deferred = false;
	for (size_t i = 0; i < n; i++) {
		struct conn *conn = conn_find(m->set.conns, list[i].conn_id);
		struct mqtt_client *c = conn ? conn_arg(conn) : NULL;

		if (c && c->session)
			session_answer(c->session, list[i].packet_id, MQTT_REASON_PACKET_TOO_LARGE,
			               slice_str("larger than the consumer's Maximum Packet Size"));
	}
	free(list);
}

/* The session is in the middle of sending: it is told at the end of the turn. */
static void skip(struct mqtt_client *c, uint16_t packet_id)
{
	struct mqtt *m = c->mqtt;

	m->stats.too_large++;
	if (!packet_id)
		return;
	if (m->n_too_large == m->cap_too_large) {
		m->cap_too_large = m->cap_too_large ? m->cap_too_large * 2 : 16;
		m->too_large = xrealloc(m->too_large, m->cap_too_large * sizeof *m->too_large);
	}
	m->too_large[m->n_too_large++] =
	        (struct mqtt_too_large){.conn_id = c->conn_id, .packet_id = packet_id};
	if (!m->too_large_deferred)
		loop_defer(m->set.loop, settle_too_large, m);
	m->too_large_deferred = true;
}

/* ---- sending --------------------------------------------------------------------------------- */

static void release_batch(void *owner)
{
	batch_unref(owner);
}

/* leat-gap: PARTITION:FROM-TO, both included. */
static void put_gap(struct buf *out, uint32_t partition_id, const struct gap *gap)
{
	char text[64];

	snprintf(text, sizeof text, "%" PRIu32 ":%" PRIu64 "-%" PRIu64, partition_id, gap->from,
	         gap->to - 1);
	mqtt_put_user(out, slice_str("leat-gap"), slice_str(text));
}

static void put_attempt(struct buf *out, uint32_t attempt)
{
	char text[16];

	snprintf(text, sizeof text, "%" PRIu32, attempt);
	mqtt_put_user(out, slice_str("leat-attempt"), slice_str(text));
}

static void send_publish(void *conn, const struct outgoing *o)
{
	struct mqtt_client *c = conn;
	struct mqtt *m = c->mqtt;
	struct slice payload = o->ev->payload;
	struct mqtt_publish_out p = {
	        .topic = o->ev->topic,
	        .props = o->ev->props,
	        .sub_ids = o->subscription_ids,
	        .sub_id_count = o->n_subscription_ids,
	        .payload_len = payload.n,
	        .expiry_s = o->expiry_s ? (int64_t)o->expiry_s : -1,
	        .packet_id = o->packet_id,
	        .qos = o->qos,
	        .dup = o->dup,
	        .retain = o->retain,
	};

	buf_clear(&m->more);
	if (o->gap.to)
		put_gap(&m->more, o->gap_partition, &o->gap);
	if (o->attempt)
		put_attempt(&m->more, o->attempt);
	p.more = buf_slice(&m->more);
	if (c->max_packet && mqtt_publish_size(c->version, &p) > c->max_packet) {
		skip(c, o->packet_id);
		return;
	}
	POINT("deliver");
	m->stats.delivered++;
	m->stats.delivered_bytes += payload.n;
	usage_out(c->usage, payload.n);
	mqtt_encode_publish(&m->out, c->version, &p);
	if (payload.n < MQTT_REF_BYTES) {
		buf_append_slice(&m->out, payload);
		mqtt_client_send(c);
		return;
	}
	mqtt_client_send(c);
	conn_write_ref(c->conn, payload.p, payload.n, batch_ref(o->owner), release_batch);
}

/* Not an event, but said in passing: at QoS 0, and not to who does not take what it has. */
void mqtt_on_usage(void *arg, uint64_t conn_id, struct slice json)
{
	static const char props[] = "\x03\x00\x10"
	                            "application/json"; /* the content type */
	struct mqtt *m = arg;
	struct conn *conn = conn_find(m->set.conns, conn_id);
	struct mqtt_client *c = conn ? conn_arg(conn) : NULL;
	struct event ev = {.topic = slice_str("$leat/usage"),
	                   .payload = json,
	                   .props = slice(props, sizeof props - 1)};
	struct outgoing out = {.ev = &ev};

	if (c && can_send(c) && json.n < MQTT_REF_BYTES)
		send_publish(c, &out);
}

/* The session has let go of us already. */
static void kick(void *conn, uint8_t reason, const char *text)
{
	struct mqtt_client *c = conn;

	c->session = NULL;
	mqtt_client_fail(c, reason, "%s", text);
}

static bool may_subscribe(void *conn, struct slice filter)
{
	const struct mqtt_client *c = conn;

	return acl_may_subscribe(c->who.acl, filter);
}

const struct session_conn_ops mqtt_session_ops = {
        .can_send = can_send,
        .send = send_publish,
        .kick = kick,
        .may_subscribe = may_subscribe,
};

/* An unknown packet id is legal: after a change of owner or generation its delivery comes again. */
void mqtt_on_puback(struct mqtt_client *c, const struct mqtt_packet *p)
{
	POINT("acked");
	session_answer(c->session, p->ack.packet_id, p->ack.reason,
	               mqtt_has(&p->props, MQTT_PROP_REASON_STRING) ? p->props.reason_string
	                                                            : slice_str(""));
}
