/* mqtt_policy: the user properties of a SUBSCRIBE that say what becomes of events which a work
 * queue's consumers fail to process, where it makes the queue: leat-max-attempts, leat-ack-timeout,
 * leat-backoff, leat-backoff-max, leat-max-failed, leat-ordered, leat-pin. Pure; any thread. */
#ifndef LEAT_NODE_MQTT_POLICY_H
#define LEAT_NODE_MQTT_POLICY_H

#include "base/err.h"
#include "base/slice.h"
#include "cluster/bus.h"

/* 1: key is one of them and p has its value; 0: it is not; -1: value is none that it may have, and
 * e says which it may. */
int mqtt_policy_take(struct bus_policy *p, struct slice key, struct slice value, struct err *e);
/* What no single property can say: -1 with e set. */
int mqtt_policy_check(const struct bus_policy *p, struct err *e);

#endif
