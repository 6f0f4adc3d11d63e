/* budget: how the nodes of a cluster share a tenant's rate: by where its traffic is. Each tells the
 * others what it let pass lately and how many of its connections wait for more; each then works out
 * its own part from what all have told, so that nobody has to decide and the parts of nodes that
 * know the same add up to the rate. Pure functions; any thread.
 *
 * A node whose connections do not wait needs what it uses and a quarter on top; the others divide
 * what is left by how many wait there (max-min fairness). What nobody needs is divided, too. */
#ifndef LEAT_TENANCY_BUDGET_H
#define LEAT_TENANCY_BUDGET_H

#include <stddef.h>
#include <stdint.h>

struct budget_claim {
	uint64_t used;    /* thousandths of a unit a second */
	uint32_t waiting; /* connections; 0 = it needs no more than it used */
};

enum { BUDGET_CLAIMS_MAX = 64 }; /* nodes; of more the first so many are looked at */

/* The part of claims[0], thousandths of a unit a second; the others are those of the other nodes
 * that have any traffic. Never 0 but of a rate of 0. */
uint64_t budget_part(uint64_t rate, const struct budget_claim *claims, size_t n);

#endif
