/* mqtt_schedule: what a PUBLISH says about when it is to be published:
 *
 *     $delayed/SECONDS/TOPIC       after so many seconds
 *     leat-deliver-at: TIME        (user property) at that time, RFC 3339 or milliseconds since
 * 1970 leat-timer: NAME             (user property) names it: the next of that name takes its place
 *     $delayed/cancel/NAME         the one of that name is not to be published
 *
 * Pure functions, any thread. */
#ifndef LEAT_NODE_MQTT_SCHEDULE_H
#define LEAT_NODE_MQTT_SCHEDULE_H

#include "base/buf.h"
#include "base/err.h"
#include "base/slice.h"
#include "cluster/event.h"
#include "node/mqtt/mqtt_codec.h"
#include "node/mqtt/mqtt_props.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	MQTT_SCHEDULE_MAX_S = 366 * 24 * 3600, /* how far ahead */
	MQTT_SCHEDULE_NAME_MAX = 255,          /* bytes */
};

/* Borrows from the packet. */
struct mqtt_schedule {
	struct slice topic; /* of the event: the real one */
	struct slice name;  /* empty = none */
	enum event_when when;
	uint64_t when_ms; /* see enum event_when */
	uint64_t in_ms;   /* so long from now; 0 = at once */
};

/* NOW for what says nothing, and for a time in the past unless it has a name. -1: it cannot be
 * understood, or is too far ahead; e says what is allowed. */
int mqtt_schedule_parse(struct slice topic, const struct mqtt_props *props, uint64_t now_ms,
                        struct mqtt_schedule *out, struct err *e);

/* Take the properties above out of a block in wire form: they are no subscriber's business. */
void mqtt_schedule_strip(struct buf *props);

#endif
