#include "tenancy/share.h"

#include <assert.h>
#include <stddef.h>

void share_init(struct share *s, uint32_t quantum)
{
	assert(quantum > 0);
	TAILQ_INIT(&s->active);
	s->quantum = quantum;
}

void share_entry_init(struct share_entry *e, uint32_t weight)
{
	*e = (struct share_entry){.weight = weight};
}

void share_push_active(struct share *s, struct share_entry *e)
{
	if (e->active)
		return;
	e->active = true;
	TAILQ_INSERT_TAIL(&s->active, e, link);
}

void share_deactivate(struct share *s, struct share_entry *e)
{
	if (!e->active)
		return;
	TAILQ_REMOVE(&s->active, e, link);
	e->active = false;
	if (e->deficit > 0)
		e->deficit = 0;
}

struct share_entry *share_next(struct share *s)
{
	struct share_entry *e;

	while ((e = TAILQ_FIRST(&s->active)) && e->deficit <= 0) {
		e->deficit += (int64_t)s->quantum * (e->weight ? e->weight : 1);
		if (e->deficit > 0)
			break;
		/* still in debt: the others go first */
		TAILQ_REMOVE(&s->active, e, link);
		TAILQ_INSERT_TAIL(&s->active, e, link);
	}
	return e;
}

void share_charge(struct share *s, struct share_entry *e, uint64_t bytes)
{
	assert(bytes < INT64_MAX / 2);
	e->deficit -= (int64_t)bytes;
	if (!e->active || e->deficit > 0)
		return;
	TAILQ_REMOVE(&s->active, e, link);
	TAILQ_INSERT_TAIL(&s->active, e, link);
}
