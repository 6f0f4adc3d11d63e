#include "node/net/loop.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <event2/event.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/queue.h>

enum { SETTLE_ROUNDS = 1000 }; /* whoever asks again whenever it is answered */

/* Where in a turn the loop is. */
enum loop_phase {
	LOOP_OUTSIDE,   /* between turns, or not running */
	LOOP_CALLBACKS, /* libevent runs callbacks */
	LOOP_ENDING,    /* deferred calls and turn-end hooks */
	LOOP_LAST,      /* the last hooks */
};

struct loop_call {
	loop_fn *fn; /* NULL = deleted while the list was walked */
	void *arg;
};

struct loop_calls {
	struct loop_call *v;
	size_t n;
	size_t cap;
};

struct loop_signal {
	SLIST_ENTRY(loop_signal) next;
	struct loop *loop;
	struct event *ev;
	loop_fn *fn;
	void *arg;
};

struct loop {
	struct event_base *base;
	enum loop_phase phase;
	bool ticked;  /* the clock was read in this turn */
	bool again;   /* the next turn does not wait */
	bool stopped; /* loop_run returns */
	struct loop_calls ends;
	struct loop_calls lasts;
	struct loop_calls deferred;
	struct loop_calls running; /* the deferred calls being made */
	SLIST_HEAD(, loop_signal) signals;
};

struct loop_timer {
	struct loop *loop;
	struct event *ev;
	loop_fn *fn;
	void *arg;
	uint64_t every_ms; /* 0 = once */
};

struct loop_watch {
	struct loop *loop;
	struct event *ev;
	loop_fn *fn;
	void *arg;
};

static void calls_add(struct loop_calls *c, loop_fn *fn, void *arg)
{
	if (c->n == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 8;
		c->v = xrealloc(c->v, c->cap * sizeof *c->v);
	}
	c->v[c->n++] = (struct loop_call){fn, arg};
}

static void calls_del(struct loop_calls *c, loop_fn *fn, void *arg)
{
	for (size_t i = 0; i < c->n; i++) {
		if (c->v[i].fn == fn && c->v[i].arg == arg)
			c->v[i].fn = NULL;
	}
}

/* Run every call, also those added meanwhile, then close the gaps that deletions left. */
static void calls_run(struct loop_calls *c)
{
	size_t kept = 0;

	for (size_t i = 0; i < c->n; i++) {
		struct loop_call call = c->v[i];

		if (call.fn)
			call.fn(call.arg);
	}
	for (size_t i = 0; i < c->n; i++) {
		if (c->v[i].fn)
			c->v[kept++] = c->v[i];
	}
	c->n = kept;
}

struct loop *loop_new(void)
{
	struct loop *l = xcalloc(1, sizeof *l);

	l->base = event_base_new();
	if (!l->base)
		fatal("libevent: no event base");
	SLIST_INIT(&l->signals);
	return l;
}

void loop_drop_signals(struct loop *l)
{
	struct loop_signal *s;

	while ((s = SLIST_FIRST(&l->signals))) {
		SLIST_REMOVE_HEAD(&l->signals, next);
		event_free(s->ev);
		free(s);
	}
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	loop_drop_signals(l);
	event_base_free(l->base);
	free(l->ends.v);
	free(l->lasts.v);
	free(l->deferred.v);
	free(l->running.v);
	free(l);
}

struct event_base *loop_base(struct loop *l)
{
	return l->base;
}

void loop_enter(struct loop *l)
{
	if (l->ticked)
		return;
	l->ticked = true;
	clock_tick();
}

static void run_deferred(struct loop *l)
{
	struct loop_calls calls = l->deferred;

	l->deferred = l->running;
	l->running = calls;
	for (size_t i = 0; i < calls.n; i++)
		calls.v[i].fn(calls.v[i].arg);
	l->running.n = 0;
}

void loop_turn(struct loop *l)
{
	int flags = EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY;

	assert(l->phase == LOOP_OUTSIDE);
	if (l->again)
		flags |= EVLOOP_NONBLOCK;
	l->again = false;
	l->ticked = false;
	l->phase = LOOP_CALLBACKS;
	if (event_base_loop(l->base, flags) < 0)
		fatal("libevent: event_base_loop failed");
	loop_enter(l);
	l->phase = LOOP_ENDING;
	run_deferred(l);
	calls_run(&l->ends);
	l->phase = LOOP_LAST;
	calls_run(&l->lasts);
	l->phase = LOOP_OUTSIDE;
}

void loop_run(struct loop *l)
{
	l->stopped = false;
	while (!l->stopped)
		loop_turn(l);
}

void loop_stop(struct loop *l)
{
	l->stopped = true;
}

void loop_settle(struct loop *l)
{
	assert(l->phase == LOOP_OUTSIDE);
	l->ticked = false;
	loop_enter(l);
	l->phase = LOOP_ENDING;
	for (int i = 0; l->deferred.n && i < SETTLE_ROUNDS; i++)
		run_deferred(l);
	l->phase = LOOP_OUTSIDE;
}

void loop_on_turn_end(struct loop *l, loop_fn *fn, void *arg)
{
	calls_add(&l->ends, fn, arg);
}

void loop_on_turn_last(struct loop *l, loop_fn *fn, void *arg)
{
	calls_add(&l->lasts, fn, arg);
}

void loop_hook_del(struct loop *l, loop_fn *fn, void *arg)
{
	calls_del(&l->ends, fn, arg);
	calls_del(&l->lasts, fn, arg);
}

void loop_again(struct loop *l)
{
	l->again = true;
}

void loop_wake(struct loop *l)
{
	if (l->phase == LOOP_OUTSIDE || l->phase == LOOP_LAST)
		l->again = true;
}

void loop_defer(struct loop *l, loop_fn *fn, void *arg)
{
	calls_add(&l->deferred, fn, arg);
	if (l->phase != LOOP_CALLBACKS)
		l->again = true;
}

/* ---- timers */

static struct timeval timeval_of(uint64_t ms)
{
	return (struct timeval){.tv_sec = (time_t)(ms / 1000),
	                        .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct loop_timer *t = arg;

	(void)fd;
	(void)what;
	loop_enter(t->loop);
	/* re-armed before the call, which may free or set it */
	if (t->every_ms)
		loop_timer_set(t, t->every_ms);
	t->fn(t->arg);
}

static struct loop_timer *timer_new(struct loop *l, uint64_t ms, uint64_t every_ms, loop_fn *fn,
                                    void *arg)
{
	struct loop_timer *t = xcalloc(1, sizeof *t);

	t->loop = l;
	t->fn = fn;
	t->arg = arg;
	t->every_ms = every_ms;
	t->ev = evtimer_new(l->base, on_timer, t);
	if (!t->ev)
		fatal("libevent: no timer");
	loop_timer_set(t, ms);
	return t;
}

struct loop_timer *loop_every(struct loop *l, uint64_t ms, loop_fn *fn, void *arg)
{
	return timer_new(l, ms, ms, fn, arg);
}

struct loop_timer *loop_after(struct loop *l, uint64_t ms, loop_fn *fn, void *arg)
{
	return timer_new(l, ms, 0, fn, arg);
}

void loop_timer_set(struct loop_timer *t, uint64_t ms)
{
	struct timeval tv = timeval_of(ms);

	event_add(t->ev, &tv);
}

void loop_timer_stop(struct loop_timer *t)
{
	event_del(t->ev);
}

void loop_timer_free(struct loop_timer *t)
{
	if (!t)
		return;
	event_free(t->ev);
	free(t);
}

/* ---- descriptors and signals */

static void on_watch(evutil_socket_t fd, short what, void *arg)
{
	struct loop_watch *w = arg;

	(void)fd;
	(void)what;
	loop_enter(w->loop);
	w->fn(w->arg);
}

struct loop_watch *loop_watch_read(struct loop *l, int fd, loop_fn *fn, void *arg)
{
	struct loop_watch *w = xcalloc(1, sizeof *w);

	w->loop = l;
	w->fn = fn;
	w->arg = arg;
	w->ev = event_new(l->base, fd, EV_READ | EV_PERSIST, on_watch, w);
	if (!w->ev)
		fatal("libevent: no event");
	loop_watch_resume(w);
	return w;
}

void loop_watch_pause(struct loop_watch *w)
{
	event_del(w->ev);
}

void loop_watch_resume(struct loop_watch *w)
{
	event_add(w->ev, NULL);
}

void loop_watch_free(struct loop_watch *w)
{
	if (!w)
		return;
	event_free(w->ev);
	free(w);
}

static void on_signal(evutil_socket_t signo, short what, void *arg)
{
	struct loop_signal *s = arg;

	(void)signo;
	(void)what;
	loop_enter(s->loop);
	s->fn(s->arg);
}

void loop_on_signal(struct loop *l, int signo, loop_fn *fn, void *arg)
{
	struct loop_signal *s = xcalloc(1, sizeof *s);

	s->loop = l;
	s->fn = fn;
	s->arg = arg;
	s->ev = evsignal_new(l->base, signo, on_signal, s);
	if (!s->ev || event_add(s->ev, NULL) < 0)
		fatal("libevent: no signal event");
	SLIST_INSERT_HEAD(&l->signals, s, next);
}
