/* ranges: a small sorted set of inclusive ranges of sequence numbers: the part of a cursor that is
 * done ahead of acked_through. Encoded as varints (LEB128), gap and length pairs relative to
 * acked_through, so that it stays a few bytes. One thread at a time. */
#ifndef LEAT_CLUSTER_RANGES_H
#define LEAT_CLUSTER_RANGES_H

#include "base/buf.h"
#include "base/slice.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct range {
	uint64_t first;
	uint64_t last; /* inclusive */
};

struct ranges {
	struct range *items; /* sorted, disjoint, not touching */
	size_t n;
	size_t cap;
};

void ranges_release(struct ranges *r);
void ranges_clear(struct ranges *r);
void ranges_add(struct ranges *r, uint64_t first, uint64_t last); /* merges; any order */
bool ranges_contain(const struct ranges *r, uint64_t seq);
void ranges_trim(struct ranges *r, uint64_t through); /* forget everything <= through */

/* Append the encoding relative to acked_through, at most max_bytes of it (what is left out is
 * merely delivered again). */
void ranges_encode(const struct ranges *r, uint64_t acked_through, size_t max_bytes,
                   struct buf *out);
/* 0, or -1 when the bytes are not an encoding (the set is then empty). */
int ranges_decode(struct ranges *r, uint64_t acked_through, struct slice bytes);

#endif
