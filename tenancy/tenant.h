/* tenant: an isolated namespace, as a node knows it. Plain data, a row of `tenant`, owned by the
 * registry (tenancy/registry.h): a pointer to it stays good as long as the registry, also when the
 * tenant is deleted; its fields change when an admin changes them. Loop thread only. */
#ifndef LEAT_TENANCY_TENANT_H
#define LEAT_TENANCY_TENANT_H

#include "base/err.h"
#include "base/slice.h"
#include "sql/limits.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	TENANT_NAME_MAX = 63, /* bytes */
};

/* The values are those of the column. */
enum tenant_state {
	TENANT_ACTIVE = 1,
	TENANT_SUSPENDED = 2, /* nothing is let in; everything is kept */
	TENANT_DELETED = 3,
};

/* A row has 0 for the node's default; in the registry that stands in its place, and 0 = no limit.
 */
struct tenant_limits {
#define LIMIT_FIELD(column, type) type column;
	TENANT_LIMITS(LIMIT_FIELD)
#undef LIMIT_FIELD
};

struct tenant {
	uint32_t id; /* never reused */
	uint16_t weight;
	uint16_t partitions;
	enum tenant_state state;
	struct tenant_limits limits;
	bool storage_full;              /* retention: a pinned queue holds max_stored_bytes */
	char name[TENANT_NAME_MAX + 1]; /* never told to another tenant */
	uint16_t first_partition;       /* its events go to this one and partitions - 1 after it */
};

const char *tenant_state_name(enum tenant_state s);

/* [a-z0-9][a-z0-9-]{0,62}: a name can stand in a host name, a file name and a log line as it is. */
int tenant_name_check(struct slice name, struct err *e);

#endif
