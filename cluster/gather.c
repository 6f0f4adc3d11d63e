#include "cluster/gather.h"

#include "base/mem.h"
#include "cluster/bus.h"

#include <assert.h>
#include <stdlib.h>

enum { READ_FIRST = 64 }; /* rows read at once, until their size is known */

struct head {
	struct {
		uint32_t tenant_id;
		uint32_t partition_id;
	} key;
	struct batch *open; /* the last of its batches */
};

static struct batch *open_batch(struct gather *g, struct head *h)
{
	if (g->n == g->cap) {
		g->cap = g->cap ? g->cap * 2 : 16;
		g->batches = xrealloc(g->batches, g->cap * sizeof *g->batches);
	}
	h->open = batch_new(h->key.tenant_id, h->key.partition_id);
	g->batches[g->n++] = h->open;
	return h->open;
}

static struct head *head_of(struct gather *g, uint32_t tenant_id, uint32_t partition_id,
                            size_t max_heads)
{
	uint32_t key[2] = {tenant_id, partition_id};
	struct head *h = map_get(&g->heads, key, sizeof key);

	if (h || g->heads.count >= max_heads)
		return h;
	h = xcalloc(1, sizeof *h);
	h->key.tenant_id = tenant_id;
	h->key.partition_id = partition_id;
	map_put(&g->heads, &h->key, sizeof h->key, h);
	open_batch(g, h);
	return h;
}

int gather_add(struct gather *g, uint32_t tenant_id, uint32_t partition_id, const struct batch *one,
               uint64_t expires_ms, size_t max_heads)
{
	struct head *h = head_of(g, tenant_id, partition_id, max_heads);

	assert(batch_count(one) == 1);
	if (!h)
		return -1;
	if (batch_take(h->open, one, 0, expires_ms) < 0 &&
	    batch_take(open_batch(g, h), one, 0, expires_ms) < 0)
		fatal("an empty batch refused an event");
	g->bytes += batch_bytes(one);
	return 0;
}

/* By head; the batches of one head are already in their order, and few. */
static int order(const struct batch *x, const struct batch *y)
{
	if (batch_tenant(x) != batch_tenant(y))
		return batch_tenant(x) < batch_tenant(y) ? -1 : 1;
	return (batch_partition(x) > batch_partition(y)) -
	       (batch_partition(x) < batch_partition(y));
}

size_t gather_rows_to_read(const struct gather *g, size_t done, size_t n)
{
	size_t rows = READ_FIRST;

	if (done)
		rows = (BUS_FLUSH_MAX_BYTES - g->bytes) / (g->bytes / done + 1) + 1;
	rows = rows < GATHER_READ_MAX ? rows : GATHER_READ_MAX;
	return rows < n - done ? rows : n - done;
}

void gather_seal(struct gather *g)
{
	for (size_t i = 0; i < g->n; i++)
		batch_seal(g->batches[i]);
	for (size_t i = 1; i < g->n; i++) {
		struct batch *b = g->batches[i];
		size_t at = i;

		for (; at && order(g->batches[at - 1], b) > 0; at--)
			g->batches[at] = g->batches[at - 1];
		g->batches[at] = b;
	}
}

void gather_release(struct gather *g)
{
	struct head *h;
	size_t at = 0;

	while ((h = map_next(&g->heads, &at)))
		free(h);
	map_release(&g->heads);
	for (size_t i = 0; i < g->n; i++)
		batch_unref(g->batches[i]);
	free(g->batches);
	*g = (struct gather){0};
}
