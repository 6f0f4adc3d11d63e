/* queue: what a subscription of kind BUS_SUB_QUEUE has beyond a shared one: its policy, the events
 * whose attempts failed (failure.c), those that came back to be tried again (retry.c), the order of
 * its keys and its circuit breaker. Made with its subscription and freed when that dies. Shared by
 * queue.c, failure.c, retry.c and the rest of node/delivery. Loop thread only.
 *
 * An event's way: the journal's feeds → a consumer → PUBACK → the cursor. A failed attempt takes it
 * out of the feed into a timer row, together with the cursor (a settlement); when it is due it
 * comes back into the place `retry`, where timer ids are the numbers, and goes to a consumer again,
 * until it is done, or a dead letter. Rows are in memory only while they are due or in flight. */
#ifndef LEAT_NODE_QUEUE_H
#define LEAT_NODE_QUEUE_H

#include "base/map.h"
#include "cluster/bus.h"
#include "node/delivery/breaker.h"
#include "node/delivery/delivery.h"
#include "node/delivery/ordering.h"
#include "node/peer/peer.h"

#include <sys/queue.h>

enum {
	QUEUE_ROWS_MAX = 200, /* rows of one queue in memory */
	QUEUE_LOST_MAX =
	        20, /* consumers lost with an event in hand: the next counts as an attempt */
};

/* A timer row in memory: an event that is due again. Its entry, by timer_id, is one that the feed
 * of queue.retry holds; its stamp is the number of the attempt that is to be made, or being made.
 * Rows that are in flight from an earlier owner's time have an entry alone. */
struct retry_row {
	uint64_t timer_id;
	uint32_t partition_id;
	uint64_t seq;
	struct batch *batch; /* of the event alone */
};

/* An event that leaves its feed otherwise than done; or, with no place, a parked row whose turn it
 * is. */
struct failure {
	TAILQ_ENTRY(failure) link;
	enum bus_failure_kind kind;
	struct place *pl;
	uint64_t seq; /* in the place's feed, where its entry is FEED_FAILED, then FEED_MOVING */
	uint64_t timer_id;
	uint32_t attempt; /* made */
	uint64_t delay_ms;
	uint64_t key;
	char reason[BUS_REASON_MAX + 1];
	struct batch *batch; /* journal: holds the event; NULL = it has to be fetched */
	bool buried;         /* it is a dead letter now */
};

TAILQ_HEAD(failure_list, failure);

struct settling;

struct queue {
	struct subscription *sub;
	struct bus_policy policy;
	bool known;   /* policy and filters are those of its row */
	char *create; /* the filter to make it with; NULL = it is only taken when it is there */
	struct buf create_until; /* where that ends, as its row says it */

	/* failure.c */
	struct failure_list failures; /* not in a settlement yet */
	size_t n_failures;
	size_t n_unfetched; /* of them, the event is not at hand */
	uint64_t *done;     /* timer ids of rows that are done */
	size_t n_done;
	size_t cap_done;
	struct settling *settling; /* the settlement under way */
	uint64_t refusals;         /* of settlements, by the database, in a row */
	bool armed;

	/* retry.c */
	struct place retry;
	struct map rows;     /* timer_id -> struct retry_row */
	struct map row_keys; /* ordered: timer_id -> struct row_key, of every row to be tried */
	bool loaded;         /* what waits in the table was read since the claim */
	bool reading;        /* a read is under way, or the pause after a failed one */
	uint64_t due_ms;     /* clock_now_ms() when the next row is due; UINT64_MAX = none */
	uint64_t alarm_ms; /* when a timer for that, or for the breaker's probe, is set; 0 = none */
	uint64_t waiting;  /* rows in the table */
	uint64_t making;   /* failures that will be rows */

	struct breaker breaker;
	struct ordering ordering;
};

/* ---- queue.c */

struct queue *queue_new(struct subscription *sub);
void queue_free(struct queue *q); /* its subscription dies */
/* Filters and policy of its row. */
void queue_know(struct queue *q, struct slice filters, const struct bus_policy *policy);
/* Why this session may not consume it by this filter of its; NULL = it may. Good until the next. */
const char *queue_objection(const struct queue *q, const struct session *s, struct slice filter,
                            uint8_t *reason);
/* A bus that was away, or its loss to another owner: what is not in flight is forgotten. */
void queue_suspend(struct queue *q);
bool queue_settled(const struct queue *q); /* nothing is left to be written */
void queue_pump(struct queue *q);
/* The event of a delivery that was in flight already (feed_recall). */
void queue_recalled(struct queue *q, struct place *pl, uint64_t seq, const struct event *ev);
/* An entry of the journal's feed is done. */
void queue_left(struct queue *q, struct place *pl, uint64_t seq);
/* What a consumer made of a delivery; see place_result(). */
void queue_result(struct queue *q, struct place *pl, uint64_t seq, enum peer_result result,
                  struct slice reason);
/* Its consumer went away and the entry is READY again. */
void queue_returned(struct queue *q, struct place *pl, struct feed_entry *e);
/* Is it the place of events that came back, where timer ids are the numbers? */
static inline bool queue_is_retry(const struct place *pl)
{
	const struct queue *q = pl->sub->queue;

	return q && pl == &q->retry;
}

/* Which attempt at an event this is; b: as the place has it. */
uint32_t queue_attempt_of(const struct place *pl, const struct batch *b);

/* ---- joining.c */

/* For a member: finds or makes it, and claims it. policy: of the one to be made; NULL = none is. */
struct subscription *queue_get(struct space *sp, const struct filter *f,
                               enum session_start_at start, uint64_t start_value,
                               const struct bus_policy *policy);
/* The filters of the one to be made (`create`), as its row keeps them. */
void queue_encode(const struct queue *q, struct buf *filters);
/* A session that has it among its filters becomes its consumer, if it may: NULL, or why not. */
const char *queue_join(struct subscription *share, struct session *s, uint8_t *reason);
void queue_opened(
        struct subscription *share); /* it flows, with these filters: who may consume it? */
void queue_absent(struct subscription *share); /* the claim found no row, and made none */

/* ---- failure.c */

void failure_add(struct queue *q, struct place *pl, struct feed_entry *e, bool dead,
                 struct slice reason);
void failure_park(struct queue *q, struct place *pl, struct feed_entry *e, struct batch *b,
                  uint64_t key);
void failure_due(struct queue *q, uint64_t timer_id, uint64_t key); /* a parked row's turn */
void failure_done(struct queue *q, uint64_t timer_id);              /* a row is done */
void failure_resume(struct queue *q); /* it is ours: what was done while it was not is written */
/* Get hold of the events of those that were not in the cache. */
void failure_fetch(struct queue *q);
/* Retention took [from, to): those whose events were not fetched yet are over. */
void failure_skip(struct queue *q, struct place *pl, uint64_t from, uint64_t to);
void failure_drop_all(struct queue *q);
/* Rows whose deletion is under way: at most BUS_FAILURES_MAX ids; how many. */
size_t failure_done_under_way(const struct queue *q, uint64_t *ids);

/* ---- retry.c */

/* Read what is due, if there is room, and set the alarm for what will be. */
void retry_look(struct queue *q);
void retry_expect(struct queue *q, uint64_t in_ms); /* a row will be due then */
struct retry_row *retry_find(const struct queue *q, uint64_t timer_id);
struct feed_entry *retry_ready(struct queue *q);     /* one that can be sent, or NULL */
void retry_drop(struct queue *q, uint64_t timer_id); /* it leaves memory */
void retry_done(struct queue *q, uint64_t timer_id); /* and it leaves the table */
/* Ordered: a row is over, or one is to be tried. */
void retry_order_left(struct queue *q, uint64_t timer_id);
void retry_order_made(struct queue *q, uint64_t timer_id, uint64_t key);
void retry_suspend(struct queue *q);
/* The database was lost, and may have lost what readers saw: timer ids may be given once more, to
 * other events. */
void retry_forget(struct queue *q);
void retry_release(struct queue *q);

#endif
