/* CONNECT: who is it, may it, which session; and CONNACK. */
#include "base/bug.h"
#include "base/clock.h"
#include "base/id128.h"
#include "base/log.h"
#include "base/mem.h"
#include "cluster/bus.h"
#include "node/mqtt/mqtt_client.h"
#include "node/net/timeshare.h"
#include "tenancy/topic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- refusing -------------------------------------------------------------------------------- */

void mqtt_connect_refuse(struct mqtt_client *c, uint8_t version, uint8_t reason, const char *text)
{
	struct buf *out = &c->mqtt->out;
	struct mqtt_props props = {0};

	if (c->state == MQTT_CLOSING)
		return;
	if (!mqtt_reason_allowed(reason,
	                         MQTT_CONNACK)) /* what ends any connection, also this one */
		reason = MQTT_REASON_SERVER_UNAVAILABLE;
	c->mqtt->stats.connect_refused[reason]++;
	if (mqtt_may_log(c->mqtt))
		log_info("mqtt", "%s refused code=0x%02x why=%s", mqtt_client_name(c), reason,
		         log_quote_str(text));
	if (version == MQTT_V5) {
		mqtt_set_reason_string(&props, slice_str(text));
		mqtt_encode_connack(out, MQTT_V5, false, reason, &props);
		if (c->max_packet && out->len > c->max_packet) {
			buf_clear(out);
			mqtt_encode_connack(out, MQTT_V5, false, reason, NULL);
		}
	} else if (version == MQTT_V311 && reason != MQTT_REASON_MALFORMED_PACKET &&
	           reason != MQTT_REASON_PROTOCOL_ERROR) {
		/* 3.1.1 has no code for a broken CONNECT: the connection just ends. */
		mqtt_encode_connack(out, MQTT_V311, false, reason, NULL);
	}
	mqtt_client_send(c);
	mqtt_client_end(c, c->session ? c->session_expiry_s : 0, mqtt_reason_text(reason));
}

/* ---- taking CONNECT apart -------------------------------------------------------------------- */

static int take_client_id(struct mqtt_client *c, const struct mqtt_connect *con, struct err *e)
{
	struct id128 id;
	char hex[ID128_HEX];
	char text[ID128_HEX + 8];

	if (con->client_id.n > BUS_NAME_MAX)
		return err_set(e, MQTT_REASON_BAD_CLIENT_ID,
		               "the client identifier has %zu bytes; at most %d are allowed",
		               con->client_id.n, BUS_NAME_MAX);
	if (con->client_id.n) {
		c->client_id = xstrndup(con->client_id.p, con->client_id.n);
		return 0;
	}
	if (c->version == MQTT_V311 && !con->clean_start)
		return err_set(e, MQTT_REASON_BAD_CLIENT_ID,
		               "an empty client identifier needs a clean session");
	id = id128_random();
	id128_hex(&id, hex);
	snprintf(text, sizeof text, "auto-%s", hex);
	c->client_id = xstrdup(text);
	c->assigned_id = true;
	return 0;
}

/* 3.1.1 knows two lifetimes: the connection's, and for good; ours ends at the server's maximum. */
static void take_expiry(struct mqtt_client *c, const struct mqtt_packet *p)
{
	uint32_t max = c->mqtt->set.session_expiry_max_s;
	uint32_t want = 0;

	if (c->version == MQTT_V311)
		want = c->clean_start ? 0 : max;
	else if (mqtt_has(&p->props, MQTT_PROP_SESSION_EXPIRY))
		want = p->props.session_expiry_s;
	c->session_expiry_capped = want > max;
	c->session_expiry_s = want > max ? max : want;
}

/* Without a limit a client that vanished without a FIN would hold its connection for ever. Only an
 * MQTT 5 client can be told another value than its own. */
static void take_keep_alive(struct mqtt_client *c, uint16_t want)
{
	uint16_t max = c->mqtt->set.keep_alive_max_s;

	c->keep_alive_s = want;
	if (c->version == MQTT_V5 && (want == 0 || want > max)) {
		c->keep_alive_s = max;
		c->keep_alive_capped = true;
	}
}

static void take_limits(struct mqtt_client *c, const struct mqtt_packet *p)
{
	const struct mqtt_props *props = &p->props;

	c->clean_start = p->connect.clean_start;
	if (mqtt_has(props, MQTT_PROP_REQUEST_PROBLEM_INFO))
		c->problem_info = props->request_problem_info;
	if (mqtt_has(props, MQTT_PROP_MAX_PACKET_SIZE))
		c->max_packet = props->max_packet_size;
	take_expiry(c, p);
	take_keep_alive(c, p->connect.keep_alive_s);
}

/* The token is the password, or the data of the authentication method. */
static int take_token(struct mqtt_client *c, const struct mqtt_packet *p, struct slice *token,
                      struct err *e)
{
	const struct mqtt_props *props = &p->props;

	if (!mqtt_has(props, MQTT_PROP_AUTH_METHOD)) {
		*token = p->connect.password;
		return 0;
	}
	if (!slice_eq(props->auth_method, slice_str(mqtt_auth_method)))
		return err_set(
		        e, MQTT_REASON_BAD_AUTH_METHOD,
		        "the only authentication method is %s; or send the token as password",
		        mqtt_auth_method);
	c->auth_method = true;
	*token = mqtt_has(props, MQTT_PROP_AUTH_DATA) ? props->auth_data : p->connect.password;
	return 0;
}

static int authenticate(struct mqtt_client *c, const struct mqtt_packet *p, struct err *e)
{
	struct slice token = {0};

	if (take_token(c, p, &token, e) < 0 || take_client_id(c, &p->connect, e) < 0)
		return -1;
	if (c->insecure_tenant)
		return mqtt_auth_insecure(c, &c->who, e);
	if (!token.n && !c->auth_method)
		return mqtt_auth_certificate(c, &c->who, e);
	return mqtt_auth_token(c, token, &c->who, e);
}

/* Does it take the place of a connection of its own, that broke perhaps without our hearing? */
static bool replaces(const struct mqtt_client *c)
{
	const struct mqtt_client *other;

	for (other = LIST_FIRST(&c->mqtt->clients); other; other = LIST_NEXT(other, link)) {
		if (other != c && other->guest.tenant && other->who.tenant == c->who.tenant &&
		    strcmp(other->client_id, c->client_id) == 0 &&
		    slice_eq(other->who.subject, c->who.subject))
			return true;
	}
	return false;
}

static int enter(struct mqtt_client *c, struct err *e)
{
	struct limits *l = c->mqtt->set.limits;
	bool instead = !limits_has_room(l, &c->who) && replaces(c);

	c->usage = usage_of(c->mqtt->set.usage, c->who.tenant->id);
	if (limits_enter(l, &c->guest, c->conn_id, &c->who, instead, e) == 0)
		return 0;
	usage_refused(c->usage, 1);
	e->code = MQTT_REASON_QUOTA_EXCEEDED;
	return -1;
}

/* ---- CONNACK --------------------------------------------------------------------------------- */

static void send_connack(struct mqtt_client *c, bool present)
{
	struct buf *out = &c->mqtt->out;
	struct mqtt_props props = {0};

	mqtt_set_receive_max(&props, MQTT_RECEIVE_MAX);
	mqtt_set_max_qos(&props, 1);
	mqtt_set_retain_available(&props, 0);
	mqtt_set_max_packet_size(&props, c->mqtt->set.max_packet);
	if (c->session_expiry_capped)
		mqtt_set_session_expiry_s(&props, c->session_expiry_s);
	if (c->keep_alive_capped)
		mqtt_set_server_keep_alive_s(&props, c->keep_alive_s);
	if (c->assigned_id)
		mqtt_set_assigned_client_id(&props, slice_str(c->client_id));
	if (c->auth_method)
		mqtt_set_auth_method(&props, slice_str(mqtt_auth_method));
	mqtt_encode_connack(out, c->version, present, MQTT_REASON_SUCCESS, &props);
	mqtt_client_send(c);
}

/* Filters were authorised when they were stored; the token may say otherwise now. */
static bool still_allowed(void *arg, struct slice filter)
{
	struct mqtt_client *c = arg;
	struct topic_filter f;

	if (topic_filter_parse(filter, &f, NULL) == 0 &&
	    ((f.kind == FILTER_QUEUE && !f.filter.n) || acl_may_subscribe(c->who.acl, f.filter)))
		return true; /* a queue's own filter is judged when it is known */
	log_info("mqtt", "%s filter=%s dropped: the token does not allow it any more",
	         mqtt_client_name(c), log_quote(filter.p, filter.n));
	return false;
}

static void on_opened(void *conn, struct session *s, bool present, uint8_t reason, const char *text)
{
	struct mqtt_client *c = conn;

	if (!s) {
		mqtt_client_set_state(c, MQTT_AWAIT_CONNECT); /* nothing is being opened any more */
		mqtt_connect_refuse(c, c->version, reason, text ? text : mqtt_reason_text(reason));
		return;
	}
	c->session = s;
	c->present = present;
	c->will_stored = mqtt_will_store(c, present);
	if (!c->will_stored || BUG("will-after-connack"))
		mqtt_connect_finish(c);
}

void mqtt_connect_finish(struct mqtt_client *c)
{
	struct session *s = c->session;
	bool present = c->present;

	mqtt_client_set_state(c, MQTT_CONNECTED);
	c->mqtt->stats.connects++;
	log_debug("mqtt", "%s version=%u present=%d keep_alive_s=%u expiry_s=%u connected",
	          mqtt_client_name(c), c->version, present, c->keep_alive_s, c->session_expiry_s);
	send_connack(c, present);
	if (present) {
		session_filters_check(s, still_allowed, c);
		mqtt_filters_changed(c);
	}
	session_start(s);
	mqtt_client_arm(c);
	conn_resume_read(c->conn, CONN_PAUSE_SESSION);
}

static void open_session(struct mqtt_client *c, const struct mqtt_packet *p)
{
	struct session_open req = {
	        .tenant = c->who.tenant,
	        .subject = c->who.subject,
	        .client_id = slice_str(c->client_id),
	        .clean_start = c->clean_start,
	        .expiry_s = c->session_expiry_s,
	        .receive_max = mqtt_has(&p->props, MQTT_PROP_RECEIVE_MAX) ? p->props.receive_max
	                                                                  : UINT16_MAX,
	        .conn_id = c->conn_id,
	        .ops = &mqtt_session_ops,
	        .conn = c,
	        .done = on_opened,
	};

	mqtt_client_set_state(c, MQTT_OPENING);
	conn_pause_read(c->conn, CONN_PAUSE_SESSION);
	conn_set_max_pending(c->conn, c->mqtt->set.max_packet);
	conn_set_deadline(c->conn, c->mqtt->set.opening_ms, 0);
	session_open(c->mqtt->set.dispatch, &req);
}

void mqtt_on_connect(struct mqtt_client *c, const struct mqtt_packet *p)
{
	struct err e;

	c->version = p->connect.version;
	take_limits(c, p);
	if (c->mqtt->stopping) {
		mqtt_connect_refuse(c, c->version, MQTT_REASON_SERVER_UNAVAILABLE,
		                    "this node is shutting down: connect again to reach another");
		return;
	}
	/* Who comes first: what the server can and cannot do is told to those it knows. */
	if (authenticate(c, p, &e) < 0 || enter(c, &e) < 0 ||
	    mqtt_will_take(c, &p->connect.will, &e) < 0) {
		mqtt_connect_refuse(c, c->version, (uint8_t)e.code, e.text);
		return;
	}
	conn_set_accounts(c->conn, timeshare_account(c->mqtt->set.reading, c->who.tenant->id),
	                  timeshare_account(c->mqtt->set.writing, c->who.tenant->id));
	open_session(c, p);
}

/* ---- AUTH: a new token on a living connection ------------------------------------------------ */

static int renew(struct mqtt_client *c, const struct mqtt_packet *p, struct err *e)
{
	struct claims fresh;
	const struct mqtt_props *props = &p->props;

	if (!c->auth_method)
		return err_set(e, MQTT_REASON_PROTOCOL_ERROR,
		               "AUTH needs a CONNECT with authentication method %s",
		               mqtt_auth_method);
	if (p->disconnect.reason != MQTT_REASON_RE_AUTHENTICATE)
		return err_set(e, MQTT_REASON_PROTOCOL_ERROR,
		               "AUTH 0x19 (re-authenticate) is the only one expected");
	if (!mqtt_has(props, MQTT_PROP_AUTH_METHOD) ||
	    !slice_eq(props->auth_method, slice_str(mqtt_auth_method)))
		return err_set(e, MQTT_REASON_PROTOCOL_ERROR,
		               "the authentication method must stay %s", mqtt_auth_method);
	if (mqtt_auth_token(c, props->auth_data, &fresh, e) < 0) {
		if (e->code == MQTT_REASON_BAD_CREDENTIALS || e->code == MQTT_REASON_BANNED)
			e->code = MQTT_REASON_NOT_AUTHORIZED; /* those are CONNACK's alone */
		return -1;
	}
	if (fresh.tenant != c->who.tenant || !slice_eq(fresh.subject, c->who.subject)) {
		claims_release(&fresh);
		return err_set(e, MQTT_REASON_NOT_AUTHORIZED,
		               "the new token is for another tenant or subject");
	}
	claims_release(&c->who);
	c->who = fresh;
	limits_renew(c->mqtt->set.limits, &c->guest, &c->who);
	return 0;
}

void mqtt_on_auth(struct mqtt_client *c, const struct mqtt_packet *p)
{
	struct mqtt_props props = {0};
	struct err e;

	if (c->insecure_tenant) {
		mqtt_client_fail(c, MQTT_REASON_PROTOCOL_ERROR,
		                 "AUTH on a listener without tokens");
		return;
	}
	if (renew(c, p, &e) < 0) {
		mqtt_client_fail(c, (uint8_t)e.code, "%s", e.text);
		return;
	}
	session_filters_check(c->session, still_allowed, c);
	mqtt_filters_changed(c);
	mqtt_client_arm(c);
	mqtt_set_auth_method(&props, slice_str(mqtt_auth_method));
	mqtt_encode_auth(&c->mqtt->out, MQTT_REASON_SUCCESS, &props);
	mqtt_client_send(c);
}
