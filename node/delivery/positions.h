/* positions: a number in each partition of one layout of a tenant. They split all its events, of
 * every layout, into those before and those after: earlier layouts lie before, later ones after.
 * Plain data on the heap, free() it. */
#ifndef LEAT_NODE_POSITIONS_H
#define LEAT_NODE_POSITIONS_H

#include "base/buf.h"
#include "cluster/layout.h"
#include "tenancy/tenant.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Where a tenant's events go. */
static inline struct layout layout_of(const struct tenant *t)
{
	return (struct layout){t->first_partition, t->partitions ? t->partitions : 1};
}

enum { POSITIONS_MAX = 64 }; /* partitions of a layout */

struct positions {
	struct layout layout;
	uint64_t seqs[]; /* [layout.n] */
};

struct positions *positions_new(struct layout l);
struct positions *positions_copy(const struct positions *p); /* of NULL: NULL */

static inline bool positions_are_after(const struct positions *p, uint32_t partition, uint64_t seq)
{
	if (!layout_has(p->layout, partition))
		return partition < p->layout.first;
	return seq < p->seqs[partition - p->layout.first];
}

/* ,"name":[…] and, of a layout that is not the first, ,"name_at":N; of NULL: nothing. */
void positions_encode(struct buf *out, const char *name, const struct positions *p);
/* The same out of the object that has them; NULL: it has none. */
struct positions *positions_decode(const json_t *object, const char *name);

#endif
