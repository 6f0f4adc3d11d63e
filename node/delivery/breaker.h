/* breaker: a queue's circuit breaker. Closed, it allows everything. It opens when an attempt fails
 * while as many events wait to be tried again as may; then one delivery at a time goes out, a
 * probe, with growing pauses between them, until one succeeds. Pure bookkeeping; embedded in a
 * queue. Times are clock_now_ms(). Loop thread only. */
#ifndef LEAT_NODE_BREAKER_H
#define LEAT_NODE_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

struct breaker {
	bool open;
	uint32_t failures;    /* since it opened: probes, and what opened it */
	uint64_t probe_at_ms; /* open: not before */
	bool probing;         /* open: this delivery is out */
	const void *place;
	uint64_t seq;
};

static inline bool breaker_allows(const struct breaker *b, uint64_t now_ms)
{
	return !b->open || (!b->probing && now_ms >= b->probe_at_ms);
}

void breaker_sent(struct breaker *b, const void *place, uint64_t seq);
/* It came back untried, or was settled unsent. */
void breaker_returned(struct breaker *b, const void *place, uint64_t seq);
/* An attempt failed; full: as many events wait as may. True: it has just opened, or the probe has
 * failed; the caller then sets probe_at_ms, by `failures`. */
bool breaker_failed(struct breaker *b, const void *place, uint64_t seq, bool full);
bool breaker_succeeded(struct breaker *b); /* true: it has just closed */

#endif
