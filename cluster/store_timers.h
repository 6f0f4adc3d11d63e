/* store_timers: the timer and dead_letter tables of cluster/store.h, as far as queues use them.
 * Owned by one store; same rules. */
#ifndef LEAT_CLUSTER_STORE_TIMERS_H
#define LEAT_CLUSTER_STORE_TIMERS_H

#include "cluster/bus.h"

struct store_timers;

struct store_timers *store_timers_new(void);
void store_timers_free(struct store_timers *t);

/* The fence matched and the cursors have moved: the rest of a settlement. */
void store_timers_settle(struct store_timers *t, struct bus_settle *req);
void store_timers_retries(const struct store_timers *t, struct bus_retries *req);

uint64_t store_timers_dead(const struct store_timers *t, uint32_t tenant_id); /* dead letters */

/* For tests: walk what a subscription has there; a dead one's kind is DEAD. */
void store_timers_each(const struct store_timers *t, uint64_t subscription_id,
                       void (*fn)(void *arg, const struct bus_failure *row), void *arg);

#endif
