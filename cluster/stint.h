/* stint: how many rows one transaction of a leader moves. Whoever comes meanwhile waits until it is
 * over, and for the fence and the commit of his own whatever that moves: so the rows take what
 * those leave of a few milliseconds, or as long as they do where commits are slow. STINT_NEW. One
 * thread at a time. */
#ifndef LEAT_CLUSTER_STINT_H
#define LEAT_CLUSTER_STINT_H

#include "cluster/pace.h"

#include <stddef.h>
#include <stdint.h>

enum {
	STINT_US = 5000,        /* a transaction, while others have something now and then */
	STINT_ALONE_US = 10000, /* while all that there is is one tenant's */
	STINT_EACH_US = 25,     /* a row takes, until it is known */
};

struct stint {
	struct pace pace;  /* of the rows */
	uint64_t fixed_us; /* a transaction's beginning and end take, usually */
};

#define STINT_NEW ((struct stint){.pace = {STINT_EACH_US}})

/* For a transaction of so long. At least `least`, at most `most`. */
size_t stint_take(const struct stint *s, uint64_t us, size_t least, size_t most);
/* n rows took `us` of a transaction whose beginning and end took fixed_us besides. */
void stint_took(struct stint *s, size_t n, uint64_t us, uint64_t fixed_us, size_t least);

#endif
