#include "node/leader/lateness.h"

static const uint64_t bounds_ms[LATENESS_BUCKETS] = {
        5, 10, 25, 50, 100, 250, 500, 1000, 10000, UINT64_MAX,
};

uint64_t lateness_bound_ms(unsigned bucket)
{
	return bounds_ms[bucket];
}

void lateness_add(struct lateness *l, uint64_t ms)
{
	unsigned i = 0;

	while (ms > bounds_ms[i])
		i++;
	l->counts[i]++;
	l->sum_ms += ms;
}
