#include "cluster/sweep.h"

enum {
	PERIOD_MS = 2000, /* an id is fresh for one to two of these */
	SLOW_US = 4000,   /* a slice that takes longer becomes narrower */
	AIM_US = 2000,    /* to take about this */
	QUICK_US = 1000,  /* and wider when it takes less */
	ROW_US = 10,      /* what a row that is found may take */
	WIDTH_MIN = 1000,
};

struct sweep_look sweep_next(struct sweep *s, uint64_t now_ms)
{
	struct sweep_look look = {.old = {s->at, UINT64_MAX}};

	if (now_ms - s->period_ms >= PERIOD_MS) {
		s->tops[0] = now_ms - s->period_ms < 2 * PERIOD_MS ? s->tops[1] : s->top;
		s->tops[1] = s->top;
		s->period_ms = now_ms;
	}
	if (s->at >= s->tops[0])
		s->at = look.old.above = 0;
	if (s->width && s->width < s->tops[0] - s->at) {
		look.old.upto = s->at + s->width;
		look.fresh = (struct sweep_range){s->tops[0], UINT64_MAX};
	}
	return look;
}

void sweep_took(struct sweep *s, const struct sweep_look *look, uint64_t us, uint64_t rows)
{
	uint64_t upto = look->old.upto < s->top ? look->old.upto : s->top;
	uint64_t width = upto > look->old.above ? upto - look->old.above : 0;

	s->at = look->old.upto == UINT64_MAX ? 0 : look->old.upto;
	if (us > SLOW_US + rows * ROW_US)
		s->width = width / us * AIM_US > WIDTH_MIN ? width / us * AIM_US : WIDTH_MIN;
	else if (us < QUICK_US && s->width)
		s->width = s->width > UINT64_MAX / 2 ? 0 : s->width * 2;
}

void sweep_saw(struct sweep *s, uint64_t id)
{
	if (id > s->top)
		s->top = id;
}
