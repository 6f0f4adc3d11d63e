#include "cluster/company.h"

void company_came(struct company *c, uint32_t tenant_id, uint64_t now_ms)
{
	if (c->tenant_id && c->tenant_id != tenant_id)
		c->until_ms = now_ms + COMPANY_LATELY_MS;
	c->tenant_id = tenant_id;
}
