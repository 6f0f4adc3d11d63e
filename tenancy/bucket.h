/* bucket: how much of something may pass a second. What passes is taken whole, also beyond what is
 * in it; then nothing passes until the debt is made good, so that one large event cannot be held
 * for ever. Pure data, no clock of its own; any thread.
 *
 * Rates are in thousandths of a unit a second (a node's share of a small rate is a fraction), and
 * the level in millionths of a unit, so that a millisecond of any rate is a whole number. */
#ifndef LEAT_TENANCY_BUCKET_H
#define LEAT_TENANCY_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

enum { BUCKET_BURST_MS = 200 }; /* what passes at once after a pause: so much of the rate, or one */

#define BUCKET_RATE_MAX (UINT64_C(1) << 34) /* units a second; above it is no limit */

struct bucket {
	uint64_t rate; /* thousandths of a unit a second; 0 = no limit */
	int64_t level; /* millionths of a unit; nothing passes at 0 or below */
	uint64_t at_ms;
};

/* From now on; what is in it stays, as far as there is room. A bucket of zeroes has no limit. */
void bucket_set(struct bucket *b, uint64_t rate, uint64_t now_ms);
bool bucket_open(struct bucket *b, uint64_t now_ms);              /* may something pass now? */
void bucket_take(struct bucket *b, uint64_t units);               /* it passed; below 2^40 */
uint64_t bucket_wait_ms(const struct bucket *b, uint64_t now_ms); /* until it is open; 0 = it is */

#endif
