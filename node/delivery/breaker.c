#include "node/delivery/breaker.h"

static bool is_probe(const struct breaker *b, const void *place, uint64_t seq)
{
	return b->probing && b->place == place && b->seq == seq;
}

void breaker_sent(struct breaker *b, const void *place, uint64_t seq)
{
	if (!b->open)
		return;
	b->probing = true;
	b->place = place;
	b->seq = seq;
}

void breaker_returned(struct breaker *b, const void *place, uint64_t seq)
{
	if (is_probe(b, place, seq))
		b->probing = false;
}

bool breaker_failed(struct breaker *b, const void *place, uint64_t seq, bool full)
{
	if (b->open && !is_probe(b, place, seq))
		return false; /* it went out before */
	if (!b->open && !full)
		return false;
	b->open = true;
	b->probing = false;
	b->failures++;
	return true;
}

bool breaker_succeeded(struct breaker *b)
{
	bool was_open = b->open;

	*b = (struct breaker){0};
	return was_open;
}
