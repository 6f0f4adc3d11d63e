/* trouble: a request of a leader that keeps failing is said so in the log: once it has failed for a
 * while, and then now and then; and when it is over. One try that failed is no trouble, and a role
 * that another node has is none at all. Embedded: zero-initialise, set `module` and `what`. Loop
 * thread only. */
#ifndef LEAT_NODE_TROUBLE_H
#define LEAT_NODE_TROUBLE_H

#include "sql/outcome.h"

#include <stdint.h>

enum {
	TROUBLE_AFTER_MS = 2000,  /* of failing: the first line */
	TROUBLE_AGAIN_MS = 30000, /* the next */
};

struct trouble {
	const char *module;
	const char *what;  /* "timers are not moved" */
	uint64_t since_ms; /* clock_now_ms() of the first of those that failed in a row; 0 = none */
	uint64_t said_ms;  /* 0 = not yet */
	uint64_t failed;   /* in a row */
	uint64_t total;    /* ever */
};

/* One answer. `why` is the database's words, without data; "" = none. */
void trouble_note(struct trouble *t, enum sql_outcome outcome, const char *why);

#endif
