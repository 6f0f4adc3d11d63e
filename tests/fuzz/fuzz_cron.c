/* cron_parse() and cron_next() on any text, and zone_parse() on any bytes. The first byte says
 * which; what was understood must tick after the time asked for, and at a time that its fields
 * name. */
#include "cluster/cron.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW_MS UINT64_C(1774742400000) /* 2026-03-29T00:00:00Z: Berlin's clocks change */

static void tick(const struct cron *c, const struct zone *z)
{
	uint64_t now = NOW_MS;

	for (int i = 0; i < 4; i++) {
		uint64_t next = cron_next(c, z, now);

		if (next <= now)
			abort();
		if (next == UINT64_MAX)
			return;
		now = next;
	}
}

static const struct zone *berlin(void)
{
	static struct zone *z;

	if (!z)
		z = zone_open(slice_str("Europe/Berlin"), NULL);
	if (!z)
		abort();
	return z;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cron c;
	struct zone *z;

	if (!size)
		return 0;
	if (data[0] & 1) {
		if (cron_parse(slice(data + 1, size - 1), &c, NULL) == 0)
			tick(&c, berlin());
		return 0;
	}
	z = zone_parse(slice(data + 1, size - 1), NULL);
	if (z && cron_parse(slice_str("30 2 * * *"), &c, NULL) == 0)
		tick(&c, z);
	zone_free(z);
	return 0;
}
