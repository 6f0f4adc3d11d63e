/* map: a hash table from bytes to a pointer. Keys are borrowed: they must live as long as the
 * entry, so they usually sit inside the value. One thread at a time. */
#ifndef LEAT_BASE_MAP_H
#define LEAT_BASE_MAP_H

#include "base/slice.h"

#include <stddef.h>
#include <stdint.h>

struct map_entry {
	const char *key; /* NULL = never used; see map.c */
	size_t len;      /* bytes */
	uint64_t hash;
	void *value;
};

struct map {
	struct map_entry *entries;
	size_t cap;   /* a power of two, or 0 */
	size_t used;  /* live and deleted entries */
	size_t count; /* live entries */
};

void map_init(struct map *m);
void map_release(struct map *m); /* values are the caller's */

void *map_get(const struct map *m, const void *key, size_t len); /* NULL when absent */
void *map_put(struct map *m, const void *key, size_t len,
              void *value);                                /* returns what it replaced */
void *map_del(struct map *m, const void *key, size_t len); /* returns what was there */

/* Walk: size_t at = 0; while ((v = map_next(m, &at))) …  Deleting the entry just returned is
 * allowed; adding entries is not. */
void *map_next(const struct map *m, size_t *at);

/* The same with an integer key; *key must sit inside the value. */
static inline void *map_get_u64(const struct map *m, uint64_t key)
{
	return map_get(m, &key, sizeof key);
}

#endif
