/* peer_codec: messages between nodes (node/peer/peer.h) as bytes, and back. Pure functions; any
 * thread.
 *
 * A link is a run of frames: four bytes length of what follows (big-endian, as all numbers), one
 * byte type, the fields of that type. The first frame of each side is its HELLO, which carries the
 * version; links of different versions do not come up, so frames need none. Whatever the bytes say,
 * lengths and counts are checked against what is there before memory is taken. */
#ifndef LEAT_NODE_PEER_CODEC_H
#define LEAT_NODE_PEER_CODEC_H

#include "base/buf.h"
#include "base/err.h"
#include "base/id128.h"
#include "base/slice.h"
#include "node/peer/peer.h"

#include <stddef.h>
#include <stdint.h>

enum {
	PEER_VERSION = 1,
	PEER_FRAME_HEAD = 5, /* bytes: length and type */
	/* Payload bytes of a frame: the largest MQTT packet (8 MiB) of nothing but user properties
	 * whose every byte takes six in JSON, and slack. */
	PEER_FRAME_MAX = 64 << 20,
	PEER_HELLO_MAX = 512,         /* the same of the first frame */
	PEER_TYPES = PEER_OPENED + 1, /* enum peer_type is below it */
	PEER_HEADS_MAX = 4096,        /* likewise: more than a turn's flushes have */
};

/* Frames that the links keep to themselves; the others are an enum peer_type. */
enum peer_frame_type {
	PEER_FRAME_HELLO = 0x80,
	PEER_FRAME_PING = 0x81, /* no fields; it says that somebody is there */
};

struct peer_frame {
	uint8_t type;
	struct slice payload; /* borrowed */
	size_t size;          /* of the whole frame, bytes */
};

enum peer_cut {
	PEER_CUT_OK,
	PEER_CUT_MORE, /* the frame is not there to its end */
	PEER_CUT_BAD,  /* no frame, or longer than max */
};

/* The frame at the front of what was received; max: bytes of payload. */
enum peer_cut peer_frame_cut(struct slice in, size_t max, struct peer_frame *out);

struct peer_hello {
	uint16_t version;
	struct id128 session_id; /* the sender's */
	struct slice addr;       /* where it is reached, HOST:PORT; at most BUS_ADDR_MAX bytes */
};

void peer_hello_encode(struct buf *out, const struct peer_hello *h);
int peer_hello_decode(struct slice payload, struct peer_hello *out, struct err *e);
void peer_ping_encode(struct buf *out);

/* Append a whole frame. Counts are within the limits above. */
void peer_encode(struct buf *out, const struct peer_message *m);

/* Where a decoded message's arrays are: used again by the next one. Zero = empty. */
struct peer_decoder {
	struct peer_delivery *deliveries;
	size_t cap_deliveries;
	struct bus_head *heads;
	size_t cap_heads;
	struct peer_use *uses;
	size_t cap_uses;
};

void peer_decoder_release(struct peer_decoder *d);
/* Fields that the type has not are zero. What m points to is of the payload and d. */
int peer_decode(struct peer_decoder *d, const struct peer_frame *f, struct peer_message *m,
                struct err *e);

const char *peer_type_name(uint8_t type); /* "deliver"; "unknown" */

#endif
