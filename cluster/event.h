/* event: one event as a publisher gave it, or as a reader gets it. Plain data, every byte borrowed:
 * from the connection's input while publishing, from a batch while delivering. Any thread.
 *
 * CloudEvents attributes that were not given are not made up here: the event's place in the journal
 * is its id and the batch's append time its time (see the `event` view), so that an event which
 * names none of them costs the journal nothing. */
#ifndef LEAT_CLUSTER_EVENT_H
#define LEAT_CLUSTER_EVENT_H

#include "base/slice.h"

#include <stdbool.h>
#include <stdint.h>

/* When it is to be published. All but EVENT_NOW stand in batches of BATCH_SCHEDULED only; those
 * after EVENT_WILL are no events but say something about one that waits, by its owner and name. */
enum event_when {
	EVENT_NOW,
	EVENT_AT,          /* at when_ms, milliseconds since 1970 */
	EVENT_AFTER,       /* when_ms after it was stored, by the database's clock */
	EVENT_WILL,        /* when_ms after its client, or that one's node session, was lost */
	EVENT_WILL_LOST,   /* the client of this will is lost: its delay begins, now of when_ms */
	EVENT_WILL_DROP,   /* it took its leave: this will is not to be published */
	EVENT_WILL_CANCEL, /* it is back in time: nor one whose delay runs */
	EVENT_CANCEL,      /* nor the scheduled event */
};

struct event {
	struct slice topic;   /* 1..65,535 bytes of UTF-8, no wildcard */
	struct slice payload; /* raw bytes */

	/* The MQTT 5 properties an application message carries unchanged, as an MQTT 5 property
	 * block without its length (MQTT 5, section 2.2.2.2): payload format indicator (0x01),
	 * content type (0x03), response topic (0x08), correlation data (0x09), user properties
	 * (0x26) in order. */
	struct slice props;

	struct slice client; /* publisher's client id; decides No Local, shown to admins */
	struct slice key;    /* ordering key; empty = the topic orders */

	/* CloudEvents 1.0 context attributes the publisher named; empty = absent */
	struct slice id;
	struct slice source;
	struct slice type;
	struct slice time;
	struct slice subject;
	struct slice correlation_id;
	struct slice causation_id;

	uint64_t expires_ms; /* milliseconds since 1970; 0 = never */
	uint8_t qos;         /* the publisher's: 0, 1 (2 later) */

	/* scheduled */
	uint8_t when;          /* enum event_when */
	uint64_t when_ms;      /* see there */
	uint32_t partition_id; /* where it goes then, as things were when it was stored */
	uint64_t will_id;      /* a will, and what is said about it: which one */
	uint64_t
	        will_expiry_ms; /* a will: expires_ms is so long after it is published; 0 = never */
	struct slice owner;     /* subject whose name it is */
	struct slice name;      /* scheduled: the publisher's, to cancel or replace it, or empty;
	                         * will: the client id */
};

/* The partition, of n, that it belongs to: by its key, else by its topic. */
uint32_t event_partition(const struct event *ev, uint32_t n);

/* Take one of the CloudEvents attributes above by its name on the wire; the value is borrowed.
 * False: there is none of that name, and nothing is done. */
bool event_take_attribute(struct event *ev, struct slice name, struct slice value);

enum { EVENT_ORDERING_MAX = 1024 }; /* bytes; longer keys that begin alike share an order */

/* What orders it among others: its key, else its topic. */
static inline struct slice event_ordering(const struct event *ev)
{
	struct slice by = ev->key.n ? ev->key : ev->topic;

	return slice(by.p, by.n < EVENT_ORDERING_MAX ? by.n : EVENT_ORDERING_MAX);
}

#endif
