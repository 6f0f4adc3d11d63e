/* The MQTT machine between a socket and fakes of session, dispatch and appender: bytes in, bytes
 * out. Tokens, topics and the connection are the real ones. */
#include "node/mqtt/mqtt.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/session.h"
#include "node/mqtt/mqtt_codec.h"
#include "tenancy/token_mint.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_PACKET = 64 * 1024, PUBLISHED_MAX = 2000, OPENING_MS = 1000 };

/* ---- fakes ----------------------------------------------------------------------------------- */

struct session {
	const struct session_conn_ops *ops;
	void *conn;
	uint64_t conn_id;
	uint32_t expiry_s;
	bool started;
};

static struct {
	struct loop *loop;
	struct session session;
	struct session_open open; /* the last request; its slices copied below */
	char subject[64];
	char client_id[300];
	bool refuse_open;
	bool hold_open; /* never answer */
	bool present;
	bool cancelled;
	int detached;
	uint32_t detached_expiry_s;
	int filters_kept;
	int filters_dropped;
	const char *stored_filter;

	struct session_filter subscribed;
	char subscribed_text[64];
	enum session_start_at start;
	uint64_t start_value;
	bool bounded;
	enum session_start_at until;
	uint64_t until_value;
	uint16_t acked_id;
	uint8_t acked_reason;

	struct publisher from[PUBLISHED_MAX];
	size_t published;
	int told; /* of a limit */
	bool pause;
	struct event last; /* its texts copied below */
	char texts[12][64];
} fake;

static void fake_opened(void *arg)
{
	struct session *s = &fake.session;

	(void)arg;
	if (fake.cancelled || fake.hold_open)
		return;
	if (fake.refuse_open)
		fake.open.done(fake.open.conn, NULL, false, MQTT_REASON_SERVER_BUSY, "try later");
	else
		fake.open.done(fake.open.conn, s, fake.present, 0, NULL);
}

void session_open(struct dispatch *d, const struct session_open *req)
{
	(void)d;
	fake.open = *req;
	snprintf(fake.subject, sizeof fake.subject, "%.*s", (int)req->subject.n, req->subject.p);
	snprintf(fake.client_id, sizeof fake.client_id, "%.*s", (int)req->client_id.n,
	         req->client_id.p);
	fake.session = (struct session){.ops = req->ops,
	                                .conn = req->conn,
	                                .conn_id = req->conn_id,
	                                .expiry_s = req->expiry_s};
	loop_defer(fake.loop, fake_opened, NULL);
}

void session_start(struct session *s)
{
	s->started = true;
}

void session_detach(struct session *s, uint32_t expiry_s)
{
	s->conn = NULL;
	fake.detached++;
	fake.detached_expiry_s = expiry_s;
}

void session_open_cancel(struct dispatch *d, uint64_t conn_id)
{
	(void)d;
	assert_int_equal(conn_id, fake.open.conn_id);
	fake.cancelled = true;
}

void session_subscribe(struct session *s, const struct session_subscribe *req)
{
	uint8_t reasons[1000];

	for (size_t i = 0; i < req->n; i++)
		reasons[i] = req->filters[i].reason;
	fake.subscribed = req->filters[0];
	snprintf(fake.subscribed_text, sizeof fake.subscribed_text, "%.*s",
	         (int)req->filters[0].filter.n, req->filters[0].filter.p);
	fake.start = req->start;
	fake.start_value = req->start_value;
	fake.bounded = req->bounded;
	fake.until = req->until;
	fake.until_value = req->until_value;
	req->done(s->conn, req->packet_id, reasons, req->n, NULL);
}

void session_unsubscribe(struct session *s, const struct session_unsubscribe *req)
{
	uint8_t reasons[1000] = {0};

	reasons[req->n - 1] = MQTT_REASON_NO_SUBSCRIPTION_EXISTED;
	req->done(s->conn, req->packet_id, reasons, req->n, NULL);
}

void session_filters_check(struct session *s, bool (*fn)(void *arg, struct slice filter), void *arg)
{
	(void)s;
	if (!fake.stored_filter)
		return;
	if (fn(arg, slice_str(fake.stored_filter)))
		fake.filters_kept++;
	else
		fake.filters_dropped++;
}

bool session_answer(struct session *s, uint16_t packet_id, uint8_t reason, struct slice text)
{
	(void)s;
	(void)text;
	fake.acked_id = packet_id;
	fake.acked_reason = reason;
	return true;
}

void session_writable(struct session *s)
{
	(void)s;
}

static const char *keep(int i, struct slice s)
{
	snprintf(fake.texts[i], sizeof fake.texts[i], "%.*s", (int)s.n, s.p ? s.p : "");
	return fake.texts[i];
}

bool appender_publish(struct appender *a, const struct tenant *t, const struct event *ev,
                      struct publisher from)
{
	(void)a;
	assert_string_equal(t->name, "acme");
	fake.last = *ev;
	fake.last.topic = slice_str(keep(0, ev->topic));
	fake.last.payload = slice_str(keep(1, ev->payload));
	fake.last.key = slice_str(keep(2, ev->key));
	fake.last.id = slice_str(keep(3, ev->id));
	fake.last.source = slice_str(keep(4, ev->source));
	fake.last.type = slice_str(keep(5, ev->type));
	fake.last.subject = slice_str(keep(6, ev->subject));
	fake.last.correlation_id = slice_str(keep(7, ev->correlation_id));
	fake.last.causation_id = slice_str(keep(8, ev->causation_id));
	fake.last.client = slice_str(keep(9, ev->client));
	assert_true(fake.published < PUBLISHED_MAX);
	fake.from[fake.published++] = from;
	return fake.pause;
}

/* ---- the rig --------------------------------------------------------------------------------- */

static struct rig {
	struct loop *loop;
	struct conn_table *conns;
	struct registry *registry;
	struct limits *limits;
	struct mqtt *mqtt;
	void *with_tokens;
	void *without_tokens;
	int fd; /* the client's end; -1 = none */
	struct buf got;
	bool closed; /* the server closed */
	struct buf out;
	struct mqtt_packet p; /* the last packet taken; points into taken */
	struct buf taken;
	uint8_t version;
} rig;

static const char secret[] = "0123456789abcdef0123456789abcdef";
static char token[2048];
static struct tenant tenants[] = {
        {.id = 7, .weight = 1, .partitions = 1, .state = TENANT_ACTIVE, .name = "acme"}};
static struct registry_key_row keys[1];

static uint64_t now_s(void)
{
	return clock_wall_ms_now() / 1000;
}

static void on_change(void *arg, const struct tenant *t, enum registry_change what, uint64_t key_id)
{
	(void)arg;
	if (rig.mqtt)
		mqtt_on_registry_change(rig.mqtt, t, what, key_id);
}

static const char *mint_for(const char *subject, uint64_t expires_s)
{
	static const char *const publish[] = {"out/#"};
	static const char *const subscribe[] = {"in/#", "dev/${clientid}/+"};
	struct token_spec spec = {
	        .kid = "k1",
	        .issuer = "acme",
	        .subject = subject,
	        .audience = "leat",
	        .issued_s = expires_s - 60,
	        .expires_s = expires_s,
	        .publish = publish,
	        .publish_count = 1,
	        .subscribe = subscribe,
	        .subscribe_count = 2,
	};
	struct err e;
	struct jws_key *key = jws_key_private(JWS_HS256, slice_str(secret), &e);
	struct buf out = {0};

	assert_non_null(key);
	assert_int_equal(token_mint(key, &spec, &out, &e), 0);
	snprintf(token, sizeof token, "%.*s", (int)out.len, out.data);
	buf_release(&out);
	jws_key_free(key);
	return token;
}

static const char *mint(void)
{
	return mint_for("alice", now_s() + 50);
}

static void on_room(void *arg, uint64_t conn_id)
{
	(void)arg;
	mqtt_on_rate_room(rig.mqtt, conn_id);
}

static void on_told(void *arg, const struct tenant *t, const char *topic, struct slice json)
{
	(void)arg;
	(void)topic;
	(void)json;
	assert_string_equal(t->name, "acme");
	fake.told++;
}

static void on_usage(void *arg, uint64_t conn_id, struct slice json)
{
	(void)arg;
	mqtt_on_usage(rig.mqtt, conn_id, json);
}

static int setup(void **state)
{
	struct mqtt_settings set = {.token = TOKEN_SETTINGS_DEFAULT,
	                            .max_packet = MAX_PACKET,
	                            .session_expiry_max_s = 1000,
	                            .keep_alive_max_s = 600,
	                            .opening_ms = OPENING_MS};

	(void)state;
	memset(&fake, 0, sizeof fake);
	memset(&rig, 0, sizeof rig);
	tenants[0].state = TENANT_ACTIVE;
	tenants[0].limits = (struct tenant_limits){0};
	keys[0] = (struct registry_key_row){.tenant_id = 7,
	                                    .alg = JWS_HS256,
	                                    .issuer = slice_str("acme"),
	                                    .kid = slice_str("k1"),
	                                    .material = slice_str(secret)};
	rig.fd = -1;
	rig.loop = fake.loop = loop_new();
	rig.conns = conn_table_new(rig.loop);
	rig.registry = registry_new(on_change, NULL);
	registry_apply(rig.registry, tenants, 1, keys, 1);
	set.loop = rig.loop;
	set.conns = rig.conns;
	set.registry = rig.registry;
	set.limits = rig.limits = limits_new(&(struct limits_settings){.loop = rig.loop,
	                                                               .registry = rig.registry,
	                                                               .node = "n",
	                                                               .on_room = on_room,
	                                                               .publish = on_told,
	                                                               .on_usage = on_usage});
	rig.mqtt = mqtt_new(&set);
	rig.with_tokens = mqtt_listener_arg(rig.mqtt, NULL);
	rig.without_tokens = mqtt_listener_arg(rig.mqtt, "acme");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (rig.fd >= 0)
		close(rig.fd);
	conn_table_free(rig.conns);
	mqtt_free(rig.mqtt);
	limits_free(rig.limits);
	registry_free(rig.registry);
	loop_free(rig.loop);
	buf_release(&rig.got);
	buf_release(&rig.out);
	buf_release(&rig.taken);
	return 0;
}

static void pump(void)
{
	for (int i = 0; i < 6; i++) {
		char part[4096];
		ssize_t n;

		loop_again(rig.loop);
		loop_turn(rig.loop);
		while ((n = read(rig.fd, part, sizeof part)) > 0)
			buf_append(&rig.got, part, (size_t)n);
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			rig.closed = true;
	}
}

static void dial(void *listener_arg)
{
	int fds[2];

	if (rig.fd >= 0)
		close(rig.fd);
	buf_clear(&rig.got);
	rig.closed = false;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
	                 0);
	rig.fd = fds[0];
	conn_accept(rig.conns, fds[1], NULL, mqtt_conn_ops(), listener_arg);
	pump();
}

static void send_bytes(const void *p, size_t n)
{
	while (n) {
		ssize_t sent = write(rig.fd, p, n);

		if (sent > 0) {
			p = (const char *)p + sent;
			n -= (size_t)sent;
		} else if (errno == EPIPE) {
			return;
		}
		pump();
	}
	pump();
}

static void send_out(void)
{
	send_bytes(rig.out.data, rig.out.len);
	buf_clear(&rig.out);
}

/* Take the next packet the server sent; false = none. */
static bool take(void)
{
	struct mqtt_side side = {
	        .version = rig.version, .from_server = true, .max_packet = MQTT_VARINT_MAX};
	struct mqtt_bad bad = {.text = ""};
	enum mqtt_result r = mqtt_decode(&side, rig.got.data, rig.got.len, &rig.p, &bad);

	if (r == MQTT_NEED_MORE) {
		assert_int_equal(rig.got.len, 0);
		return false;
	}
	if (r == MQTT_BAD)
		fail_msg("the server sent a bad packet: %s", bad.text);
	buf_clear(&rig.taken);
	buf_append(&rig.taken, rig.got.data, rig.p.size);
	buf_consume(&rig.got, rig.p.size);
	assert_int_equal(mqtt_decode(&side, rig.taken.data, rig.taken.len, &rig.p, &bad),
	                 MQTT_PACKET);
	return true;
}

static void expect(enum mqtt_type type)
{
	if (!take())
		fail_msg("no packet; wanted %s", mqtt_type_name(type));
	if (rig.p.type != type)
		fail_msg("got %s, wanted %s", mqtt_type_name(rig.p.type), mqtt_type_name(type));
}

/* The reason string contains this. */
static void expect_why(const char *part)
{
	char text[512];

	assert_true(mqtt_has(&rig.p.props, MQTT_PROP_REASON_STRING));
	snprintf(text, sizeof text, "%.*s", (int)rig.p.props.reason_string.n,
	         rig.p.props.reason_string.p);
	if (!strstr(text, part))
		fail_msg("the reason is '%s', and does not say '%s'", text, part);
}

static void expect_disconnect(uint8_t reason, const char *why)
{
	pump();
	expect(MQTT_DISCONNECT);
	assert_int_equal(rig.p.disconnect.reason, reason);
	expect_why(why);
	assert_false(take());
}

static void expect_closed(void)
{
	shutdown(rig.fd, SHUT_WR); /* the server waits for our FIN */
	pump();
	assert_true(rig.closed);
	assert_int_equal(conn_count(rig.conns), 0);
}

struct connect {
	struct mqtt_connect c;
	struct mqtt_props props;
};

static struct connect hello(uint8_t version)
{
	struct connect h = {.c = {.version = version,
	                          .clean_start = true,
	                          .has_username = true,
	                          .has_password = true,
	                          .keep_alive_s = 60,
	                          .client_id = slice_str("c1"),
	                          .username = slice_str("anyone"),
	                          .password = slice_str(mint())}};

	rig.version = version;
	return h;
}

static void send_connect(const struct connect *h)
{
	mqtt_encode_connect(&rig.out, &h->c, &h->props);
	send_out();
}

static void connected(uint8_t version)
{
	struct connect h = hello(version);

	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	assert_int_equal(rig.p.connack.reason, 0);
}

/* ---- CONNECT --------------------------------------------------------------------------------- */

static void test_connect_v5(void **state)
{
	const struct mqtt_props *p = &rig.p.props;
	struct connect h = hello(MQTT_V5);

	(void)state;
	mqtt_set_session_expiry_s(&h.props, 5000); /* above the server's maximum */
	mqtt_set_receive_max(&h.props, 17);
	h.c.keep_alive_s = 700;
	h.c.clean_start = false;
	fake.present = true;
	fake.stored_filter = "in/x";
	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	assert_true(rig.p.connack.session_present);
	assert_int_equal(p->session_expiry_s, 1000);
	assert_int_equal(p->server_keep_alive_s, 600);
	assert_true(mqtt_has(p, MQTT_PROP_MAX_QOS));
	assert_int_equal(p->max_qos, 1);
	assert_int_equal(p->receive_max, 1024);
	assert_int_equal(p->max_packet_size, MAX_PACKET);
	assert_true(mqtt_has(p, MQTT_PROP_RETAIN_AVAILABLE));
	assert_int_equal(p->retain_available, 0);
	assert_false(mqtt_has(p, MQTT_PROP_ASSIGNED_CLIENT_ID));
	assert_string_equal(fake.subject, "alice");
	assert_string_equal(fake.client_id, "c1");
	assert_int_equal(fake.open.receive_max, 17);
	assert_int_equal(fake.open.expiry_s, 1000);
	assert_false(fake.open.clean_start);
	assert_true(fake.session.started);
	assert_int_equal(fake.filters_kept, 2); /* asked whether it may stay, and counted */
}

static void test_connect_v311(void **state)
{
	static const uint8_t connack[] = {0x20, 2, 0, 0};
	struct connect h = hello(MQTT_V311);

	(void)state;
	h.c.clean_start = false;
	dial(rig.with_tokens);
	send_connect(&h);
	assert_int_equal(rig.got.len, sizeof connack);
	assert_memory_equal(rig.got.data, connack, sizeof connack);
	assert_int_equal(fake.open.expiry_s, 1000); /* for good is the server's maximum */
}

static void test_assigned_id(void **state)
{
	struct connect h = hello(MQTT_V5);

	(void)state;
	h.c.client_id = slice(NULL, 0);
	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	assert_int_equal(rig.p.props.assigned_client_id.n, 37);
	assert_memory_equal(rig.p.props.assigned_client_id.p, "auto-", 5);
}

/* One row a refusal: what is changed in a good CONNECT, the answer's code and words. */
static struct connect bad_token(struct connect h)
{
	h.c.password = slice_str("not a token");
	return h;
}
static struct connect no_token(struct connect h)
{
	h.c.has_password = false;
	h.c.password = slice(NULL, 0);
	return h;
}
static struct connect expired(struct connect h)
{
	h.c.password = slice_str(mint_for("alice", now_s() - 1));
	return h;
}
static struct connect with_will(struct connect h)
{
	h.c.will.present = true;
	h.c.will.topic = slice_str("out/will");
	return h;
}
static struct connect will_of_ours(struct connect h)
{
	h = with_will(h);
	h.c.will.topic = slice_str("$SYS/will");
	return h;
}

static struct connect will_qos2(struct connect h)
{
	h = with_will(h);
	h.c.will.qos = 2;
	return h;
}
static struct connect will_retain(struct connect h)
{
	h = with_will(h);
	h.c.will.retain = true;
	return h;
}
static struct connect other_method(struct connect h)
{
	mqtt_set_auth_method(&h.props, slice_str("SCRAM-SHA-1"));
	return h;
}
static struct connect long_id(struct connect h)
{
	static char id[256];

	memset(id, 'x', sizeof id);
	h.c.client_id = slice(id, sizeof id);
	return h;
}
static struct connect wild_id(struct connect h) /* the acl puts it into a topic */
{
	h.c.client_id = slice_str("a/#");
	return h;
}
static struct connect busy(struct connect h)
{
	fake.refuse_open = true;
	return h;
}

static const struct refusal {
	struct connect (*change)(struct connect);
	uint8_t v5;
	uint8_t v311; /* 0xff = there is no such thing in 3.1.1 */
	const char *why;
} refusals[] = {
        {bad_token, MQTT_REASON_BAD_CREDENTIALS, 4, "JWT"},
        {no_token, MQTT_REASON_BAD_CREDENTIALS, 4, "send a JWT as the password"},
        {expired, MQTT_REASON_NOT_AUTHORIZED, 5, "expired"},
        {will_of_ours, MQTT_REASON_TOPIC_NAME_INVALID, 5, "$"},
        {will_qos2, MQTT_REASON_QOS_NOT_SUPPORTED, 5, "Maximum QoS is 1"},
        {will_retain, MQTT_REASON_RETAIN_NOT_SUPPORTED, 5, "retained wills"},
        {other_method, MQTT_REASON_BAD_AUTH_METHOD, 0xff, "OAUTH2-JWT"},
        {long_id, MQTT_REASON_BAD_CLIENT_ID, 2, "255"},
        {wild_id, MQTT_REASON_NOT_AUTHORIZED, 5, "client"},
        {busy, MQTT_REASON_SERVER_BUSY, 3, "try later"},
};

static void test_connect_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
		const struct refusal *r = &refusals[i];
		struct connect h = r->change(hello(MQTT_V5));

		dial(rig.with_tokens);
		send_connect(&h);
		expect(MQTT_CONNACK);
		assert_int_equal(rig.p.connack.reason, r->v5);
		expect_why(r->why);
		expect_closed();
		assert_int_equal(mqtt_get_stats(rig.mqtt)->connect_refused[r->v5] > 0, 1);
	}
	assert_int_equal(mqtt_get_stats(rig.mqtt)->connects, 0);
	assert_false(fake.session.started);
}

static void test_connect_refused_v311(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
		const struct refusal *r = &refusals[i];
		struct connect h;

		if (r->change == other_method)
			continue;
		h = r->change(hello(MQTT_V311));
		if (!h.c.has_password)
			h.c.has_username = false;
		dial(rig.with_tokens);
		send_connect(&h);
		assert_int_equal(rig.got.len, 4);
		assert_int_equal(rig.got.data[3], r->v311);
		expect_closed();
	}
}

static void test_suspended(void **state)
{
	struct connect h;

	(void)state;
	tenants[0].state = TENANT_SUSPENDED;
	registry_apply(rig.registry, tenants, 1, keys, 1);
	h = hello(MQTT_V5);
	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	assert_int_equal(rig.p.connack.reason, MQTT_REASON_BANNED);
	expect_closed();
}

/* First packets that are no CONNECT, or not one of ours: hex in, hex out. */
static const struct first {
	const char *name;
	const char *in;
	size_t n;
	const char *out;
	size_t out_n;
} firsts[] = {
        {"PINGREQ", "\xc0\x00", 2, "", 0},
        {"nonsense", "GET / HTTP/1.1\r\n", 16, "", 0},
        {"MQTT 3.1", "\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00", 16, "\x20\x02\x00\x01", 4},
        {"level 6", "\x10\x0c\x00\x04MQTT\x06\x02\x00\x00\x00\x00", 14, NULL, 0},
        {"64 KB in 3.1.1", "\x10\x80\x80\x04\x00\x04MQTT\x04\xc2\x00\x00", 14, "\x20\x02\x00\x03",
         4},
        {"256 MB", "\x10\xff\xff\xff\x7f", 5, "", 0},
};

static void test_first_packet(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof firsts / sizeof firsts[0]; i++) {
		const struct first *f = &firsts[i];

		dial(rig.with_tokens);
		send_bytes(f->in, f->n);
		if (f->out && !slice_eq(buf_slice(&rig.got), slice(f->out, f->out_n)))
			fail_msg("%s: %zu bytes of answer", f->name, rig.got.len);
		expect_closed();
	}
}

static void test_insecure(void **state)
{
	struct connect h = no_token(hello(MQTT_V5));

	(void)state;
	h.c.has_username = false;
	dial(rig.without_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	assert_int_equal(rig.p.connack.reason, 0);
	assert_string_equal(fake.subject, "insecure");
}

/* ---- AUTH ------------------------------------------------------------------------------------ */

static void send_auth(const char *data)
{
	struct mqtt_props props = {0};

	mqtt_set_auth_method(&props, slice_str("OAUTH2-JWT"));
	mqtt_set_auth_data(&props, slice_str(data));
	mqtt_encode_auth(&rig.out, MQTT_REASON_RE_AUTHENTICATE, &props);
	send_out();
}

static void connect_with_method(void)
{
	struct connect h = no_token(hello(MQTT_V5));

	h.c.has_username = false;
	mqtt_set_auth_method(&h.props, slice_str("OAUTH2-JWT"));
	mqtt_set_auth_data(&h.props, slice_str(mint()));
	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	assert_int_equal(rig.p.connack.reason, 0);
	assert_int_equal(rig.p.props.auth_method.n, 10);
}

static void test_auth_renews(void **state)
{
	(void)state;
	fake.stored_filter = "elsewhere";
	connect_with_method();
	send_auth(mint_for("alice", now_s() + 55));
	expect(MQTT_AUTH);
	assert_int_equal(rig.p.disconnect.reason, 0);
	assert_int_equal(fake.filters_dropped, 1);
}

static void test_auth_other_subject(void **state)
{
	(void)state;
	connect_with_method();
	send_auth(mint_for("mallory", now_s() + 55));
	expect_disconnect(MQTT_REASON_NOT_AUTHORIZED, "another tenant or subject");
	expect_closed();
	assert_int_equal(fake.detached, 1);
}

static void test_auth_without_method(void **state)
{
	(void)state;
	connected(MQTT_V5);
	send_auth(mint());
	expect_disconnect(MQTT_REASON_PROTOCOL_ERROR, "AUTH needs a CONNECT");
}

/* ---- the registry changes -------------------------------------------------------------------- */

static void test_key_gone(void **state)
{
	(void)state;
	connected(MQTT_V5);
	registry_apply(rig.registry, tenants, 1, NULL, 0);
	expect_disconnect(MQTT_REASON_NOT_AUTHORIZED, "revoked");
	expect_closed();
}

static void test_tenant_suspended(void **state)
{
	(void)state;
	connected(MQTT_V5);
	tenants[0].state = TENANT_SUSPENDED;
	registry_apply(rig.registry, tenants, 1, keys, 1);
	expect_disconnect(MQTT_REASON_ADMINISTRATIVE_ACTION, "suspended");
}

/* ---- PUBLISH --------------------------------------------------------------------------------- */

static void publish(uint8_t qos, uint16_t id, const char *topic, const char *payload,
                    struct slice props)
{
	struct mqtt_publish_out p = {.topic = slice_str(topic),
	                             .props = props,
	                             .payload_len = strlen(payload),
	                             .expiry_s = -1,
	                             .packet_id = id,
	                             .qos = qos};

	mqtt_encode_publish(&rig.out, rig.version, &p);
	buf_append_str(&rig.out, payload);
}

static void test_puback_in_order(void **state)
{
	static const uint8_t acks[] = {0x40, 2, 0, 9, 0x40, 2, 0, 3, 0x40, 2, 0, 7};

	(void)state;
	connected(MQTT_V5);
	publish(1, 9, "out/a", "1", slice(NULL, 0));
	publish(1, 3, "out/b", "2", slice(NULL, 0));
	publish(0, 0, "out/c", "x", slice(NULL, 0));
	publish(1, 7, "out/a", "3", slice(NULL, 0));
	send_out();
	assert_int_equal(fake.published, 4);
	assert_int_equal(fake.from[2].packet_id, 0);
	assert_int_equal(rig.got.len, 0); /* nothing before the commit */
	mqtt_on_answer(rig.mqtt, fake.from[3], APPEND_STORED, NULL);
	mqtt_on_answer(rig.mqtt, fake.from[1], APPEND_STORED, NULL);
	pump();
	assert_int_equal(rig.got.len, 0); /* the first is still under way */
	mqtt_on_answer(rig.mqtt, fake.from[2], APPEND_STORED, NULL);
	mqtt_on_answer(rig.mqtt, fake.from[0], APPEND_STORED, NULL);
	pump();
	assert_int_equal(rig.got.len, sizeof acks);
	assert_memory_equal(rig.got.data, acks, sizeof acks);
	assert_int_equal(mqtt_get_stats(rig.mqtt)->acknowledged, 3);
}

/* Events that are refused by themselves: PUBACK code and reason string; the connection stays. */
static void test_publish_refused(void **state)
{
	static const struct {
		const char *topic;
		const char *payload;
		uint8_t reason;
		const char *why;
	} rows[] = {
	        {"elsewhere", "x", MQTT_REASON_NOT_AUTHORIZED, "acl"},
	        {"$SYS/x", "x", MQTT_REASON_TOPIC_NAME_INVALID, "$"},
	        {"out/a", "four+", MQTT_REASON_QUOTA_EXCEEDED, "5 bytes"},
	};

	(void)state;
	tenants[0].limits.max_event_bytes = 4;
	registry_apply(rig.registry, tenants, 1, keys, 1);
	connected(MQTT_V5);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		publish(1, 5, rows[i].topic, rows[i].payload, slice(NULL, 0));
		send_out();
		expect(MQTT_PUBACK);
		assert_int_equal(rig.p.ack.reason, rows[i].reason);
		expect_why(rows[i].why);
		if (rows[i].reason == MQTT_REASON_TOPIC_NAME_INVALID)
			continue; /* which ends it at QoS 0 */
		publish(0, 0, rows[i].topic, rows[i].payload, slice(NULL, 0));
		send_out();
		assert_int_equal(mqtt_get_stats(rig.mqtt)->publish_refused[rows[i].reason], 2);
	}
	assert_int_equal(fake.published, 0);
	assert_false(rig.closed);
}

/* There is no PUBACK to say it with: what can never be understood is not discarded in silence. */
static void test_publish_not_understood_qos_0(void **state)
{
	static const char *const topics[] = {"$delayed/abc/t", "$delayed/5", "$SYS/x"};

	(void)state;
	for (size_t i = 0; i < 6; i++) {
		uint8_t version = i % 2 ? MQTT_V5 : MQTT_V311;

		connected(version);
		publish(0, 0, topics[i / 2], "x", slice(NULL, 0));
		send_out();
		if (version == MQTT_V5) {
			expect(MQTT_DISCONNECT);
			assert_int_equal(rig.p.disconnect.reason, MQTT_REASON_TOPIC_NAME_INVALID);
			expect_why("$");
		}
		expect_closed();
		assert_int_equal(
		        mqtt_get_stats(rig.mqtt)->publish_refused[MQTT_REASON_TOPIC_NAME_INVALID],
		        i + 1);
	}
	assert_int_equal(fake.published, 0);
}

/* ---- limits ---------------------------------------------------------------------------------- */

static void set_limits(struct tenant_limits l)
{
	tenants[0].limits = l;
	registry_apply(rig.registry, tenants, 1, keys, 1);
	limits_on_tenant(rig.limits, registry_tenant(rig.registry, tenants[0].id));
}

static void connect_as(const char *client_id, uint8_t version)
{
	struct connect h = hello(version);

	h.c.client_id = slice_str(client_id);
	send_connect(&h);
}

static void test_limit_of_connections(void **state)
{
	static const uint8_t unavailable[] = {0x20, 2, 0, 3};
	int first;

	(void)state;
	set_limits((struct tenant_limits){.max_connections = 1});
	connected(MQTT_V5);
	first = rig.fd;
	rig.fd = -1; /* it stays */
	dial(rig.with_tokens);
	connect_as("c2", MQTT_V5);
	expect(MQTT_CONNACK);
	assert_int_equal(rig.p.connack.reason, MQTT_REASON_QUOTA_EXCEEDED);
	expect_why("1 of 1 connections");
	assert_int_equal(fake.told, 1);
	dial(rig.with_tokens);
	connect_as("c2", MQTT_V311);
	assert_memory_equal(rig.got.data, unavailable, sizeof unavailable);
	dial(rig.with_tokens);
	connect_as("c1", MQTT_V5); /* the same client, whose other connection may be broken */
	expect(MQTT_CONNACK);
	assert_int_equal(rig.p.connack.reason, 0);
	close(first);
}

/* At one a second: the first at once, and one for each second that this machine took, of which one
 * may have begun before. */
static void assert_let_in(size_t n, uint64_t since_ms)
{
	assert_in_range(n, 1, 2 + (clock_now_ms() - since_ms) / 1000);
}

static void test_limit_of_rate(void **state)
{
	uint64_t since = clock_now_ms();
	uint64_t refused;

	(void)state;
	set_limits((struct tenant_limits){.max_events_per_s = 1});
	connected(MQTT_V5);
	for (int i = 1; i <= 3; i++)
		publish(1, (uint16_t)i, "out/a", "x", slice(NULL, 0));
	send_out();
	assert_let_in(fake.published, since); /* the others are not read */
	assert_int_equal(rig.got.len, 0);
	set_limits((struct tenant_limits){0});
	pump();
	assert_int_equal(fake.published, 3);

	since = clock_now_ms();
	set_limits((struct tenant_limits){.max_events_per_s = 1});
	for (int i = 4; i < 40; i++) /* more than five seconds' worth */
		publish(1, (uint16_t)i, "out/a", "x", slice(NULL, 0));
	send_out();
	refused = mqtt_get_stats(rig.mqtt)->publish_refused[MQTT_REASON_QUOTA_EXCEEDED];
	assert_let_in(fake.published - 3, since);
	assert_in_range(refused, 34 - fake.published, 30);
	assert_false(rig.closed);
}

static void test_limit_of_rate_holds_up_who_cannot_be_told(void **state)
{
	uint64_t since = clock_now_ms();

	(void)state;
	set_limits((struct tenant_limits){.max_events_per_s = 1});
	connected(MQTT_V311);
	for (int i = 1; i < 40; i++)
		publish(i % 2, (uint16_t)i, "out/a", "x", slice(NULL, 0));
	send_out();
	assert_let_in(fake.published, since);
	assert_int_equal(mqtt_get_stats(rig.mqtt)->publish_refused[MQTT_REASON_QUOTA_EXCEEDED], 0);
	assert_false(rig.closed);
	assert_int_equal(mqtt_get_stats(rig.mqtt)->clients, 1);
}

static void test_publish_denied_v311(void **state)
{
	(void)state;
	connected(MQTT_V311);
	publish(1, 5, "elsewhere", "x", slice(NULL, 0));
	send_out();
	assert_int_equal(rig.got.len, 0); /* no PUBACK: that would say it was taken */
	expect_closed();
}

static void test_journal_refuses(void **state)
{
	(void)state;
	connected(MQTT_V5);
	publish(1, 5, "out/a", "x", slice(NULL, 0));
	send_out();
	mqtt_on_answer(rig.mqtt, fake.from[0], APPEND_REFUSED, "too heavy");
	pump();
	expect(MQTT_PUBACK);
	assert_int_equal(rig.p.ack.reason, MQTT_REASON_IMPLEMENTATION_ERROR);
	expect_why("too heavy");
}

static void test_no_problem_info(void **state)
{
	struct connect h = hello(MQTT_V5);

	(void)state;
	mqtt_set_request_problem_info(&h.props, 0);
	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	publish(1, 5, "elsewhere", "x", slice(NULL, 0));
	send_out();
	expect(MQTT_PUBACK);
	assert_int_equal(rig.p.ack.reason, MQTT_REASON_NOT_AUTHORIZED);
	assert_false(mqtt_has(&rig.p.props, MQTT_PROP_REASON_STRING));
}

static void test_protocol_errors(void **state)
{
	static const struct {
		const char *in;
		size_t n;
		uint8_t reason;
		const char *why;
	} rows[] = {
	        {"\x34\x0a\x00\x05out/a\x00\x01\x00", 12, MQTT_REASON_QOS_NOT_SUPPORTED, "QoS 2"},
	        {"\x31\x08\x00\x05out/a\x00", 10, MQTT_REASON_RETAIN_NOT_SUPPORTED, "retained"},
	        {"\x30\x0b\x00\x05out/a\x03\x23\x00\x01", 13, MQTT_REASON_TOPIC_ALIAS_INVALID,
	         "Topic Alias Maximum"},
	        {"\x62\x02\x00\x01", 4, MQTT_REASON_PROTOCOL_ERROR, "PUBREL"},
	        {"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00", 15, MQTT_REASON_PROTOCOL_ERROR,
	         "CONNECT"},
	        {"\x82\x13\x00\x01\x00\x00\x0d$share/g/in/x\x05", 21, MQTT_REASON_PROTOCOL_ERROR,
	         ""},
	        {"\xe0\x07\x00\x05\x11\x00\x00\x00\x09", 9, MQTT_REASON_PROTOCOL_ERROR, "expiry"},
	        {"\x30\xff\xff\xff\x7f", 5, MQTT_REASON_PACKET_TOO_LARGE, ""},
	        {"\xf1\x00", 2, MQTT_REASON_MALFORMED_PACKET, ""},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		connected(MQTT_V5);
		send_bytes(rows[i].in, rows[i].n);
		pump();
		expect(MQTT_DISCONNECT);
		if (rig.p.disconnect.reason != rows[i].reason)
			fail_msg("row %zu: 0x%02x, not 0x%02x", i, rig.p.disconnect.reason,
			         rows[i].reason);
		expect_why(rows[i].why);
		expect_closed();
		assert_int_equal(fake.detached, (int)i + 1);
	}
}

static void test_receive_maximum(void **state)
{
	(void)state;
	connected(MQTT_V5);
	for (int i = 1; i <= 1024; i++)
		publish(1, (uint16_t)i, "out/a", "x", slice(NULL, 0));
	send_out();
	assert_int_equal(rig.got.len, 0);
	assert_int_equal(fake.published, 1024);
	publish(1, 2000, "out/a", "x", slice(NULL, 0));
	send_out();
	expect_disconnect(MQTT_REASON_RECEIVE_MAX_EXCEEDED, "1024");
}

/* A 3.1.1 client is not told a maximum: it is read no further, and again when answers left. */
static void test_receive_maximum_v311(void **state)
{
	(void)state;
	connected(MQTT_V311);
	for (int i = 1; i <= 1100; i++)
		publish(1, (uint16_t)i, "out/a", "x", slice(NULL, 0));
	send_out();
	assert_int_equal(fake.published, 1024);
	for (int i = 0; i < 600; i++)
		mqtt_on_answer(rig.mqtt, fake.from[i], APPEND_STORED, NULL);
	pump();
	assert_int_equal(fake.published, 1100);
	assert_int_equal(rig.got.len, 600 * 4);
}

static void test_backpressure(void **state)
{
	(void)state;
	connected(MQTT_V5);
	fake.pause = true;
	publish(1, 1, "out/a", "x", slice(NULL, 0));
	publish(1, 2, "out/a", "x", slice(NULL, 0));
	send_out();
	assert_int_equal(fake.published, 1);
	fake.pause = false;
	mqtt_on_room(rig.mqtt, fake.from[0].conn_id);
	pump();
	assert_int_equal(fake.published, 2);
}

static void test_cloud_event(void **state)
{
	static const char *const pairs[][2] = {
	        {"specversion", "1.0"}, {"id", "e-1"},          {"source", "/s"},
	        {"type", "t.v1"},       {"subject", "sub"},     {"correlationid", "co"},
	        {"causationid", "ca"},  {"partitionkey", "pk"}, {"other", "o"},
	};
	struct buf props = {0};

	(void)state;
	connected(MQTT_V5);
	for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
		mqtt_put_user(&props, slice_str(pairs[i][0]), slice_str(pairs[i][1]));
	publish(1, 1, "out/a", "x", buf_slice(&props));
	send_out();
	assert_string_equal(fake.last.id.p, "e-1");
	assert_string_equal(fake.last.source.p, "/s");
	assert_string_equal(fake.last.type.p, "t.v1");
	assert_string_equal(fake.last.subject.p, "sub");
	assert_string_equal(fake.last.correlation_id.p, "co");
	assert_string_equal(fake.last.causation_id.p, "ca");
	assert_string_equal(fake.last.key.p, "pk");
	assert_string_equal(fake.last.client.p, "c1");
	assert_int_equal(fake.last.props.n, props.len); /* carried whole besides */

	mqtt_put_user(&props, slice_str("leat-key"), slice_str("mine"));
	publish(1, 2, "out/a", "x", buf_slice(&props));
	send_out();
	assert_string_equal(fake.last.key.p, "mine");

	buf_clear(&props); /* no specversion: user properties are just that */
	mqtt_put_user(&props, slice_str("id"), slice_str("e-2"));
	mqtt_put_user(&props, slice_str("partitionkey"), slice_str("plain"));
	publish(1, 3, "out/a", "x", buf_slice(&props));
	send_out();
	assert_string_equal(fake.last.id.p, "");
	assert_string_equal(fake.last.key.p, "plain"); /* but for the ordering key */
	buf_release(&props);
}

/* ---- SUBSCRIBE ------------------------------------------------------------------------------- */

static void subscribe(struct mqtt_filter *filters, size_t n, const struct mqtt_props *props)
{
	mqtt_encode_subscribe(&rig.out, rig.version, 11, filters, n, props);
	send_out();
}

static void test_subscribe(void **state)
{
	static const uint8_t wanted[] = {1, 0, 0x87, 0x8f, 1, 1, 1};
	struct mqtt_filter f[] = {
	        {.filter = slice_str("in/#"), .qos = 2},
	        {.filter = slice_str("in/x"), .qos = 0},
	        {.filter = slice_str("#"), .qos = 1},
	        {.filter = slice_str("in/#/x"), .qos = 1},
	        {.filter = slice_str("$queue/work"), .qos = 1},
	        {.filter = slice_str("$share/g/in/+"), .qos = 1},
	        {.filter = slice_str("dev/c1/x"), .qos = 1},
	};
	struct mqtt_props props = {0};

	(void)state;
	connected(MQTT_V5);
	mqtt_set_subscription_id(&props, 77);
	subscribe(f, sizeof f / sizeof f[0], &props);
	expect(MQTT_SUBACK);
	assert_int_equal(rig.p.suback.packet_id, 11);
	assert_int_equal(rig.p.suback.reasons.n, sizeof wanted);
	assert_memory_equal(rig.p.suback.reasons.p, wanted, sizeof wanted);
	expect_why("acl");
	assert_int_equal(fake.subscribed.subscription_id, 77);
	assert_string_equal(fake.subscribed_text, "in/#");
	assert_int_equal(fake.start, SESSION_START_NEW);
}

static void test_limit_of_subscriptions(void **state)
{
	static const uint8_t wanted[] = {MQTT_REASON_QUOTA_EXCEEDED, 1};
	struct mqtt_filter f[] = {{.filter = slice_str("in/#"), .qos = 1},
	                          {.filter = slice_str("$share/s/in/#"), .qos = 1}};
	struct mqtt_props none = {0};
	int first;

	(void)state;
	set_limits((struct tenant_limits){.max_subscriptions = 1});
	connected(MQTT_V5);
	fake.stored_filter = "in/#";  /* what it has when it is asked again */
	for (int i = 0; i < 2; i++) { /* the second time it is one already */
		subscribe(f, 1, &none);
		expect(MQTT_SUBACK);
		assert_int_equal(rig.p.suback.reasons.p[0], 1);
	}
	first = rig.fd;
	rig.fd = -1;
	dial(rig.with_tokens);
	connect_as("c2", MQTT_V5);
	expect(MQTT_CONNACK);
	subscribe(f, 2, &none);
	expect(MQTT_SUBACK);
	assert_memory_equal(rig.p.suback.reasons.p, wanted, sizeof wanted);
	expect_why("1 of 1 subscriptions");
	close(first);
}

static void test_usage_is_told(void **state)
{
	static const char has[] = "\"connections\":{\"allowed\":null,\"used\":1}";
	struct mqtt_filter f = {.filter = slice_str("$leat/usage"), .qos = 1};
	struct mqtt_filter g = {.filter = slice_str("#"), .qos = 1};
	struct mqtt_props none = {0};

	(void)state;
	dial(rig.without_tokens); /* all rights: # and $leat/# */
	connect_as("c1", MQTT_V5);
	expect(MQTT_CONNACK);
	fake.stored_filter = "#";
	subscribe(&g, 1, &none);
	expect(MQTT_SUBACK);
	assert_false(take()); /* # is not for it [MQTT-4.7.2-1] */
	fake.stored_filter = "$leat/usage";
	subscribe(&f, 1, &none);
	expect(MQTT_SUBACK);
	assert_int_equal(rig.p.suback.reasons.p[0], 1);
	expect(MQTT_PUBLISH);
	assert_true(slice_eq(rig.p.publish.topic, slice_str("$leat/usage")));
	assert_int_equal(rig.p.publish.qos, 0);
	assert_non_null(
	        memmem(rig.p.publish.payload.p, rig.p.publish.payload.n, has, sizeof has - 1));
}

static void test_system_topics_need_their_own_permission(void **state)
{
	struct mqtt_filter f = {.filter = slice_str("$leat/limits"), .qos = 1};
	struct mqtt_props none = {0};

	(void)state;
	connected(MQTT_V5); /* in/# and its like */
	subscribe(&f, 1, &none);
	expect(MQTT_SUBACK);
	assert_int_equal((uint8_t)rig.p.suback.reasons.p[0], MQTT_REASON_NOT_AUTHORIZED);
	publish(1, 5, "$leat/limits", "x", slice(NULL, 0));
	send_out();
	expect(MQTT_PUBACK);
	assert_int_equal(rig.p.ack.reason, MQTT_REASON_TOPIC_NAME_INVALID);
}

/* With one user property, or with leat-start before it. */
static void subscribe_from(const char *start, const char *property, const char *value)
{
	struct mqtt_filter f = {.filter = slice_str("in/#"), .qos = 1};
	struct mqtt_props props = {0};
	struct buf user = {0};

	if (start)
		mqtt_put_user(&user, slice_str("leat-start"), slice_str(start));
	mqtt_put_user(&user, slice_str(property), slice_str(value));
	props.extra = buf_slice(&user);
	subscribe(&f, 1, &props);
	expect(MQTT_SUBACK);
	buf_release(&user);
}

static void subscribe_with(const char *property, const char *value)
{
	subscribe_from(NULL, property, value);
}

static void test_subscribe_start(void **state)
{
	static const struct {
		const char *text;
		enum session_start_at at;
		uint64_t value;
	} good[] = {
	        {"new", SESSION_START_NEW, 0},
	        {"earliest", SESSION_START_EARLIEST, 0},
	        {"seq:42", SESSION_START_SEQ, 42},
	        {"time:1970-01-01T00:00:01Z", SESSION_START_TIME, 1000},
	        {"time:2024-02-29T12:00:00.25+02:00", SESSION_START_TIME, 1709200800250},
	};
	static const char *const bad[] = {
	        "",
	        "New",
	        "seq:",
	        "seq:0",
	        "seq:-1",
	        "seq:1 ",
	        "time:",
	        "time:2024-02-30T00:00:00Z",
	        "seq:0x10",
	        "latest",
	        "time:5",
	        "time:2024-02-29T12:00:00",
	        "time:2024-02-29 12:00:00Z",
	        "seq:99999999999999999999",
	};

	(void)state;
	connected(MQTT_V5);
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		subscribe_with("leat-start", good[i].text);
		assert_int_equal(rig.p.suback.reasons.p[0], 1);
		assert_int_equal(fake.start, good[i].at);
		assert_int_equal(fake.start_value, good[i].value);
	}
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		subscribe_with("leat-start", bad[i]);
		assert_int_equal((uint8_t)rig.p.suback.reasons.p[0],
		                 MQTT_REASON_IMPLEMENTATION_ERROR);
		expect_why("RFC 3339");
	}
}

static void test_subscribe_until(void **state)
{
	static const char *const bad[] = {
	        "", "new", "earliest", "seq:0", "seq:", "time:", "time:2999-01-01T00:00:00Z"};

	(void)state;
	connected(MQTT_V5);
	subscribe_with("leat-start", "earliest");
	assert_false(fake.bounded);
	subscribe_from("earliest", "leat-until", "now");
	assert_true(fake.bounded);
	assert_int_equal(fake.until, SESSION_START_HEAD);
	subscribe_from("seq:7", "leat-until", "seq:7");
	assert_int_equal(fake.until, SESSION_START_SEQ);
	assert_int_equal(fake.until_value, 8); /* the first that it does not get */
	subscribe_from("seq:9", "leat-until", "time:1970-01-01T00:00:01Z");
	assert_int_equal(fake.until, SESSION_START_TIME);
	assert_int_equal(fake.until_value, 1000);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		subscribe_with("leat-until", bad[i]);
		assert_int_equal((uint8_t)rig.p.suback.reasons.p[0],
		                 MQTT_REASON_IMPLEMENTATION_ERROR);
		expect_why("RFC 3339");
	}
}

/* From there to there is nothing: said, and not granted in silence. */
static void test_subscribe_range(void **state)
{
	static const char *const bad[][2] = {
	        {NULL, "now"},
	        {"new", "seq:7"},
	        {"seq:8", "seq:7"},
	        {"seq:50", "seq:10"},
	        {"time:2024-03-01T00:00:00Z", "time:2024-03-01T00:00:00Z"},
	        {"time:2024-03-01T00:00:00Z", "time:2024-02-29T00:00:00Z"},
	        {"time:2999-01-01T00:00:00Z", "now"},
	};
	static const char *const good[][2] = {
	        {"earliest", "time:2024-03-01T00:00:00Z"},
	        {"seq:7", "seq:8"},
	        {"time:2024-02-29T00:00:00Z", "time:2024-03-01T00:00:00Z"},
	        {"time:2024-02-29T00:00:00Z", "now"},
	        {"time:2024-02-29T00:00:00Z", "seq:1"},
	};

	(void)state;
	connected(MQTT_V5);
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		subscribe_from(good[i][0], "leat-until", good[i][1]);
		assert_int_equal(rig.p.suback.reasons.p[0], 1);
	}
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		subscribe_from(bad[i][0], "leat-until", bad[i][1]);
		assert_int_equal((uint8_t)rig.p.suback.reasons.p[0],
		                 MQTT_REASON_IMPLEMENTATION_ERROR);
		expect_why("leat-start");
	}
}

static void test_subscribe_v311(void **state)
{
	static const uint8_t suback[] = {0x90, 4, 0, 11, 1, 0x80};
	struct mqtt_filter f[] = {{.filter = slice_str("in/#"), .qos = 1},
	                          {.filter = slice_str("#"), .qos = 1}};

	(void)state;
	connected(MQTT_V311);
	subscribe(f, 2, NULL);
	assert_int_equal(rig.got.len, sizeof suback);
	assert_memory_equal(rig.got.data, suback, sizeof suback);
}

static void test_unsubscribe_and_ping(void **state)
{
	static const uint8_t answers[] = {0xb0, 5, 0, 12, 0, 0, 0x11, 0xd0, 0};
	struct mqtt_filter f[] = {{.filter = slice_str("in/#")}, {.filter = slice_str("in/x")}};

	(void)state;
	connected(MQTT_V5);
	mqtt_encode_unsubscribe(&rig.out, MQTT_V5, 12, f, 2, NULL);
	mqtt_encode_pingreq(&rig.out);
	send_out();
	assert_int_equal(rig.got.len, sizeof answers);
	assert_memory_equal(rig.got.data, answers, sizeof answers);
}

/* ---- delivering ------------------------------------------------------------------------------ */

static void deliver(size_t payload, uint16_t id)
{
	char *text = xmalloc(payload + 1);
	struct batch *b = batch_new(7, 0);
	struct event ev = {.topic = slice_str("in/x"), .payload = slice(text, payload), .qos = 1};
	struct event out;
	struct outgoing o = {.ev = &out, .owner = b, .packet_id = id, .qos = 1};

	memset(text, 'p', payload);
	batch_append(b, &ev, (struct publisher){0});
	batch_seal(b);
	batch_event(b, 0, &out);
	fake.session.ops->send(fake.session.conn, &o);
	batch_unref(b); /* a large payload must live on */
	free(text);
}

static void test_deliver(void **state)
{
	static const size_t sizes[] = {0, 1, 4095, 4096, 40000};

	(void)state;
	connected(MQTT_V5);
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		deliver(sizes[i], (uint16_t)(i + 1));
		pump();
		expect(MQTT_PUBLISH);
		assert_int_equal(rig.p.publish.packet_id, i + 1);
		assert_int_equal(rig.p.publish.payload.n, sizes[i]);
		assert_true(slice_eq(rig.p.publish.topic, slice_str("in/x")));
	}
	mqtt_encode_ack(&rig.out, MQTT_V5, MQTT_PUBACK, 3, MQTT_REASON_UNSPECIFIED, slice(NULL, 0));
	send_out();
	assert_int_equal(fake.acked_id, 3);
	assert_int_equal(fake.acked_reason, MQTT_REASON_UNSPECIFIED);
}

static void test_deliver_too_large(void **state)
{
	struct connect h = hello(MQTT_V5);

	(void)state;
	mqtt_set_max_packet_size(&h.props, 100);
	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	deliver(200, 9);
	deliver(20, 10);
	pump();
	expect(MQTT_PUBLISH);
	assert_int_equal(rig.p.publish.packet_id, 10);
	assert_int_equal(fake.acked_id, 9); /* done, unsent [MQTT-3.1.2-25] */
	assert_int_equal(mqtt_get_stats(rig.mqtt)->too_large, 1);
}

static void test_kick(void **state)
{
	(void)state;
	connected(MQTT_V5);
	fake.session.ops->kick(fake.session.conn, MQTT_REASON_SESSION_TAKEN_OVER, "elsewhere");
	expect_disconnect(MQTT_REASON_SESSION_TAKEN_OVER, "elsewhere");
	assert_int_equal(fake.detached, 0); /* the session had let go already */
	expect_closed();
}

/* ---- time: in real seconds, since a turn reads the clock ------------------------------------- */

static void wait_for_bytes(unsigned patience_ms)
{
	uint64_t until = clock_us() + patience_ms * UINT64_C(1000);

	while (!rig.got.len && clock_us() < until) {
		usleep(20000);
		pump();
	}
}

static void test_keep_alive(void **state)
{
	struct connect h = hello(MQTT_V5);

	(void)state;
	h.c.keep_alive_s = 1;
	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	wait_for_bytes(1300); /* not before one and a half times */
	assert_int_equal(rig.got.len, 0);
	wait_for_bytes(2000);
	expect_disconnect(MQTT_REASON_KEEP_ALIVE_TIMEOUT, "keep alive of 1 s");
}

static void test_token_expires(void **state)
{
	struct connect h = hello(MQTT_V5);

	(void)state;
	h.c.password = slice_str(mint_for("alice", now_s() + 2));
	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	wait_for_bytes(4000);
	expect_disconnect(MQTT_REASON_MAXIMUM_CONNECT_TIME, "expired");
}

/* ---- the end --------------------------------------------------------------------------------- */

static void test_disconnect(void **state)
{
	struct connect h = hello(MQTT_V5);
	struct mqtt_props props = {0};

	(void)state;
	mqtt_set_session_expiry_s(&h.props, 100);
	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	mqtt_set_session_expiry_s(&props, 30);
	mqtt_encode_disconnect(&rig.out, MQTT_V5, 0, &props);
	send_out();
	assert_int_equal(fake.detached, 1);
	assert_int_equal(fake.detached_expiry_s, 30);
	expect_closed();
}

static void test_connection_lost(void **state)
{
	(void)state;
	connected(MQTT_V5);
	publish(1, 1, "out/a", "x", slice(NULL, 0));
	send_out();
	close(rig.fd);
	rig.fd = -1;
	pump();
	assert_int_equal(fake.detached, 1);
	mqtt_on_answer(rig.mqtt, fake.from[0], APPEND_STORED, NULL); /* too late: nobody there */
	mqtt_on_room(rig.mqtt, fake.from[0].conn_id);
	assert_int_equal(mqtt_get_stats(rig.mqtt)->clients, 0);
}

static void test_shutdown_while_opening(void **state)
{
	struct connect h = hello(MQTT_V5);

	(void)state;
	fake.hold_open = true;
	dial(rig.with_tokens);
	send_connect(&h);
	mqtt_disconnect_all(rig.mqtt);
	pump();
	expect(MQTT_CONNACK); /* 0x8B is DISCONNECT's alone */
	assert_int_equal(rig.p.connack.reason, MQTT_REASON_SERVER_UNAVAILABLE);
	assert_true(fake.cancelled);
	expect_closed();
}

/* Whoever waits for the database is told in time, and what was to be opened is not. */
static void test_opening_has_a_bound(void **state)
{
	static const uint8_t unavailable[] = {0x20, 2, 0, 3};

	(void)state;
	set_limits((struct tenant_limits){.max_connections = 1});
	fake.hold_open = true;
	dial(rig.with_tokens);
	connect_as("c1", MQTT_V5);
	wait_for_bytes(OPENING_MS - 200);
	assert_int_equal(rig.got.len, 0);
	wait_for_bytes(3000);
	expect(MQTT_CONNACK);
	assert_int_equal(rig.p.connack.reason, MQTT_REASON_SERVER_UNAVAILABLE);
	expect_why("the database has not answered");
	assert_true(fake.cancelled);
	expect_closed();
	fake.cancelled = false;
	dial(rig.with_tokens);
	connect_as("c2", MQTT_V311); /* there is a place again */
	wait_for_bytes(3000);
	assert_memory_equal(rig.got.data, unavailable, sizeof unavailable);
	assert_true(fake.cancelled);
}

static void gone_while_opening(enum mqtt_type last, bool let_go)
{
	struct connect h = hello(MQTT_V5);

	fake.cancelled = false;
	fake.hold_open = true;
	dial(rig.with_tokens);
	send_connect(&h);
	if (last == MQTT_DISCONNECT)
		mqtt_encode_disconnect(&rig.out, MQTT_V5, 0, NULL);
	else if (last == MQTT_PUBLISH)
		publish(1, 1, "out/a", "x", slice(NULL, 0));
	send_out();
	close(rig.fd);
	rig.fd = -1;
	for (int i = 0; i < 100 && !fake.cancelled && (let_go || i < 20); i++) {
		usleep(10000);
		pump();
	}
	assert_int_equal(fake.cancelled, let_go);
}

/* Its place is another's at once; only what it published is worth waiting for. */
static void test_gone_while_opening(void **state)
{
	(void)state;
	set_limits((struct tenant_limits){.max_connections = 1});
	gone_while_opening(MQTT_CONNECT, true);
	gone_while_opening(MQTT_DISCONNECT, true);
	gone_while_opening(MQTT_PUBLISH, false);
}

/* The others have ended the node's session and published its clients' wills: these clients are
 * lost, also one whose will is on its way. Who has no will stays. */
static void test_a_new_session_ends_clients_with_wills(void **state)
{
	struct connect h = with_will(hello(MQTT_V5));
	uint64_t id;

	(void)state;
	dial(rig.with_tokens);
	send_connect(&h);
	id = fake.last.will_id;
	mqtt_on_answer(rig.mqtt, fake.from[0], APPEND_STORED, NULL);
	pump();
	expect(MQTT_CONNACK);
	mqtt_on_session(rig.mqtt);
	pump();
	expect(MQTT_DISCONNECT);
	assert_int_equal(rig.p.disconnect.reason, MQTT_REASON_IMPLEMENTATION_ERROR);
	expect_closed();
	assert_int_equal(fake.published, 2);
	assert_int_equal(fake.last.when, EVENT_WILL_LOST);
	assert_true(fake.last.will_id == id);
}

static void test_a_new_session_and_a_will_on_its_way(void **state)
{
	struct connect h = with_will(hello(MQTT_V5));

	(void)state;
	dial(rig.with_tokens);
	send_connect(&h);
	assert_false(take());
	mqtt_on_session(rig.mqtt);
	pump();
	expect(MQTT_CONNACK);
	assert_int_equal(rig.p.connack.reason, MQTT_REASON_IMPLEMENTATION_ERROR);
	expect_closed();
}

static void test_a_new_session_and_no_will(void **state)
{
	struct connect h = hello(MQTT_V5);

	(void)state;
	dial(rig.with_tokens);
	send_connect(&h);
	expect(MQTT_CONNACK);
	mqtt_on_session(rig.mqtt);
	pump();
	assert_false(take());
	assert_int_equal(mqtt_get_stats(rig.mqtt)->clients, 1);
}

/* A will's user properties are what a publish's are; its expiry is counted later. */
static void test_a_will_is_an_event(void **state)
{
	struct connect h = with_will(hello(MQTT_V5));
	struct buf user = {0};

	(void)state;
	mqtt_put_user(&user, slice_str("specversion"), slice_str("1.0"));
	mqtt_put_user(&user, slice_str("type"), slice_str("gone"));
	mqtt_put_user(&user, slice_str("leat-key"), slice_str("k"));
	mqtt_set_message_expiry_s(&h.c.will.props, 60);
	h.c.will.props.extra = buf_slice(&user);
	dial(rig.with_tokens);
	send_connect(&h);
	assert_int_equal(fake.published, 1);
	assert_string_equal(fake.last.type.p, "gone");
	assert_string_equal(fake.last.key.p, "k");
	assert_int_equal(fake.last.will_expiry_ms, 60000);
	assert_int_equal(fake.last.expires_ms, 0);
	buf_release(&user);
}

static void test_shutdown(void **state)
{
	(void)state;
	connected(MQTT_V5);
	publish(1, 1, "out/a", "x", slice(NULL, 0));
	send_out();
	mqtt_stop_publishing(rig.mqtt);
	publish(1, 2, "out/a", "x", slice(NULL, 0));
	send_out();
	assert_int_equal(fake.published, 1); /* not taken in, so never answered */
	mqtt_on_answer(rig.mqtt, fake.from[0], APPEND_STORED, NULL);
	mqtt_disconnect_all(rig.mqtt);
	pump();
	expect(MQTT_PUBACK);
	expect_disconnect(MQTT_REASON_SERVER_SHUTTING_DOWN, "shutting down");
	expect_closed();
}

/* Every prefix and many one-bit changes of good traffic: no crash, and an answer or the end. */
static void test_mutations(void **state)
{
	struct connect h = hello(MQTT_V5);
	struct mqtt_filter f = {.filter = slice_str("in/#"), .qos = 1};
	struct buf good = {0};

	(void)state;
	log_set_level(LOG_ERROR);
	mqtt_encode_connect(&rig.out, &h.c, &h.props);
	mqtt_encode_subscribe(&rig.out, MQTT_V5, 1, &f, 1, NULL);
	publish(1, 1, "out/a", "x", slice(NULL, 0));
	mqtt_encode_disconnect(&rig.out, MQTT_V5, 0, NULL);
	buf_append(&good, rig.out.data, rig.out.len);
	buf_clear(&rig.out);
	for (size_t i = 0; i<good.len * 8; i += good.len> 300 ? 5 : 1) {
		fake.published = 0;
		fake.cancelled = false;
		dial(rig.with_tokens);
		good.data[i / 8] ^= (char)(1 << (i % 8));
		send_bytes(good.data, i % 3 ? good.len : i / 8 + 1);
		good.data[i / 8] ^= (char)(1 << (i % 8));
		shutdown(rig.fd, SHUT_WR);
		pump();
		assert_int_equal(conn_count(rig.conns), 0);
	}
	buf_release(&good);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	static const struct CMUnitTest tests[] = {
	        T(test_connect_v5),
	        T(test_connect_v311),
	        T(test_assigned_id),
	        T(test_connect_refused),
	        T(test_connect_refused_v311),
	        T(test_suspended),
	        T(test_first_packet),

	        T(test_insecure),
	        T(test_auth_renews),
	        T(test_auth_other_subject),
	        T(test_auth_without_method),
	        T(test_key_gone),
	        T(test_tenant_suspended),
	        T(test_puback_in_order),
	        T(test_publish_refused),
	        T(test_publish_not_understood_qos_0),
	        T(test_publish_denied_v311),
	        T(test_limit_of_connections),
	        T(test_limit_of_rate),
	        T(test_limit_of_rate_holds_up_who_cannot_be_told),
	        T(test_limit_of_subscriptions),
	        T(test_usage_is_told),
	        T(test_system_topics_need_their_own_permission),
	        T(test_journal_refuses),
	        T(test_no_problem_info),
	        T(test_protocol_errors),
	        T(test_receive_maximum),
	        T(test_receive_maximum_v311),
	        T(test_backpressure),
	        T(test_cloud_event),
	        T(test_subscribe),
	        T(test_subscribe_start),
	        T(test_subscribe_until),
	        T(test_subscribe_range),
	        T(test_subscribe_v311),
	        T(test_unsubscribe_and_ping),
	        T(test_deliver),
	        T(test_deliver_too_large),
	        T(test_kick),
	        T(test_disconnect),
	        T(test_keep_alive),
	        T(test_token_expires),
	        T(test_connection_lost),
	        T(test_a_new_session_ends_clients_with_wills),
	        T(test_a_new_session_and_a_will_on_its_way),
	        T(test_a_new_session_and_no_will),
	        T(test_a_will_is_an_event),
	        T(test_shutdown),
	        T(test_shutdown_while_opening),
	        T(test_opening_has_a_bound),
	        T(test_gone_while_opening),
	        T(test_mutations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
