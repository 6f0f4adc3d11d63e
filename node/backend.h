/* backend: where events and tenants are kept: a database, or this process's memory. Makes the bus
 * and fills the registry, and keeps both current. One per node; loop thread only. */
#ifndef LEAT_NODE_BACKEND_H
#define LEAT_NODE_BACKEND_H

#include "base/err.h"
#include "cluster/bus.h"
#include "node/net/loop.h"
#include "node/node.h"
#include "sql/sql.h"
#include "tenancy/registry.h"

struct backend;

struct backend_events {
	/* Once: the bus exists and the tenants are known. Set bus->events before returning. */
	void (*on_open)(void *arg, struct bus *bus);
	/* This node cannot serve on this database, ever; text says what to change. */
	void (*on_failed)(void *arg, const char *text);
	void *arg;
};

/* -1/NULL: the settings are wrong. A database that is away is waited for. peer: where other nodes
 * reach this one, NULL = nowhere. */
struct backend *backend_new(struct loop *loop, const struct node_config *config, const char *peer,
                            struct registry *registry, const struct backend_events *events,
                            struct err *e);
/* The end of it for those who use it, who still hear of it: the bus goes down for good, and every
 * request made of it is answered; in part through the loop's deferred calls. NULL does nothing, as
 * the next. */
void backend_stop(struct backend *b);
void backend_free(struct backend *b); /* the bus, too: stopped, and nobody uses it any more */

struct sql *
backend_sql(const struct backend *b); /* NULL: events are in memory, or it is not open */
const char *backend_waits_for(const struct backend *b); /* NULL = on_open was called */

#endif
