/* admin: the admin listener: /livez (the loop turns), /readyz (this node can serve; else why not),
 * /metrics (Prometheus text). Plain HTTP without secrets, for the cluster's inside. Loop thread
 * only.
 */
#ifndef LEAT_NODE_ADMIN_H
#define LEAT_NODE_ADMIN_H

#include "base/buf.h"
#include "base/err.h"
#include "node/net/addr.h"
#include "node/net/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct admin;

struct admin_events {
	/* What /readyz says; whether this node can serve. */
	bool (*write_ready)(void *arg, struct buf *out);
	void (*write_metrics)(void *arg, struct buf *out);
	void *arg;
};

struct admin *admin_new(struct loop *loop, const struct addr *addr,
                        const struct admin_events *events, struct err *e);
void admin_free(struct admin *a); /* NULL does nothing */
uint16_t admin_port(const struct admin *a);

#endif
