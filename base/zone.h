/* zone: an IANA time zone, from the system's compiled zone files (RFC 8536: TZif of version 2 or
 * later, with the rule for the years after its table). Read once; immutable then, any thread. */
#ifndef LEAT_BASE_ZONE_H
#define LEAT_BASE_ZONE_H

#include "base/err.h"
#include "base/slice.h"

#include <stddef.h>
#include <stdint.h>

enum { ZONE_NAME_MAX = 64 }; /* bytes */

struct zone;

/* "Europe/Berlin". TZDIR in the environment takes the place of /usr/share/zoneinfo. NULL: there is
 * no such zone. */
struct zone *zone_open(struct slice name, struct err *e);
/* The bytes of such a file. NULL: they are not one. */
struct zone *zone_parse(struct slice bytes, struct err *e);
void zone_free(struct zone *z); /* NULL does nothing */

/* Seconds that its clocks are ahead of UTC at that time (seconds since 1970). */
int32_t zone_offset_s(const struct zone *z, int64_t utc_s);

#endif
