/* timeshare: the loop's time, shared between tenants. One thread serves them all, so whoever has
 * much to do in a turn must leave room for the others: of a turn's time for one kind of work
 * (reading sockets, dispatching, writing) each account gets its weight's part of what those active
 * lately have, and leaves the rest of its work for later turns. Whoever is alone has all of it, and
 * long turns, which cost less; where others were active lately turns are short, because what comes
 * for those waits for the end of the turn. One piece of work is never cut: a turn is longer than it
 * is meant to be by one piece per account at most. One for each kind of work; loop thread only.
 *
 *     if (!timeshare_turn(account, &item->round))
 *             try again in the next turn
 *     began_us = timeshare_begin(account);
 *     work
 *     timeshare_end(account, began_us);
 *
 * An account is NULL where nothing is shared: it may always go on. */
#ifndef LEAT_NODE_TIMESHARE_H
#define LEAT_NODE_TIMESHARE_H

#include "node/net/loop.h"

#include <stdbool.h>
#include <stdint.h>

struct timeshare;
struct timeshare_account;

struct timeshare_settings {
	uint32_t turn_us;   /* of one turn, for all accounts */
	uint32_t shared_us; /* the same while more than one is active; 0 = turn_us */
	/* An owner's weight, 1 and up; asked in each turn that it does something in, so that a
	 * change takes effect at once. NULL: all weigh the same. */
	uint32_t (*weight)(void *arg, uint32_t owner);
	void *arg;
	const char *bug;          /* a literal: the seeded bug (base/bug.h) that switches it off */
	uint64_t (*now_us)(void); /* for tests; NULL = clock_us */
};

struct timeshare *timeshare_new(struct loop *l, const struct timeshare_settings *s);
void timeshare_free(struct timeshare *b); /* after every account was released */

/* The account of an owner (a tenant's id, not 0): one more reference to it. b NULL: NULL. */
struct timeshare_account *timeshare_account(struct timeshare *b, uint32_t owner);
void timeshare_release(struct timeshare_account *a); /* a may be NULL */

/* May this account do another piece of work in this turn? */
bool timeshare_left(struct timeshare_account *a);

/* The same for one of several items (connections, partitions) that share an account: each comes
 * once before any comes again. *round is the item's own, 0 when it joins the account. */
bool timeshare_turn(struct timeshare_account *a, uint64_t *round);

uint32_t timeshare_weight(const struct timeshare_account *a); /* its owner's now; a NULL: 1 */

/* Around a piece of work: what it took is spent. A NULL: nobody looks at the clock. */
uint64_t timeshare_begin(const struct timeshare_account *a); /* µs, for timeshare_end */
void timeshare_end(struct timeshare_account *a, uint64_t began_us);
/* In the middle of one that can be cut here: may it go on? What it took until now is spent, and
 * *began_us is now. */
bool timeshare_go_on(struct timeshare_account *a, uint64_t *began_us);

void timeshare_spend(struct timeshare_account *a, uint64_t us);

#endif
