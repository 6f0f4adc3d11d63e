/* batch: the run of events one flush appends to one partition, in the form that is stored, sent to
 * the database and kept in memory alike: `attributes`, a JSON array with one object per event, and
 * `body`, the payloads end to end. Events are written into both as they arrive, so that a flush has
 * nothing left to encode, and after COMMIT the same bytes feed every subscriber.
 *
 * Ref-counted by the loop thread. A batch is open (events are appended) until batch_seal(); a
 * sealed batch never changes but for its base_seq and stamp, which the loop thread sets once; its
 * bytes may be read by a worker thread that was handed it.
 *
 * Attribute keys: topic, q (publish QoS; absent = 1), client, id, source, type, time, subject, key,
 * corr, caus, ct (content type), pf (payload format), rt (response topic), cd (correlation data,
 * base64), up ([[name, value], …]), exp (absolute expiry, ms since 1970), and last o and l, the
 * payload's offset in body and its length. Absent keys are absent attributes. */
#ifndef LEAT_CLUSTER_BATCH_H
#define LEAT_CLUSTER_BATCH_H

#include "base/err.h"
#include "base/slice.h"
#include "cluster/event.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	BATCH_MAX_EVENTS = 1000, /* also the bound that readers of the `event` view rely on */
	BATCH_MAX_BYTES =
	        256 * 1024, /* attributes + body; one larger event is a batch of its own */
};

/* In place of a partition: what waits for its time. The flush that stores such a batch puts its
 * events into the timer table instead of the journal; it never has a base_seq. */
#define BATCH_SCHEDULED UINT32_MAX

/* Who published an event and waits for the answer; conn_id 0 = nobody. */
struct publisher {
	uint64_t conn_id;
	uint32_t packet_id; /* MQTT packet id, or a protocol's own number */
};

struct batch;

struct batch *batch_new(uint32_t tenant_id, uint32_t partition_id); /* open, one reference */
struct batch *batch_ref(struct batch *b);
void batch_unref(struct batch *b); /* NULL does nothing */

/* Copies the event in. 0, or -1 when the batch is full (an empty batch takes any one event). */
int batch_append(struct batch *b, const struct event *ev, struct publisher from);
void batch_seal(struct batch *b);

/* A batch from a journal row; copies both texts. NULL with e set when the row is not one we could
 * have written (bad JSON, offsets outside body, a count that differs): the row is never trusted. */
struct batch *batch_decode(uint32_t tenant_id, uint32_t partition_id, uint64_t base_seq,
                           uint32_t event_count, struct slice attributes, struct slice body,
                           struct err *e);

/* A new sealed batch holding events [from, to) of a sealed one, publishers included: to bisect, and
 * to keep one event alone. Each object is as it was, but for o and l. */
struct batch *batch_split(const struct batch *b, uint32_t from, uint32_t to);

/* Copies the i-th event of a sealed batch into an open one of the journal, with the expiry it has,
 * or with this one where it has none and it is not 0. 0, or -1 when that is full. */
int batch_take(struct batch *to, const struct batch *from, uint32_t i, uint64_t expires_ms);

uint32_t batch_tenant(const struct batch *b);
uint32_t batch_partition(const struct batch *b);
uint32_t batch_count(const struct batch *b);
size_t batch_bytes(const struct batch *b);  /* attributes + body: what the journal counts */
size_t batch_memory(const struct batch *b); /* what it costs to keep */
struct slice batch_attributes(const struct batch *b); /* sealed only */
struct slice batch_body(const struct batch *b);       /* sealed only */

/* Sequence number of its first event; 0 until stored. */
uint64_t batch_base_seq(const struct batch *b);
void batch_set_base_seq(struct batch *b, uint64_t base_seq);

/* Fingerprint of the flush that stored it (session, writer, flush number): two batches at one
 * sequence number are the same events only if their stamps are equal. */
uint64_t batch_stamp(const struct batch *b);
void batch_set_stamp(struct batch *b, uint64_t stamp);
uint64_t batch_stamp_of(const uint8_t session_id[16], uint32_t writer_no, uint64_t flush_no);

/* The i-th event; slices point into the batch. Only what delivery needs is filled in: topic,
 * payload, props, client, key, expires_ms, qos, and what is scheduled; the rest is read from the
 * attributes where it is wanted. */
void batch_event(const struct batch *b, uint32_t i, struct event *out);

/* Scheduled only: what the i-th one (a cancel) was about was not there. Set by the loop thread,
 * once, when the flush was stored. */
void batch_set_missing(struct batch *b, uint32_t i);
bool batch_missing(const struct batch *b, uint32_t i);
struct publisher batch_publisher(const struct batch *b, uint32_t i);

#endif
