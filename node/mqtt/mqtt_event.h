/* mqtt_event: what an application message's user properties say about the event: a PUBLISH and a
 * will alike. Pure functions, any thread. */
#ifndef LEAT_NODE_MQTT_EVENT_H
#define LEAT_NODE_MQTT_EVENT_H

#include "base/slice.h"
#include "cluster/event.h"

/* User properties name CloudEvents attributes only if `specversion` says that this is one. The
 * ordering key of any event is `leat-key` or else CloudEvents' `partitionkey`. `props` is a parsed
 * block in wire form; ev borrows from it. */
void mqtt_event_attributes(struct event *ev, struct slice props);

#endif
