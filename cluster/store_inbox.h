/* store_inbox: of cluster/store.h, the table inbox: what was published in SQL. Owned by one store;
 * same rules. */
#ifndef LEAT_CLUSTER_STORE_INBOX_H
#define LEAT_CLUSTER_STORE_INBOX_H

#include "cluster/bus.h"
#include "cluster/gather.h"
#include "cluster/store_layouts.h"
#include "cluster/store_leader.h"

struct store_inbox;

struct store_inbox *store_inbox_new(const struct store_layouts *layouts); /* borrowed */
void store_inbox_free(struct store_inbox *x);

void store_inbox_add(struct store_inbox *x, const struct batch *one); /* copied */

/* By who holds the role. What was there, as far as `limit` allows, is gone from here: in `out`,
 * sealed, to be appended, and what is to wait among the scheduled events. */
void store_inbox_collect(struct store_inbox *x, struct store_leader *scheduled,
                         const struct id128 *me, struct bus_collect *req, struct gather *out);

#endif
