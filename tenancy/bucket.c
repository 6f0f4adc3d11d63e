#include "tenancy/bucket.h"

#include <assert.h>

enum {
	MILLIONTHS = 1000000,
	REFILL_MAX_MS = 100 * 1000, /* longer pauses fill it as this one does: no overflow */
};

static int64_t room(const struct bucket *b)
{
	int64_t burst = (int64_t)(b->rate * BUCKET_BURST_MS);

	return burst > MILLIONTHS ? burst : MILLIONTHS;
}

static void refill(struct bucket *b, uint64_t now_ms)
{
	uint64_t ms = now_ms > b->at_ms ? now_ms - b->at_ms : 0;

	b->at_ms = now_ms;
	if (ms > REFILL_MAX_MS)
		ms = REFILL_MAX_MS;
	b->level += (int64_t)(b->rate * ms);
	if (b->level > room(b))
		b->level = room(b);
}

void bucket_set(struct bucket *b, uint64_t rate, uint64_t now_ms)
{
	bool fresh = !b->rate;

	if (rate > BUCKET_RATE_MAX * 1000)
		rate = 0;
	if (!fresh)
		refill(b, now_ms);
	b->rate = rate;
	b->at_ms = now_ms;
	if (fresh || b->level > room(b))
		b->level = room(b);
}

bool bucket_open(struct bucket *b, uint64_t now_ms)
{
	if (!b->rate)
		return true;
	if (b->at_ms != now_ms)
		refill(b, now_ms);
	return b->level > 0;
}

void bucket_take(struct bucket *b, uint64_t units)
{
	assert(units < UINT64_C(1) << 40);
	if (b->rate)
		b->level -= (int64_t)(units * MILLIONTHS);
}

uint64_t bucket_wait_ms(const struct bucket *b, uint64_t now_ms)
{
	struct bucket at = *b;

	if (bucket_open(&at, now_ms))
		return 0;
	return (uint64_t)(-at.level) / at.rate + 1;
}
