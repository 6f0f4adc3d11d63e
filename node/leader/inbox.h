/* inbox: of the node that holds the role: what applications publish in SQL is moved into the
 * journal soon after they committed (bus_collect), and dispatched here like what this node stored
 * itself. MySQL tells nobody of a commit, so it looks, some dozens of times a second; a look that
 * finds nothing is one read of an index. One per node; loop thread only. */
#ifndef LEAT_NODE_INBOX_H
#define LEAT_NODE_INBOX_H

#include "cluster/batch.h"
#include "cluster/bus.h"
#include "node/leader/lateness.h"
#include "node/net/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct inbox_events {
	/* As the appender's: one transaction's batches, each of them, and what was scheduled. */
	void (*on_flushed)(void *arg, uint32_t writer_no, uint64_t flush_no,
	                   struct batch *const *batches, size_t n);
	void (*on_stored)(void *arg, struct batch *b);
	void (*on_scheduled)(void *arg, uint64_t due_in_ms);
	/* How much of a tenant's may be moved, as in struct bus_collect; and what became of it. */
	void (*allow)(void *arg, uint32_t tenant_id, bool later, struct bus_allowance *out);
	void (*on_moved)(void *arg, const struct bus_collected *of);
	void *arg;
};

struct inbox_stats {
	bool leading;
	uint64_t moved;       /* events, by this node */
	uint64_t set_aside;   /* rows that cannot be events */
	uint64_t waiting;     /* rows left by the last look, up to BUS_INBOX_WAITING_MAX */
	uint64_t held;        /* tenants that have more there than they may publish now */
	struct lateness late; /* of the moved: from the call to the commit that moved it */
};

struct inbox;

struct inbox *inbox_new(struct loop *loop, struct bus *bus, const struct inbox_events *events);
void inbox_free(struct inbox *x); /* after the bus has answered every request */

void inbox_on_state(struct inbox *x, enum bus_state state);
void inbox_on_peers(struct inbox *x, const struct bus_peer *peers, size_t n);
void inbox_stop(struct inbox *x); /* shutdown: lead no more */

void inbox_get_stats(const struct inbox *x, struct inbox_stats *out);

#endif
