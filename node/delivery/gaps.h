/* gaps: of a place, what its consumers were not given and have to be told of: events that retention
 * took, or that were given up. The next delivery tells it, once; but until a consumer has answered
 * that delivery nobody knows that it was heard, so its row keeps it (cluster/bus.h, gap_from), and
 * when the delivery is lost with its connection the next one tells it again. Loop thread only. */
#ifndef LEAT_NODE_GAPS_H
#define LEAT_NODE_GAPS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* Events [from, to); to 0 = none. */
struct gap {
	uint64_t from;
	uint64_t to;
};

struct gap_told;

/* Zero is empty. */
struct gaps {
	struct gap next; /* the next delivery tells of it */
	SLIST_HEAD(, gap_told) told;
};

void gaps_release(struct gaps *g); /* it is empty then */

/* to grows by gap, and by what is between them. */
void gap_add(struct gap *to, struct gap gap);

/* What the delivery of event seq, which goes out now, tells. */
struct gap gaps_tell(struct gaps *g, uint64_t seq);
/* A consumer has answered it. Returns whether that changes what is open. */
bool gaps_heard(struct gaps *g, uint64_t seq);
/* It is in flight no more, and nobody knows what became of it. */
void gaps_unheard(struct gaps *g, uint64_t seq);

/* All that may have to be told again, with what is between. */
struct gap gaps_open(const struct gaps *g);

#endif
