/* turns: requests that wait, in an order that is fair between tenants: the first of each before the
 * second of any. Whoever has one waits for one of every other tenant at most, however many those
 * have; of one tenant they stay in the order they came in. They may be of several kinds, of which
 * only like ones are taken together. Zero-initialise. One thread at a time. */
#ifndef LEAT_CLUSTER_TURNS_H
#define LEAT_CLUSTER_TURNS_H

#include "base/map.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct turns_waiting {
	uint64_t turn;    /* what they are sorted by */
	const void *kind; /* the caller's, as what follows */
	void *req;
	uint64_t generation;
};

struct turns {
	struct turns_waiting *waiting; /* [n], whose turn is next first */
	size_t n;
	size_t cap;
	uint64_t turn;      /* nobody who waits has an earlier one */
	struct map tenants; /* tenant_id -> the turn of the last that it added */
};

void turns_add(struct turns *t, uint32_t tenant_id, const void *kind, void *req,
               uint64_t generation);
/* The first n of the kind and generation of the very first, or as many as there are, wait no more:
 * their requests are in reqs. How many. */
size_t turns_take(struct turns *t, void **reqs, size_t n);
void turns_release(struct turns *t); /* nothing waits any more */

/* Some wait, all of one tenant, and nobody else was served since this was empty. */
bool turns_of_one_tenant(const struct turns *t);
/* Of so many different tenants one is next, of the kind and generation of the very first. */
size_t turns_in_first_round(const struct turns *t);

#endif
