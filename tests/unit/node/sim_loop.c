#include "tests/unit/node/sim_loop.h"

#include "base/mem.h"
#include "node/net/loop.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>

/* Hash tables are walked in the same order in every run: a seed says everything. */
ssize_t getrandom(void *buffer, size_t length, unsigned flags)
{
	(void)flags;
	memset(buffer, 7, length);
	return (ssize_t)length;
}

enum { HOOKS_MAX = 8 };

struct deferred {
	STAILQ_ENTRY(deferred) link;
	loop_fn *fn;
	void *arg;
};

STAILQ_HEAD(deferred_list, deferred);

struct loop {
	LIST_ENTRY(loop) link;
	struct deferred_list deferred;
	loop_fn *hooks[HOOKS_MAX];
	void *hook_args[HOOKS_MAX];
};

/* One firing the simulator knows of; the timer may be set again, or gone, before it comes. */
struct shot {
	LIST_ENTRY(shot) link;
	struct loop_timer *timer; /* NULL = called off */
};

struct loop_timer {
	struct shot *shot;
	uint64_t every_ms; /* 0 = once */
	loop_fn *fn;
	void *arg;
};

static struct sim *sim;
static uint32_t early_ms;
static LIST_HEAD(, loop) loops;
static LIST_HEAD(, shot) shots;

/* ---- loops ------------------------------------------------------------------------------------
 */

struct loop *loop_new(void)
{
	struct loop *l = xcalloc(1, sizeof *l);

	STAILQ_INIT(&l->deferred);
	LIST_INSERT_HEAD(&loops, l, link);
	return l;
}

void loop_free(struct loop *l)
{
	struct deferred *d;

	while ((d = STAILQ_FIRST(&l->deferred))) {
		STAILQ_REMOVE_HEAD(&l->deferred, link);
		free(d);
	}
	LIST_REMOVE(l, link);
	free(l);
}

void loop_defer(struct loop *l, loop_fn *fn, void *arg)
{
	struct deferred *d = xcalloc(1, sizeof *d);

	d->fn = fn;
	d->arg = arg;
	STAILQ_INSERT_TAIL(&l->deferred, d, link);
}

void loop_on_turn_end(struct loop *l, loop_fn *fn, void *arg)
{
	size_t i = 0;

	while (l->hooks[i])
		assert(++i < HOOKS_MAX);
	l->hooks[i] = fn;
	l->hook_args[i] = arg;
}

/* Hooks are called in the order of their registration; nothing here has any that must be last. */
void loop_on_turn_last(struct loop *l, loop_fn *fn, void *arg)
{
	loop_on_turn_end(l, fn, arg);
}

void loop_hook_del(struct loop *l, loop_fn *fn, void *arg)
{
	for (size_t i = 0; i < HOOKS_MAX; i++) {
		if (l->hooks[i] == fn && l->hook_args[i] == arg)
			l->hooks[i] = NULL;
	}
}

static void turn(struct loop *l)
{
	struct deferred_list now = STAILQ_HEAD_INITIALIZER(now);
	struct deferred *d;

	STAILQ_CONCAT(&now, &l->deferred);
	while ((d = STAILQ_FIRST(&now))) {
		STAILQ_REMOVE_HEAD(&now, link);
		d->fn(d->arg);
		free(d);
	}
	for (size_t i = 0; i < HOOKS_MAX; i++) {
		if (l->hooks[i])
			l->hooks[i](l->hook_args[i]);
	}
}

void sim_loop_turn(void)
{
	bool more = true;

	for (int rounds = 0; more; rounds++) {
		struct loop *l;

		assert(rounds < 100000); /* spinning */
		more = false;
		LIST_FOREACH (l, &loops, link) {
			turn(l);
			more = more || !STAILQ_EMPTY(&l->deferred);
		}
	}
}

/* ---- timers -----------------------------------------------------------------------------------
 */

static void fire(void *arg)
{
	struct shot *s = arg;
	struct loop_timer *t = s->timer;

	LIST_REMOVE(s, link);
	free(s);
	if (!t)
		return;
	t->shot = NULL;
	if (t->every_ms)
		loop_timer_set(t, t->every_ms);
	t->fn(t->arg);
}

void loop_timer_set(struct loop_timer *t, uint64_t ms)
{
	loop_timer_stop(t);
	t->shot = xcalloc(1, sizeof *t->shot);
	t->shot->timer = t;
	LIST_INSERT_HEAD(&shots, t->shot, link);
	sim_after(sim, (uint32_t)(ms > early_ms ? ms - early_ms : ms), fire, t->shot);
}

void loop_timer_stop(struct loop_timer *t)
{
	if (t->shot)
		t->shot->timer = NULL;
	t->shot = NULL;
}

void loop_timer_free(struct loop_timer *t)
{
	if (!t)
		return;
	loop_timer_stop(t);
	free(t);
}

struct loop_timer *loop_after(struct loop *l, uint64_t ms, loop_fn *fn, void *arg)
{
	struct loop_timer *t = xcalloc(1, sizeof *t);

	(void)l;
	t->fn = fn;
	t->arg = arg;
	loop_timer_set(t, ms);
	return t;
}

struct loop_timer *loop_every(struct loop *l, uint64_t ms, loop_fn *fn, void *arg)
{
	struct loop_timer *t = loop_after(l, ms, fn, arg);

	t->every_ms = ms;
	return t;
}

/* ---- the simulation ---------------------------------------------------------------------------
 */

void sim_loop_begin(struct sim *s)
{
	early_ms = 0;
	sim = s;
}

static void on_over(void *arg)
{
	*(bool *)arg = true;
}

void sim_loop_early(uint32_t ms)
{
	early_ms = ms;
}

void sim_loop_run_for(uint64_t ms)
{
	bool over = false;

	sim_after(sim, (uint32_t)ms, on_over, &over);
	while (!over) {
		sim_step(sim);
		sim_loop_turn();
	}
}

void sim_loop_end(void)
{
	struct shot *s;

	while ((s = LIST_FIRST(&shots))) {
		LIST_REMOVE(s, link);
		free(s);
	}
	sim = NULL;
}
