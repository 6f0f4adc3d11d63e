/* share: weighted deficit round robin. Whoever serves a queue of queues (tenants in a flush, in
 * dispatch, in catch-up reads) asks it whose turn it is; over time each active entry is served
 * bytes in proportion to its weight, whatever the others ask for. Loop thread only; O(1) per turn.
 *
 *     while (room > 0 && (e = share_next(&s))) {
 *             bytes = take up to min(share_quantum(e), room) from e's queue (at least one item)
 *             share_charge(&s, e, bytes);
 *             if (e's queue is empty)
 *                     share_deactivate(&s, e);
 *     }
 *
 * An item larger than the quantum may be taken: the debt is paid in later rounds. */
#ifndef LEAT_TENANCY_SHARE_H
#define LEAT_TENANCY_SHARE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* Embedded in whatever is to be served; zero-initialise, or share_entry_init. */
struct share_entry {
	TAILQ_ENTRY(share_entry) link;
	int64_t deficit; /* bytes it may still take this round; < 0 = debt */
	uint32_t weight; /* 1 and up; 0 counts as 1 */
	bool active;
};

TAILQ_HEAD(share_list, share_entry);

struct share {
	struct share_list active;
	uint32_t quantum; /* bytes a weight of 1 gets per round */
};

void share_init(struct share *s, uint32_t quantum);
void share_entry_init(struct share_entry *e, uint32_t weight);

/* It has something to be served: it joins at the end of the round. Nothing if it is active. */
void share_push_active(struct share *s, struct share_entry *e);

/* It has nothing left, or goes away. It keeps its debt, not its credit, so that coming and going
 * gains nothing. */
void share_deactivate(struct share *s, struct share_entry *e);

/* Whose turn it is, NULL when nobody is active. The same entry until it is charged its quantum. */
struct share_entry *share_next(struct share *s);

/* Bytes the entry share_next returned may take now: at least 1. */
static inline int64_t share_quantum(const struct share_entry *e)
{
	return e->deficit;
}

void share_charge(struct share *s, struct share_entry *e, uint64_t bytes);

#endif
