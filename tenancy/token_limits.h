/* token_limits: the `limits` claim: what a token leaves its subject of the tenant's limits. They
 * only narrow: the tenant's own hold as well. Pure functions; any thread. */
#ifndef LEAT_TENANCY_TOKEN_LIMITS_H
#define LEAT_TENANCY_TOKEN_LIMITS_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* 0 = not said. */
struct token_limits {
	bool any; /* one of them is */
#define TOKEN_LIMIT(name) uint64_t name;
#include "tenancy/token_limits.def"
#undef TOKEN_LIMIT
};

/* NULL = there is no claim. A member that is not known, or no whole number from 1 on, is an error:
 * passed over it would widen what was meant to be narrow. */
int token_limits_parse(json_t *claim, struct token_limits *out, struct err *e);

#endif
