/* dispatch: the node's delivery side. It owns the tenants' topic tries, the tails of tracked
 * partitions, the subscriptions this node owns and the sessions; it reads the bus, follows its
 * generations, and commits cursors. One per node. Loop thread only. */
#ifndef LEAT_NODE_DISPATCH_H
#define LEAT_NODE_DISPATCH_H

#include "cluster/batch.h"
#include "cluster/bus.h"
#include "node/net/loop.h"
#include "node/peer/peer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct timeshare;
struct dispatch;
struct tenant;

/* Limits of a tenant that are found reached while delivering. */
enum dispatch_limit {
	DISPATCH_LIMIT_FILTERS,
	DISPATCH_LIMIT_BACKLOG_EVENTS,
	DISPATCH_LIMIT_BACKLOG_AGE,
	DISPATCH_LIMIT_SUBSCRIPTIONS,
	DISPATCH_LIMIT_IN_FLIGHT, /* of a connection: more waits */
};

enum dispatch_room {
	DISPATCH_ROOM,
	DISPATCH_ROOM_LATER, /* not known yet: ask again in a moment */
	DISPATCH_FULL,
};

struct dispatch_settings {
	size_t cache_bytes; /* budget for tails and catch-up reads, all partitions; 0 = 64 MiB */
	uint32_t commit_every_ms; /* cursor commits while there is something to commit; 0 = 5 */
	uint32_t linger_ms; /* an offline durable session stays in memory this long; 0 = 30 s */
	/* One was reached, so many times. NULL = nobody wants to know. */
	void (*on_limit)(void *arg, const struct tenant *t, enum dispatch_limit which,
	                 uint64_t used, uint64_t times);
	/* May a tenant have one more subscription of its own row? on_made follows each ROOM, with
	 * whether it has one now. NULL = any number. */
	enum dispatch_room (*may_make)(void *arg, const struct tenant *t);
	void (*on_made)(void *arg, const struct tenant *t, bool made);
	/* May an event of its queues become a dead letter? on_buried follows each that may, with
	 * whether it has. NULL = any number. */
	bool (*may_bury)(void *arg, const struct tenant *t);
	void (*on_buried)(void *arg, const struct tenant *t, bool buried);
	void *arg;
	struct usage *usage;    /* where a tenant's subscriptions are counted; NULL = nowhere */
	struct timeshare *time; /* the time that a tenant's deliveries may take; NULL = any */
};

/* Numbers for /metrics and tests. */
struct dispatch_stats {
	uint64_t delivered;       /* PUBLISH packets handed to connections */
	uint64_t settled;         /* deliveries acknowledged */
	uint64_t forwarded;       /* deliveries sent to other nodes, whose consumers they are for */
	uint64_t expired;         /* events whose message expiry passed before delivery */
	uint64_t catch_up_reads;  /* journal reads */
	uint64_t cursor_commits;  /* transactions */
	uint64_t fenced;          /* cursor rows that no longer matched */
	uint64_t failed;          /* queues: attempts that failed */
	uint64_t ack_timeouts;    /* queues: consumers cut off */
	uint64_t retried;         /* queues: deliveries of events that had failed */
	uint64_t dead_lettered;   /* queues: events given up */
	uint64_t retries_waiting; /* queues: rows in the timer table */
	uint64_t breakers_open;   /* queues */
	uint64_t gaps;            /* times a subscription was overtaken by retention */
	uint64_t gap_events;      /* events it skipped, wanted or not */
	size_t sessions;
	size_t subscriptions;
	size_t cache_bytes;
};

struct dispatch *dispatch_new(struct loop *loop, struct bus *bus,
                              const struct dispatch_settings *settings);
void dispatch_free(struct dispatch *d); /* after the bus has answered every request */

void dispatch_stored(struct dispatch *d, struct batch *b); /* appender's on_stored */
void dispatch_on_state(struct dispatch *d, enum bus_state state);
/* Its row is another one. */
void dispatch_tenant_changed(struct dispatch *d, const struct tenant *t);
void dispatch_on_others_stored(struct dispatch *d); /* bus events of these names */
void dispatch_on_taken(struct dispatch *d);
/* Another node has committed events up to these heads. False = not now: look at the heads instead.
 */
bool dispatch_hinted(struct dispatch *d, const struct bus_head *heads, size_t n);

/* Links to other nodes: before the loop runs, and for as long as dispatch lives. What the links
 * tell of OWNER .. DETACH (node/peer/peer.h) comes here. */
void dispatch_set_port(struct dispatch *d, const struct peer_port *port);
/* The other live nodes, linked or not: what the rest owned is free. */
void dispatch_on_peers(struct dispatch *d, const struct bus_peer *peers, size_t n);
void dispatch_on_peer_up(struct dispatch *d, const struct id128 *peer);
void dispatch_on_peer_down(struct dispatch *d, const struct id128 *peer);
void dispatch_on_peer_room(struct dispatch *d, const struct id128 *peer);
void dispatch_on_peer_message(struct dispatch *d, const struct id128 *peer,
                              const struct peer_message *m);
/* Early in a shutdown: give what other nodes consume too into their hands, then call fn once. Takes
 * a quarter of a second at most while the database answers. */
void dispatch_leave(struct dispatch *d, void (*fn)(void *arg), void *arg);
/* Shutdown: commit every cursor and release every subscription, then call fn once. */
void dispatch_drain(struct dispatch *d, void (*fn)(void *arg), void *arg);
void dispatch_get_stats(const struct dispatch *d, struct dispatch_stats *out);

#endif
