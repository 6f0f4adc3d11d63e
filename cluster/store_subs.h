/* store_subs: the subscription and cursor tables of cluster/store.h. Owned by one store; same
 * rules. */
#ifndef LEAT_CLUSTER_STORE_SUBS_H
#define LEAT_CLUSTER_STORE_SUBS_H

#include "base/id128.h"
#include "cluster/bus.h"

struct store_subs;

struct store_subs *store_subs_new(void);
void store_subs_free(struct store_subs *t);

/* owner_live: whether a node session may hold subscriptions; and then its name. */
enum sql_outcome store_subs_claim(struct store_subs *t, const struct id128 *me,
                                  const char *(*owner_live)(const void *arg,
                                                            const struct id128 *id),
                                  const void *arg, struct bus_claim *req);
enum sql_outcome store_subs_change(struct store_subs *t, const struct id128 *me,
                                   struct bus_change *req);
enum sql_outcome store_subs_commit(struct store_subs *t, const struct id128 *me,
                                   struct bus_commit *req);
/* The fence and the cursors of a settlement: all of them, or nothing and LOST. */
enum sql_outcome store_subs_settle(struct store_subs *t, const struct id128 *me,
                                   const struct bus_settle *req);
bool store_subs_owned(const struct store_subs *t, const struct id128 *me,
                      const struct bus_owned_row *row);
/* What every pinned queue of the tenant has done; UINT64_MAX = there is none. */
uint64_t store_subs_pinned(const struct store_subs *t, uint32_t tenant_id, uint32_t partition_id);
/* Cursors whose next event is one of [from, to). */
uint32_t store_subs_overtaken(const struct store_subs *t, uint32_t tenant_id, uint32_t partition_id,
                              uint64_t from, uint64_t to);
uint64_t store_subs_count(const struct store_subs *t, uint32_t tenant_id);
enum sql_outcome store_subs_expire(struct store_subs *t, struct bus_expire *req);

#endif
