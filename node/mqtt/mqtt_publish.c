/* PUBLISH in: checks, the event, the appender; and PUBACK out, in order. */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/point.h"
#include "node/mqtt/mqtt_client.h"
#include "node/mqtt/mqtt_event.h"
#include "node/mqtt/mqtt_schedule.h"
#include "tenancy/topic.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>

/* publisher.packet_id: nobody waits (QoS 0), or the low 31 bits of a number in the client's ring.
 */
#define NO_ANSWER UINT32_C(0)
#define ANSWER UINT32_C(0x80000000)

/* ---- the ring: QoS 1 publishes waiting for their PUBACK -------------------------------------- */

static struct mqtt_inbound *ring_at(const struct mqtt_ring *r, uint32_t number)
{
	return &r->v[number & (r->cap - 1)];
}

static void ring_grow(struct mqtt_ring *r)
{
	struct mqtt_ring bigger = {.cap = r->cap ? r->cap * 2 : 8, .first = r->first, .n = r->n};

	bigger.v = xcalloc(bigger.cap, sizeof *bigger.v);
	for (uint32_t i = 0; i < r->n; i++)
		*ring_at(&bigger, r->first + i) = *ring_at(r, r->first + i);
	free(r->v);
	*r = bigger;
}

/* What the appender is to answer with: the entry's number, marked so that it is never NO_ANSWER. */
static uint32_t ring_push(struct mqtt_ring *r, uint16_t packet_id, uint64_t at_us)
{
	uint32_t number;

	if (r->n == r->cap)
		ring_grow(r);
	number = r->first + r->n++;
	*ring_at(r, number) =
	        (struct mqtt_inbound){.packet_id = packet_id, .at_us = (uint32_t)at_us};
	return number | ANSWER;
}

void mqtt_ring_release(struct mqtt_ring *r)
{
	for (uint32_t i = 0; i < r->n; i++)
		free(ring_at(r, r->first + i)->text);
	free(r->v);
	*r = (struct mqtt_ring){.first = r->first + r->n};
}

/* ---- PUBACK ---------------------------------------------------------------------------------- */

static const uint64_t latency_bounds_us[MQTT_LATENCY_BUCKETS] = {
        250,   500,   750,   1000,   1500,   2000,    3000,    5000,
        10000, 20000, 50000, 100000, 250000, 1000000, 5000000, UINT64_MAX,
};

uint64_t mqtt_latency_bound_us(unsigned bucket)
{
	return latency_bounds_us[bucket];
}

static void count_latency(struct mqtt *m, uint32_t since_us)
{
	uint32_t took;
	unsigned i = 0;

	if (!m->answer_us)
		m->answer_us = clock_us();
	took = (uint32_t)m->answer_us - since_us;
	while (took > latency_bounds_us[i])
		i++;
	m->stats.latency[i]++;
	m->stats.latency_sum_us += took;
}

static void send_puback(struct mqtt_client *c, const struct mqtt_inbound *in)
{
	struct buf *out = &c->mqtt->out;
	struct slice text = slice_str(c->problem_info ? in->text : NULL);
	size_t before = out->len;

	POINT("answer");
	mqtt_encode_ack(out, c->version, MQTT_PUBACK, in->packet_id, in->reason, text);
	if (text.n && c->max_packet && out->len - before > c->max_packet) {
		out->len = before;
		mqtt_encode_ack(out, c->version, MQTT_PUBACK, in->packet_id, in->reason,
		                slice(NULL, 0));
	}
	if (in->reason < 0x80)
		c->mqtt->stats.acknowledged++;
	count_latency(c->mqtt, in->at_us);
}

/* Write the PUBACKs that are due: the answered ones at the front. */
static void flush_answers(struct mqtt_client *c)
{
	struct mqtt_ring *r = &c->inbound;

	if (!ring_at(r, r->first)->answered)
		return;
	while (r->n && ring_at(r, r->first)->answered) {
		struct mqtt_inbound *in = ring_at(r, r->first);

		send_puback(c, in);
		free(in->text);
		in->text = NULL;
		r->first++;
		r->n--;
	}
	mqtt_client_send(c);
	if (c->ring_paused && r->n <= MQTT_RECEIVE_MAX / 2) {
		c->ring_paused = false;
		conn_resume_read(c->conn, CONN_PAUSE_USER);
	}
}

static void answer(struct mqtt_client *c, uint32_t number, uint8_t reason, const char *text)
{
	struct mqtt_inbound *in = ring_at(&c->inbound, number);

	in->answered = true;
	in->reason = reason;
	if (text && c->problem_info)
		in->text = xstrdup(text);
	flush_answers(c);
}

/* ---- refusing -------------------------------------------------------------------------------- */

/* MQTT 5 has a word for it at QoS 1. A 3.1.1 client can only be told by closing: to acknowledge and
 * discard, as other brokers do, would be a lie. MQTT has no answer to a QoS 0 event: one that its
 * token or a limit does not allow, now, is counted and logged; one that could never be taken, whose
 * topic or time is not understood, ends the connection, since its client is wrong and would not
 * learn of it. */
static void refuse(struct mqtt_client *c, const struct mqtt_publish *pub, uint8_t reason,
                   const char *text)
{
	c->mqtt->stats.publish_refused[reason]++;
	if (reason == MQTT_REASON_QUOTA_EXCEEDED)
		usage_refused(c->usage, 1);
	if (mqtt_may_log(c->mqtt))
		log_info("mqtt", "%s publish refused code=0x%02x qos=%u topic=%s why=%s",
		         mqtt_client_name(c), reason, pub->qos,
		         log_quote(pub->topic.p, pub->topic.n), log_quote_str(text));
	if (pub->qos == 0 && reason != MQTT_REASON_TOPIC_NAME_INVALID)
		return;
	if (pub->qos == 0 || c->version == MQTT_V311) {
		mqtt_client_fail(c, reason, "%s", text);
		return;
	}
	answer(c, ring_push(&c->inbound, pub->packet_id, c->read_us), reason, text);
}

/* ---- the event ------------------------------------------------------------------------------- */

/* Borrows from the packet, the client and m->props. A message's expiry is counted from when it is
 * published. */
static void build_event(struct mqtt_client *c, const struct mqtt_packet *p,
                        const struct mqtt_schedule *s, struct event *ev)
{
	struct mqtt *m = c->mqtt;

	*ev = (struct event){
	        .topic = s->topic,
	        .payload = p->publish.payload,
	        .client = slice_str(c->client_id),
	        .qos = p->publish.qos,
	        .when = (uint8_t)s->when,
	        .when_ms = s->when_ms,
	        .owner = s->name.n ? c->who.subject : slice(NULL, 0),
	        .name = s->name,
	};
	if (!p->props.have)
		return;
	buf_clear(&m->props);
	mqtt_props_forward(&m->props, &p->props);
	if (mqtt_has(&p->props, MQTT_PROP_USER_PROPERTY))
		mqtt_schedule_strip(&m->props);
	ev->props = buf_slice(&m->props);
	if (mqtt_has(&p->props, MQTT_PROP_MESSAGE_EXPIRY))
		ev->expires_ms =
		        clock_wall_ms() + s->in_ms + p->props.message_expiry_s * UINT64_C(1000);
	if (mqtt_has(&p->props, MQTT_PROP_USER_PROPERTY))
		mqtt_event_attributes(ev, p->props.raw);
}

/* ---- PUBLISH --------------------------------------------------------------------------------- */

/* What ends the connection: the client was told in CONNACK, or MQTT forbids it. */
static bool breaks_protocol(struct mqtt_client *c, const struct mqtt_packet *p)
{
	const struct mqtt_publish *pub = &p->publish;

	if (pub->qos > 1)
		mqtt_client_fail(c, MQTT_REASON_QOS_NOT_SUPPORTED, "QoS 2: Maximum QoS is 1 here");
	else if (pub->retain)
		mqtt_client_fail(c, MQTT_REASON_RETAIN_NOT_SUPPORTED,
		                 "retained messages are not available here");
	else if (mqtt_has(&p->props, MQTT_PROP_TOPIC_ALIAS))
		mqtt_client_fail(c, MQTT_REASON_TOPIC_ALIAS_INVALID,
		                 "Topic Alias Maximum is 0 here");
	else if (pub->qos && c->version == MQTT_V5 && c->inbound.n >= MQTT_RECEIVE_MAX)
		mqtt_client_fail(c, MQTT_REASON_RECEIVE_MAX_EXCEEDED,
		                 "more than %d publishes without waiting for their PUBACK",
		                 MQTT_RECEIVE_MAX);
	else
		return false;
	return true;
}

/* What refuses this event alone: 0, or -1 with the PUBACK code in e. */
static int check_event(struct mqtt_client *c, const struct mqtt_packet *p, struct mqtt_schedule *s,
                       struct err *e)
{
	const struct mqtt_publish *pub = &p->publish;
	struct limits *limits = c->mqtt->set.limits;
	const struct tenant *t = c->who.tenant;

	if (mqtt_schedule_parse(pub->topic, &p->props, clock_wall_ms(), s, e) < 0) {
		e->code = MQTT_REASON_TOPIC_NAME_INVALID;
		return -1;
	}
	if (s->when == EVENT_CANCEL) /* a name is its subject's own */
		return 0;
	if (topic_check(s->topic, e) < 0) {
		e->code = MQTT_REASON_TOPIC_NAME_INVALID;
		return -1;
	}
	if (!acl_may_publish(c->who.acl, s->topic))
		return err_set(e, MQTT_REASON_NOT_AUTHORIZED,
		               "the token's acl does not allow publishing to this topic");
	e->code = MQTT_REASON_QUOTA_EXCEEDED;
	if (t->storage_full) {
		limits_reached(limits, t, LIMIT_STORED_BYTES, t->limits.max_stored_bytes, 1);
		return err_set(e, e->code,
		               "the tenant's stored events are at their limit, and a queue that "
		               "they are kept for has not processed them");
	}
	if (limits_event(limits, &c->guest, pub->payload.n, e) < 0 ||
	    (s->when != EVENT_NOW && limits_schedule(limits, &c->guest, e) < 0)) {
		e->code = MQTT_REASON_QUOTA_EXCEEDED;
		return -1;
	}
	return 0;
}

static void take_in(struct mqtt_client *c, const struct mqtt_packet *p)
{
	const struct mqtt_publish *pub = &p->publish;
	struct mqtt *m = c->mqtt;
	struct publisher from = {.conn_id = c->conn_id, .packet_id = NO_ANSWER};
	struct mqtt_schedule schedule;
	struct event ev;
	struct err e;

	if (check_event(c, p, &schedule, &e) < 0) {
		refuse(c, pub, (uint8_t)e.code, e.text);
		return;
	}
	build_event(c, p, &schedule, &ev);
	m->stats.publishes[pub->qos]++;
	m->stats.publish_bytes += pub->payload.n;
	usage_in(c->usage, 1, pub->payload.n);
	if (pub->qos)
		from.packet_id = ring_push(&c->inbound, pub->packet_id, c->read_us);
	if (appender_publish(m->set.appender, c->who.tenant, &ev, from))
		conn_pause_read(c->conn, CONN_PAUSE_JOURNAL);
	/* 3.1.1 clients know no Receive Maximum: theirs is held by not reading on. */
	if (c->version == MQTT_V311 && c->inbound.n >= MQTT_RECEIVE_MAX) {
		c->ring_paused = true;
		conn_pause_read(c->conn, CONN_PAUSE_USER);
	}
}

/* All that is scheduled looks so, and little else. */
static bool may_be_scheduled(const struct mqtt_packet *p)
{
	return (p->publish.topic.n && p->publish.topic.p[0] == '$') ||
	       mqtt_has(&p->props, MQTT_PROP_USER_PROPERTY);
}

/* What a 3.1.1 client, or one at QoS 0, sends beyond the rate cannot be refused in words: it is
 * only held up. Not 0x96, which is no code of PUBACK [MQTT-3.4.2-1]: clients break at it. */
bool mqtt_on_publish(struct mqtt_client *c, const struct mqtt_packet *p, size_t behind)
{
	const struct mqtt_publish *pub = &p->publish;
	struct limits_publish want = {
	        .bytes = pub->payload.n,
	        .packet = p->size,
	        .behind = behind,
	        .may_refuse = pub->qos == 1 && c->version == MQTT_V5,
	};
	struct err e;

	if (breaks_protocol(c, p))
		return true;
	if (may_be_scheduled(p) && !limits_knows(c->mqtt->set.limits, &c->guest)) {
		conn_pause_read(c->conn, CONN_PAUSE_RATE);
		return false;
	}
	switch (limits_publish(c->mqtt->set.limits, &c->guest, &want, &e)) {
	case LIMITS_PASS:
		take_in(c, p);
		return true;
	case LIMITS_REFUSE:
		refuse(c, pub, MQTT_REASON_QUOTA_EXCEEDED, e.text);
		return true;
	case LIMITS_WAIT:
		break;
	}
	conn_pause_read(c->conn, CONN_PAUSE_RATE);
	return false;
}

/* ---- the appender's side --------------------------------------------------------------------- */

static struct mqtt_client *find_client(struct mqtt *m, uint64_t conn_id)
{
	struct conn *conn = conn_find(m->set.conns, conn_id);
	struct mqtt_client *c = conn ? conn_arg(conn) : NULL;

	return c && c->state == MQTT_CONNECTED ? c : NULL;
}

/* CONNACK waits for it. */
static void on_will_answer(struct mqtt *m, uint64_t conn_id, enum append_result result,
                           const char *reason)
{
	struct conn *conn = conn_find(m->set.conns, conn_id);
	struct mqtt_client *c = conn ? conn_arg(conn) : NULL;

	if (!c || c->state != MQTT_OPENING)
		return;
	if (result != APPEND_REFUSED) {
		mqtt_connect_finish(c);
		return;
	}
	c->will_stored = false;
	mqtt_connect_refuse(c, c->version, MQTT_REASON_IMPLEMENTATION_ERROR, reason);
}

void mqtt_on_answer(void *arg, struct publisher to, enum append_result result, const char *reason)
{
	struct mqtt *m = arg;
	struct mqtt_client *c = find_client(m, to.conn_id);

	if (result == APPEND_REFUSED) {
		m->stats.publish_refused[MQTT_REASON_IMPLEMENTATION_ERROR]++;
		if (mqtt_may_log(m))
			log_warn("mqtt", "conn=%" PRIx64 " publish refused by the journal why=%s",
			         to.conn_id, log_quote_str(reason));
	}
	if (to.packet_id == MQTT_ANSWER_WILL)
		on_will_answer(m, to.conn_id, result, reason);
	if (!c || to.packet_id == NO_ANSWER || to.packet_id == MQTT_ANSWER_WILL)
		return;
	if (result == APPEND_STORED)
		answer(c, to.packet_id, MQTT_REASON_SUCCESS, NULL);
	else if (result == APPEND_MISSING)
		answer(c, to.packet_id, MQTT_REASON_NO_MATCHING_SUBSCRIBERS,
		       "nothing of this name is scheduled");
	else if (c->version == MQTT_V5)
		answer(c, to.packet_id, MQTT_REASON_IMPLEMENTATION_ERROR, reason);
	else
		mqtt_client_fail(c, MQTT_REASON_IMPLEMENTATION_ERROR, "%s", reason);
}

void mqtt_on_rate_room(void *arg, uint64_t conn_id)
{
	struct mqtt *m = arg;
	struct conn *conn = conn_find(m->set.conns, conn_id);

	if (conn)
		conn_resume_read(conn, CONN_PAUSE_RATE);
}

void mqtt_on_room(void *arg, uint64_t conn_id)
{
	struct mqtt *m = arg;
	struct conn *conn = conn_find(m->set.conns, conn_id);

	if (conn)
		conn_resume_read(conn, CONN_PAUSE_JOURNAL);
}
