/* inbox_event: what an application published in SQL (a row of `inbox`) as an event. Pure, any
 * thread. */
#ifndef LEAT_CLUSTER_INBOX_EVENT_H
#define LEAT_CLUSTER_INBOX_EVENT_H

#include "base/err.h"
#include "base/slice.h"
#include "cluster/batch.h"
#include "cluster/layout.h"

#include <stdint.h>

/* Borrowed for the call. */
struct inbox_row {
	uint32_t tenant_id;
	struct layout layout; /* its tenant's */
	uint64_t deliver_ms;  /* milliseconds since 1970; 0 = now */
	struct slice topic;
	struct slice content_type; /* empty = none */
	struct slice attributes;   /* JSON object of texts; empty = none */
	struct slice payload;
};

/* The event alone, sealed: in a batch of its partition, or of BATCH_SCHEDULED when it is to wait.
 * As of an MQTT publish, all its attributes are user properties too, and with `specversion` those
 * of CloudEvents are known as such. NULL: this cannot be an event, and e says why. */
struct batch *inbox_event_new(const struct inbox_row *row, struct err *e);

#endif
