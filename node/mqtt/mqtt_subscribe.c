/* SUBSCRIBE and UNSUBSCRIBE. Reading is paused while the session (and perhaps the database) works
 * on one, so there is one at a time and what the client sends after it comes after it. */
#include "base/log.h"
#include "base/mem.h"
#include "node/mqtt/mqtt_client.h"
#include "node/mqtt/mqtt_policy.h"
#include "node/mqtt/mqtt_start.h"
#include "tenancy/topic.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- answers --------------------------------------------------------------------------------- */

typedef void encode_fn(struct buf *out, uint8_t version, uint16_t packet_id, const uint8_t *reasons,
                       size_t count, const struct mqtt_props *props);

static void send_answer(struct mqtt_client *c, encode_fn *encode, uint16_t packet_id,
                        const uint8_t *reasons, size_t n, const char *text)
{
	struct buf *out = &c->mqtt->out;
	struct mqtt_props props = {0};

	if (text && c->problem_info)
		mqtt_set_reason_string(&props, slice_str(text));
	encode(out, c->version, packet_id, reasons, n, &props);
	if (c->max_packet && out->len > c->max_packet) {
		buf_clear(out);
		encode(out, c->version, packet_id, reasons, n, NULL);
	}
	mqtt_client_send(c);
	free(c->subscribe_text);
	c->subscribe_text = NULL;
	conn_resume_read(c->conn, CONN_PAUSE_SESSION);
}

/* ---- what its filters make of it ------------------------------------------------------------- */

struct tally {
	bool plain; /* one that is not of a share or queue: the session itself is a subscription */
	bool usage; /* one that asks for $leat/usage */
};

static bool count_filter(void *arg, struct slice filter)
{
	struct tally *t = arg;
	struct topic_filter f;

	if (topic_filter_parse(filter, &f, NULL) == 0 && f.kind == FILTER_PLAIN) {
		t->plain = true;
		t->usage = t->usage || topic_match(f.filter, slice_str("$leat/usage"));
	}
	return true; /* it stays */
}

void mqtt_filters_changed(struct mqtt_client *c)
{
	struct limits *l = c->mqtt->set.limits;
	struct tally t = {0};

	if (!c->session)
		return;
	session_filters_check(c->session, count_filter, &t);
	/* one that is kept has its row, which counts */
	limits_subscribed(l, &c->guest, t.plain && !c->session_expiry_s);
	limits_watch(l, &c->guest, t.usage);
}

/* ---- the answers ----------------------------------------------------------------------------- */

static void on_subscribed(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
                          const char *text)
{
	struct mqtt_client *c = conn;

	send_answer(c, mqtt_encode_suback, packet_id, reasons, n, text ? text : c->subscribe_text);
	mqtt_filters_changed(c);
}

static void on_unsubscribed(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
                            const char *text)
{
	send_answer(conn, mqtt_encode_unsuback, packet_id, reasons, n, text);
	mqtt_filters_changed(conn);
}

static bool too_many(struct mqtt_client *c, const struct mqtt_subscribe *s)
{
	if (s->count <= MQTT_SUBSCRIBE_MAX)
		return false;
	mqtt_client_fail(c, MQTT_REASON_QUOTA_EXCEEDED, "%u filters in one packet; at most %d",
	                 s->count, MQTT_SUBSCRIBE_MAX);
	return true;
}

#define SUBSCRIBE_TAKES                                                               \
	"SUBSCRIBE takes leat-start, leat-until, and for a queue leat-max-attempts, " \
	"leat-ack-timeout, "                                                          \
	"leat-backoff, leat-backoff-max, leat-max-failed, leat-ordered, leat-pin"

/* ---- SUBSCRIBE ------------------------------------------------------------------------------- */

static int take_until(struct session_subscribe *req, struct slice value, struct err *e)
{
	req->bounded = mqtt_until_parse(value, &req->until, &req->until_value, e) == 0;
	return req->bounded ? 1 : -1;
}

/* 1: it is one of ours, and taken; 0: it is not; -1: e says why not. */
static int take_property(struct session_subscribe *req, bool *of_queue, struct slice key,
                         struct slice value, struct err *e)
{
	int taken;

	if (slice_eq(key, slice_str("leat-start")))
		return mqtt_start_parse(value, &req->start, &req->start_value, e) < 0 ? -1 : 1;
	if (slice_eq(key, slice_str("leat-until")))
		return take_until(req, value, e);
	taken = mqtt_policy_take(&req->policy, key, value, e);
	*of_queue |= taken > 0;
	return taken;
}

/* Our user properties; one that is not ours is the client's business, a misspelt one of ours is not
 * let pass as if it had been obeyed. of_queue: some can be said of a queue alone. */
static int take_properties(const struct mqtt_packet *p, struct session_subscribe *req,
                           bool *of_queue, struct err *e)
{
	struct slice rest = p->props.raw;
	struct slice key;
	struct slice value;

	req->start = SESSION_START_NEW;
	req->policy = BUS_POLICY_DEFAULT;
	while (mqtt_user_prop_next(&rest, &key, &value)) {
		int taken = take_property(req, of_queue, key, value, e);

		if (taken < 0)
			return -1;
		if (taken && mqtt_user_prop_again(rest, key))
			return err_set(e, 0, "%.*s twice", (int)key.n, key.p);
		if (!taken && key.n >= 5 && memcmp(key.p, "leat-", 5) == 0)
			return err_set(e, 0, "user property %s is not known: " SUBSCRIBE_TAKES,
			               log_quote(key.p, key.n));
	}
	if (req->bounded && mqtt_range_check(req, e) < 0)
		return -1;
	return mqtt_policy_check(&req->policy, e);
}

/* Reason code of one filter: the granted QoS, or >= 0x80 with the reason in e. */
static uint8_t judge(struct mqtt_client *c, const struct mqtt_filter *f, bool of_queue,
                     struct err *e)
{
	struct topic_filter parsed;

	if (topic_filter_parse(f->filter, &parsed, e) < 0)
		return MQTT_REASON_TOPIC_FILTER_INVALID;
	/* a queue's own filter is judged when it is known */
	if ((parsed.kind != FILTER_QUEUE || parsed.filter.n) &&
	    !acl_may_subscribe(c->who.acl, parsed.filter)) {
		err_set(e, 0, "the token's acl does not allow subscribing to %s",
		        log_quote(parsed.filter.p, parsed.filter.n));
		return MQTT_REASON_NOT_AUTHORIZED;
	}
	if (parsed.kind != FILTER_QUEUE && of_queue) {
		err_set(e, 0,
		        "leat-max-attempts, leat-ack-timeout, leat-backoff, leat-backoff-max, "
		        "leat-max-failed, leat-ordered and leat-pin are for filters under $queue/");
		return MQTT_REASON_IMPLEMENTATION_ERROR;
	}
	if (parsed.kind == FILTER_QUEUE && !f->qos) {
		err_set(e, 0,
		        "subscribe with QoS 1: a queue's events are done when they are "
		        "acknowledged");
		return MQTT_REASON_IMPLEMENTATION_ERROR;
	}
	if (parsed.kind == FILTER_PLAIN && !c->session_expiry_s &&
	    limits_subscribe(c->mqtt->set.limits, &c->guest, e) < 0) {
		usage_refused(c->usage, 1);
		return MQTT_REASON_QUOTA_EXCEEDED;
	}
	return f->qos > 1 ? 1 : f->qos;
}

/* [MQTT-3.8.3-4] */
static bool no_local_on_share(const struct mqtt_filter *f)
{
	return f->no_local && f->filter.n >= 7 &&
	       (memcmp(f->filter.p, "$share/", 7) == 0 || memcmp(f->filter.p, "$queue/", 7) == 0);
}

/* Judge every filter by itself. False: the connection is lost. */
static bool judge_all(struct mqtt_client *c, const struct mqtt_packet *p,
                      struct session_filter *out, bool of_queue, const struct err *refuse_all)
{
	struct slice rest = p->subscribe.filters;
	struct mqtt_filter f;
	struct err e;

	for (size_t i = 0; mqtt_filter_next(MQTT_SUBSCRIBE, &rest, &f); i++) {
		if (no_local_on_share(&f)) {
			mqtt_client_fail(c, MQTT_REASON_PROTOCOL_ERROR,
			                 "No Local on a shared subscription or a queue");
			return false;
		}
		e.text[0] = '\0';
		out[i] = (struct session_filter){
		        .filter = f.filter,
		        .no_local = f.no_local,
		        .retain_as_published = f.retain_as_published,
		        .retain_handling = f.retain_handling,
		        .subscription_id = mqtt_has(&p->props, MQTT_PROP_SUBSCRIPTION_ID)
		                                   ? p->props.subscription_id
		                                   : 0,
		};
		out[i].reason =
		        refuse_all ? MQTT_REASON_IMPLEMENTATION_ERROR : judge(c, &f, of_queue, &e);
		out[i].qos = out[i].reason < 0x80 ? out[i].reason : 0;
		if (out[i].reason >= 0x80 && !c->subscribe_text)
			c->subscribe_text = xstrdup(refuse_all ? refuse_all->text : e.text);
	}
	return true;
}

static void log_refused(struct mqtt_client *c)
{
	if (c->subscribe_text && mqtt_may_log(c->mqtt))
		log_info("mqtt", "%s subscribe refused why=%s", mqtt_client_name(c),
		         log_quote_str(c->subscribe_text));
}

void mqtt_on_subscribe(struct mqtt_client *c, const struct mqtt_packet *p)
{
	struct session_subscribe req = {.n = p->subscribe.count, .done = on_subscribed};
	struct err e;
	bool of_queue = false;
	bool bad;

	if (too_many(c, &p->subscribe))
		return;
	bad = take_properties(p, &req, &of_queue, &e) < 0;
	req.filters = xcalloc(req.n, sizeof *req.filters);
	if (judge_all(c, p, req.filters, of_queue, bad ? &e : NULL)) {
		log_refused(c);
		req.packet_id = p->subscribe.packet_id;
		conn_pause_read(c->conn, CONN_PAUSE_SESSION);
		session_subscribe(c->session, &req);
	}
	free(req.filters);
}

/* ---- UNSUBSCRIBE ----------------------------------------------------------------------------- */

void mqtt_on_unsubscribe(struct mqtt_client *c, const struct mqtt_packet *p)
{
	struct session_unsubscribe req = {.packet_id = p->subscribe.packet_id,
	                                  .done = on_unsubscribed};
	struct slice rest = p->subscribe.filters;
	struct slice *filters;
	struct mqtt_filter f;

	if (too_many(c, &p->subscribe))
		return;
	filters = xcalloc(p->subscribe.count, sizeof *filters);
	while (mqtt_filter_next(MQTT_UNSUBSCRIBE, &rest, &f))
		filters[req.n++] = f.filter;
	req.filters = filters;
	conn_pause_read(c->conn, CONN_PAUSE_SESSION);
	session_unsubscribe(c->session, &req);
	free(filters);
}
