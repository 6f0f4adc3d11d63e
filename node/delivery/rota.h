/* rota: the consumers of one subscription, and whose turn it is. Each has as many events in its
 * turn as it stands for sessions; whoever has no room misses its turn.
 *
 * Deliveries of QoS 0 take no room, so a consumer of such would have nearly all of a burst while
 * the others' room is on its way: acknowledgements, or credit of another node. So turns that were
 * missed are kept for a moment, as many as that consumer had just taken, and it has them first when
 * it has room again; and who takes no room waits meanwhile, when it is ROTA_AHEAD_MAX turns ahead.
 * A consumer that is slow holds nobody up: it takes little at a time, and the moment is short.
 *
 * Embedded in a subscription; zero-initialise. Loop thread only. */
#ifndef LEAT_NODE_ROTA_H
#define LEAT_NODE_ROTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct consumer;

enum {
	ROTA_AHEAD_MAX = 32, /* turns */
	ROTA_KEPT_MS = 10,
};

struct rota_place {
	struct consumer *consumer;
	uint64_t until_ms; /* clock_now_ms(): so long turns are kept for it */
	uint32_t kept;     /* that it missed */
	uint32_t kept_max;
	uint32_t taken; /* since it last missed one */
	bool unbounded; /* what it was given last took no room */
};

struct rota {
	struct rota_place *places;
	size_t n;
	size_t turn;       /* round robin */
	uint32_t served;   /* events given in this turn */
	uint64_t until_ms; /* nobody has turns kept longer */
	bool waits;        /* rota_pick: somebody had room, and has to wait: at most until then */
};

void rota_release(struct rota *r);
void rota_add(struct rota *r, struct consumer *c);
void rota_remove(struct rota *r, const struct consumer *c); /* if it is there */
bool rota_has(const struct rota *r, const struct consumer *c);

/* Who is given the next event; NULL = nobody, now. */
struct consumer *rota_pick(struct rota *r);
/* What whoever was picked last was given takes room there, or not. */
void rota_gave(struct rota *r, bool takes_room);

#endif
