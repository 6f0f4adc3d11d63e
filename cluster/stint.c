#include "cluster/stint.h"

enum { FIXED_STEP = 16 };

size_t stint_take(const struct stint *s, uint64_t us, size_t least, size_t most)
{
	uint64_t rest_us = s->fixed_us < us ? us - s->fixed_us : 0;

	return pace_take(&s->pace, rest_us > s->fixed_us ? rest_us : s->fixed_us, least, most);
}

/* Down at once and up slowly: one commit that waits for the disk says nothing of the next. */
void stint_took(struct stint *s, size_t n, uint64_t us, uint64_t fixed_us, size_t least)
{
	if (fixed_us < s->fixed_us)
		s->fixed_us = fixed_us;
	else
		s->fixed_us += (fixed_us - s->fixed_us) / FIXED_STEP;
	pace_took(&s->pace, n, us, least);
}
