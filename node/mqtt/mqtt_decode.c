#include "base/utf8.h"
#include "node/mqtt/mqtt_codec.h"

#include <string.h>

/* ---- a reader over one packet's body ----------------------------------------------------------
 */

/* The first failure is kept; from then on every read yields nothing, so that decoders read straight
 * down and the result is looked at once. */
struct reader {
	const char *p;
	const char *end;
	const char *why; /* NULL = all well */
	uint8_t reason;  /* goes with why */
	uint8_t version; /* enum mqtt_version */
	bool from_server;
	uint8_t flags; /* low four bits of the first byte */
};

static void refuse(struct reader *r, uint8_t reason, const char *why)
{
	if (r->why)
		return;
	r->why = why;
	r->reason = reason;
	r->p = r->end;
}

static void malformed(struct reader *r, const char *why)
{
	refuse(r, MQTT_REASON_MALFORMED_PACKET, why);
}

static size_t left(const struct reader *r)
{
	return (size_t)(r->end - r->p);
}

static bool room(struct reader *r, size_t n)
{
	if (left(r) >= n && !r->why)
		return true;
	malformed(r, "packet ends inside a field");
	return false;
}

static uint8_t get_u8(struct reader *r)
{
	return room(r, 1) ? (uint8_t)*r->p++ : 0;
}

static uint16_t get_u16(struct reader *r)
{
	uint16_t v;

	if (!room(r, 2))
		return 0;
	v = (uint16_t)((uint8_t)r->p[0] << 8 | (uint8_t)r->p[1]);
	r->p += 2;
	return v;
}

static struct slice get_run(struct reader *r, size_t n)
{
	struct slice s = {0};

	if (room(r, n)) {
		s = slice(r->p, n);
		r->p += n;
	}
	return s;
}

static struct slice get_bytes(struct reader *r)
{
	size_t n = get_u16(r);

	return get_run(r, n);
}

static struct slice get_text(struct reader *r)
{
	struct slice s = get_bytes(r);

	if (!utf8_valid_text(s))
		malformed(r, "text is not UTF-8");
	return s;
}

static uint16_t get_packet_id(struct reader *r)
{
	uint16_t id = get_u16(r);

	if (!id)
		malformed(r, "packet identifier is 0");
	return id;
}

/* A property block with its length; nothing at all in 3.1.1. */
static void get_props(struct reader *r, enum mqtt_place place, struct mqtt_props *props)
{
	const char *why;
	uint8_t reason = 0;
	uint32_t len;
	int n;

	if (r->version != MQTT_V5 || r->why)
		return;
	n = mqtt_varint_read(r->p, left(r), &len);
	if (n <= 0) {
		malformed(r, "property length is malformed");
		return;
	}
	r->p += n;
	if (!len)
		return; /* props is zeroed; most packets have none */
	why = mqtt_props_parse(props, get_run(r, len), place, &reason);
	if (why)
		refuse(r, reason, why);
}

static enum mqtt_place up_or_down(const struct reader *r, enum mqtt_place up, enum mqtt_place down)
{
	return r->from_server ? down : up;
}

static bool has_wildcard(struct slice s)
{
	return s.n && (memchr(s.p, '+', s.n) || memchr(s.p, '#', s.n));
}

static struct slice get_topic(struct reader *r)
{
	struct slice topic = get_text(r);

	if (has_wildcard(topic))
		refuse(r, MQTT_REASON_TOPIC_NAME_INVALID, "topic name has a wildcard");
	return topic;
}

static uint8_t get_reason(struct reader *r, enum mqtt_type type)
{
	uint8_t reason = get_u8(r);

	if (!mqtt_reason_allowed(reason, type))
		malformed(r, "reason code does not belong in this packet");
	return reason;
}

/* ---- CONNECT --------------------------------------------------------------------------------- */

enum {
	CONNECT_RESERVED = 0x01,
	CONNECT_CLEAN = 0x02,
	CONNECT_WILL = 0x04,
	CONNECT_WILL_QOS = 0x18,
	CONNECT_WILL_RETAIN = 0x20,
	CONNECT_PASSWORD = 0x40,
	CONNECT_USERNAME = 0x80,
};

static void get_protocol(struct reader *r)
{
	struct slice name = get_bytes(r);
	uint8_t level = get_u8(r);

	if (r->why)
		return;
	r->version = level >= MQTT_V5 ? MQTT_V5 : MQTT_V311;
	if (!slice_eq(name, slice_str("MQTT")))
		refuse(r, MQTT_REASON_UNSUPPORTED_VERSION, "protocol name is not MQTT");
	else if (level != MQTT_V311 && level != MQTT_V5)
		refuse(r, MQTT_REASON_UNSUPPORTED_VERSION, "protocol level is neither 4 nor 5");
}

static void check_connect_flags(struct reader *r, uint8_t flags)
{
	bool will = flags & CONNECT_WILL;

	if (flags & CONNECT_RESERVED)
		malformed(r, "reserved connect flag is set");
	if (!will && (flags & (CONNECT_WILL_QOS | CONNECT_WILL_RETAIN)))
		malformed(r, "will QoS or retain without a will");
	if ((flags & CONNECT_WILL_QOS) == CONNECT_WILL_QOS)
		malformed(r, "will QoS is 3");
	if (r->version == MQTT_V311 && (flags & CONNECT_PASSWORD) && !(flags & CONNECT_USERNAME))
		malformed(r, "password without a user name");
}

static void get_will(struct reader *r, uint8_t flags, struct mqtt_will *will)
{
	will->present = true;
	will->retain = flags & CONNECT_WILL_RETAIN;
	will->qos = (flags & CONNECT_WILL_QOS) >> 3;
	get_props(r, MQTT_IN_WILL, &will->props);
	will->topic = get_topic(r);
	will->payload = get_bytes(r);
	if (!will->topic.n)
		refuse(r, MQTT_REASON_TOPIC_NAME_INVALID, "will topic is empty");
}

static void check_connect(struct reader *r, const struct mqtt_packet *p)
{
	if (mqtt_has(&p->props, MQTT_PROP_AUTH_DATA) && !mqtt_has(&p->props, MQTT_PROP_AUTH_METHOD))
		refuse(r, MQTT_REASON_PROTOCOL_ERROR, "authentication data without a method");
	if (r->version == MQTT_V311 && !p->connect.client_id.n && !p->connect.clean_start)
		refuse(r, MQTT_REASON_BAD_CLIENT_ID, "empty client id without clean session");
}

static void decode_connect(struct reader *r, struct mqtt_packet *out)
{
	struct mqtt_connect *c = &out->connect;
	uint8_t flags;

	*c = (struct mqtt_connect){0};
	get_protocol(r);
	c->version = r->version;
	flags = get_u8(r);
	check_connect_flags(r, flags);
	c->clean_start = flags & CONNECT_CLEAN;
	c->has_username = flags & CONNECT_USERNAME;
	c->has_password = flags & CONNECT_PASSWORD;
	c->keep_alive_s = get_u16(r);
	get_props(r, MQTT_IN_CONNECT, &out->props);
	c->client_id = get_text(r);
	if (flags & CONNECT_WILL)
		get_will(r, flags, &c->will);
	if (c->has_username)
		c->username = get_text(r);
	if (c->has_password)
		c->password = get_bytes(r);
	check_connect(r, out);
}

static void decode_connack(struct reader *r, struct mqtt_packet *out)
{
	uint8_t flags = get_u8(r);
	uint8_t code = get_u8(r);

	if (flags & 0xfe)
		malformed(r, "reserved CONNACK flag is set");
	/* a server that knows only 3.1.1 refuses MQTT 5 in its own form */
	if (r->version == MQTT_V5 && code && !left(r))
		r->version = MQTT_V311;
	if (r->version == MQTT_V311 ? code > 5 : !mqtt_reason_allowed(code, MQTT_CONNACK))
		malformed(r, "reason code does not belong in this packet");
	if (flags && code)
		refuse(r, MQTT_REASON_PROTOCOL_ERROR, "session present on a refused connection");
	out->connack.session_present = flags & 1;
	out->connack.reason = r->version == MQTT_V311 ? mqtt_reason_from_connack3(code) : code;
	get_props(r, MQTT_IN_CONNACK, &out->props);
}

/* ---- PUBLISH and its acknowledgements ----------------------------------------------------------
 */

static void decode_publish(struct reader *r, struct mqtt_packet *out)
{
	struct mqtt_publish *p = &out->publish;

	*p = (struct mqtt_publish){
	        .qos = r->flags >> 1 & 3, .dup = r->flags & 8, .retain = r->flags & 1};
	p->topic = get_topic(r);
	if (p->qos)
		p->packet_id = get_packet_id(r);
	get_props(r, up_or_down(r, MQTT_IN_PUBLISH_UP, MQTT_IN_PUBLISH_DOWN), &out->props);
	if (!p->topic.n && !mqtt_has(&out->props, MQTT_PROP_TOPIC_ALIAS))
		refuse(r, MQTT_REASON_PROTOCOL_ERROR, "topic name is empty");
	p->payload = get_run(r, left(r));
}

static void decode_ack(struct reader *r, struct mqtt_packet *out)
{
	out->ack = (struct mqtt_ack){.packet_id = get_packet_id(r)};
	if (r->version != MQTT_V5 || !left(r))
		return;
	out->ack.reason = get_reason(r, out->type);
	if (left(r))
		get_props(r, MQTT_IN_ACK, &out->props);
}

/* ---- subscriptions --------------------------------------------------------------------------- */

enum {
	OPT_QOS = 0x03,
	OPT_NO_LOCAL = 0x04,
	OPT_RETAIN_AS_PUBLISHED = 0x08,
	OPT_RETAIN_HANDLING = 0x30,
	OPT_RESERVED = 0xc0,
};

static bool is_shared(struct slice filter)
{
	static const char prefix[] = "$share/";

	return filter.n >= sizeof prefix - 1 && !memcmp(filter.p, prefix, sizeof prefix - 1);
}

static void get_sub_options(struct reader *r, struct slice filter)
{
	uint8_t o = get_u8(r);
	uint8_t reserved = r->version == MQTT_V5 ? OPT_RESERVED : (uint8_t)~OPT_QOS;

	if (o & reserved)
		malformed(r, "reserved subscription option is set");
	if ((o & OPT_QOS) == OPT_QOS)
		malformed(r, "subscription QoS is 3");
	if ((o & OPT_RETAIN_HANDLING) == OPT_RETAIN_HANDLING)
		refuse(r, MQTT_REASON_PROTOCOL_ERROR, "retain handling is 3");
	if ((o & OPT_NO_LOCAL) && is_shared(filter))
		refuse(r, MQTT_REASON_PROTOCOL_ERROR, "no local on a shared subscription");
}

static void get_filters(struct reader *r, struct mqtt_packet *out)
{
	struct mqtt_subscribe *s = &out->subscribe;

	s->filters = slice(r->p, left(r));
	s->count = 0;
	while (left(r)) {
		struct slice filter = get_text(r);

		if (!filter.n)
			malformed(r, "topic filter is empty");
		if (out->type == MQTT_SUBSCRIBE)
			get_sub_options(r, filter);
		s->count++;
	}
	if (!s->count)
		refuse(r, MQTT_REASON_PROTOCOL_ERROR, "no topic filter");
}

static void decode_subscribe(struct reader *r, struct mqtt_packet *out)
{
	out->subscribe.packet_id = get_packet_id(r);
	get_props(r, out->type == MQTT_SUBSCRIBE ? MQTT_IN_SUBSCRIBE : MQTT_IN_UNSUBSCRIBE,
	          &out->props);
	get_filters(r, out);
}

bool mqtt_filter_next(enum mqtt_type type, struct slice *rest, struct mqtt_filter *out)
{
	const unsigned char *p = (const unsigned char *)rest->p;
	size_t n = rest->n >= 2 ? (size_t)p[0] << 8 | p[1] : 0;
	size_t size = 2 + n + (type == MQTT_SUBSCRIBE);
	uint8_t o;

	if (rest->n < size)
		return false;
	o = type == MQTT_SUBSCRIBE ? p[size - 1] : 0;
	*out = (struct mqtt_filter){
	        .filter = slice(rest->p + 2, n),
	        .qos = o & OPT_QOS,
	        .no_local = o & OPT_NO_LOCAL,
	        .retain_as_published = o & OPT_RETAIN_AS_PUBLISHED,
	        .retain_handling = (o & OPT_RETAIN_HANDLING) >> 4,
	};
	*rest = slice(rest->p + size, rest->n - size);
	return true;
}

static void decode_suback(struct reader *r, struct mqtt_packet *out)
{
	struct mqtt_suback *s = &out->suback;

	s->packet_id = get_packet_id(r);
	get_props(r, MQTT_IN_ACK, &out->props);
	s->reasons = get_run(r, left(r));
	if (r->version == MQTT_V311 && out->type == MQTT_UNSUBACK) {
		if (s->reasons.n)
			malformed(r, "bytes after the end of the packet");
		return;
	}
	if (!s->reasons.n)
		refuse(r, MQTT_REASON_PROTOCOL_ERROR, "no reason code");
	for (size_t i = 0; i < s->reasons.n; i++) {
		uint8_t code = (uint8_t)s->reasons.p[i];

		if (r->version == MQTT_V311 ? code > 2 && code != MQTT_REASON_UNSPECIFIED
		                            : !mqtt_reason_allowed(code, out->type))
			malformed(r, "reason code does not belong in this packet");
	}
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void decode_ping(struct reader *r, struct mqtt_packet *out)
{
	(void)r;
	(void)out;
}

static void decode_disconnect(struct reader *r, struct mqtt_packet *out)
{
	out->disconnect.reason = MQTT_REASON_SUCCESS;
	if (r->version != MQTT_V5 || !left(r))
		return;
	out->disconnect.reason = get_reason(r, MQTT_DISCONNECT);
	if (left(r))
		get_props(r, up_or_down(r, MQTT_IN_DISCONNECT_UP, MQTT_IN_DISCONNECT_DOWN),
		          &out->props);
}

static void decode_auth(struct reader *r, struct mqtt_packet *out)
{
	out->disconnect.reason = MQTT_REASON_SUCCESS;
	if (!left(r))
		return;
	out->disconnect.reason = get_reason(r, MQTT_AUTH);
	if (left(r))
		get_props(r, MQTT_IN_AUTH, &out->props);
	if (!mqtt_has(&out->props, MQTT_PROP_AUTH_METHOD))
		refuse(r, MQTT_REASON_PROTOCOL_ERROR, "AUTH without an authentication method");
}

/* ---- fixed header ---------------------------------------------------------------------------- */

/* Who may send a packet type, in which version. */
enum {
	UP4 = 1 << 0, /* client, 3.1.1 */
	UP5 = 1 << 1,
	DOWN4 = 1 << 2, /* server, 3.1.1 */
	DOWN5 = 1 << 3,
	FIRST = 1 << 4, /* a client's first packet */
	UP = UP4 | UP5,
	DOWN = DOWN4 | DOWN5,
};

static const struct packet_info {
	const char *name;
	void (*decode)(struct reader *r, struct mqtt_packet *out);
	uint8_t senders;
	uint8_t flags; /* what the low four bits must be */
} packets[16] = {
        [MQTT_CONNECT] = {"CONNECT", decode_connect, FIRST, 0},
        [MQTT_CONNACK] = {"CONNACK", decode_connack, DOWN, 0},
        [MQTT_PUBLISH] = {"PUBLISH", decode_publish, UP | DOWN, 0}, /* flags: see bad_flags() */
        [MQTT_PUBACK] = {"PUBACK", decode_ack, UP | DOWN, 0},
        [MQTT_PUBREC] = {"PUBREC", decode_ack, UP | DOWN, 0},
        [MQTT_PUBREL] = {"PUBREL", decode_ack, UP | DOWN, 2},
        [MQTT_PUBCOMP] = {"PUBCOMP", decode_ack, UP | DOWN, 0},
        [MQTT_SUBSCRIBE] = {"SUBSCRIBE", decode_subscribe, UP, 2},
        [MQTT_SUBACK] = {"SUBACK", decode_suback, DOWN, 0},
        [MQTT_UNSUBSCRIBE] = {"UNSUBSCRIBE", decode_subscribe, UP, 2},
        [MQTT_UNSUBACK] = {"UNSUBACK", decode_suback, DOWN, 0},
        [MQTT_PINGREQ] = {"PINGREQ", decode_ping, UP, 0},
        [MQTT_PINGRESP] = {"PINGRESP", decode_ping, DOWN, 0},
        [MQTT_DISCONNECT] = {"DISCONNECT", decode_disconnect, UP | DOWN5, 0},
        [MQTT_AUTH] = {"AUTH", decode_auth, UP5 | DOWN5, 0},
};

const char *mqtt_type_name(enum mqtt_type t)
{
	return (unsigned)t < 16 && packets[t].name ? packets[t].name : "unknown";
}

static uint8_t sender(const struct mqtt_side *side)
{
	if (side->version == MQTT_V_NONE)
		return side->from_server ? 0 : FIRST;
	if (side->version == MQTT_V5)
		return side->from_server ? DOWN5 : UP5;
	return side->from_server ? DOWN4 : UP4;
}

static void check_publish_flags(struct reader *r)
{
	uint8_t qos = r->flags >> 1 & 3;

	if (qos == 3)
		malformed(r, "QoS is 3");
	else if (!qos && (r->flags & 8))
		malformed(r, "DUP is set at QoS 0");
}

static void check_first_byte(struct reader *r, const struct mqtt_side *side, enum mqtt_type type)
{
	const struct packet_info *info = &packets[type];

	if (!info->decode)
		malformed(r, "packet type 0 is reserved");
	else if (!(info->senders & sender(side)))
		refuse(r, MQTT_REASON_PROTOCOL_ERROR,
		       type == MQTT_CONNECT           ? "second CONNECT"
		       : side->version == MQTT_V_NONE ? "first packet is not CONNECT"
		                                      : "packet type is not allowed here");
	else if (type == MQTT_PUBLISH)
		check_publish_flags(r);
	else if (r->flags != info->flags)
		malformed(r, "reserved flags of the fixed header are wrong");
}

/* A CONNECT too large to be read is answered in its own version, if that much of it is here. */
static void guess_version(struct reader *r, const char *p, size_t len)
{
	if (r->version == MQTT_V_NONE && len > 6 && memcmp(p, "\0\4MQTT", 6) == 0)
		r->version = p[6] >= MQTT_V5 ? MQTT_V5 : MQTT_V311;
}

/* 0 = the remaining length is not here yet (or is bad: r->why). */
static size_t packet_size(struct reader *r, const struct mqtt_side *side, const char *p, size_t len)
{
	uint32_t remaining;
	int n = mqtt_varint_read(p + 1, len - 1, &remaining);

	if (n < 0)
		malformed(r, "remaining length is malformed");
	if (n <= 0)
		return 0;
	if (1 + (size_t)n + remaining > side->max_packet) {
		refuse(r, MQTT_REASON_PACKET_TOO_LARGE, "packet is larger than the maximum");
		guess_version(r, p + 1 + n, len - 1 - (size_t)n);
	}
	r->p = p + 1 + n;
	return 1 + (size_t)n + remaining;
}

static enum mqtt_result verdict(const struct reader *r, struct mqtt_bad *bad)
{
	if (!r->why)
		return MQTT_PACKET;
	*bad = (struct mqtt_bad){.reason = r->reason, .version = r->version, .text = r->why};
	return MQTT_BAD;
}

enum mqtt_result mqtt_decode(const struct mqtt_side *side, const void *bytes, size_t len,
                             struct mqtt_packet *out, struct mqtt_bad *bad)
{
	const char *p = bytes;
	struct reader r = {.version = side->version, .from_server = side->from_server};

	out->size = 0;
	if (!len)
		return MQTT_NEED_MORE;
	out->type = (uint8_t)p[0] >> 4;
	r.flags = p[0] & 0x0f;
	check_first_byte(&r, side, out->type);
	if (!r.why)
		out->size = packet_size(&r, side, p, len);
	if (r.why)
		return verdict(&r, bad);
	if (!out->size || out->size > len)
		return MQTT_NEED_MORE;
	r.end = p + out->size;
	out->props = (struct mqtt_props){0};
	packets[out->type].decode(&r, out);
	if (left(&r))
		malformed(&r, "bytes after the end of the packet");
	return verdict(&r, bad);
}
