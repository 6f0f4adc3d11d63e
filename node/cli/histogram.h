/* histogram: how often each value occurred, to within 1.6 %, in 30 KB whatever the range: every
 * power of two is cut into 64 equal buckets. For latencies in microseconds. One thread at a time.
 */
#ifndef LEAT_NODE_HISTOGRAM_H
#define LEAT_NODE_HISTOGRAM_H

#include <stdint.h>

enum {
	HISTOGRAM_BITS = 6,
	HISTOGRAM_BUCKETS = (64 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS,
};

/* Zero-initialised = empty. */
struct histogram {
	uint64_t count;
	uint64_t sum;
	uint64_t max;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *h, uint64_t v);
/* The smallest value that at least this share (0 to 1) of all values does not exceed, as the upper
 * edge of its bucket; 0 when empty. */
uint64_t histogram_quantile(const struct histogram *h, double share);
double histogram_mean(const struct histogram *h);

#endif
