#include "cluster/store_layouts.h"

#include "base/map.h"
#include "base/mem.h"

#include <stdlib.h>

struct history {
	uint32_t tenant_id;
	size_t n;
	struct layout *layouts;
};

struct store_layouts {
	struct map tenants; /* tenant_id -> history */
};

struct store_layouts *store_layouts_new(void)
{
	return xcalloc(1, sizeof(struct store_layouts));
}

void store_layouts_free(struct store_layouts *t)
{
	size_t at = 0;
	struct history *h;

	while ((h = map_next(&t->tenants, &at))) {
		free(h->layouts);
		free(h);
	}
	map_release(&t->tenants);
	free(t);
}

static void history_add(struct history *h, struct layout l)
{
	h->layouts = xrealloc(h->layouts, (h->n + 1) * sizeof *h->layouts);
	h->layouts[h->n++] = l;
}

void store_layouts_set(struct store_layouts *t, uint32_t tenant_id, uint32_t before, uint32_t n)
{
	struct history *h = map_get(&t->tenants, &tenant_id, sizeof tenant_id);
	struct layout last;

	if (!h) {
		h = xcalloc(1, sizeof *h);
		h->tenant_id = tenant_id;
		map_put(&t->tenants, &h->tenant_id, sizeof h->tenant_id, h);
		history_add(h, (struct layout){0, before});
	}
	last = h->layouts[h->n - 1];
	history_add(h, (struct layout){last.first + last.n, n});
}

const struct layout *store_layouts_of(const struct store_layouts *t, uint32_t tenant_id, size_t *n)
{
	const struct history *h = map_get(&t->tenants, &tenant_id, sizeof tenant_id);

	*n = h ? h->n : 0;
	return h ? h->layouts : NULL;
}

struct layout store_layouts_now(const struct store_layouts *t, uint32_t tenant_id)
{
	size_t n;
	const struct layout *all = store_layouts_of(t, tenant_id, &n);

	return n ? all[n - 1] : (struct layout){0, 0};
}
