/* company: whether more than one tenant came lately. Who is alone is done soonest in large pieces;
 * in company pieces are short, because whoever comes waits for the end of one. Zero-initialise. One
 * thread at a time. */
#ifndef LEAT_CLUSTER_COMPANY_H
#define LEAT_CLUSTER_COMPANY_H

#include <stdbool.h>
#include <stdint.h>

enum { COMPANY_LATELY_MS = 2000 }; /* who came within this time is expected again */

struct company {
	uint32_t tenant_id; /* who came last; 0 = nobody */
	uint64_t until_ms;  /* there is company */
};

void company_came(struct company *c, uint32_t tenant_id, uint64_t now_ms);

static inline bool company_is_there(const struct company *c, uint64_t now_ms)
{
	return now_ms < c->until_ms;
}

#endif
