/* pace: how many of those that wait one transaction takes. More of them share a commit, but whoever
 * comes meanwhile waits until it is over: so as many as were done in the given time lately.
 * Zero-initialise. One thread at a time. */
#ifndef LEAT_CLUSTER_PACE_H
#define LEAT_CLUSTER_PACE_H

#include <stddef.h>
#include <stdint.h>

struct pace {
	uint64_t
	        each_us; /* of the last transaction, its part of the commit included; 0 = unknown */
};

/* At least `least`, at most `most`; most while nothing is known. */
size_t pace_take(const struct pace *p, uint64_t target_us, size_t least, size_t most);
/* n of them took so long. Fewer than `least` are no measure: the commit is most of that. */
void pace_took(struct pace *p, size_t n, uint64_t us, size_t least);

#endif
