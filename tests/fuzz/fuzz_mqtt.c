/* The MQTT decoder on anything: no read past the end, the same answer however the bytes arrive, and
 * what it took encodes to something it takes again. The first byte picks version and direction. */
#include "node/mqtt/mqtt_codec.h"

#include <stdlib.h>
#include <string.h>

#define CHECK(x)                 \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk(const struct mqtt_packet *p)
{
	struct slice rest = p->props.raw;
	struct mqtt_prop prop;
	struct mqtt_filter f;
	uint32_t filters = 0;

	while (mqtt_prop_next(&rest, &prop))
		CHECK(mqtt_has(&p->props, prop.id));
	CHECK(!rest.n);
	if (p->type != MQTT_SUBSCRIBE && p->type != MQTT_UNSUBSCRIBE)
		return;
	rest = p->subscribe.filters;
	while (mqtt_filter_next(p->type, &rest, &f)) {
		CHECK(f.filter.n && f.qos <= 2);
		filters++;
	}
	CHECK(filters == p->subscribe.count && !rest.n);
}

static void publish_again(const struct mqtt_side *side, const struct mqtt_packet *p)
{
	struct mqtt_side far = *side;
	struct mqtt_packet q;
	struct mqtt_bad bad;
	struct buf props = {0};
	struct buf b = {0};
	struct buf props2 = {0};
	struct mqtt_publish_out out = {
	        .topic = p->publish.topic,
	        .payload_len = p->publish.payload.n,
	        .expiry_s = mqtt_has(&p->props, MQTT_PROP_MESSAGE_EXPIRY)
	                            ? (int64_t)p->props.message_expiry_s
	                            : -1,
	        .alias = p->props.topic_alias,
	        .packet_id = p->publish.packet_id,
	        .qos = p->publish.qos,
	        .dup = p->publish.dup,
	        .retain = p->publish.retain,
	};

	mqtt_props_forward(&props, &p->props);
	out.props = buf_slice(&props);
	mqtt_encode_publish(&b, side->version, &out);
	buf_append_slice(&b, p->publish.payload);
	CHECK(b.len == mqtt_publish_size(side->version, &out));
	far.max_packet = UINT32_MAX;
	CHECK(mqtt_decode(&far, b.data, b.len, &q, &bad) == MQTT_PACKET && q.size == b.len);
	CHECK(slice_eq(q.publish.topic, p->publish.topic));
	CHECK(slice_eq(q.publish.payload, p->publish.payload));
	CHECK(q.publish.packet_id == p->publish.packet_id);
	mqtt_props_forward(&props2, &q.props);
	CHECK(slice_eq(buf_slice(&props), buf_slice(&props2)));
	buf_release(&props2);
	buf_release(&props);
	buf_release(&b);
}

static void connect_again(const struct mqtt_packet *p)
{
	struct mqtt_side side = {.max_packet = UINT32_MAX};
	struct mqtt_packet q;
	struct mqtt_bad bad;
	struct buf b = {0};

	mqtt_encode_connect(&b, &p->connect, &p->props);
	CHECK(mqtt_decode(&side, b.data, b.len, &q, &bad) == MQTT_PACKET && q.size == b.len);
	CHECK(q.connect.version == p->connect.version);
	CHECK(slice_eq(q.connect.client_id, p->connect.client_id));
	CHECK(slice_eq(q.connect.password, p->connect.password));
	CHECK(slice_eq(q.connect.will.topic, p->connect.will.topic));
	buf_release(&b);
}

static void packet(const struct mqtt_side *side, const struct mqtt_packet *p)
{
	walk(p);
	if (p->type == MQTT_PUBLISH)
		publish_again(side, p);
	else if (p->type == MQTT_CONNECT)
		connect_again(p);
}

/* The verdict on a prefix is "more" until the verdict on the whole is known. */
static void prefixes(const struct mqtt_side *side, const uint8_t *bytes, size_t n,
                     enum mqtt_result whole)
{
	struct mqtt_packet p;
	struct mqtt_bad bad;

	for (size_t cut = 0; cut < n; cut++) {
		enum mqtt_result r = mqtt_decode(side, bytes, cut, &p, &bad);

		CHECK(r == MQTT_NEED_MORE || (r == MQTT_BAD && whole == MQTT_BAD));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t versions[] = {MQTT_V_NONE, MQTT_V311, MQTT_V5};
	struct mqtt_side side = {.max_packet = 16384};
	size_t at = 1;

	if (!size)
		return 0;
	side.version = versions[data[0] % 3];
	side.from_server = data[0] / 3 & 1;
	while (at < size) {
		struct mqtt_packet p;
		struct mqtt_bad bad;
		enum mqtt_result r = mqtt_decode(&side, data + at, size - at, &p, &bad);

		if (r != MQTT_PACKET) {
			CHECK(r == MQTT_NEED_MORE || (bad.text && bad.reason >= 0x80));
			break;
		}
		packet(&side, &p);
		if (p.size < 256)
			prefixes(&side, data + at, p.size, r);
		if (p.type == MQTT_CONNECT)
			side.version = p.connect.version;
		at += p.size;
	}
	return 0;
}
