/* gather: single events put together into batches of the journal, by tenant and partition, in the
 * order in which they come. Embedded: zero-initialise, gather_release. One thread at a time. */
#ifndef LEAT_CLUSTER_GATHER_H
#define LEAT_CLUSTER_GATHER_H

#include "base/map.h"
#include "cluster/batch.h"

#include <stddef.h>
#include <stdint.h>

enum { GATHER_READ_MAX = 500 }; /* rows read at once */

struct gather {
	struct map heads; /* tenant and partition -> the batch that is being filled */
	size_t n;
	size_t cap;
	struct batch **batches; /* one reference each */
	size_t bytes;           /* of all, about */
};

/* Add the only event of a sealed batch; expires_ms as in batch_take(). -1: it belongs to one head
 * more than `max_heads`. */
int gather_add(struct gather *g, uint32_t tenant_id, uint32_t partition_id, const struct batch *one,
               uint64_t expires_ms, size_t max_heads);
/* Rows for the next read, done of n having been read: what is left of a flush, at the mean size of
 * those that were added. 1..GATHER_READ_MAX while done < n. */
size_t gather_rows_to_read(const struct gather *g, size_t done, size_t n);
/* Seal the batches and sort them by tenant and partition; nothing is added any more. */
void gather_seal(struct gather *g);
void gather_release(struct gather *g); /* with the references that are still there */

#endif
