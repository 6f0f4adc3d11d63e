/* loop: the node's event loop, one libevent event_base and one thread. Everything here is for that
 * thread. A *turn* is one pass: the callbacks of whatever became ready, then what was deferred,
 * then the turn-end hooks in the order of their registration, then the last hooks (output leaves
 * there). Time (base/clock.h) stands still within a turn.
 *
 * Every libevent callback that is not made by this module begins with loop_enter(), so that its
 * turn's clock is right; callbacks given to loop_* functions need not. */
#ifndef LEAT_NODE_LOOP_H
#define LEAT_NODE_LOOP_H

#include <stdint.h>

struct event_base;
struct loop;
struct loop_timer;
struct loop_watch;

typedef void loop_fn(void *arg);

struct loop *loop_new(void);
void loop_free(struct loop *l); /* frees signals, hooks and what is deferred; timers and watches
                                   are their owners' and go first */

struct event_base *loop_base(struct loop *l);
void loop_enter(struct loop *l); /* ticks the clock, once a turn */

void loop_run(struct loop *l);  /* turns until loop_stop */
void loop_turn(struct loop *l); /* one turn; waits for work unless some is due. For tests */
void loop_stop(struct loop *l); /* loop_run returns after this turn; safe in any callback */
/* Between turns, when there will be no more: what is deferred, and what that defers. No hook,
 * timer, descriptor or signal is looked at. */
void loop_settle(struct loop *l);

/* Turn ends. A hook may defer, write and submit; what it cannot finish it leaves for another turn
 * with loop_again(). Hooks stay until loop_hook_del with the same fn and arg. */
void loop_on_turn_end(struct loop *l, loop_fn *fn, void *arg);
void loop_on_turn_last(struct loop *l, loop_fn *fn, void *arg); /* after all of those */
void loop_hook_del(struct loop *l, loop_fn *fn, void *arg);
void loop_again(struct loop *l); /* the next turn does not wait */
/* Work was left for a last hook: make sure one comes without waiting. Does nothing where one comes
 * anyway, so that it may be called for every piece of work. */
void loop_wake(struct loop *l);

/* Run fn once, at the end of this turn, before the hooks. Deferred while the turn is ending = at
 * the end of the next turn, which then does not wait. */
void loop_defer(struct loop *l, loop_fn *fn, void *arg);

/* Timers belong to the caller until loop_timer_free, which any callback may call, also the timer's
 * own. loop_after fires once and may be set again. */
struct loop_timer *loop_every(struct loop *l, uint64_t ms, loop_fn *fn, void *arg);
struct loop_timer *loop_after(struct loop *l, uint64_t ms, loop_fn *fn, void *arg);
void loop_timer_set(struct loop_timer *t, uint64_t ms); /* fire (next) in ms; keeps its kind */
void loop_timer_stop(struct loop_timer *t);
void loop_timer_free(struct loop_timer *t);

/* Call fn whenever fd is readable (an eventfd, a listener); the fd stays the caller's. */
struct loop_watch *loop_watch_read(struct loop *l, int fd, loop_fn *fn, void *arg);
void loop_watch_pause(struct loop_watch *w);
void loop_watch_resume(struct loop_watch *w);
void loop_watch_free(struct loop_watch *w); /* before the fd is closed */

void loop_on_signal(struct loop *l, int signo, loop_fn *fn, void *arg);
void loop_drop_signals(struct loop *l); /* each is again handled as it was before */

#endif
