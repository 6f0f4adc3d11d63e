/* batch_impl: the inside of struct batch, shared by batch.c (building and reading) and
 * batch_decode.c (rows of the journal). Nobody else includes it. */
#ifndef LEAT_CLUSTER_BATCH_IMPL_H
#define LEAT_CLUSTER_BATCH_IMPL_H

#include "base/buf.h"
#include "cluster/batch.h"

enum {
	ITEMS_FIRST = 2,
	BATCH_TEXT_MAX = 65535, /* bytes of one text or one correlation data, as in MQTT */
	BATCH_ATTRIBUTES_MAX = 64u << 20, /* bytes of a row that is worth parsing */
	EVENT_OVERHEAD = 96,              /* bytes of keys, quotes and numbers in a usual event */
	BATCH_BODY_MAX = INT32_MAX,       /* offsets are 31 bits */
};

#define BATCH_IN_RAW 0x80000000u /* in place.at: an offset into raw instead of attributes */

/* MQTT 5 property identifiers of the block in event.props. */
enum {
	PROP_FORMAT = 0x01,
	PROP_CONTENT_TYPE = 0x03,
	PROP_RESPONSE_TOPIC = 0x08,
	PROP_CORRELATION = 0x09,
	PROP_USER = 0x26,
};

/* Where some bytes are: in attributes when JSON holds them as they are, else in raw. */
struct batch_place {
	uint32_t at;
	uint32_t n;
};

struct batch_item {
	struct publisher from;
	uint64_t expires_ms;
	struct batch_place topic;
	struct batch_place client;
	struct batch_place key;
	struct batch_place props;
	uint32_t body_at;
	uint32_t body_n;
	uint32_t attr_at; /* its object up to, and without, ,"o":…; attr_n 0 = ask batch_object() */
	uint32_t attr_n;
	uint8_t qos;
};

/* What a scheduled event has besides. */
struct batch_timer {
	uint64_t when_ms;
	uint64_t will_id;
	uint64_t will_expiry_ms;
	uint32_t partition_id;
	uint8_t when;
	bool missing;
	struct batch_place owner;
	struct batch_place name;
};

struct batch {
	uint32_t refs;
	uint32_t tenant_id;
	uint32_t partition_id;
	uint32_t n;
	uint32_t cap;
	bool sealed;
	uint64_t base_seq; /* 0 until stored */
	uint64_t stamp;
	struct batch_item *items;
	struct batch_timer *timers; /* parallel; BATCH_SCHEDULED only */
	struct buf attributes;      /* JSON; without its closing bracket until sealed */
	struct buf body;
	struct buf raw; /* what JSON had to change: property blocks, texts with escapes */
};

struct batch_item *batch_item_add(struct batch *b); /* room for one more, not yet counted in n */
struct batch_place batch_put_raw(struct batch *b, struct slice s);

/* Append the i-th object of attributes that were decoded, up to, and without, ,"o":… */
void batch_object(const struct batch *b, uint32_t i, struct buf *out);

#endif
