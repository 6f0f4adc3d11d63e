/* store_layouts: of cluster/store.h, which layouts its tenants have had, where their partitions
 * were changed. Owned by one store; same rules. */
#ifndef LEAT_CLUSTER_STORE_LAYOUTS_H
#define LEAT_CLUSTER_STORE_LAYOUTS_H

#include "cluster/layout.h"

#include <stddef.h>

struct store_layouts;

struct store_layouts *store_layouts_new(void);
void store_layouts_free(struct store_layouts *t);

/* before: how many it had, should it be the first change. */
void store_layouts_set(struct store_layouts *t, uint32_t tenant_id, uint32_t before, uint32_t n);
/* All it had, the present one last; NULL: they were never changed. */
const struct layout *store_layouts_of(const struct store_layouts *t, uint32_t tenant_id, size_t *n);
/* The present one; n 0: it is the one the tenant began with. */
struct layout store_layouts_now(const struct store_layouts *t, uint32_t tenant_id);

#endif
