#include "node/cli/histogram.h"

#include <math.h>

static unsigned bucket_of(uint64_t v)
{
	unsigned octave;

	if (v < 1 << HISTOGRAM_BITS)
		return (unsigned)v;
	octave = 63 - (unsigned)__builtin_clzll(v) - HISTOGRAM_BITS; /* 0 = 64 to 127 */
	return ((octave + 1) << HISTOGRAM_BITS) +
	       (unsigned)(v >> octave & ((1 << HISTOGRAM_BITS) - 1));
}

/* The largest value of a bucket. */
static uint64_t upper_edge(unsigned bucket)
{
	unsigned octave = bucket >> HISTOGRAM_BITS;
	uint64_t step = bucket & ((1 << HISTOGRAM_BITS) - 1);

	if (!octave)
		return step;
	octave--;
	return (((UINT64_C(1) << HISTOGRAM_BITS) + step + 1) << octave) - 1;
}

void histogram_add(struct histogram *h, uint64_t v)
{
	h->buckets[bucket_of(v)]++;
	h->count++;
	h->sum += v;
	if (v > h->max)
		h->max = v;
}

uint64_t histogram_quantile(const struct histogram *h, double share)
{
	uint64_t rank = (uint64_t)ceil(share * (double)h->count);
	uint64_t seen = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen && seen >= rank)
			return upper_edge(i) < h->max ? upper_edge(i) : h->max;
	}
	return h->max;
}

double histogram_mean(const struct histogram *h)
{
	return h->count ? (double)h->sum / (double)h->count : 0;
}
