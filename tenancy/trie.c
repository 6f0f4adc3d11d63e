#include "tenancy/trie.h"

#include "base/hash.h"
#include "base/map.h"
#include "base/mem.h"
#include "tenancy/topic.h"

#include <assert.h>
#include <stdlib.h>

enum {
	CACHE_ENTRY_HITS = 48,   /* a wider fan-out costs more to serve than to find */
	CACHE_ENTRY_TOPIC = 256, /* bytes; with the hits, 1 KB a slot at most */
	KEY_MAX = sizeof(uint64_t) + TOPIC_MAX_BYTES,
};

struct hits {
	struct trie_hit *v;
	uint32_t n, cap;
};

/* One level of one or more filters. All literal children of all nodes are in one table, under
 * parent's id + level: a node with a million children costs no more than a million nodes. */
struct node {
	struct node *parent;
	struct node *plus, *hash; /* the wildcard children */
	uint64_t id;              /* never reused */
	uint32_t literals;        /* how many literal children */
	uint32_t key_len;
	struct hits hits; /* filters that end here */
	char key[];       /* parent's id, level text */
};

struct cache_slot {
	uint64_t version; /* which trie, in which state; 0 = empty */
	uint64_t hash;
	struct trie_hit *block; /* the hits, then the topic's bytes */
	uint32_t block_cap;     /* bytes */
	uint32_t hit_count;
	uint32_t topic_len;
};

struct trie_cache {
	size_t slot_count;
	uint64_t last_version; /* versions are unique over all tries that share the cache */
	struct hits scratch;   /* the result of the last walk */
	struct cache_slot slots[];
};

struct trie {
	struct trie_cache *cache;
	struct node *root;
	struct map literals;
	uint64_t next_id;
	uint64_t version; /* a new one with every change */
	size_t entries, nodes;
};

/* ---- the tree ---- */

static size_t make_key(char key[KEY_MAX], const struct node *parent, struct slice level)
{
	assert(parent);
	memcpy(key, &parent->id, sizeof parent->id);
	if (level.n)
		memcpy(key + sizeof parent->id, level.p, level.n);
	return sizeof parent->id + level.n;
}

static struct node *literal_child(const struct trie *t, const struct node *n, struct slice level)
{
	char key[KEY_MAX];

	return map_get(&t->literals, key, make_key(key, n, level));
}

/* Where a wildcard child hangs; NULL for a literal level. */
static struct node **wildcard_place(struct node *n, struct slice level)
{
	if (topic_level_is(level, '+'))
		return &n->plus;
	if (topic_level_is(level, '#'))
		return &n->hash;
	return NULL;
}

static struct node *find_child(const struct trie *t, struct node *n, struct slice level)
{
	struct node **place = wildcard_place(n, level);

	return place ? *place : literal_child(t, n, level);
}

static struct node *node_new(struct trie *t, struct node *parent, struct slice level)
{
	char key[KEY_MAX];
	size_t len = parent ? make_key(key, parent, level) : 0;
	struct node *n = xcalloc(1, sizeof *n + len);

	n->parent = parent;
	n->id = t->next_id++;
	n->key_len = (uint32_t)len;
	memcpy(n->key, key, len);
	return n;
}

static struct node *add_child(struct trie *t, struct node *parent, struct slice level)
{
	struct node **place = wildcard_place(parent, level);
	struct node *n = node_new(t, parent, level);

	if (place) {
		*place = n;
	} else {
		map_put(&t->literals, n->key, n->key_len, n);
		parent->literals++;
	}
	t->nodes++;
	return n;
}

/* Free n and the ancestors that nothing hangs on any more. */
static void prune(struct trie *t, struct node *n)
{
	while (n->parent && !n->literals && !n->plus && !n->hash && !n->hits.n) {
		struct node *parent = n->parent;

		if (parent->plus == n) {
			parent->plus = NULL;
		} else if (parent->hash == n) {
			parent->hash = NULL;
		} else {
			map_del(&t->literals, n->key, n->key_len);
			parent->literals--;
		}
		t->nodes--;
		free(n->hits.v);
		free(n);
		n = parent;
	}
}

/* ---- hits ---- */

static void hits_reserve(struct hits *h, size_t n)
{
	if (n <= h->cap)
		return;
	h->cap = h->cap ? h->cap : 1;
	while (h->cap < n)
		h->cap *= 2;
	h->v = xrealloc(h->v, h->cap * sizeof *h->v);
}

static void hits_append(struct hits *h, const struct hits *more)
{
	if (!more->n)
		return;
	hits_reserve(h, (size_t)h->n + more->n);
	memcpy(h->v + h->n, more->v, more->n * sizeof *h->v);
	h->n += more->n;
}

static bool hits_remove(struct hits *h, const void *value, uint32_t index)
{
	for (uint32_t i = h->n; i-- > 0;) {
		if (h->v[i].value != value || h->v[i].index != index)
			continue;
		h->v[i] = h->v[--h->n];
		if (h->n == 0) {
			free(h->v);
			*h = (struct hits){0};
		}
		return true;
	}
	return false;
}

static void collect(const struct trie *t, const struct node *n, struct slice rest, bool more,
                    bool first, struct hits *out)
{
	struct slice level;
	bool wild = !(first && rest.n && rest.p[0] == '$');
	struct node *child;

	if (n->hash && wild)
		hits_append(out, &n->hash->hits);
	if (!topic_next_level(&rest, &more, &level)) {
		hits_append(out, &n->hits);
		return;
	}
	if (n->plus && wild)
		collect(t, n->plus, rest, more, false, out);
	if (n->literals && (child = literal_child(t, n, level)))
		collect(t, child, rest, more, false, out);
}

/* ---- the cache ---- */

struct trie_cache *trie_cache_new(size_t slots)
{
	struct trie_cache *c = xcalloc(1, sizeof *c + slots * sizeof c->slots[0]);

	assert(slots > 0 && (slots & (slots - 1)) == 0);
	c->slot_count = slots;
	return c;
}

void trie_cache_free(struct trie_cache *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->slot_count; i++)
		free(c->slots[i].block);
	free(c->scratch.v);
	free(c);
}

/* The one place for this topic in this trie: the version mixed in keeps tenants with the same
 * topics apart. */
static struct cache_slot *cache_slot(const struct trie *t, uint64_t hash)
{
	uint64_t mixed = hash ^ (t->version * UINT64_C(0x9e3779b97f4a7c15));

	return &t->cache->slots[(mixed >> 17) & (t->cache->slot_count - 1)];
}

static bool slot_holds(const struct cache_slot *s, const struct trie *t, uint64_t hash,
                       struct slice topic)
{
	return s->version == t->version && s->hash == hash && s->topic_len == topic.n &&
	       memcmp(s->block + s->hit_count, topic.p, topic.n) == 0;
}

static void slot_fill(struct cache_slot *s, const struct trie *t, uint64_t hash, struct slice topic)
{
	const struct hits *found = &t->cache->scratch;
	size_t hits_size = found->n * sizeof *found->v, size = hits_size + topic.n;

	if (found->n > CACHE_ENTRY_HITS || topic.n > CACHE_ENTRY_TOPIC)
		return;
	if (size > s->block_cap) {
		s->block = xrealloc(s->block, size);
		s->block_cap = (uint32_t)size;
	}
	if (hits_size)
		memcpy(s->block, found->v, hits_size);
	memcpy(s->block + found->n, topic.p, topic.n);
	s->version = t->version;
	s->hash = hash;
	s->hit_count = found->n;
	s->topic_len = (uint32_t)topic.n;
}

/* ---- the interface ---- */

static void changed(struct trie *t)
{
	t->version = ++t->cache->last_version;
}

struct trie *trie_new(struct trie_cache *cache)
{
	struct trie *t = xcalloc(1, sizeof *t);

	map_init(&t->literals);
	t->cache = cache;
	changed(t);
	t->root = node_new(t, NULL, slice(NULL, 0));
	return t;
}

static void free_wildcards(struct node *n)
{
	/* literal nodes are freed by walking the table; a wildcard's wildcards hang on it alone */
	if (!n)
		return;
	free_wildcards(n->plus);
	free_wildcards(n->hash);
	free(n->hits.v);
	free(n);
}

void trie_free(struct trie *t)
{
	struct node *n;
	size_t at = 0;

	if (!t)
		return;
	while ((n = map_next(&t->literals, &at)))
		free_wildcards(n);
	free_wildcards(t->root);
	map_release(&t->literals);
	free(t);
}

void trie_add(struct trie *t, struct slice filter, void *value, uint32_t index)
{
	struct trie_hit hit = {.value = value, .index = index};
	struct slice rest = filter, level;
	struct node *n = t->root;
	bool more = true;

	assert(filter.n > 0 && filter.n <= TOPIC_MAX_BYTES);
	while (topic_next_level(&rest, &more, &level)) {
		struct node *child = find_child(t, n, level);

		n = child ? child : add_child(t, n, level);
	}
	hits_append(&n->hits, &(struct hits){.v = &hit, .n = 1});
	t->entries++;
	changed(t);
}

bool trie_remove(struct trie *t, struct slice filter, const void *value, uint32_t index)
{
	struct slice rest = filter, level;
	struct node *n = t->root;
	bool more = true;

	assert(filter.n > 0 && filter.n <= TOPIC_MAX_BYTES);
	while (n && topic_next_level(&rest, &more, &level))
		n = find_child(t, n, level);
	if (!n || !hits_remove(&n->hits, value, index))
		return false;
	prune(t, n);
	t->entries--;
	changed(t);
	return true;
}

size_t trie_match(struct trie *t, struct slice topic, const struct trie_hit **hits)
{
	struct hits *found = &t->cache->scratch;
	struct cache_slot *s;
	uint64_t hash;

	assert(topic.n > 0 && topic.n <= TOPIC_MAX_BYTES);
	*hits = NULL;
	if (!t->entries)
		return 0;
	hash = hash_seeded(topic.p, topic.n);
	s = cache_slot(t, hash);
	if (slot_holds(s, t, hash, topic)) {
		*hits = s->block;
		return s->hit_count;
	}
	found->n = 0;
	collect(t, t->root, topic, true, true, found);
	slot_fill(s, t, hash, topic);
	*hits = found->v;
	return found->n;
}

size_t trie_count(const struct trie *t)
{
	return t->entries;
}

size_t trie_nodes(const struct trie *t)
{
	return t->nodes;
}
