/* The packets are written as hex; spaces are for the reader. */
#include "node/mqtt/mqtt_codec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX = 16384 };

static int hex_digit(char c)
{
	return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* The bytes of `hex`, exactly as long as they are, so that sanitizers see a read past the end. */
static unsigned char *unhex(const char *hex, size_t *n)
{
	unsigned char *out = malloc(strlen(hex) / 2 + 1);

	*n = 0;
	for (; *hex; hex++) {
		if (*hex == ' ')
			continue;
		out[(*n)++] = (unsigned char)(hex_digit(hex[0]) << 4 | hex_digit(hex[1]));
		hex++;
	}
	return realloc(out, *n ? *n : 1);
}

/* ---- valid packets ----------------------------------------------------------------------------
 */

#define V0 MQTT_V_NONE
#define V3 MQTT_V311
#define V5 MQTT_V5
#define UP false
#define DOWN true

static const struct {
	const char *hex;
	uint8_t version;
	bool from_server;
	enum mqtt_type type;
} good[] = {
        {"10 10 0004 4d515454 04 02 003c 0004 61626364", V0, UP, MQTT_CONNECT},
        {"10 0c 0004 4d515454 04 02 003c 0000", V0, UP, MQTT_CONNECT},
        {"10 0d 0004 4d515454 05 02 0000 00 0000", V0, UP, MQTT_CONNECT},
        /* properties, will with delay, user name and password */
        {"10 31 0004 4d515454 05 ee 003c 08 1100000e10 210014 0001 63"
         "05 18 00000005 0001 74 0002 ffff 0004 75736572 0006 746f6b656e31",
         V0, UP, MQTT_CONNECT},
        {"20 02 01 00", V3, DOWN, MQTT_CONNACK},
        {"20 02 00 05", V3, DOWN, MQTT_CONNACK},
        {"20 06 00 00 03 21000a", V5, DOWN, MQTT_CONNACK},
        {"20 03 00 87 00", V5, DOWN, MQTT_CONNACK},
        {"20 02 00 01", V5, DOWN, MQTT_CONNACK}, /* from a server that speaks only 3.1.1 */
        {"30 05 0003 612f62", V3, UP, MQTT_PUBLISH},
        {"32 0a 0003 612f62 0001 706179", V3, DOWN, MQTT_PUBLISH},
        {"3b 08 0003 612f62 0001 00", V5, UP, MQTT_PUBLISH},
        {"34 0e 0003 612f62 ffff 05 02 0000003c 78", V5, UP, MQTT_PUBLISH},
        {"30 06 0000 03 230001", V5, UP, MQTT_PUBLISH},
        {"30 0a 0001 61 06 0b01 0b808001", V5, DOWN, MQTT_PUBLISH},
        {"30 12 0001 61 0e 26 0001 6b 0001 76 26 0001 6b 0001 77", V5, UP, MQTT_PUBLISH},
        {"40 02 0001", V3, UP, MQTT_PUBACK},
        {"40 02 0001", V5, UP, MQTT_PUBACK},
        {"40 03 0001 10", V5, DOWN, MQTT_PUBACK},
        {"40 0a 0001 87 06 1f 0003 6e6f70", V5, DOWN, MQTT_PUBACK},
        {"50 03 0001 97", V5, DOWN, MQTT_PUBREC},
        {"62 03 0001 92", V5, UP, MQTT_PUBREL},
        {"62 02 0001", V3, UP, MQTT_PUBREL},
        {"70 02 0001", V5, UP, MQTT_PUBCOMP},
        {"82 06 0001 0001 23 01", V3, UP, MQTT_SUBSCRIBE},
        {"82 0d 0001 02 0b05 0001 61 2d 0001 62 00", V5, UP, MQTT_SUBSCRIBE},
        {"90 05 0001 00 0180", V3, DOWN, MQTT_SUBACK},
        {"90 06 0001 00 00 02 8f", V5, DOWN, MQTT_SUBACK},
        {"a2 05 0001 0001 61", V3, UP, MQTT_UNSUBSCRIBE},
        {"a2 09 0001 00 0001 61 0001 62", V5, UP, MQTT_UNSUBSCRIBE},
        {"b0 02 0001", V3, DOWN, MQTT_UNSUBACK},
        {"b0 05 0001 00 00 11", V5, DOWN, MQTT_UNSUBACK},
        {"c0 00", V3, UP, MQTT_PINGREQ},
        {"d0 00", V5, DOWN, MQTT_PINGRESP},
        {"e0 00", V3, UP, MQTT_DISCONNECT},
        {"e0 00", V5, DOWN, MQTT_DISCONNECT},
        {"e0 01 04", V5, UP, MQTT_DISCONNECT},
        {"e0 07 00 05 11 00000000", V5, UP, MQTT_DISCONNECT},
        {"e0 08 9c 06 1c 0003 612e62", V5, DOWN, MQTT_DISCONNECT},
        {"f0 06 18 04 15 0001 6d", V5, UP, MQTT_AUTH},
};

static enum mqtt_result decode(const void *p, size_t n, uint8_t version, bool from_server,
                               struct mqtt_packet *out, struct mqtt_bad *bad)
{
	struct mqtt_side side = {.version = version, .from_server = from_server, .max_packet = MAX};

	return mqtt_decode(&side, p, n, out, bad);
}

static void test_decode_good_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct mqtt_packet p;
		struct mqtt_bad bad = {.text = ""};
		size_t n;
		unsigned char *bytes = unhex(good[i].hex, &n);

		if (decode(bytes, n, good[i].version, good[i].from_server, &p, &bad) != MQTT_PACKET)
			fail_msg("%s: %02x %s", good[i].hex, bad.reason, bad.text);
		assert_int_equal(p.type, good[i].type);
		assert_int_equal(p.size, n);
		free(bytes);
	}
}

/* Every prefix of a valid packet asks for more, whatever follows the packet is left alone. */
static void test_decode_truncations(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct mqtt_packet p;
		struct mqtt_bad bad;
		size_t n;
		unsigned char *bytes = unhex(good[i].hex, &n);

		for (size_t cut = 0; cut < n; cut++) {
			unsigned char *part = malloc(cut + 1);

			memcpy(part, bytes, cut);
			part = realloc(part, cut ? cut : 1);
			assert_int_equal(
			        decode(part, cut, good[i].version, good[i].from_server, &p, &bad),
			        MQTT_NEED_MORE);
			assert_int_equal(p.size, cut < 2 ? 0 : n);
			free(part);
		}
		free(bytes);
	}
}

static void test_decode_followed_by_more(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct mqtt_packet p;
		struct mqtt_bad bad;
		size_t n;
		unsigned char *bytes = unhex(good[i].hex, &n);

		bytes = realloc(bytes, n + 3);
		memset(bytes + n, 0xff, 3);
		assert_int_equal(
		        decode(bytes, n + 3, good[i].version, good[i].from_server, &p, &bad),
		        MQTT_PACKET);
		assert_int_equal(p.size, n);
		free(bytes);
	}
}

/* ---- bad packets ------------------------------------------------------------------------------
 */

static const struct {
	const char *hex;
	uint8_t version;
	bool from_server;
	uint8_t reason;
	const char *text;
} wrong[] = {
        /* fixed header */
        {"00 00", V5, UP, 0x81, "packet type 0 is reserved"},
        {"c0 80 00", V5, UP, 0x81, "remaining length is malformed"},
        {"30 ff ff ff ff", V5, UP, 0x81, "remaining length is malformed"},
        {"30 80 80 80 80 01", V5, UP, 0x81, "remaining length is malformed"},
        {"30 ff ff ff 7f", V5, UP, 0x95, "packet is larger than the maximum"},
        {"10 ff ff ff 7f", V0, UP, 0x95, "packet is larger than the maximum"},
        {"10 fe 7f", V0, UP, 0x95, "packet is larger than the maximum"}, /* 16385 bytes */
        {"47", V0, UP, 0x82, "first packet is not CONNECT"},             /* "GET " */
        {"c0 00", V0, UP, 0x82, "first packet is not CONNECT"},
        {"10 00", V5, UP, 0x82, "second CONNECT"},
        {"20 02 0000", V5, UP, 0x82, "packet type is not allowed here"},
        {"90", V5, UP, 0x82, "packet type is not allowed here"},
        {"d0", V5, UP, 0x82, "packet type is not allowed here"},
        {"82", V5, DOWN, 0x82, "packet type is not allowed here"},
        {"e0 00", V3, DOWN, 0x82, "packet type is not allowed here"},
        {"f0 00", V3, UP, 0x82, "packet type is not allowed here"},
        {"c1 00", V5, UP, 0x81, "reserved flags of the fixed header are wrong"},
        {"80", V5, UP, 0x81, "reserved flags of the fixed header are wrong"},
        {"a0", V5, UP, 0x81, "reserved flags of the fixed header are wrong"},
        {"60", V5, UP, 0x81, "reserved flags of the fixed header are wrong"},
        {"42", V5, UP, 0x81, "reserved flags of the fixed header are wrong"},
        {"11", V0, UP, 0x81, "reserved flags of the fixed header are wrong"},
        {"c0 01 00", V5, UP, 0x81, "bytes after the end of the packet"},
        {"e0 01 00", V3, UP, 0x81, "bytes after the end of the packet"},

        /* CONNECT */
        {"10 0c 0004 4d515458 04 02 003c 0000", V0, UP, 0x84, "protocol name is not MQTT"},
        {"10 0e 0006 4d5149736470 03 02 003c 0000", V0, UP, 0x84, "protocol name is not MQTT"},
        {"10 0c 0004 4d515454 03 02 003c 0000", V0, UP, 0x84, "protocol level is neither 4 nor 5"},
        {"10 0c 0004 4d515454 06 02 003c 0000", V0, UP, 0x84, "protocol level is neither 4 nor 5"},
        {"10 00", V0, UP, 0x81, "packet ends inside a field"},
        {"10 0b 0004 4d515454 04 02 003c 00", V0, UP, 0x81, "packet ends inside a field"},
        {"10 0d 0004 4d515454 04 02 003c 0000 00", V0, UP, 0x81,
         "bytes after the end of the packet"},
        {"10 0c 0004 4d515454 04 03 003c 0000", V0, UP, 0x81, "reserved connect flag is set"},
        {"10 0c 0004 4d515454 04 0a 003c 0000", V0, UP, 0x81, "will QoS or retain without a will"},
        {"10 0c 0004 4d515454 04 22 003c 0000", V0, UP, 0x81, "will QoS or retain without a will"},
        {"10 11 0004 4d515454 04 1e 003c 0000 0001 74 0000", V0, UP, 0x81, "will QoS is 3"},
        {"10 0e 0004 4d515454 04 42 003c 0000 0000", V0, UP, 0x81, "password without a user name"},
        {"10 0c 0004 4d515454 04 00 003c 0000", V0, UP, 0x85,
         "empty client id without clean session"},
        {"10 0d 0004 4d515454 04 02 003c 0001 ff", V0, UP, 0x81, "text is not UTF-8"},
        {"10 11 0004 4d515454 04 06 003c 0000 0001 2b 0000", V0, UP, 0x90,
         "topic name has a wildcard"},
        {"10 10 0004 4d515454 04 06 003c 0000 0000 0000", V0, UP, 0x90, "will topic is empty"},
        {"10 10 0004 4d515454 05 02 0000 03 16 0000 0000", V0, UP, 0x82,
         "authentication data without a method"},
        {"10 10 0004 4d515454 05 02 0000 03 21 0000 0000", V0, UP, 0x82, "property must not be 0"},
        {"10 0f 0004 4d515454 05 02 0000 02 17 02 0000", V0, UP, 0x82, "property must be 0 or 1"},
        {"10 13 0004 4d515454 05 02 0000 06 210001 210001 0000", V0, UP, 0x82,
         "property stands twice"},
        {"10 10 0004 4d515454 05 02 0000 03 23 0001 0000", V0, UP, 0x81,
         "property does not belong in this packet"},
        {"10 0e 0004 4d515454 05 02 0000 01 7f 0000", V0, UP, 0x81, "unknown property"},
        {"10 0e 0004 4d515454 05 02 0000 01 21 0000", V0, UP, 0x81,
         "property value is cut off or malformed"},
        {"10 0e 0004 4d515454 05 02 0000 80 00 0000", V0, UP, 0x81, "property length is malformed"},
        {"10 0d 0004 4d515454 05 02 0000 7f 0000", V0, UP, 0x81, "packet ends inside a field"},

        /* CONNACK */
        {"20 02 02 00", V3, DOWN, 0x81, "reserved CONNACK flag is set"},
        {"20 02 00 06", V3, DOWN, 0x81, "reason code does not belong in this packet"},
        {"20 03 00 8d 00", V5, DOWN, 0x81, "reason code does not belong in this packet"},
        {"20 03 01 87 00", V5, DOWN, 0x82, "session present on a refused connection"},

        /* PUBLISH */
        {"36", V5, UP, 0x81, "QoS is 3"},
        {"38", V5, UP, 0x81, "DUP is set at QoS 0"},
        {"30 03 0001 2b", V3, UP, 0x90, "topic name has a wildcard"},
        {"30 05 0003 612f23", V3, UP, 0x90, "topic name has a wildcard"},
        {"30 03 0001 00", V3, UP, 0x81, "text is not UTF-8"},
        {"30 05 0003 eda080", V3, UP, 0x81, "text is not UTF-8"},
        {"30 02 0000", V3, UP, 0x82, "topic name is empty"},
        {"30 03 0000 00", V5, UP, 0x82, "topic name is empty"},
        {"32 05 0001 61 0000", V3, UP, 0x81, "packet identifier is 0"},
        {"32 04 0001 61 01", V3, UP, 0x81, "packet ends inside a field"},
        {"30 07 0001 61 03 230000", V5, UP, 0x94, "property must not be 0"},
        {"30 06 0001 61 02 0b01", V5, UP, 0x81, "property does not belong in this packet"},
        {"30 06 0001 61 02 0b00", V5, DOWN, 0x82, "property must not be 0"},
        {"30 06 0001 61 02 0102", V5, UP, 0x82, "property must be 0 or 1"},
        {"30 08 0001 61 04 08 0001 23", V5, UP, 0x82, "response topic has a wildcard"},
        {"30 0b 0001 61 07 26 0001 ff 0001 61", V5, UP, 0x81, "property text is not UTF-8"},
        {"30 08 0001 61 04 0101 0100", V5, UP, 0x82, "property stands twice"},
        {"30 07 0001 61 03 0b8000", V5, DOWN, 0x81, "property value is cut off or malformed"},

        /* acknowledgements */
        {"40 02 0000", V5, UP, 0x81, "packet identifier is 0"},
        {"40 03 0001 00", V3, UP, 0x81, "bytes after the end of the packet"},
        {"40 01 01", V3, UP, 0x81, "packet ends inside a field"},
        {"40 03 0001 92", V5, UP, 0x81, "reason code does not belong in this packet"},
        {"62 03 0001 87", V5, UP, 0x81, "reason code does not belong in this packet"},
        {"40 05 0001 00 00 00", V5, UP, 0x81, "bytes after the end of the packet"},

        /* SUBSCRIBE and so on */
        {"82 02 0001", V3, UP, 0x82, "no topic filter"},
        {"82 03 0001 00", V5, UP, 0x82, "no topic filter"},
        {"82 06 0000 0001 23 01", V3, UP, 0x81, "packet identifier is 0"},
        {"82 05 0001 0000 00", V3, UP, 0x81, "topic filter is empty"},
        {"82 05 0001 0001 23", V3, UP, 0x81, "packet ends inside a field"},
        {"82 06 0001 0001 23 03", V3, UP, 0x81, "subscription QoS is 3"},
        {"82 06 0001 0001 23 04", V3, UP, 0x81, "reserved subscription option is set"},
        {"82 07 0001 00 0001 23 40", V5, UP, 0x81, "reserved subscription option is set"},
        {"82 07 0001 00 0001 23 30", V5, UP, 0x82, "retain handling is 3"},
        {"82 10 0001 00 000a 2473686172652f672f61 04", V5, UP, 0x82,
         "no local on a shared subscription"},
        {"82 0b 0001 04 0b01 0b02 0001 23 00", V5, UP, 0x82, "property stands twice"},
        {"a2 02 0001", V3, UP, 0x82, "no topic filter"},
        {"90 02 0001", V3, DOWN, 0x82, "no reason code"},
        {"90 03 0001 03", V3, DOWN, 0x81, "reason code does not belong in this packet"},
        {"b0 03 0001 00", V3, DOWN, 0x81, "bytes after the end of the packet"},
        {"b0 03 0001 00", V5, DOWN, 0x82, "no reason code"},

        /* DISCONNECT, AUTH */
        {"e0 01 01", V5, UP, 0x81, "reason code does not belong in this packet"},
        {"e0 07 00 05 11 00000000", V5, DOWN, 0x81, "property does not belong in this packet"},
        {"f0 01 18", V5, UP, 0x82, "AUTH without an authentication method"},
        {"f0 01 87", V5, UP, 0x81, "reason code does not belong in this packet"},
};

static void test_decode_wrong_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct mqtt_packet p;
		struct mqtt_bad bad = {.text = ""};
		size_t n;
		unsigned char *bytes = unhex(wrong[i].hex, &n);

		if (decode(bytes, n, wrong[i].version, wrong[i].from_server, &p, &bad) != MQTT_BAD)
			fail_msg("%s: was taken", wrong[i].hex);
		if (bad.reason != wrong[i].reason || strcmp(bad.text, wrong[i].text) != 0)
			fail_msg("%s: %02x %s", wrong[i].hex, bad.reason, bad.text);
		free(bytes);
	}
}

/* A refused CONNECT is answered in the version it asked for, or the nearest one we speak. */
static void test_decode_refused_connect_version(void **state)
{
	static const struct {
		uint8_t level;
		uint8_t answer;
	} rows[] = {{3, 4}, {4, 4}, {5, 5}, {6, 5}};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		char bytes[] = "\x10\x0c\0\4MQTT?\x03\0\0\0\0";
		struct mqtt_packet p;
		struct mqtt_bad bad;

		bytes[8] = (char)rows[i].level;
		assert_int_equal(decode(bytes, sizeof bytes - 1, V0, UP, &p, &bad), MQTT_BAD);
		assert_int_equal(bad.version, rows[i].answer);
	}
}

/* ---- fields -----------------------------------------------------------------------------------
 */

static void assert_slice(struct slice s, const char *text)
{
	assert_int_equal(s.n, strlen(text));
	if (s.n)
		assert_memory_equal(s.p, text, s.n);
}

static void decode_buf(const struct buf *b, uint8_t version, bool from_server,
                       struct mqtt_packet *p)
{
	struct mqtt_bad bad = {.text = ""};

	if (decode(b->data, b->len, version, from_server, p, &bad) != MQTT_PACKET)
		fail_msg("%02x %s", bad.reason, bad.text);
	assert_int_equal(p->size, b->len);
}

static void test_connect_round_trip(void **state)
{
	struct buf b = {0};
	struct mqtt_packet p;
	struct mqtt_props props = {0};
	struct mqtt_connect c = {
	        .clean_start = true,
	        .has_username = true,
	        .has_password = true,
	        .keep_alive_s = 30,
	        .client_id = slice_str("me"),
	        .username = slice_str("user"),
	        .password = slice_str("secret"),
	        .will = {.present = true,
	                 .retain = true,
	                 .qos = 1,
	                 .topic = slice_str("gone"),
	                 .payload = slice_str("bye")},
	};

	(void)state;
	mqtt_set_session_expiry_s(&props, 3600);
	mqtt_set_receive_max(&props, 100);
	mqtt_set_will_delay_s(&c.will.props, 7);
	for (int v = V3; v <= V5; v++) {
		c.version = (uint8_t)v;
		buf_clear(&b);
		mqtt_encode_connect(&b, &c, &props);
		decode_buf(&b, V0, UP, &p);
		assert_int_equal(p.connect.version, v);
		assert_true(p.connect.clean_start);
		assert_int_equal(p.connect.keep_alive_s, 30);
		assert_slice(p.connect.client_id, "me");
		assert_slice(p.connect.username, "user");
		assert_slice(p.connect.password, "secret");
		assert_true(p.connect.will.present && p.connect.will.retain);
		assert_int_equal(p.connect.will.qos, 1);
		assert_slice(p.connect.will.topic, "gone");
		assert_slice(p.connect.will.payload, "bye");
		assert_int_equal(mqtt_has(&p.props, MQTT_PROP_SESSION_EXPIRY), v == V5);
	}
	assert_int_equal(p.props.session_expiry_s, 3600);
	assert_int_equal(p.props.receive_max, 100);
	assert_int_equal(p.connect.will.props.will_delay_s, 7);
	buf_release(&b);
}

/* What the server must carry is carried, in order; what it must not, is not. */
static void test_props_forward(void **state)
{
	size_t n;
	unsigned char *bytes = unhex("30 2f 0001 61 2a 26 0001 6b 0001 76 0101 0200000009 "
	                             "03 0002 742f 23 0002 08 0001 72 26 0001 61 0000 "
	                             "09 0002 ff00 26 0001 6b 0001 77 70",
	                             &n);
	struct mqtt_packet p;
	struct mqtt_bad bad;
	struct buf b = {0};
	struct slice rest;
	struct slice key;
	struct slice value;
	size_t want;
	unsigned char *kept = unhex("26 0001 6b 0001 76 0101 03 0002 742f 08 0001 72 "
	                            "26 0001 61 0000 09 0002 ff00 26 0001 6b 0001 77",
	                            &want);

	(void)state;
	bytes[1] = (unsigned char)(n - 2);
	bytes[5] = (unsigned char)(n - 7);
	assert_int_equal(decode(bytes, n, V5, UP, &p, &bad), MQTT_PACKET);
	assert_slice(p.publish.payload, "p");
	assert_int_equal(p.props.message_expiry_s, 9);
	assert_int_equal(p.props.topic_alias, 2);
	assert_slice(p.props.content_type, "t/");
	assert_slice(p.props.response_topic, "r");
	mqtt_props_forward(&b, &p.props);
	assert_int_equal(b.len, want);
	assert_memory_equal(b.data, kept, want);
	rest = p.props.raw;
	assert_true(mqtt_user_prop_next(&rest, &key, &value));
	assert_slice(key, "k");
	assert_slice(value, "v");
	assert_true(mqtt_user_prop_next(&rest, &key, &value));
	assert_slice(key, "a");
	assert_slice(value, "");
	assert_true(mqtt_user_prop_next(&rest, &key, &value));
	assert_slice(value, "w");
	assert_false(mqtt_user_prop_next(&rest, &key, &value));
	free(kept);
	free(bytes);
	buf_release(&b);
}

static void test_publish_round_trip(void **state)
{
	static const uint32_t ids[] = {1, 300, MQTT_VARINT_MAX};
	struct buf props = {0};
	struct buf more = {0};
	struct buf b = {0};
	struct mqtt_packet p;
	struct slice rest;
	struct slice key;
	struct slice value;
	uint32_t id;
	struct mqtt_publish_out out = {
	        .topic = slice_str("a/b"),
	        .sub_ids = ids,
	        .sub_id_count = 3,
	        .payload_len = 5,
	        .expiry_s = UINT32_MAX,
	        .alias = 7,
	        .packet_id = 65535,
	        .qos = 1,
	        .dup = true,
	        .retain = true,
	};

	(void)state;
	mqtt_put_user(&props, slice_str("key"), slice_str("value"));
	mqtt_put_user(&more, slice_str("leat-gap"), slice_str("0:1-9"));
	out.props = buf_slice(&props);
	out.more = buf_slice(&more);
	for (int v = V3; v <= V5; v++) {
		buf_clear(&b);
		mqtt_encode_publish(&b, (uint8_t)v, &out);
		buf_append(&b, "hello", 5);
		assert_int_equal(b.len, mqtt_publish_size((uint8_t)v, &out));
		decode_buf(&b, (uint8_t)v, DOWN, &p);
		assert_int_equal(p.publish.qos, 1);
		assert_true(p.publish.dup && p.publish.retain);
		assert_int_equal(p.publish.packet_id, 65535);
		assert_slice(p.publish.topic, "a/b");
		assert_slice(p.publish.payload, "hello");
	}
	assert_int_equal(p.props.message_expiry_s, UINT32_MAX);
	assert_int_equal(p.props.topic_alias, 7);
	rest = p.props.raw;
	for (size_t i = 0; i < 3; i++) {
		assert_true(mqtt_sub_id_next(&rest, &id));
		assert_int_equal(id, ids[i]);
	}
	assert_false(mqtt_sub_id_next(&rest, &id));
	rest = p.props.raw;
	assert_true(mqtt_user_prop_next(&rest, &key, &value));
	assert_slice(value, "value");
	assert_true(mqtt_user_prop_next(&rest, &key, &value));
	assert_slice(key, "leat-gap");
	assert_slice(value, "0:1-9");
	buf_release(&b);
	buf_release(&more);
	buf_release(&props);
}

/* Lengths at which the remaining length and the property length grow by a byte. */
static void test_publish_length_edges(void **state)
{
	static const size_t lens[] = {0, 120, 121, 127, 128, 16378, 16379, 16384, 2097151, 2097152};
	struct buf b = {0};
	struct buf props = {0};
	struct mqtt_packet p;
	struct mqtt_bad bad;
	const struct mqtt_side side = {.version = V5, .max_packet = UINT32_MAX};

	(void)state;
	for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
		struct mqtt_publish_out out = {
		        .topic = slice_str("t"), .payload_len = lens[i], .expiry_s = -1};
		size_t user = lens[i] < 60000 ? lens[i] : 60000;
		char *fill = calloc(1, user + 1);

		buf_clear(&b);
		buf_clear(&props);
		memset(fill, 'u', user);
		mqtt_put_user(&props, slice(fill, user), slice_str(""));
		out.props = buf_slice(&props);
		mqtt_encode_publish(&b, V5, &out);
		memset(buf_extend(&b, lens[i]), 'x', lens[i]);
		assert_int_equal(mqtt_decode(&side, b.data, b.len, &p, &bad), MQTT_PACKET);
		assert_int_equal(p.size, b.len);
		assert_int_equal(p.size, mqtt_publish_size(V5, &out));
		assert_int_equal(p.publish.payload.n, lens[i]);
		free(fill);
	}
	buf_release(&props);
	buf_release(&b);
}

static void assert_hex(struct buf *b, const char *hex)
{
	size_t n;
	unsigned char *bytes = unhex(hex, &n);

	assert_int_equal(b->len, n);
	assert_memory_equal(b->data, bytes, n);
	buf_clear(b);
	free(bytes);
}

static void test_encode_bytes(void **state)
{
	static const uint8_t reasons[] = {0, 1, 0x8f};
	const struct slice none = {0};
	struct mqtt_props props = {0};
	struct buf b = {0};

	(void)state;
	mqtt_encode_ack(&b, V5, MQTT_PUBACK, 0x0102, 0, none);
	assert_hex(&b, "40 02 0102");
	mqtt_encode_ack(&b, V5, MQTT_PUBACK, 1, 0x10, none);
	assert_hex(&b, "40 03 0001 10");
	mqtt_encode_ack(&b, V5, MQTT_PUBACK, 1, 0x87, slice_str("no"));
	assert_hex(&b, "40 09 0001 87 05 1f 0002 6e6f");
	mqtt_encode_ack(&b, V3, MQTT_PUBACK, 1, 0x87, slice_str("no"));
	assert_hex(&b, "40 02 0001");
	mqtt_encode_ack(&b, V5, MQTT_PUBREL, 1, 0, none);
	assert_hex(&b, "62 02 0001");
	mqtt_encode_connack(&b, V3, true, 0, NULL);
	assert_hex(&b, "20 02 01 00");
	mqtt_encode_connack(&b, V3, true, 0x86, NULL);
	assert_hex(&b, "20 02 00 04");
	mqtt_encode_connack(&b, V5, false, 0x84, NULL);
	assert_hex(&b, "20 03 00 84 00");
	mqtt_set_max_qos(&props, 1);
	mqtt_set_receive_max(&props, 20);
	mqtt_encode_connack(&b, V5, false, 0, &props);
	assert_hex(&b, "20 08 00 00 05 210014 2401");
	mqtt_encode_suback(&b, V3, 5, reasons, 3, NULL);
	assert_hex(&b, "90 05 0005 00 01 80");
	mqtt_encode_suback(&b, V5, 5, reasons, 3, NULL);
	assert_hex(&b, "90 06 0005 00 00 01 8f");
	mqtt_encode_unsuback(&b, V3, 5, reasons, 1, NULL);
	assert_hex(&b, "b0 02 0005");
	mqtt_encode_unsuback(&b, V5, 5, reasons, 1, NULL);
	assert_hex(&b, "b0 04 0005 00 00");
	mqtt_encode_pingreq(&b);
	assert_hex(&b, "c0 00");
	mqtt_encode_pingresp(&b);
	assert_hex(&b, "d0 00");
	mqtt_encode_disconnect(&b, V5, 0, NULL);
	assert_hex(&b, "e0 00");
	mqtt_encode_disconnect(&b, V5, 0x8b, NULL);
	assert_hex(&b, "e0 01 8b");
	mqtt_encode_disconnect(&b, V3, 0x8b, NULL);
	assert_hex(&b, "e0 00");
	props = (struct mqtt_props){0};
	mqtt_set_auth_method(&props, slice_str("m"));
	mqtt_encode_auth(&b, 0x19, &props);
	assert_hex(&b, "f0 06 19 04 15 0001 6d");
	buf_release(&b);
}

static void test_connack3_refuses_mqtt5(void **state)
{
	struct mqtt_packet p;
	struct mqtt_bad bad;

	(void)state;
	assert_int_equal(decode("\x20\2\0\1", 4, V5, DOWN, &p, &bad), MQTT_PACKET);
	assert_int_equal(p.connack.reason, MQTT_REASON_UNSUPPORTED_VERSION);
	assert_int_equal(decode("\x20\2\0\0", 4, V5, DOWN, &p, &bad), MQTT_BAD);
}

static void test_subscribe_round_trip(void **state)
{
	const struct mqtt_filter filters[] = {
	        {.filter = slice_str("a/+"), .qos = 2, .retain_handling = 2},
	        {.filter = slice_str("#"), .no_local = true, .retain_as_published = true},
	};
	struct buf b = {0};
	struct mqtt_packet p;
	struct mqtt_filter f;
	struct slice rest;

	(void)state;
	mqtt_encode_subscribe(&b, V5, 9, filters, 2, NULL);
	decode_buf(&b, V5, UP, &p);
	assert_int_equal(p.subscribe.packet_id, 9);
	assert_int_equal(p.subscribe.count, 2);
	rest = p.subscribe.filters;
	assert_true(mqtt_filter_next(MQTT_SUBSCRIBE, &rest, &f));
	assert_slice(f.filter, "a/+");
	assert_int_equal(f.qos, 2);
	assert_int_equal(f.retain_handling, 2);
	assert_false(f.no_local || f.retain_as_published);
	assert_true(mqtt_filter_next(MQTT_SUBSCRIBE, &rest, &f));
	assert_slice(f.filter, "#");
	assert_true(f.no_local && f.retain_as_published);
	assert_false(mqtt_filter_next(MQTT_SUBSCRIBE, &rest, &f));

	buf_clear(&b);
	mqtt_encode_unsubscribe(&b, V3, 9, filters, 2, NULL);
	decode_buf(&b, V3, UP, &p);
	rest = p.subscribe.filters;
	assert_true(mqtt_filter_next(MQTT_UNSUBSCRIBE, &rest, &f));
	assert_slice(f.filter, "a/+");
	assert_true(mqtt_filter_next(MQTT_UNSUBSCRIBE, &rest, &f));
	assert_false(mqtt_filter_next(MQTT_UNSUBSCRIBE, &rest, &f));
	buf_release(&b);
}

/* Every property, set through its setter, comes back through the decoder (in CONNACK or PUBLISH
 * or wherever it may stand). Long strings make the block's length two bytes. */
static void test_props_every_field(void **state)
{
	static char text[300];
	struct mqtt_props in = {0};
	struct mqtt_props out;
	struct buf b = {0};
	uint32_t len;
	uint8_t reason;
	int width;

	(void)state;
	memset(text, 't', sizeof text);
	mqtt_set_session_expiry_s(&in, UINT32_MAX);
	mqtt_set_receive_max(&in, 65535);
	mqtt_set_max_qos(&in, 1);
	mqtt_set_retain_available(&in, 1);
	mqtt_set_max_packet_size(&in, 1 << 20);
	mqtt_set_assigned_client_id(&in, slice(text, sizeof text));
	mqtt_set_topic_alias_max(&in, 3);
	mqtt_set_reason_string(&in, slice_str("why"));
	mqtt_set_wildcard_available(&in, 1);
	mqtt_set_subscription_id_available(&in, 1);
	mqtt_set_shared_available(&in, 1);
	mqtt_set_server_keep_alive_s(&in, 60);
	mqtt_set_response_info(&in, slice_str("ri"));
	mqtt_set_server_reference(&in, slice_str("sr"));
	mqtt_set_auth_method(&in, slice_str("am"));
	mqtt_set_auth_data(&in, slice("\0\1", 2));
	mqtt_props_encode(&b, &in);
	width = mqtt_varint_read(b.data, b.len, &len);
	assert_int_equal(width, 2);
	assert_int_equal(len + 2, b.len);
	assert_null(mqtt_props_parse(&out, slice(b.data + 2, len), MQTT_IN_CONNACK, &reason));
	assert_true(out.have == in.have);
	assert_int_equal(out.session_expiry_s, UINT32_MAX);
	assert_int_equal(out.receive_max, 65535);
	assert_int_equal(out.max_qos, 1);
	assert_int_equal(out.max_packet_size, 1 << 20);
	assert_int_equal(out.assigned_client_id.n, sizeof text);
	assert_int_equal(out.topic_alias_max, 3);
	assert_slice(out.reason_string, "why");
	assert_int_equal(out.server_keep_alive_s, 60);
	assert_slice(out.response_info, "ri");
	assert_slice(out.server_reference, "sr");
	assert_slice(out.auth_method, "am");
	assert_int_equal(out.auth_data.n, 2);
	buf_release(&b);
}

static void test_varint(void **state)
{
	static const uint32_t values[] = {0,     127,     128,     16383,
	                                  16384, 2097151, 2097152, MQTT_VARINT_MAX};
	char b[4];
	uint32_t v;

	(void)state;
	for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
		size_t n = (size_t)(mqtt_varint_write(b, values[i]) - b);

		assert_int_equal(n, mqtt_varint_size(values[i]));
		assert_int_equal(mqtt_varint_read(b, n, &v), n);
		assert_int_equal(v, values[i]);
		assert_int_equal(mqtt_varint_read(b, n - 1, &v), 0);
	}
	assert_int_equal(mqtt_varint_read("\x80\x00", 2, &v), -1);
	assert_int_equal(mqtt_varint_read("\xff\xff\xff\xff\x01", 5, &v), -1);
}

static void test_reasons(void **state)
{
	(void)state;
	assert_string_equal(mqtt_reason_text(0x97), "quota exceeded");
	assert_string_equal(mqtt_reason_text(0x55), "unknown reason");
	for (uint8_t code = 0; code <= 5; code++)
		assert_int_equal(mqtt_reason_to_connack3(mqtt_reason_from_connack3(code)), code);
	assert_int_equal(mqtt_reason_to_connack3(0x97), 3);
	assert_string_equal(mqtt_type_name(MQTT_AUTH), "AUTH");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_decode_good_rows),
	        cmocka_unit_test(test_decode_truncations),
	        cmocka_unit_test(test_decode_followed_by_more),
	        cmocka_unit_test(test_decode_wrong_rows),
	        cmocka_unit_test(test_decode_refused_connect_version),
	        cmocka_unit_test(test_connect_round_trip),
	        cmocka_unit_test(test_props_forward),
	        cmocka_unit_test(test_publish_round_trip),
	        cmocka_unit_test(test_publish_length_edges),
	        cmocka_unit_test(test_encode_bytes),
	        cmocka_unit_test(test_connack3_refuses_mqtt5),
	        cmocka_unit_test(test_subscribe_round_trip),
	        cmocka_unit_test(test_props_every_field),
	        cmocka_unit_test(test_varint),
	        cmocka_unit_test(test_reasons),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
