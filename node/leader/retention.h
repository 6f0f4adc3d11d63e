/* retention: of the node that holds the role: a step of retention (bus_retain) every second, sooner
 * while there is more to remove, and now and then the subscriptions whose time has run out
 * (bus_expire). One per node; loop thread only. */
#ifndef LEAT_NODE_RETENTION_H
#define LEAT_NODE_RETENTION_H

#include "cluster/bus.h"
#include "node/net/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct retention;

/* Of tenants without settings of their own. */
struct retention_settings {
	uint32_t retention_s;      /* 0 = for ever */
	uint64_t max_stored_bytes; /* 0 = no limit */
	uint32_t aside_s;          /* what was set aside of the inbox; 0 = for ever */
	uint32_t max_aside;        /* rows of one tenant; 0 = any number */
};

struct retention_stats {
	bool leading;
	uint64_t removed;   /* batches, by this node */
	uint64_t overtaken; /* cursors that it overtook */
	uint64_t expired;   /* subscriptions */
	uint64_t asides;    /* rows that were set aside, removed */
	uint64_t failed;    /* transactions that did not work out */
};

struct retention *retention_new(struct loop *loop, struct bus *bus,
                                const struct retention_settings *settings);
void retention_free(struct retention *r); /* after the bus has answered every request */

void retention_on_state(struct retention *r, enum bus_state state);
void retention_on_peers(struct retention *r, const struct bus_peer *peers, size_t n);
void retention_stop(struct retention *r); /* shutdown: lead no more */

void retention_get_stats(const struct retention *r, struct retention_stats *out);

#endif
