#include "tenancy/tenant.h"

#include "base/log.h"

static bool name_byte(char c, bool first)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c == '-' && !first);
}

int tenant_name_check(struct slice name, struct err *e)
{
	bool ok = name.n >= 1 && name.n <= TENANT_NAME_MAX;

	for (size_t i = 0; ok && i < name.n; i++)
		ok = name_byte(name.p[i], i == 0);
	if (ok)
		return 0;
	return err_set(e, 0,
	               "%s is not a tenant name: 1 to %d of a-z, 0-9 and -, not starting with -",
	               log_quote(name.p, name.n), TENANT_NAME_MAX);
}

const char *tenant_state_name(enum tenant_state s)
{
	switch (s) {
	case TENANT_ACTIVE:
		return "active";
	case TENANT_SUSPENDED:
		return "suspended";
	case TENANT_DELETED:
		return "deleted";
	}
	return "unknown";
}
