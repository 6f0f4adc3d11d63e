/* clock: time, cached once per turn of the loop. clock_tick() is called by the loop thread at the
 * start of each turn; the cached readers are for that thread. clock_us() and clock_wall_ms_now()
 * read the clock themselves and may be called from any thread. */
#ifndef LEAT_BASE_CLOCK_H
#define LEAT_BASE_CLOCK_H

#include <stdint.h>

void clock_tick(void);
uint64_t clock_now_ms(void); /* CLOCK_BOOTTIME: counts suspension, never goes back; leases use it */
uint64_t clock_wall_ms(void); /* milliseconds since 1970; for stamps, never for ownership */

uint64_t clock_us(void);          /* CLOCK_BOOTTIME now, microseconds, uncached */
uint64_t clock_wall_ms_now(void); /* milliseconds since 1970 now, uncached */

/* Simulated time for tests: from now on the cached readers return these until clock_tick(). */
void clock_set(uint64_t now_ms, uint64_t wall_ms);

#endif
