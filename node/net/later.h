/* later: calls to be made after a pause, on behalf of an object that may go away first. The owner
 * of the list frees it; an object that dies calls later_forget with itself. Loop thread only. */
#ifndef LEAT_NODE_LATER_H
#define LEAT_NODE_LATER_H

#include "base/map.h"
#include "node/net/loop.h"

#include <stdint.h>

struct laters {
	struct loop *loop;
	struct map by_arg; /* arg -> its calls */
};

void laters_init(struct laters *l, struct loop *loop);
void laters_finish(struct laters *l);  /* make every call now */
void laters_release(struct laters *l); /* nothing is called any more */

void later_call(struct laters *l, uint32_t ms, loop_fn *fn, void *arg); /* once, fn(arg) */
void later_forget(struct laters *l, const void *arg); /* no pending call with this arg any more */

#endif
