/* order: what qsort and bsearch compare with. Any thread. */
#ifndef LEAT_BASE_ORDER_H
#define LEAT_BASE_ORDER_H

#include <stdint.h>

static inline int order_u64(const void *a, const void *b) /* ascending */
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

#endif
