/* packet_ids: the packet ids under which one session has events in flight, and which event each of
 * them is. An id outlives its event when that goes away first: it stays taken, and void, until the
 * client has answered or its connection is gone. Embedded in a session. Loop thread only. */
#ifndef LEAT_NODE_PACKET_IDS_H
#define LEAT_NODE_PACKET_IDS_H

#include <stdbool.h>
#include <stdint.h>

struct place;
struct subscription;

struct packet_id {
	struct place *place; /* NULL and used: void */
	uint64_t seq;
	uint64_t due_ms; /* queue: cut off unless it is answered by then; 0 = never */
	bool used;
};

struct packet_ids {
	struct packet_id *slots; /* [n]; the slot of id 1 is the first */
	uint16_t n;
	uint16_t n_used;
	uint16_t next;
};

void packet_ids_release(struct packet_ids *ids);

static inline bool packet_ids_left(const struct packet_ids *ids)
{
	return ids->n_used < UINT16_MAX;
}

/* A free one, while there are any left. */
uint16_t packet_ids_take(struct packet_ids *ids, struct place *pl, uint64_t seq);
struct packet_id *packet_ids_find(const struct packet_ids *ids, uint16_t id); /* NULL = not used */
void packet_ids_free(struct packet_ids *ids, uint16_t id);
/* Its event is another one now; the id is taken until the client has answered. */
void packet_ids_void(struct packet_ids *ids, uint16_t id);
void packet_ids_void_of(struct packet_ids *ids, const struct subscription *sub);
void packet_ids_free_void(struct packet_ids *ids); /* nobody will answer them any more */

#endif
