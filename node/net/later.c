#include "node/net/later.h"

#include "base/mem.h"

#include <stdlib.h>

struct later {
	struct later *next; /* of the same arg */
	struct laters *owner;
	struct loop_timer *timer;
	loop_fn *fn;
	void *arg;
};

void laters_init(struct laters *l, struct loop *loop)
{
	l->loop = loop;
	map_init(&l->by_arg);
}

static void chain_free(struct later *c)
{
	while (c) {
		struct later *next = c->next;

		loop_timer_free(c->timer);
		free(c);
		c = next;
	}
}

void laters_release(struct laters *l)
{
	struct later *c;
	size_t at = 0;

	while ((c = map_next(&l->by_arg, &at)))
		chain_free(c);
	map_release(&l->by_arg);
}

static void fire(void *arg);

void laters_finish(struct laters *l)
{
	struct later *c;

	for (size_t at = 0; (c = map_next(&l->by_arg, &at)); at = 0)
		fire(c);
}

static void unlink_one(struct later *c)
{
	struct laters *l = c->owner;
	struct later *first = map_del(&l->by_arg, &c->arg, sizeof c->arg);

	if (first == c) {
		first = c->next;
	} else {
		struct later *before = first;

		while (before->next != c)
			before = before->next;
		before->next = c->next;
	}
	if (first) /* the key sits in a call that is still there */
		map_put(&l->by_arg, &first->arg, sizeof first->arg, first);
}

static void fire(void *arg)
{
	struct later *c = arg;
	loop_fn *fn = c->fn;
	void *fn_arg = c->arg;

	unlink_one(c);
	c->next = NULL;
	chain_free(c);
	fn(fn_arg);
}

void later_call(struct laters *l, uint32_t ms, loop_fn *fn, void *arg)
{
	struct later *c = xcalloc(1, sizeof *c);

	c->owner = l;
	c->fn = fn;
	c->arg = arg;
	c->timer = loop_after(l->loop, ms, fire, c);
	c->next = map_get(&l->by_arg, &c->arg, sizeof c->arg);
	map_put(&l->by_arg, &c->arg, sizeof c->arg, c);
}

void later_forget(struct laters *l, const void *arg)
{
	chain_free(map_del(&l->by_arg, &arg, sizeof arg));
}
