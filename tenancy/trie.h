/* trie: which subscriptions want this topic? One per tenant, owned by its dispatch; loop thread
 * only.
 *
 * Filters are stored level by level; a node is freed when nothing hangs on it. In front sits one
 * cache from (trie, topic) to the hits, shared by all tries of the node so that its memory is
 * bounded once and not per tenant. Any add or remove makes what is cached for that trie worthless.
 * A topic that is published again costs one hash and one compare. */
#ifndef LEAT_TENANCY_TRIE_H
#define LEAT_TENANCY_TRIE_H

#include "base/slice.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct trie;
struct trie_cache;

struct trie_hit {
	void *value;    /* whatever the caller put in: a subscription */
	uint32_t index; /* which of its filters */
};

/* At most about `slots` kilobytes; slots is a power of two. */
struct trie_cache *trie_cache_new(size_t slots);
void trie_cache_free(struct trie_cache *c); /* after its tries */

struct trie *trie_new(struct trie_cache *cache); /* borrowed, must outlive the trie */
void trie_free(struct trie *t);                  /* values are the caller's */

/* The filter is checked, copied and without $share or $queue. The same (filter, value, index) may
 * be added twice and is then hit twice. */
void trie_add(struct trie *t, struct slice filter, void *value, uint32_t index);

/* Remove one such entry; false when there was none. */
bool trie_remove(struct trie *t, struct slice filter, const void *value, uint32_t index);

/* All entries whose filter matches the topic, in no promised order. *hits is borrowed until the
 * next call on any trie of this cache. Returns how many. */
size_t trie_match(struct trie *t, struct slice topic, const struct trie_hit **hits);

size_t trie_count(const struct trie *t); /* entries */
size_t trie_nodes(const struct trie *t); /* nodes, the root not counted */

#endif
