/* layout: the partitions that a tenant's events go to: `n` from `first` on. When their number is
 * changed the tenant gets a new layout of partitions that were never used, and in the same
 * transaction the heads of the old one are sealed: a node that has not heard of it can append to
 * none of them. A topic's events are in one partition of a layout, so who finishes one layout
 * before it begins the next has them in order. Plain data. */
#ifndef LEAT_CLUSTER_LAYOUT_H
#define LEAT_CLUSTER_LAYOUT_H

#include "cluster/event.h"

#include <stdbool.h>
#include <stdint.h>

struct layout {
	uint32_t first; /* layouts come in the order of their partitions */
	uint32_t n;
};

/* A partition that readers of a tenant may have to go through. */
struct layout_head {
	uint32_t partition_id;
	uint32_t layout;   /* its layout's first partition */
	uint64_t next_seq; /* sealed: for ever */
	bool sealed;
};

static inline bool layout_has(struct layout l, uint32_t partition_id)
{
	return partition_id >= l.first && partition_id - l.first < l.n;
}

/* Where an event belongs: by its key, else by its topic. */
static inline uint32_t layout_partition(struct layout l, const struct event *ev)
{
	return l.first + event_partition(ev, l.n);
}

#endif
