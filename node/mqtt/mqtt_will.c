/* Wills: checked and stored before CONNACK, so that whatever happens to this node the leader of
 * timers publishes them; taken away by a normal DISCONNECT, made due when the client is lost. */
#include "base/id128.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/mqtt/mqtt_client.h"
#include "node/mqtt/mqtt_event.h"
#include "tenancy/topic.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct mqtt_kept_will {
	uint64_t id; /* random: a late word about an earlier will is not about this one */
	uint32_t delay_s;
	uint64_t expiry_ms; /* from when it is published; 0 = never */
	uint8_t qos;
	struct buf topic;
	struct buf payload;
	struct buf props; /* as in struct event */
};

static void will_free(struct mqtt_kept_will *w)
{
	if (!w)
		return;
	buf_release(&w->topic);
	buf_release(&w->payload);
	buf_release(&w->props);
	free(w);
}

/* ---- CONNECT --------------------------------------------------------------------------------- */

static int judge(const struct mqtt_client *c, const struct mqtt_will *will, struct err *e)
{
	if (will->qos > 1)
		return err_set(e, MQTT_REASON_QOS_NOT_SUPPORTED,
		               "will QoS 2 is not supported: Maximum QoS is 1");
	if (will->retain)
		return err_set(e, MQTT_REASON_RETAIN_NOT_SUPPORTED,
		               "retained wills are not supported");
	if (topic_check(will->topic, e) < 0) {
		e->code = MQTT_REASON_TOPIC_NAME_INVALID;
		return -1;
	}
	if (!acl_may_publish(c->who.acl, will->topic))
		return err_set(e, MQTT_REASON_NOT_AUTHORIZED,
		               "the token's acl does not allow publishing to the will's topic");
	if (limits_event(c->mqtt->set.limits, &c->guest, will->payload.n, e) < 0) {
		e->code = MQTT_REASON_QUOTA_EXCEEDED;
		return -1;
	}
	return 0;
}

static uint64_t random_id(void)
{
	struct id128 id = id128_random();
	uint64_t v;

	memcpy(&v, id.b, sizeof v);
	return v;
}

int mqtt_will_take(struct mqtt_client *c, const struct mqtt_will *will, struct err *e)
{
	struct mqtt_kept_will *w;

	if (!will->present)
		return 0;
	if (judge(c, will, e) < 0) {
		if (c->version ==
		    MQTT_V311) /* its other codes would have the client try for ever */
			e->code = MQTT_REASON_NOT_AUTHORIZED;
		return -1;
	}
	w = c->will = xcalloc(1, sizeof *w);
	w->id = random_id();
	w->qos = will->qos;
	buf_append_slice(&w->topic, will->topic);
	buf_append_slice(&w->payload, will->payload);
	mqtt_props_forward(&w->props, &will->props);
	if (mqtt_has(&will->props, MQTT_PROP_WILL_DELAY))
		w->delay_s = will->props.will_delay_s;
	if (mqtt_has(&will->props, MQTT_PROP_MESSAGE_EXPIRY))
		w->expiry_ms = will->props.message_expiry_s
		                       ? will->props.message_expiry_s * UINT64_C(1000)
		                       : 1;
	return 0;
}

/* ---- storing and ending ---------------------------------------------------------------------- */

/* The session's end is the end of waiting, too (MQTT 5, 3.1.3.2.2). */
static uint64_t delay_ms(const struct mqtt_kept_will *w, uint32_t expiry_s)
{
	return (w->delay_s < expiry_s ? w->delay_s : expiry_s) * UINT64_C(1000);
}

/* in_ms: how long after its client is lost it is due. */
static void publish(struct mqtt_client *c, const struct mqtt_kept_will *w, enum event_when when,
                    uint64_t in_ms, struct publisher from)
{
	struct event ev = {
	        .topic = slice_str("will"), /* where it is no event */
	        .client = slice_str(c->client_id),
	        .qos = 1,
	        .when = (uint8_t)when,
	        .owner = c->who.subject,
	        .name = slice_str(c->client_id),
	};

	if (w) {
		ev.when_ms = in_ms;
		ev.will_id = w->id;
	}
	if (when == EVENT_WILL) {
		ev.topic = buf_slice(&w->topic);
		ev.payload = buf_slice(&w->payload);
		ev.props = buf_slice(&w->props);
		ev.qos = w->qos;
		ev.will_expiry_ms = w->expiry_ms;
		mqtt_event_attributes(&ev, ev.props);
	}
	appender_publish(c->mqtt->set.appender, c->who.tenant, &ev, from);
}

bool mqtt_will_store(struct mqtt_client *c, bool present)
{
	if (c->will) {
		publish(c, c->will, EVENT_WILL, delay_ms(c->will, c->session_expiry_s),
		        (struct publisher){c->conn_id, MQTT_ANSWER_WILL});
		return true;
	}
	if (present) /* it is back in its session: the will of before is not to be published */
		publish(c, NULL, EVENT_WILL_CANCEL, 0, (struct publisher){0});
	return false;
}

/* Its client was lost: do the tenant's limits let it be published? */
static bool let_go(struct mqtt_client *c, const struct mqtt_kept_will *w, uint64_t *put_off_ms)
{
	struct mqtt *m = c->mqtt;

	if (limits_will(m->set.limits, &c->guest, w->payload.len, put_off_ms)) {
		usage_in(c->usage, 1, w->payload.len);
		return true;
	}
	usage_refused(c->usage, 1);
	m->stats.publish_refused[MQTT_REASON_QUOTA_EXCEEDED]++;
	if (mqtt_may_log(m))
		log_info("mqtt", "%s will dropped: a limit of the tenant topic=%s",
		         mqtt_client_name(c), log_quote(w->topic.data, w->topic.len));
	return false;
}

void mqtt_will_end(struct mqtt_client *c, bool lost, uint32_t expiry_s)
{
	struct mqtt_kept_will *w = c->will;
	uint64_t put_off_ms = 0;
	bool goes;

	c->will = NULL;
	if (w && c->will_stored) {
		goes = lost && let_go(c, w, &put_off_ms);
		publish(c, w, goes ? EVENT_WILL_LOST : EVENT_WILL_DROP,
		        delay_ms(w, expiry_s) + put_off_ms, (struct publisher){0});
	}
	will_free(w);
}
