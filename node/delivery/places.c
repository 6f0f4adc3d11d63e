/* A subscription's places: one for each partition of the layout it reads, side by side. A share
 * that another node owns has them for what it was sent, whatever layouts that is of. */
#include "node/delivery/delivery.h"

#include "base/mem.h"

#include <stdlib.h>

static struct place *place_new(struct subscription *s, uint32_t partition)
{
	struct place *pl = xcalloc(1, sizeof *pl);

	pl->sub = s;
	partition_join(space_partition(s->space, partition), pl);
	return pl;
}

static void place_free(struct place *pl)
{
	committer_forget(pl->sub->space->dispatch, pl);
	partition_leave(pl);
	feed_release(&pl->feed);
	gaps_release(&pl->gaps);
	free(pl);
}

static bool forget_one(void *arg, struct feed_entry *e)
{
	(void)arg;
	if (e->packet_id && e->holder->kind == CONSUMER_SESSION)
		packet_ids_void(&session_of(e->holder)->ids, e->packet_id);
	return true;
}

void place_forget_held(struct place *pl)
{
	feed_unhold_if(&pl->feed, forget_one, NULL);
}

/* Exactly those of [first, first + n): those that are there already stay as they are. */
static void set_range(struct subscription *s, uint32_t first, uint32_t n)
{
	struct place **places = n ? xcalloc(n, sizeof(struct place *)) : NULL;

	for (uint32_t i = 0; i < s->n_places; i++) {
		uint32_t at = s->first_place + i - first;

		if (at < n) {
			places[at] = s->places[i];
			continue;
		}
		place_forget_held(s->places[i]);
		place_free(s->places[i]);
	}
	for (uint32_t i = 0; i < n; i++) {
		if (!places[i])
			places[i] = place_new(s, first + i);
	}
	free(s->places);
	s->places = places;
	s->first_place = first;
	s->n_places = n;
}

void places_set(struct subscription *s, struct layout l)
{
	if (s->n_places != l.n || s->first_place != l.first)
		set_range(s, l.first, l.n);
}

struct place *places_need(struct subscription *s, uint32_t partition)
{
	uint32_t first = s->n_places ? s->first_place : partition;
	uint32_t end = s->n_places ? s->first_place + s->n_places : partition + 1;
	struct place *pl = place_find(s, partition);

	if (pl)
		return pl;
	if (partition < first)
		first = partition;
	if (partition >= end)
		end = partition + 1;
	set_range(s, first, end - first);
	return place_find(s, partition);
}
