/* sweep: which ids to look at, of rows that are taken away in the order of their ids while one with
 * a low id may appear at any later time: a transaction that took it is still open.
 *
 * Deleted rows stay in the index until the server purges them, which an old snapshot can prevent
 * for hours, and a look from the beginning meets them all. While looks are quick each one covers
 * everything. When they become slow, each covers what is new and a slice of what is old, as wide as
 * a few milliseconds allow, so that the slices cover all of it again and again. When such a look
 * finds something, there may be more in front of it that it did not cover. Plain data of one user.
 */
#ifndef LEAT_CLUSTER_SWEEP_H
#define LEAT_CLUSTER_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

struct sweep {
	uint64_t at;      /* the next slice has ids above this */
	uint64_t width;   /* of a slice, at most; 0 = no bound */
	uint64_t top;     /* the highest id seen */
	uint64_t tops[2]; /* as it was when the last two periods began, the older first */
	uint64_t period_ms;
};

/* Ids above `above`, up to `upto`. */
struct sweep_range {
	uint64_t above;
	uint64_t upto;
};

struct sweep_look {
	struct sweep_range old;
	struct sweep_range fresh; /* empty when `old` has it all */
};

/* What to look at now. Zero-initialised, a sweep begins with everything. */
struct sweep_look sweep_next(struct sweep *s, uint64_t now_ms);
static inline bool sweep_empty(struct sweep_range r)
{
	return r.above >= r.upto;
}

/* The old part was looked at in so many microseconds and had so many rows. */
void sweep_took(struct sweep *s, const struct sweep_look *look, uint64_t us, uint64_t rows);
void sweep_saw(struct sweep *s, uint64_t id);

#endif
