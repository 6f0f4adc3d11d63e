/* mqtt_start: the user properties `leat-start` and `leat-until` of a SUBSCRIBE: where a
 * subscription that is new begins to read, and where it ends. Any thread. */
#ifndef LEAT_NODE_MQTT_START_H
#define LEAT_NODE_MQTT_START_H

#include "base/err.h"
#include "base/slice.h"
#include "node/delivery/session.h"

#include <stdint.h>

/* Where it begins: `new` (the default), `earliest`, `seq:N`, or `time:` and an RFC 3339 time with a
 * zone (2026-03-01T12:00:00Z, …+02:00, fractions allowed). -1: text is none of these; nothing is
 * guessed. value: the number, or milliseconds since 1970. */
int mqtt_start_parse(struct slice text, enum session_start_at *at, uint64_t *value, struct err *e);

/* Where it ends: `now`, `seq:N` (the last one it gets), or `time:` and a time that is past (it gets
 * what was stored before). at and value are those of the first event that it does not get. */
int mqtt_until_parse(struct slice text, enum session_start_at *at, uint64_t *value, struct err *e);

/* -1: from start to until there can be no event, as far as the two alone tell: a number and a time
 * are not compared. Of a `req` that is bounded. */
int mqtt_range_check(const struct session_subscribe *req, struct err *e);

#endif
