#include "base/map.h"

#include "base/hash.h"
#include "base/mem.h"

#include <stdlib.h>

enum { MAP_FIRST = 16 };

/* An entry that was deleted keeps its place, so that probing goes on past it. */
static const char tombstone[1];

void map_init(struct map *m)
{
	*m = (struct map){0};
}

void map_release(struct map *m)
{
	free(m->entries);
	map_init(m);
}

static bool entry_live(const struct map_entry *e)
{
	return e->key && e->key != tombstone;
}

static struct map_entry *find(const struct map *m, const void *key, size_t len, uint64_t hash)
{
	if (!m->cap)
		return NULL;
	for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
		struct map_entry *e = &m->entries[i];

		if (!e->key)
			return NULL;
		if (e->key != tombstone && e->hash == hash && e->len == len &&
		    (len == 0 || memcmp(e->key, key, len) == 0))
			return e;
	}
}

static void insert_new(struct map *m, struct map_entry n)
{
	size_t i = n.hash & (m->cap - 1);

	while (m->entries[i].key)
		i = (i + 1) & (m->cap - 1);
	m->entries[i] = n;
	m->used++;
	m->count++;
}

static void rehash(struct map *m)
{
	struct map old = *m;

	m->cap = MAP_FIRST;
	while (m->cap < old.count * 2 + 2)
		m->cap *= 2;
	m->entries = xcalloc(m->cap, sizeof *m->entries);
	m->used = m->count = 0;
	for (size_t i = 0; i < old.cap; i++) {
		if (entry_live(&old.entries[i]))
			insert_new(m, old.entries[i]);
	}
	free(old.entries);
}

void *map_get(const struct map *m, const void *key, size_t len)
{
	struct map_entry *e = find(m, key, len, hash_seeded(key, len));

	return e ? e->value : NULL;
}

void *map_put(struct map *m, const void *key, size_t len, void *value)
{
	uint64_t hash = hash_seeded(key, len);
	struct map_entry *e = find(m, key, len, hash);
	void *old;

	if (e) {
		old = e->value;
		e->key = key; /* the old key may go away with the old value */
		e->value = value;
		return old;
	}
	if ((m->used + 1) * 4 > m->cap * 3)
		rehash(m);
	insert_new(m, (struct map_entry){
	                      .key = key ? key : "", .len = len, .hash = hash, .value = value});
	return NULL;
}

void *map_del(struct map *m, const void *key, size_t len)
{
	struct map_entry *e = find(m, key, len, hash_seeded(key, len));
	void *old;

	if (!e)
		return NULL;
	old = e->value;
	*e = (struct map_entry){.key = tombstone};
	m->count--;
	return old;
}

void *map_next(const struct map *m, size_t *at)
{
	while (*at < m->cap) {
		struct map_entry *e = &m->entries[(*at)++];

		if (entry_live(e))
			return e->value;
	}
	return NULL;
}
