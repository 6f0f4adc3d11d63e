/* mqtt_codec: MQTT 3.1.1 and 5 packets to structs and back (mqtt_decode.c, mqtt_encode.c). Pure
 * functions without state or memory of their own; any thread. Decoded slices point into the input
 * and live as long as it does; nothing is copied. Both directions are covered: the broker decodes
 * what clients send, our client decodes what servers send.
 *
 * The decoder checks all that can be judged from one packet alone (MQTT 5 chapters 1 to 3). What
 * depends on state (packet ids in use, Receive Maximum, aliases, order of packets after CONNECT) is
 * the caller's. Topic filters are checked for UTF-8 and emptiness only: a bad wildcard is answered
 * by filter in the SUBACK. */
#ifndef LEAT_NODE_MQTT_CODEC_H
#define LEAT_NODE_MQTT_CODEC_H

#include "base/buf.h"
#include "base/slice.h"
#include "node/mqtt/mqtt_props.h"
#include "node/mqtt/mqtt_reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mqtt_type {
	MQTT_CONNECT = 1,
	MQTT_CONNACK,
	MQTT_PUBLISH,
	MQTT_PUBACK,
	MQTT_PUBREC,
	MQTT_PUBREL,
	MQTT_PUBCOMP,
	MQTT_SUBSCRIBE,
	MQTT_SUBACK,
	MQTT_UNSUBSCRIBE,
	MQTT_UNSUBACK,
	MQTT_PINGREQ,
	MQTT_PINGRESP,
	MQTT_DISCONNECT,
	MQTT_AUTH,
};

enum mqtt_version {
	MQTT_V_NONE = 0, /* before CONNECT */
	MQTT_V311 = 4,
	MQTT_V5 = 5,
};

const char *mqtt_type_name(enum mqtt_type t); /* "PUBLISH" */

/* ---- packets, decoded ------------------------------------------------------------------------ */

struct mqtt_will {
	bool present;
	bool retain;
	uint8_t qos;
	struct slice topic;
	struct slice payload;
	struct mqtt_props props;
};

struct mqtt_connect {
	uint8_t version; /* MQTT_V311 or MQTT_V5 */
	bool clean_start;
	bool has_username;
	bool has_password;
	uint16_t keep_alive_s; /* 0 = off */
	struct slice client_id;
	struct slice username;
	struct slice password;
	struct mqtt_will will;
};

struct mqtt_connack {
	bool session_present;
	uint8_t reason; /* an MQTT 5 code, also when it came from a 3.1.1 server */
};

struct mqtt_publish {
	uint8_t qos;
	bool dup;
	bool retain;
	uint16_t packet_id; /* 0 at QoS 0 */
	struct slice topic; /* empty only with a topic alias */
	struct slice payload;
};

struct mqtt_ack { /* PUBACK PUBREC PUBREL PUBCOMP */
	uint16_t packet_id;
	uint8_t reason;
};

struct mqtt_subscribe { /* SUBSCRIBE UNSUBSCRIBE */
	uint16_t packet_id;
	uint32_t count;       /* filters, at least 1 */
	struct slice filters; /* in wire form: walk with mqtt_filter_next() */
};

struct mqtt_suback { /* SUBACK UNSUBACK */
	uint16_t packet_id;
	struct slice reasons; /* one byte a filter; empty for a 3.1.1 UNSUBACK */
};

struct mqtt_disconnect { /* DISCONNECT AUTH */
	uint8_t reason;
};

struct mqtt_packet {
	enum mqtt_type type;
	size_t size;             /* bytes of the whole packet: what the caller consumes */
	struct mqtt_props props; /* empty in 3.1.1 */
	union {
		struct mqtt_connect connect;
		struct mqtt_connack connack;
		struct mqtt_publish publish;
		struct mqtt_ack ack;
		struct mqtt_subscribe subscribe;
		struct mqtt_suback suback;
		struct mqtt_disconnect disconnect;
	};
};

/* One filter of a SUBSCRIBE; of an UNSUBSCRIBE only `filter` is set. */
struct mqtt_filter {
	struct slice filter;
	uint8_t qos;   /* the maximum the client wants */
	bool no_local; /* MQTT 5 */
	bool retain_as_published;
	uint8_t retain_handling; /* 0 send, 1 send if new, 2 do not send */
};

/* struct slice rest = s->filters; while (mqtt_filter_next(type, &rest, &f)) … */
bool mqtt_filter_next(enum mqtt_type type, struct slice *rest, struct mqtt_filter *out);

/* ---- decode ---------------------------------------------------------------------------------- */

enum mqtt_result {
	MQTT_PACKET,    /* out is a whole packet of out->size bytes */
	MQTT_NEED_MORE, /* out->size = bytes of the whole packet once known, else 0 */
	MQTT_BAD,       /* bad says why; the connection is lost */
};

struct mqtt_side {
	uint8_t version;     /* enum mqtt_version: MQTT_V_NONE until CONNECT was decoded */
	bool from_server;    /* true: the bytes came from a server */
	uint32_t max_packet; /* bytes of a whole packet; more is refused from the fixed header */
};

struct mqtt_bad {
	uint8_t reason;   /* for CONNACK or DISCONNECT */
	uint8_t version;  /* the version to answer in, known or guessed from a refused CONNECT */
	const char *text; /* static: what was wrong */
};

enum mqtt_result mqtt_decode(const struct mqtt_side *side, const void *bytes, size_t len,
                             struct mqtt_packet *out, struct mqtt_bad *bad);

/* ---- encode: append to out ------------------------------------------------------------------- */
/* `version` is MQTT_V311 or MQTT_V5. Properties, reason codes and reason strings that 3.1.1 has no
 * room for are left out; a NULL props is an empty block. */

/* The delivery path. Writes the fixed and variable header; the payload follows, appended or
 * referenced by the caller. */
struct mqtt_publish_out {
	struct slice topic;
	struct slice props;      /* wire form without length, from mqtt_props_forward() */
	struct slice more;       /* properties of our own, likewise */
	const uint32_t *sub_ids; /* subscription identifiers, each 1 … MQTT_VARINT_MAX */
	size_t sub_id_count;
	size_t payload_len; /* bytes that will follow */
	int64_t expiry_s;   /* remaining message expiry; < 0 = none */
	uint16_t alias;     /* topic alias; 0 = none */
	uint16_t packet_id; /* written at QoS 1 and 2 only */
	uint8_t qos;
	bool dup;
	bool retain;
};

/* Bytes of the whole packet, payload included: to check a client's Maximum Packet Size. */
size_t mqtt_publish_size(uint8_t version, const struct mqtt_publish_out *p);
void mqtt_encode_publish(struct buf *out, uint8_t version, const struct mqtt_publish_out *p);

/* PUBACK, PUBREC, PUBREL or PUBCOMP; reason text may be empty. In 3.1.1 a failure cannot be said.
 */
void mqtt_encode_ack(struct buf *out, uint8_t version, enum mqtt_type type, uint16_t packet_id,
                     uint8_t reason, struct slice reason_text);

void mqtt_encode_connect(struct buf *out, const struct mqtt_connect *c,
                         const struct mqtt_props *props);
/* reason is an MQTT 5 code and is mapped for 3.1.1. */
void mqtt_encode_connack(struct buf *out, uint8_t version, bool session_present, uint8_t reason,
                         const struct mqtt_props *props);
void mqtt_encode_subscribe(struct buf *out, uint8_t version, uint16_t packet_id,
                           const struct mqtt_filter *filters, size_t count,
                           const struct mqtt_props *props);
void mqtt_encode_unsubscribe(struct buf *out, uint8_t version, uint16_t packet_id,
                             const struct mqtt_filter *filters, size_t count,
                             const struct mqtt_props *props);
/* reasons: one MQTT 5 code a filter; in 3.1.1 every failure becomes 0x80. */
void mqtt_encode_suback(struct buf *out, uint8_t version, uint16_t packet_id,
                        const uint8_t *reasons, size_t count, const struct mqtt_props *props);
void mqtt_encode_unsuback(struct buf *out, uint8_t version, uint16_t packet_id,
                          const uint8_t *reasons, size_t count, const struct mqtt_props *props);
void mqtt_encode_pingreq(struct buf *out);
void mqtt_encode_pingresp(struct buf *out);
/* To a 3.1.1 client the server has no DISCONNECT: the caller just closes. */
void mqtt_encode_disconnect(struct buf *out, uint8_t version, uint8_t reason,
                            const struct mqtt_props *props);
void mqtt_encode_auth(struct buf *out, uint8_t reason, const struct mqtt_props *props);

#endif
