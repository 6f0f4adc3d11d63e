#include "node/delivery/packet_ids.h"

#include "base/mem.h"
#include "node/delivery/delivery.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_SLOTS = 16 };

static void grow(struct packet_ids *ids)
{
	uint32_t n = ids->n ? ids->n * 2u : FIRST_SLOTS;

	if (n > UINT16_MAX)
		n = UINT16_MAX;
	ids->slots = xrealloc(ids->slots, n * sizeof *ids->slots);
	memset(ids->slots + ids->n, 0, (n - ids->n) * sizeof *ids->slots);
	ids->next = ids->n;
	ids->n = (uint16_t)n;
}

void packet_ids_release(struct packet_ids *ids)
{
	free(ids->slots);
	*ids = (struct packet_ids){0};
}

uint16_t packet_ids_take(struct packet_ids *ids, struct place *pl, uint64_t seq)
{
	for (uint32_t tries = 0;; tries++) {
		struct packet_id *slot;

		if (tries >= ids->n) {
			grow(ids);
			tries = 0;
		}
		if (ids->next >= ids->n)
			ids->next = 0;
		slot = &ids->slots[ids->next++];
		if (slot->used)
			continue;
		*slot = (struct packet_id){.place = pl, .seq = seq, .used = true};
		ids->n_used++;
		return ids->next;
	}
}

struct packet_id *packet_ids_find(const struct packet_ids *ids, uint16_t id)
{
	return id && id <= ids->n && ids->slots[id - 1].used ? &ids->slots[id - 1] : NULL;
}

void packet_ids_free(struct packet_ids *ids, uint16_t id)
{
	ids->slots[id - 1] = (struct packet_id){0};
	ids->n_used--;
}

void packet_ids_void(struct packet_ids *ids, uint16_t id)
{
	ids->slots[id - 1].place = NULL;
	ids->slots[id - 1].due_ms = 0;
}

void packet_ids_void_of(struct packet_ids *ids, const struct subscription *sub)
{
	for (uint32_t i = 0; i < ids->n; i++) {
		if (ids->slots[i].place && ids->slots[i].place->sub == sub)
			packet_ids_void(ids, (uint16_t)(i + 1));
	}
}

void packet_ids_free_void(struct packet_ids *ids)
{
	for (uint32_t i = 0; i < ids->n; i++) {
		if (ids->slots[i].used && !ids->slots[i].place)
			packet_ids_free(ids, (uint16_t)(i + 1));
	}
}
