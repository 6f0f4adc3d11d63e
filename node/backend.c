#include "node/backend.h"

#include "base/mem.h"
#include "cluster/bus_memory.h"

#include <stdlib.h>

struct backend {
	struct loop *loop;
	const struct node_config *config;
	struct registry *registry;
	struct backend_events events;
	struct bus *bus; /* NULL until open */
	const char *waits_for;
};

/* ---- memory -------------------------------------------------------------------------------------
 */

static void defer(void *loop, void (*fn)(void *arg), void *arg)
{
	loop_defer(loop, fn, arg);
}

static void open_memory(void *arg)
{
	struct backend *b = arg;
	const struct node_config *c = b->config;
	struct bus_memory_settings settings = {
	        .retention_bytes = c->memory_bytes, .defer = defer, .loop = b->loop};

	registry_apply(b->registry, c->tenants, c->tenant_count, c->keys, c->key_count);
	b->bus = bus_memory_new(&settings);
	b->waits_for = NULL;
	b->events.on_open(b->events.arg, b->bus);
}

/* ---- life ---------------------------------------------------------------------------------------
 */

struct backend *backend_new(struct loop *loop, const struct node_config *config,
                            struct registry *registry, const struct backend_events *events,
                            struct err *e)
{
	struct backend *b = xcalloc(1, sizeof *b);

	(void)e;
	b->loop = loop;
	b->config = config;
	b->registry = registry;
	b->events = *events;
	b->waits_for = "starting";
	loop_defer(loop, open_memory, b);
	return b;
}

void backend_free(struct backend *b)
{
	if (!b)
		return;
	if (b->bus)
		b->bus->ops->free(b->bus);
	free(b);
}

const char *backend_waits_for(const struct backend *b)
{
	return b->waits_for;
}
