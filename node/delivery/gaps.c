#include "node/delivery/gaps.h"

#include "base/bug.h"
#include "base/mem.h"

#include <stdlib.h>

/* One that a delivery in flight tells of. */
struct gap_told {
	SLIST_ENTRY(gap_told) link;
	uint64_t seq; /* the delivery's */
	struct gap gap;
};

void gap_add(struct gap *to, struct gap gap)
{
	if (!gap.to)
		return;
	if (!to->to || gap.from < to->from)
		to->from = gap.from;
	if (gap.to > to->to)
		to->to = gap.to;
}

/* Off the list; NULL = it told of nothing. */
static struct gap_told *take(struct gaps *g, uint64_t seq)
{
	struct gap_told *t;

	SLIST_FOREACH (t, &g->told, link) {
		if (t->seq == seq)
			break;
	}
	if (t)
		SLIST_REMOVE(&g->told, t, gap_told, link);
	return t;
}

struct gap gaps_tell(struct gaps *g, uint64_t seq)
{
	struct gap none = {0, 0};
	struct gap_told *t;

	gaps_unheard(g, seq); /* it goes out again */
	if (!g->next.to)
		return none;
	t = xcalloc(1, sizeof *t);
	t->seq = seq;
	t->gap = g->next;
	g->next = none;
	SLIST_INSERT_HEAD(&g->told, t, link);
	return t->gap;
}

bool gaps_heard(struct gaps *g, uint64_t seq)
{
	struct gap_told *t = take(g, seq);

	free(t);
	return t != NULL;
}

void gaps_unheard(struct gaps *g, uint64_t seq)
{
	struct gap_told *t = take(g, seq);

	if (t && !BUG("gap-told-once"))
		gap_add(&g->next, t->gap);
	free(t);
}

struct gap gaps_open(const struct gaps *g)
{
	struct gap open = g->next;
	const struct gap_told *t;

	SLIST_FOREACH (t, &g->told, link) {
		if (!BUG("gap-told-once"))
			gap_add(&open, t->gap);
	}
	return open;
}

void gaps_release(struct gaps *g)
{
	struct gap_told *t;

	while ((t = SLIST_FIRST(&g->told))) {
		SLIST_REMOVE_HEAD(&g->told, link);
		free(t);
	}
	*g = (struct gaps){0};
}
