/* bench_event: what a benchmark event carries, so that its receiver can tell when it was due and
 * whether it is whole, in order and of this run. Pure functions, any thread. */
#ifndef LEAT_NODE_BENCH_EVENT_H
#define LEAT_NODE_BENCH_EVENT_H

#include "base/slice.h"

#include <stddef.h>
#include <stdint.h>

enum { BENCH_EVENT_MIN = 32 }; /* bytes of the stamp: the smallest payload */

struct bench_event {
	uint64_t run;    /* random */
	uint64_t due_us; /* clock_us() when it should have been sent */
	uint64_t seq;    /* of its topic: 0, 1, 2 … */
	uint32_t topic;
	uint32_t size; /* bytes of the payload */
};

void bench_event_fill(char *payload, size_t size); /* once: the bytes behind the stamp */
void bench_event_stamp(char *payload, const struct bench_event *ev);
/* whole: a filled payload of at least this size. -1 = not one of ours, or damaged. */
int bench_event_read(struct slice payload, const char *whole, struct bench_event *ev);

#endif
