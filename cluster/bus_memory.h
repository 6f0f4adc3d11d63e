/* bus_memory: the memory backend of cluster/bus.h: one process, nothing kept. A request takes
 * effect when it is made; its done() comes later, through defer. Loop thread only. */
#ifndef LEAT_CLUSTER_BUS_MEMORY_H
#define LEAT_CLUSTER_BUS_MEMORY_H

#include "cluster/bus.h"

#include <stddef.h>

struct bus_memory_settings {
	size_t retention_bytes; /* of memory per partition; the oldest batches go first */

	/* Call fn(arg) once, later, on the loop; in the order given. */
	void (*defer)(void *loop, void (*fn)(void *arg), void *arg);
	void *loop;
};

/* Says BUS_UP by itself, through defer. Free it when nothing deferred is left. */
struct bus *bus_memory_new(const struct bus_memory_settings *settings);
void bus_memory_end(struct bus *bus); /* at shutdown: down for good, which the owner is told */

/* For tests: see store_publish(). */
void bus_memory_publish(struct bus *bus, const struct batch *one);

#endif
