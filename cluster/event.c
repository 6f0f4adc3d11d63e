#include "cluster/event.h"

#include "base/hash.h"

#include <stddef.h>
#include <string.h>

uint32_t event_partition(const struct event *ev, uint32_t n)
{
	struct slice by = ev->key.n ? ev->key : ev->topic;

	return n <= 1 ? 0 : (uint32_t)(hash_stable(by.p, by.n) % n);
}

bool event_take_attribute(struct event *ev, struct slice name, struct slice value)
{
	static const struct {
		const char *name;
		size_t offset;
	} attributes[] = {
	        {"id", offsetof(struct event, id)},
	        {"source", offsetof(struct event, source)},
	        {"type", offsetof(struct event, type)},
	        {"time", offsetof(struct event, time)},
	        {"subject", offsetof(struct event, subject)},
	        {"correlationid", offsetof(struct event, correlation_id)},
	        {"causationid", offsetof(struct event, causation_id)},
	};

	for (size_t i = 0; i < sizeof attributes / sizeof attributes[0]; i++) {
		if (slice_eq(name, slice_str(attributes[i].name))) {
			memcpy((char *)ev + attributes[i].offset, &value, sizeof value);
			return true;
		}
	}
	return false;
}
