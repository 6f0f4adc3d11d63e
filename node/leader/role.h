/* role: this node's hold on one of the roles that one node has for all (cluster/bus.h). It tries to
 * take the role as long as it does not have it; whoever has it lives as long as its node session,
 * and is replaced within a second or so when that ended. Holding it is a licence, not a fact: every
 * transaction made in it checks the epoch. Loop thread only. */
#ifndef LEAT_NODE_ROLE_H
#define LEAT_NODE_ROLE_H

#include "base/id128.h"
#include "cluster/bus.h"
#include "node/net/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct role;

struct role_events {
	void (*on_held)(void *arg, uint64_t epoch); /* it is ours: again with each new epoch */
	void (*on_lost)(void *arg);                 /* it was ours */
	void *arg;
};

struct role *role_new(struct loop *loop, struct bus *bus, enum bus_role which,
                      const struct role_events *events);
void role_free(struct role *r); /* after the bus has answered every request; NULL does nothing */

uint64_t role_epoch(const struct role *r);  /* 0 = not held */
uint64_t role_failed(const struct role *r); /* claims that did not work out, ever */
/* The other node that was last found to hold it; zero = unknown, or it is ours. */
const struct id128 *role_holder(const struct role *r);

void role_on_state(struct role *r, enum bus_state state);
/* The other live nodes: when the holder is not among them, its role is free. */
void role_on_peers(struct role *r, const struct bus_peer *peers, size_t n);
void role_lost(struct role *r); /* a transaction made in it found another epoch */
/* Shutdown: give it up, so that another node need not wait for our end, and never take it again. */
void role_release(struct role *r);

#endif
