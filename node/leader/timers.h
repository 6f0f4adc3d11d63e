/* timers: of the node that holds the role: what is due is moved into the journal when it is due
 * (bus_fire), and dispatched here like what this node stored itself. On the other nodes: what was
 * stored here and is due soon is told to the leader, who would otherwise notice within a second.
 * One per node; loop thread only. */
#ifndef LEAT_NODE_TIMERS_H
#define LEAT_NODE_TIMERS_H

#include "cluster/batch.h"
#include "cluster/bus.h"
#include "node/leader/lateness.h"
#include "node/net/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct timers_events {
	/* As the appender's: one transaction's batches, then each of them. Borrowed. */
	void (*on_flushed)(void *arg, uint32_t writer_no, uint64_t flush_no,
	                   struct batch *const *batches, size_t n);
	void (*on_stored)(void *arg, struct batch *b);
	/* Another node leads (zero = which one is unknown) and is to know of something that is due
	 * soon. */
	void (*tell)(void *arg, const struct id128 *leader, uint64_t due_in_ms);
	/* Tenants whose ticks are to be left out now: how many, and an array to free(); and what
	 * became of a tenant's. NULL = none, nobody cares. */
	size_t (*over)(void *arg, uint32_t **tenants);
	void (*on_ticked)(void *arg, const struct bus_ticked *of);
	uint32_t max_event_bytes; /* of ticks, for tenants without a limit; 0 = none */
	void *arg;
};

struct timers_stats {
	bool leading;
	uint64_t fired;       /* events moved by this node */
	struct lateness late; /* of these, after they were due */
	uint64_t refused;     /* events and schedules set aside by it: see audit */
	uint64_t failed;      /* transactions that did not work out */
};

struct timers;

struct timers *timers_new(struct loop *loop, struct bus *bus, const struct timers_events *events);
void timers_free(struct timers *t); /* after the bus has answered every request */

void timers_on_state(struct timers *t, enum bus_state state);
void timers_on_peers(struct timers *t, const struct bus_peer *peers, size_t n);
/* Something was stored here that is due so soon: look then, or tell the leader. */
void timers_stored(struct timers *t, uint64_t due_in_ms);
/* Another node says so. */
void timers_hinted(struct timers *t, uint64_t due_in_ms);
void timers_stop(struct timers *t); /* shutdown: lead no more */

void timers_get_stats(const struct timers *t, struct timers_stats *out);

#endif
