/* Wills: checked and stored before CONNACK, so that whatever happens to this node the leader of
 * timers publishes them; taken away by a normal DISCONNECT, made due when the client is lost. */
#include "base/id128.h"
#include "base/mem.h"
#include "node/mqtt/mqtt_client.h"
#include "tenancy/topic.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct mqtt_kept_will {
	uint64_t id; /* random: a late word about an earlier will is not about this one */
	uint64_t delay_ms;
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
	uint32_t max = c->who.tenant->limits.max_event_bytes;

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
	if (max && will->payload.n > max)
		return err_set(e, MQTT_REASON_QUOTA_EXCEEDED,
		               "the will has %zu bytes; this tenant's events may have %" PRIu32,
		               will->payload.n, max);
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
	uint32_t delay_s = 0;

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
		delay_s = will->props.will_delay_s;
	if (delay_s > c->session_expiry_s) /* the session's end is the end of waiting, too */
		delay_s = c->session_expiry_s;
	w->delay_ms = delay_s * UINT64_C(1000);
	return 0;
}

/* ---- storing and ending ---------------------------------------------------------------------- */

static void publish(struct mqtt_client *c, const struct mqtt_kept_will *w, enum event_when when,
                    struct publisher from)
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
		ev.when_ms = w->delay_ms;
		ev.will_id = w->id;
	}
	if (when == EVENT_WILL) {
		ev.topic = buf_slice(&w->topic);
		ev.payload = buf_slice(&w->payload);
		ev.props = buf_slice(&w->props);
		ev.qos = w->qos;
	}
	appender_publish(c->mqtt->set.appender, c->who.tenant, &ev, from);
}

bool mqtt_will_store(struct mqtt_client *c, bool present)
{
	if (c->will) {
		publish(c, c->will, EVENT_WILL, (struct publisher){c->conn_id, MQTT_ANSWER_WILL});
		return true;
	}
	if (present) /* it is back in its session: the will of before is not to be published */
		publish(c, NULL, EVENT_WILL_CANCEL, (struct publisher){0});
	return false;
}

void mqtt_will_again(struct mqtt_client *c)
{
	if (c->will && c->will_stored) /* or on its way, perhaps under the session of before */
		publish(c, c->will, EVENT_WILL, (struct publisher){0});
}

void mqtt_will_end(struct mqtt_client *c, bool lost)
{
	struct mqtt_kept_will *w = c->will;

	c->will = NULL;
	if (w && c->will_stored)
		publish(c, w, lost ? EVENT_WILL_LOST : EVENT_WILL_DROP, (struct publisher){0});
	will_free(w);
}
