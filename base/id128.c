#include "base/id128.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

struct id128 id128_random(void)
{
	struct id128 id;

	if (getrandom(id.b, sizeof id.b, 0) != (ssize_t)sizeof id.b)
		fatal("getrandom failed");
	return id;
}

bool id128_eq(const struct id128 *a, const struct id128 *b)
{
	return memcmp(a->b, b->b, sizeof a->b) == 0;
}

bool id128_is_zero(const struct id128 *a)
{
	static const struct id128 zero;

	return id128_eq(a, &zero);
}

void id128_hex(const struct id128 *id, char out[ID128_HEX])
{
	for (size_t i = 0; i < sizeof id->b; i++)
		snprintf(out + 2 * i, 3, "%02x", id->b[i]);
}
