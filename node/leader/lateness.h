/* lateness: a histogram of how late the leaders' work was, for the metrics. Plain data. */
#ifndef LEAT_NODE_LATENESS_H
#define LEAT_NODE_LATENESS_H

#include <stdint.h>

enum { LATENESS_BUCKETS = 10 };

struct lateness {
	uint64_t counts[LATENESS_BUCKETS];
	uint64_t sum_ms;
};

void lateness_add(struct lateness *l, uint64_t ms);
uint64_t lateness_bound_ms(unsigned bucket); /* upper bound; UINT64_MAX for the last */

#endif
