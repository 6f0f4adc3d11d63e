/* topic: MQTT topic names and topic filters: what is allowed, what matches what. Pure functions
 * over borrowed bytes; any thread. UTF-8 is the codec's business and already checked.
 *
 * Limits, narrower than MQTT's 65,535 bytes so that every index, trie walk and log line is bounded:
 * a name or filter has at most TOPIC_MAX_BYTES bytes and TOPIC_MAX_LEVELS levels.
 *
 * Names that start with `$` belong to the server: `#` and `+` at the first level do not match them
 * [MQTT-4.7.2-1], and clients may not publish to them. */
#ifndef LEAT_TENANCY_TOPIC_H
#define LEAT_TENANCY_TOPIC_H

#include "base/err.h"
#include "base/slice.h"

#include <stdbool.h>

enum {
	TOPIC_MAX_BYTES = 1024,
	TOPIC_MAX_LEVELS = 32,
	TOPIC_MAX_SHARE_BYTES = 128, /* NAME in $share/NAME/… and $queue/NAME */
};

enum topic_filter_kind {
	FILTER_PLAIN,  /* FILTER */
	FILTER_SHARED, /* $share/NAME/FILTER: MQTT 5, section 4.8.2 */
	FILTER_QUEUE,  /* $queue/NAME or $queue/NAME/FILTER: a work queue */
};

struct topic_filter {
	enum topic_filter_kind kind;
	struct slice share;  /* NAME; empty when plain */
	struct slice filter; /* what topics are matched against, and what an ACL judges;
	                      * empty only for $queue/NAME: the queue's own filters hold */
};

/* May a client publish to this name? */
int topic_check(struct slice topic, struct err *e);

/* Take a filter apart, as sent in SUBSCRIBE. The result borrows from text. */
int topic_filter_parse(struct slice text, struct topic_filter *out, struct err *e);

/* One filter without $share or $queue in front. */
int topic_filter_check(struct slice filter, struct err *e);

/* The rest takes checked names and filters (without $share or $queue). */

bool topic_match(struct slice filter, struct slice topic);

/* Does allowed match every topic that wanted matches? Exact, as is the next, if the empty name is
 * counted as a topic. */
bool topic_filter_covers(struct slice allowed, struct slice wanted);

/* Is there a topic that both match? */
bool topic_filter_overlaps(struct slice a, struct slice b);

/* Walk the levels: false when there is none left. Start with *rest = the topic and *more = true;
 * "a/" has two levels, the second empty. */
static inline bool topic_next_level(struct slice *rest, bool *more, struct slice *level)
{
	const char *slash;

	if (!*more)
		return false;
	slash = rest->n ? memchr(rest->p, '/', rest->n) : NULL;
	if (!slash) {
		*level = *rest;
		*more = false;
		return true;
	}
	*level = slice(rest->p, (size_t)(slash - rest->p));
	*rest = slice(slash + 1, rest->n - level->n - 1);
	return true;
}

static inline bool topic_level_is(struct slice level, char wildcard)
{
	return level.n == 1 && level.p[0] == wildcard;
}

#endif
