/* consumer: who takes a subscription's events. A consumer is a session with a connection to this
 * node; it is embedded as the first member of what it is. Made, added and removed by that. Loop
 * thread only. */
#ifndef LEAT_NODE_CONSUMER_H
#define LEAT_NODE_CONSUMER_H

#include <stdbool.h>

enum consumer_kind {
	CONSUMER_SESSION,
};

struct consumer {
	enum consumer_kind kind;
};

bool consumer_can_begin(const struct consumer *c); /* an event that nobody was sent yet */

#endif
