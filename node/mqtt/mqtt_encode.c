#include "node/mqtt/mqtt_codec.h"

#include <assert.h>

/* ---- PUBLISH: sizes first, then one reservation ------------------------------------------------
 */

static size_t publish_props_size(const struct mqtt_publish_out *p)
{
	size_t n = p->props.n + p->more.n;

	n += p->expiry_s >= 0 ? 5 : 0;
	n += p->alias ? 3 : 0;
	for (size_t i = 0; i < p->sub_id_count; i++)
		n += 1 + mqtt_varint_size(p->sub_ids[i]);
	return n;
}

/* Bytes of the variable header. */
static size_t publish_header_size(uint8_t version, const struct mqtt_publish_out *p,
                                  size_t props_size)
{
	size_t n = 2 + p->topic.n + (p->qos ? 2 : 0);

	if (version == MQTT_V5)
		n += mqtt_varint_size((uint32_t)props_size) + props_size;
	return n;
}

size_t mqtt_publish_size(uint8_t version, const struct mqtt_publish_out *p)
{
	size_t n = publish_header_size(version, p, publish_props_size(p)) + p->payload_len;

	return 1 + mqtt_varint_size((uint32_t)n) + n;
}

static char *write_u16(char *w, uint16_t v)
{
	w[0] = (char)(v >> 8);
	w[1] = (char)(v & 0xff);
	return w + 2;
}

static char *write_bytes(char *w, struct slice s)
{
	if (s.n)
		memcpy(w, s.p, s.n);
	return w + s.n;
}

static char *write_publish_props(char *w, const struct mqtt_publish_out *p, size_t size)
{
	w = mqtt_varint_write(w, (uint32_t)size);
	if (p->expiry_s >= 0) {
		*w++ = MQTT_PROP_MESSAGE_EXPIRY;
		w = write_u16(w, (uint16_t)(p->expiry_s >> 16));
		w = write_u16(w, (uint16_t)(p->expiry_s & 0xffff));
	}
	if (p->alias) {
		*w++ = MQTT_PROP_TOPIC_ALIAS;
		w = write_u16(w, p->alias);
	}
	for (size_t i = 0; i < p->sub_id_count; i++) {
		*w++ = MQTT_PROP_SUBSCRIPTION_ID;
		w = mqtt_varint_write(w, p->sub_ids[i]);
	}
	return write_bytes(write_bytes(w, p->props), p->more);
}

void mqtt_encode_publish(struct buf *out, uint8_t version, const struct mqtt_publish_out *p)
{
	size_t props_size = version == MQTT_V5 ? publish_props_size(p) : 0;
	size_t header = publish_header_size(version, p, props_size);
	size_t remaining = header + p->payload_len;
	char *w;

	assert(remaining <= MQTT_VARINT_MAX && p->topic.n <= UINT16_MAX && p->qos <= 2);
	assert(p->expiry_s <= UINT32_MAX && (!p->qos || p->packet_id));
	w = buf_extend(out, 1 + mqtt_varint_size((uint32_t)remaining) + header);
	*w++ = (char)(MQTT_PUBLISH << 4 | p->dup << 3 | p->qos << 1 | p->retain);
	w = mqtt_varint_write(w, (uint32_t)remaining);
	w = write_u16(w, (uint16_t)p->topic.n);
	w = write_bytes(w, p->topic);
	if (p->qos)
		w = write_u16(w, p->packet_id);
	if (version == MQTT_V5)
		w = write_publish_props(w, p, props_size);
	assert(w == out->data + out->len);
}

/* ---- everything else: the body first, then its header is moved up to it ------------------------
 */

enum { HEADER_MAX = 5 };

static size_t frame_begin(struct buf *out)
{
	size_t at = out->len;

	buf_extend(out, HEADER_MAX);
	return at;
}

static void frame_end(struct buf *out, size_t at, enum mqtt_type type, uint8_t flags)
{
	size_t remaining = out->len - at - HEADER_MAX;
	char *w = out->data + at;

	assert(remaining <= MQTT_VARINT_MAX);
	*w++ = (char)(type << 4 | flags);
	w = mqtt_varint_write(w, (uint32_t)remaining);
	memmove(w, out->data + at + HEADER_MAX, remaining);
	out->len = (size_t)(w - out->data) + remaining;
}

static void put_bytes(struct buf *out, struct slice s)
{
	assert(s.n <= UINT16_MAX);
	buf_u16be(out, (uint16_t)s.n);
	buf_append_slice(out, s);
}

static void put_props(struct buf *out, uint8_t version, const struct mqtt_props *props)
{
	if (version == MQTT_V5)
		mqtt_props_encode(out, props);
}

static bool props_empty(const struct mqtt_props *props)
{
	return !props || (!props->have && !props->extra.n);
}

void mqtt_encode_ack(struct buf *out, uint8_t version, enum mqtt_type type, uint16_t packet_id,
                     uint8_t reason, struct slice reason_text)
{
	uint8_t flags = type == MQTT_PUBREL ? 2 : 0;
	struct mqtt_props props = {0};
	size_t at;

	if (version != MQTT_V5 || (!reason && !reason_text.n)) {
		char *w = buf_extend(out, 4);

		w[0] = (char)(type << 4 | flags);
		w[1] = 2;
		write_u16(w + 2, packet_id);
		return;
	}
	at = frame_begin(out);
	buf_u16be(out, packet_id);
	buf_u8(out, reason);
	if (reason_text.n) {
		mqtt_set_reason_string(&props, reason_text);
		mqtt_props_encode(out, &props);
	}
	frame_end(out, at, type, flags);
}

static uint8_t connect_flags(const struct mqtt_connect *c)
{
	unsigned flags = c->clean_start << 1 | c->has_password << 6 | c->has_username << 7;

	if (c->will.present)
		flags |= 1U << 2 | c->will.qos << 3 | c->will.retain << 5;
	return (uint8_t)flags;
}

void mqtt_encode_connect(struct buf *out, const struct mqtt_connect *c,
                         const struct mqtt_props *props)
{
	size_t at = frame_begin(out);

	put_bytes(out, slice_str("MQTT"));
	buf_u8(out, c->version);
	buf_u8(out, connect_flags(c));
	buf_u16be(out, c->keep_alive_s);
	put_props(out, c->version, props);
	put_bytes(out, c->client_id);
	if (c->will.present) {
		put_props(out, c->version, &c->will.props);
		put_bytes(out, c->will.topic);
		put_bytes(out, c->will.payload);
	}
	if (c->has_username)
		put_bytes(out, c->username);
	if (c->has_password)
		put_bytes(out, c->password);
	frame_end(out, at, MQTT_CONNECT, 0);
}

void mqtt_encode_connack(struct buf *out, uint8_t version, bool session_present, uint8_t reason,
                         const struct mqtt_props *props)
{
	size_t at = frame_begin(out);

	buf_u8(out, session_present && !reason);
	buf_u8(out, version == MQTT_V5 ? reason : mqtt_reason_to_connack3(reason));
	put_props(out, version, props);
	frame_end(out, at, MQTT_CONNACK, 0);
}

static uint8_t sub_options(uint8_t version, const struct mqtt_filter *f)
{
	if (version != MQTT_V5)
		return f->qos;
	return (uint8_t)(f->qos | f->no_local << 2 | f->retain_as_published << 3 |
	                 f->retain_handling << 4);
}

/* SUBSCRIBE or UNSUBSCRIBE, which has the filters alone. */
static void encode_filters(struct buf *out, uint8_t version, enum mqtt_type type,
                           uint16_t packet_id, const struct mqtt_filter *filters, size_t count,
                           const struct mqtt_props *props)
{
	size_t at = frame_begin(out);

	buf_u16be(out, packet_id);
	put_props(out, version, props);
	for (size_t i = 0; i < count; i++) {
		put_bytes(out, filters[i].filter);
		if (type == MQTT_SUBSCRIBE)
			buf_u8(out, sub_options(version, &filters[i]));
	}
	frame_end(out, at, type, 2);
}

void mqtt_encode_subscribe(struct buf *out, uint8_t version, uint16_t packet_id,
                           const struct mqtt_filter *filters, size_t count,
                           const struct mqtt_props *props)
{
	encode_filters(out, version, MQTT_SUBSCRIBE, packet_id, filters, count, props);
}

void mqtt_encode_unsubscribe(struct buf *out, uint8_t version, uint16_t packet_id,
                             const struct mqtt_filter *filters, size_t count,
                             const struct mqtt_props *props)
{
	encode_filters(out, version, MQTT_UNSUBSCRIBE, packet_id, filters, count, props);
}

void mqtt_encode_suback(struct buf *out, uint8_t version, uint16_t packet_id,
                        const uint8_t *reasons, size_t count, const struct mqtt_props *props)
{
	size_t at = frame_begin(out);

	buf_u16be(out, packet_id);
	put_props(out, version, props);
	for (size_t i = 0; i < count; i++)
		buf_u8(out, version != MQTT_V5 && reasons[i] >= 0x80 ? MQTT_REASON_UNSPECIFIED
		                                                     : reasons[i]);
	frame_end(out, at, MQTT_SUBACK, 0);
}

void mqtt_encode_unsuback(struct buf *out, uint8_t version, uint16_t packet_id,
                          const uint8_t *reasons, size_t count, const struct mqtt_props *props)
{
	size_t at = frame_begin(out);

	buf_u16be(out, packet_id);
	put_props(out, version, props);
	if (version == MQTT_V5)
		buf_append(out, reasons, count);
	frame_end(out, at, MQTT_UNSUBACK, 0);
}

static void encode_empty(struct buf *out, enum mqtt_type type)
{
	buf_u8(out, (uint8_t)(type << 4));
	buf_u8(out, 0);
}

void mqtt_encode_pingreq(struct buf *out)
{
	encode_empty(out, MQTT_PINGREQ);
}

void mqtt_encode_pingresp(struct buf *out)
{
	encode_empty(out, MQTT_PINGRESP);
}

void mqtt_encode_disconnect(struct buf *out, uint8_t version, uint8_t reason,
                            const struct mqtt_props *props)
{
	size_t at;

	if (version != MQTT_V5 || (!reason && props_empty(props))) {
		encode_empty(out, MQTT_DISCONNECT);
		return;
	}
	at = frame_begin(out);
	buf_u8(out, reason);
	if (!props_empty(props))
		mqtt_props_encode(out, props);
	frame_end(out, at, MQTT_DISCONNECT, 0);
}

void mqtt_encode_auth(struct buf *out, uint8_t reason, const struct mqtt_props *props)
{
	size_t at;

	if (!reason && props_empty(props)) {
		encode_empty(out, MQTT_AUTH);
		return;
	}
	at = frame_begin(out);
	buf_u8(out, reason);
	mqtt_props_encode(out, props);
	frame_end(out, at, MQTT_AUTH, 0);
}
