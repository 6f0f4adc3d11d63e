#include "node/delivery/ordering.h"

#include "base/bug.h"
#include "base/mem.h"

#include <stdlib.h>
#include <sys/queue.h>

/* An event of the journal that is in flight (its key's first) or waits behind that one. */
struct order_entry {
	struct {
		struct place *pl;
		uint64_t seq;
	} id;
	struct order_key *key;
	TAILQ_ENTRY(order_entry) link;
};

TAILQ_HEAD(order_entries, order_entry);

struct order_key {
	uint64_t key;
	struct order_entries entries;
	uint32_t retries; /* timer rows that are, or will be, due */
	uint32_t parking; /* rows being written */
	uint64_t *parked; /* timer ids of rows behind them, in order; [first, n) */
	size_t first;
	size_t n;
	size_t cap;
};

static struct order_key *key_get(struct ordering *o, uint64_t key)
{
	struct order_key *k = map_get_u64(&o->keys, key);

	if (k)
		return k;
	k = xcalloc(1, sizeof *k);
	k->key = key;
	TAILQ_INIT(&k->entries);
	map_put(&o->keys, &k->key, sizeof k->key, k);
	return k;
}

static bool has_rows(const struct order_key *k)
{
	return k->retries || k->parking || k->first < k->n;
}

static void key_free_if_unused(struct ordering *o, struct order_key *k)
{
	if (!TAILQ_EMPTY(&k->entries) || has_rows(k))
		return;
	map_del(&o->keys, &k->key, sizeof k->key);
	free(k->parked);
	free(k);
}

static struct order_entry *entry_find(const struct ordering *o, struct place *pl, uint64_t seq)
{
	struct order_entry e = {.id = {pl, seq}};

	return map_get(&o->entries, &e.id, sizeof e.id);
}

static void entry_add(struct ordering *o, struct order_key *k, struct place *pl, uint64_t seq)
{
	struct order_entry *e = xcalloc(1, sizeof *e);

	e->id.pl = pl;
	e->id.seq = seq;
	e->key = k;
	TAILQ_INSERT_TAIL(&k->entries, e, link);
	map_put(&o->entries, &e->id, sizeof e->id, e);
}

static void entry_remove(struct ordering *o, struct order_entry *e)
{
	TAILQ_REMOVE(&e->key->entries, e, link);
	map_del(&o->entries, &e->id, sizeof e->id);
	free(e);
}

void ordering_release(struct ordering *o)
{
	struct order_entry *e;
	struct order_key *k;
	size_t at = 0;

	while ((e = map_next(&o->entries, &at)))
		free(e);
	at = 0;
	while ((k = map_next(&o->keys, &at))) {
		free(k->parked);
		free(k);
	}
	map_release(&o->entries);
	map_release(&o->keys);
	*o = (struct ordering){0};
	map_init(&o->entries);
	map_init(&o->keys);
}

enum ordering_turn ordering_admit(struct ordering *o, struct place *pl, uint64_t seq, uint64_t key)
{
	struct order_entry *e = entry_find(o, pl, seq);
	struct order_key *k = e ? e->key : key_get(o, key);
	bool is_first = e ? TAILQ_FIRST(&k->entries) == e : TAILQ_EMPTY(&k->entries);

	/* behind rows only once all before it are: one that is in flight may come back */
	if (is_first && has_rows(k) && !BUG("key-not-held"))
		return ORDERING_PARK;
	if (!e)
		entry_add(o, k, pl, seq);
	return is_first ? ORDERING_GO : ORDERING_WAIT;
}

void ordering_in_flight(struct ordering *o, struct place *pl, uint64_t seq, uint64_t key)
{
	if (!entry_find(o, pl, seq))
		entry_add(o, key_get(o, key), pl, seq);
}

bool ordering_left(struct ordering *o, struct place *pl, uint64_t seq, struct place **pl_out,
                   uint64_t *seq_out)
{
	struct order_entry *e = entry_find(o, pl, seq);
	struct order_key *k = e ? e->key : NULL;
	bool was_first = e && TAILQ_FIRST(&k->entries) == e;

	if (!e)
		return false;
	entry_remove(o, e);
	e = TAILQ_FIRST(&k->entries);
	if (was_first && e) {
		*pl_out = e->id.pl;
		*seq_out = e->id.seq;
		return true;
	}
	key_free_if_unused(o, k);
	return false;
}

uint64_t ordering_failed(struct ordering *o, struct place *pl, uint64_t seq,
                         void (*fn)(struct place *pl, uint64_t seq))
{
	struct order_entry *e = entry_find(o, pl, seq);
	struct order_key *k = e ? e->key : NULL;

	if (!e)
		return 0;
	k->retries++;
	entry_remove(o, e);
	while ((e = TAILQ_FIRST(&k->entries))) {
		struct place *waited = e->id.pl;
		uint64_t at = e->id.seq;

		entry_remove(o, e);
		fn(waited, at);
	}
	return k->key;
}

void ordering_parking(struct ordering *o, uint64_t key)
{
	key_get(o, key)->parking++;
}

static void park(struct order_key *k, uint64_t timer_id)
{
	if (k->n == k->cap) {
		k->cap = k->cap ? k->cap * 2 : 4;
		k->parked = xrealloc(k->parked, k->cap * sizeof *k->parked);
	}
	k->parked[k->n++] = timer_id;
}

void ordering_parked(struct ordering *o, uint64_t key, uint64_t timer_id)
{
	struct order_key *k = key_get(o, key);

	if (k->parking)
		k->parking--;
	park(k, timer_id);
}

void ordering_found(struct ordering *o, uint64_t key, uint64_t timer_id, bool parked)
{
	struct order_key *k = key_get(o, key);

	if (parked)
		park(k, timer_id);
	else
		k->retries++;
}

void ordering_row_left(struct ordering *o, uint64_t key)
{
	struct order_key *k = map_get_u64(&o->keys, key);

	if (!k)
		return;
	if (k->retries)
		k->retries--;
	key_free_if_unused(o, k);
}

uint64_t ordering_next_row(struct ordering *o, uint64_t key)
{
	struct order_key *k = map_get_u64(&o->keys, key);
	uint64_t id;

	if (!k || k->retries || k->first == k->n)
		return 0;
	id = k->parked[k->first++];
	if (k->first == k->n)
		k->first = k->n = 0;
	k->retries++;
	return id;
}

uint64_t ordering_next_of_any(struct ordering *o, uint64_t *key_out)
{
	struct order_key *k;
	size_t at = 0;

	while ((k = map_next(&o->keys, &at))) {
		uint64_t id = ordering_next_row(o, k->key);

		if (id) {
			*key_out = k->key;
			return id;
		}
	}
	return 0;
}
