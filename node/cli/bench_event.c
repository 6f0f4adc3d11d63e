#include "node/cli/bench_event.h"

_Static_assert(sizeof(struct bench_event) == BENCH_EVENT_MIN, "the stamp has no padding");

void bench_event_fill(char *payload, size_t size)
{
	for (size_t i = BENCH_EVENT_MIN; i < size; i++)
		payload[i] = (char)(' ' + (i * 31 + i / 95) % 95);
}

/* Sender and receiver are one process, so the stamp is the struct as it stands. */
void bench_event_stamp(char *payload, const struct bench_event *ev)
{
	memcpy(payload, ev, sizeof *ev);
}

int bench_event_read(struct slice payload, const char *whole, struct bench_event *ev)
{
	if (payload.n < BENCH_EVENT_MIN)
		return -1;
	memcpy(ev, payload.p, sizeof *ev);
	if (ev->size != payload.n)
		return -1;
	return memcmp(payload.p + BENCH_EVENT_MIN, whole + BENCH_EVENT_MIN,
	              payload.n - BENCH_EVENT_MIN)
	               ? -1
	               : 0;
}
