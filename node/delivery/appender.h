/* appender: the way of a publish into the journal. Events are queued per tenant and partition in
 * open batches; whenever a writer is free the turn ends with a flush of what is queued, shared
 * between tenants by weighted deficit round robin; nothing lingers. While some have much and others
 * little, those with little have a writer for themselves. Publishers are answered only after
 * COMMIT. The queue is bounded: a tenant above its bound, or the node above the total, is told to
 * stop reading its sockets until there is room. Loop thread only. */
#ifndef LEAT_NODE_APPENDER_H
#define LEAT_NODE_APPENDER_H

#include "cluster/batch.h"
#include "cluster/bus.h"
#include "cluster/event.h"
#include "node/net/loop.h"
#include "tenancy/tenant.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	APPENDER_TENANT_MAX =
	        4 << 20, /* bytes queued or in flight before a tenant's sockets pause */
	APPENDER_NODE_MAX = 256 << 20, /* the same, all tenants */
};

enum append_result {
	APPEND_STORED,  /* committed: answer the publisher, at last */
	APPEND_MISSING, /* committed; a cancel found nothing of that name */
	APPEND_REFUSED, /* the database refused this very event; `reason` says why */
};

struct appender_events {
	/* One answer for every event published with a conn_id; after a COMMIT, in publishing order.
	 */
	void (*on_answer)(void *arg, struct publisher to, enum append_result, const char *reason);
	/* There is room again for a connection that was told to pause. */
	void (*on_room)(void *arg, uint64_t conn_id);
	/* Batches that one flush committed, before anything else is told of them: see struct
	 * writer_events. NULL = not wanted. */
	void (*on_flushed)(void *arg, uint32_t writer_no, uint64_t flush_no,
	                   struct batch *const *batches, size_t n);
	/* A stored batch for dispatch; base_seq 0 = stored, but read it from the journal. Borrowed.
	 */
	void (*on_stored)(void *arg, struct batch *b);
	/* Something was stored that is due so soon; 0 = now. NULL = not wanted. */
	void (*on_scheduled)(void *arg, uint64_t due_in_ms);
	/* So many events that clients scheduled are stored, or refused. NULL = not wanted. */
	void (*on_settled)(void *arg, uint32_t tenant_id, uint32_t n, bool stored);
	void *arg;
};

struct appender;

struct appender *appender_new(struct loop *loop, struct bus *bus,
                              const struct appender_events *events);
void appender_free(struct appender *a);

/* Queue one event of a tenant; it is copied. Picks the partition by key, else by topic; what is
 * scheduled (event.when) has a queue of its own, and keeps its order there. Returns
 * true when the caller must stop reading from the connection until on_room(conn_id). */
bool appender_publish(struct appender *a, const struct tenant *t, const struct event *ev,
                      struct publisher from);

/* Bytes queued or in flight, for shutdown (0 = everything was answered) and metrics. */
size_t appender_pending(const struct appender *a);
void appender_on_state(struct appender *a, enum bus_state state);

#endif
