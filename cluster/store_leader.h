/* store_leader: of cluster/store.h, the roles, and the timer table as far as the leader moves its
 * rows: scheduled events and wills. Owned by one store; same rules. */
#ifndef LEAT_CLUSTER_STORE_LEADER_H
#define LEAT_CLUSTER_STORE_LEADER_H

#include "cluster/bus.h"
#include "cluster/gather.h"

#include <stdbool.h>

struct store_leader;

/* Whether a node session is live is the store's to say. */
typedef bool store_live_fn(const void *arg, const struct id128 *session_id);

struct store_leader *store_leader_new(void);
void store_leader_free(struct store_leader *l);

enum sql_outcome store_leader_claim(struct store_leader *l, const struct id128 *me,
                                    store_live_fn *live, const void *arg,
                                    struct bus_role_claim *req);

bool store_leader_holds(const struct store_leader *l, enum bus_role role, const struct id128 *me,
                        uint64_t epoch);

/* A stored flush has this batch of BATCH_SCHEDULED. */
void store_leader_store(struct store_leader *l, const struct id128 *me, struct batch *b);

/* Of a live session. OK or LOST. What was due is gone from here and in `out`, sealed: to be
 * appended. */
enum sql_outcome store_leader_fire(struct store_leader *l, const struct id128 *me,
                                   store_live_fn *live, const void *arg, struct bus_fire *req,
                                   struct gather *out);

#endif
