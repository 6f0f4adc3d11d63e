/* usage: what each tenant has and does on this node, counted where it happens, and told to the
 * cluster (bus_report) twice a second at most: tenants of which something has changed, up to
 * BUS_REPORT_MAX at a time, who waits longest first. Nothing is written while nothing changes.
 *
 * A row lives as long as the usage, so that who counts may keep it. Where a row is NULL, nobody
 * counts. One per node; loop thread only. */
#ifndef LEAT_NODE_USAGE_H
#define LEAT_NODE_USAGE_H

#include "cluster/bus.h"
#include "node/net/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct usage;
struct usage_row;

/* every_ms: from a change until it is told; 0 = 500 */
struct usage *usage_new(struct loop *loop, struct bus *bus, uint32_t every_ms);
void usage_free(struct usage *u); /* after the bus has answered every request, and who counts */

/* A new node session counts from 0; what is there now is told again. */
void usage_on_state(struct usage *u, enum bus_state state);

struct usage_row *usage_of(struct usage *u, uint32_t tenant_id); /* u NULL: NULL */

void usage_connected(struct usage_row *row, int by, bool durable);     /* by: +1, -1 */
void usage_subscribed(struct usage_row *row, int by, int ephemeral);   /* likewise, each */
void usage_in(struct usage_row *row, uint64_t events, uint64_t bytes); /* taken in */
void usage_out(struct usage_row *row, uint64_t bytes);                 /* a delivery sent */
void usage_refused(struct usage_row *row, uint64_t times);             /* a limit said no */

/* This node's part, as it is now. */
const struct bus_usage *usage_get(const struct usage_row *row);

#endif
