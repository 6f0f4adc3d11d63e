#include "cluster/together_sql.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/bus_sql_impl.h"

#include <stdlib.h>

enum {
	TARGET_US = 2000, /* of a transaction: whoever comes meanwhile waits for its end */
	LEAST = 8,        /* in it, however long they take; and one of each tenant */
};

/* What goes through the lane together; the requests are their callers'. */
struct load {
	struct bus_sql *owner; /* this and the next two: loop thread only */
	const struct together_kind *kind;
	bool ran;
	uint64_t took_us;
	size_t n;
	void *reqs[TOGETHER_MAX];
};

static void begin(struct bus_sql *b);

static enum sql_outcome work_load(struct sql_conn *c, void *arg)
{
	struct bus_job *job = arg;
	struct load *l = job->req;

	uint64_t began_us = clock_us();

	l->ran = true;
	l->kind->work(c, &job->me, l->reqs, l->n);
	l->took_us = clock_us() - began_us;
	return SQL_OK;
}

static const struct together_kind *kind_of(const struct turns_waiting *w)
{
	return w->kind;
}

/* When the lane is down, those behind are told as well, and need not find out one by one. */
static void answer_load(struct load *l)
{
	struct together *t = &l->owner->together;
	struct turns behind = {0};

	if (!l->ran) {
		behind = t->turns;
		t->turns = (struct turns){0};
	}
	for (size_t i = 0; i < l->n; i++)
		l->kind->answer(l->reqs[i], l->ran);
	for (size_t i = 0; i < behind.n; i++)
		kind_of(&behind.waiting[i])->answer(behind.waiting[i].req, false);
	turns_release(&behind);
	pace_took(&t->paces[l->kind->no], l->n, l->took_us, l->ran ? LEAST : SIZE_MAX);
	t->busy = false;
	if (t->turns.n)
		begin(l->owner);
	free(l);
}

static void load_done(void *arg, enum sql_outcome outcome)
{
	struct bus_job *job = arg;
	struct load *l = job->req;

	(void)outcome; /* each has its own */
	free(job);
	answer_load(l);
}

static void load_stale(void *arg)
{
	answer_load(arg);
}

size_t together_most(const struct together *t, bool in_company)
{
	const struct together_kind *kind = kind_of(&t->turns.waiting[0]);
	size_t least = turns_in_first_round(&t->turns);

	if (BUG("unfair-claims") || (!in_company && turns_of_one_tenant(&t->turns)))
		return kind->max;
	return pace_take(&t->paces[kind->no], TARGET_US, least > LEAST ? least : LEAST, kind->max);
}

/* The first of those that wait, of one kind and generation. What was asked in one that is over is
 * not done. */
static void begin(struct bus_sql *b)
{
	struct together *t = &b->together;
	struct load *l = xcalloc(1, sizeof *l);
	uint64_t generation = t->turns.waiting[0].generation;

	l->owner = b;
	l->kind = kind_of(&t->turns.waiting[0]);
	l->n = turns_take(&t->turns, l->reqs,
	                  together_most(t, company_is_there(&t->company, clock_now_ms())));
	t->busy = true;
	if (generation == b->bus.generation)
		bus_sql_submit(b, SQL_LANE_ADMIN, work_load, load_done, l, NULL);
	else
		b->settings.defer(b->settings.loop, load_stale, l);
}

void together_add(struct bus_sql *b, const struct together_kind *kind, uint32_t tenant_id,
                  void *req)
{
	struct together *t = &b->together;

	company_came(&t->company, tenant_id, clock_now_ms());
	turns_add(&t->turns, tenant_id, kind, req, b->bus.generation);
	if (!t->busy)
		begin(b);
}

void together_release(struct together *t)
{
	turns_release(&t->turns);
	*t = (struct together){0};
}
