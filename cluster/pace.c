#include "cluster/pace.h"

size_t pace_take(const struct pace *p, uint64_t target_us, size_t least, size_t most)
{
	uint64_t n = p->each_us ? target_us / p->each_us : most;

	if (n < least)
		n = least;
	return n < most ? (size_t)n : most;
}

void pace_took(struct pace *p, size_t n, uint64_t us, size_t least)
{
	if (n && n >= least)
		p->each_us = us / n + 1;
}
