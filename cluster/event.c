#include "cluster/event.h"

#include "base/hash.h"

uint32_t event_partition(const struct event *ev, uint32_t n)
{
	struct slice by = ev->key.n ? ev->key : ev->topic;

	return n <= 1 ? 0 : (uint32_t)(hash_stable(by.p, by.n) % n);
}
