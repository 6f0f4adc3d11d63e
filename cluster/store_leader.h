/* store_leader: of cluster/store.h, the roles, and the timer table as far as the leader moves its
 * rows: scheduled events and wills. Owned by one store; same rules. */
#ifndef LEAT_CLUSTER_STORE_LEADER_H
#define LEAT_CLUSTER_STORE_LEADER_H

#include "cluster/bus.h"
#include "cluster/gather.h"
#include "cluster/store_layouts.h"

#include <stdbool.h>

struct store_leader;

/* Whether a node session is live is the store's to say. */
typedef bool store_live_fn(const void *arg, const struct id128 *session_id);

struct store_leader *store_leader_new(const struct store_layouts *layouts); /* borrowed */
void store_leader_free(struct store_leader *l);
uint64_t store_leader_scheduled(const struct store_leader *l,
                                uint32_t tenant_id); /* wills are none */

enum sql_outcome store_leader_claim(struct store_leader *l, const struct id128 *me,
                                    store_live_fn *live, const void *arg,
                                    struct bus_role_claim *req);

bool store_leader_holds(const struct store_leader *l, enum bus_role role, const struct id128 *me,
                        uint64_t epoch);

/* A stored flush has this batch of BATCH_SCHEDULED. */
void store_leader_store(struct store_leader *l, const struct id128 *me, struct batch *b);

/* The session of this client ended, for another that does not go on with it: its wills are due. */
void store_leader_end_wills(struct store_leader *l, uint32_t tenant_id, struct slice owner,
                            struct slice name);

/* Of a live session. OK or LOST. What was due is gone from here and in `out`, sealed: to be
 * appended. */
enum sql_outcome store_leader_fire(struct store_leader *l, const struct id128 *me,
                                   store_live_fn *live, const void *arg, struct bus_fire *req,
                                   struct gather *out);

#endif
