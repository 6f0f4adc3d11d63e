/* What one tenant has on this node. It comes with its first session and goes with its last. */
#include "node/delivery/delivery.h"

#include "base/mem.h"

#include <stdlib.h>

struct space *space_new(struct dispatch *d, uint32_t tenant_id, uint32_t n_partitions)
{
	struct space *sp = xcalloc(1, sizeof *sp);

	sp->dispatch = d;
	sp->tenant_id = tenant_id;
	sp->n_partitions = n_partitions ? n_partitions : 1;
	sp->trie = trie_new(d->trie_cache);
	sp->partitions = xcalloc(sp->n_partitions, sizeof *sp->partitions);
	map_init(&sp->sessions);
	map_init(&sp->shares);
	map_init(&sp->share_ids);
	map_put(&d->spaces, &sp->tenant_id, sizeof sp->tenant_id, sp);
	return sp;
}

static void space_free(struct space *sp)
{
	map_del(&sp->dispatch->spaces, &sp->tenant_id, sizeof sp->tenant_id);
	trie_free(sp->trie);
	map_release(&sp->sessions);
	map_release(&sp->shares);
	map_release(&sp->share_ids);
	free(sp->partitions);
	free(sp);
}

void space_free_if_unused(struct space *sp)
{
	if (!sp->requests && !sp->sessions.count && !sp->shares.count)
		space_free(sp);
}
