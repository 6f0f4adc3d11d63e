/* consumer: who takes a subscription's events: a session with a connection to this node, or a
 * remote, which stands for all the consumers that one other node has for it. Embedded as the first
 * member of what it is, which makes it, adds it and removes it. Loop thread only. */
#ifndef LEAT_NODE_CONSUMER_H
#define LEAT_NODE_CONSUMER_H

#include <stdbool.h>
#include <stdint.h>

enum consumer_kind {
	CONSUMER_SESSION, /* struct session */
	CONSUMER_REMOTE,  /* struct remote */
};

struct consumer {
	enum consumer_kind kind;
};

bool consumer_can_begin(const struct consumer *c); /* an event that nobody was sent yet */
/* How many sessions it stands for: so many events are its turn. */
uint32_t consumer_weight(const struct consumer *c);

#endif
