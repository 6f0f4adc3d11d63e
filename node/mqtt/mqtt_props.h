/* mqtt_props: the property block of an MQTT 5 packet. Parsing is zero-copy: slices point into the
 * packet. Pure functions, any thread. The table is mqtt_props.def.
 *
 * Decoded: a field is set when its bit in `have` is (mqtt_has); `raw` is the whole block, from
 * which the repeatable ones (user properties; subscription ids of a delivered PUBLISH) are
 * iterated. To encode: zero-initialise, call the mqtt_set_FIELD() setters, and put ready-made
 * properties (user properties) built with mqtt_put_*() in `extra`. */
#ifndef LEAT_NODE_MQTT_PROPS_H
#define LEAT_NODE_MQTT_PROPS_H

#include "base/buf.h"
#include "base/slice.h"

#include <stdbool.h>
#include <stdint.h>

enum mqtt_prop_id {
#define MQTT_PROP(id, NAME, field, TYPE, RULE, places, repeats) MQTT_PROP_##NAME = (id),
#include "node/mqtt/mqtt_props.def"
#undef MQTT_PROP
};

/* Where a property block stands; UP = from the client, DOWN = from the server. */
enum mqtt_place {
	MQTT_IN_CONNECT = 1 << 0,
	MQTT_IN_WILL = 1 << 1,
	MQTT_IN_CONNACK = 1 << 2,
	MQTT_IN_PUBLISH_UP = 1 << 3,
	MQTT_IN_PUBLISH_DOWN = 1 << 4,
	MQTT_IN_ACK = 1 << 5, /* PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK */
	MQTT_IN_SUBSCRIBE = 1 << 6,
	MQTT_IN_UNSUBSCRIBE = 1 << 7,
	MQTT_IN_DISCONNECT_UP = 1 << 8,
	MQTT_IN_DISCONNECT_DOWN = 1 << 9,
	MQTT_IN_AUTH = 1 << 10,

	MQTT_IN_PUBLISH = MQTT_IN_PUBLISH_UP | MQTT_IN_PUBLISH_DOWN,
	MQTT_IN_MESSAGE = MQTT_IN_PUBLISH | MQTT_IN_WILL,
	MQTT_IN_DISCONNECT = MQTT_IN_DISCONNECT_UP | MQTT_IN_DISCONNECT_DOWN,
	MQTT_IN_ANY = (1 << 11) - 1,
};

/* The C type of each property type; a PAIR is iterated, its field holds the first value. */
typedef uint8_t mqtt_ctype_U8;
typedef uint16_t mqtt_ctype_U16;
typedef uint32_t mqtt_ctype_U32;
typedef uint32_t mqtt_ctype_VARINT;
typedef struct slice mqtt_ctype_STR;
typedef struct slice mqtt_ctype_BIN;
typedef struct slice mqtt_ctype_PAIR;

struct mqtt_props {
	uint64_t have;      /* bit id set = the property is there */
	struct slice raw;   /* decoded: the block without its length */
	struct slice extra; /* to encode: properties in wire form, written after the fields */
#define MQTT_PROP(id, NAME, field, TYPE, RULE, places, repeats) mqtt_ctype_##TYPE field;
#include "node/mqtt/mqtt_props.def"
#undef MQTT_PROP
};

static inline bool mqtt_has(const struct mqtt_props *p, enum mqtt_prop_id id)
{
	return p->have >> id & 1;
}

/* mqtt_set_session_expiry_s(p, v) and so on, one for each row of the table. */
#define MQTT_PROP(id, NAME, field, TYPE, RULE, places, repeats)                        \
	static inline void mqtt_set_##field(struct mqtt_props *p, mqtt_ctype_##TYPE v) \
	{                                                                              \
		p->have |= UINT64_C(1) << (id);                                        \
		p->field = v;                                                          \
	}
#include "node/mqtt/mqtt_props.def"
#undef MQTT_PROP

/* Parse and check a block (without its length) standing in `place`. Returns NULL, or a static text
 * saying what was wrong, with its MQTT 5 reason code in *reason. */
const char *mqtt_props_parse(struct mqtt_props *out, struct slice block, enum mqtt_place place,
                             uint8_t *reason);

/* One property of a block. */
struct mqtt_prop {
	enum mqtt_prop_id id;
	uint32_t number;    /* U8 U16 U32 VARINT */
	struct slice value; /* STR BIN, and the value of a PAIR */
	struct slice key;   /* PAIR */
	struct slice wire;  /* the property as it stands in the block */
};

/* Walk a block: struct slice rest = props->raw; while (mqtt_prop_next(&rest, &p)) …
 * False at the end, and at bytes that are no property (a block that was parsed has none). */
bool mqtt_prop_next(struct slice *rest, struct mqtt_prop *out);
/* The same, user properties only / subscription ids only. */
bool mqtt_user_prop_next(struct slice *rest, struct slice *key, struct slice *value);
bool mqtt_sub_id_next(struct slice *rest, uint32_t *id);

/* Append the properties a server must carry unchanged with an application message, in order
 * (payload format, content type, response topic, correlation data, user properties), in wire form
 * without a length: what mqtt_encode_publish() takes as `props`. */
void mqtt_props_forward(struct buf *out, const struct mqtt_props *p);

/* Append one property in wire form. Strings are at most 65,535 bytes. */
void mqtt_put_number(struct buf *out, enum mqtt_prop_id id, uint32_t v);    /* U8 U16 U32 VARINT */
void mqtt_put_bytes(struct buf *out, enum mqtt_prop_id id, struct slice v); /* STR BIN */
/* One of this name is among the rest: it would be there twice. */
bool mqtt_user_prop_again(struct slice rest, struct slice key);
void mqtt_put_user(struct buf *out, struct slice key, struct slice value);

/* Append a whole block, its length first. */
void mqtt_props_encode(struct buf *out, const struct mqtt_props *p);

/* Variable byte integers (MQTT-1.5.5). Size of v on the wire, 1 to 4; v ≤ 268,435,455. */
enum { MQTT_VARINT_MAX = 268435455 };
static inline unsigned mqtt_varint_size(uint32_t v)
{
	return v < 128 ? 1 : v < 16384 ? 2 : v < 2097152 ? 3 : 4;
}
char *mqtt_varint_write(char *p, uint32_t v); /* returns the end */
/* Bytes taken; 0 = more bytes are needed; -1 = malformed (too long, or not the shortest form). */
int mqtt_varint_read(const char *p, size_t n, uint32_t *v);

#endif
