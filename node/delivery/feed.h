/* feed: one subscription's place in one partition: which events were matched and are waiting, sent
 * or done, and therefore what its cursor says. Pure bookkeeping: no bus, no connection. Entries are
 * in sequence order; everything below the first that is not done, and everything between entries,
 * is done (it was acknowledged, or never matched). Embedded in a subscription. Loop thread only. */
#ifndef LEAT_NODE_FEED_H
#define LEAT_NODE_FEED_H

#include "base/buf.h"
#include "cluster/ranges.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	FEED_MAX = 4096,       /* entries: matched and not yet below the cursor */
	FEED_RESUME_AT = 2048, /* a feed that was full takes more again below this */
};

enum feed_state {
	FEED_READY,   /* matched, waits for a consumer */
	FEED_SENT,    /* in flight to `holder` under packet_id */
	FEED_DONE,    /* settled, but something before it is not */
	FEED_BLOCKED, /* queue: waits behind an earlier event of its key */
	FEED_FAILED,  /* queue: its attempt failed, which has to be written down */
	FEED_MOVING,  /* queue: that is being written: it moves out of the journal's way */
};

/* Who has it: node/delivery/consumer.h. */
struct consumer;

struct feed_entry {
	uint64_t seq;
	uint64_t stamp; /* SENT, or READY again: the batch's fingerprint when it was sent */
	struct consumer *holder; /* SENT: who; READY with a packet_id: whose packet id it is */
	uint16_t packet_id;      /* 0 = none; READY with one is sent again with DUP */
	uint8_t state;           /* enum feed_state */
	uint8_t lost;            /* queue: consumers that went away with it in hand */
};

/* What a new sequence number is to a feed that starts again from its cursor. */
enum feed_known {
	FEED_NEW,  /* deliver it */
	FEED_OLD,  /* done ahead of the cursor, or while it was suspended: skip it */
	FEED_HELD, /* was in flight: it is back in the feed as it was */
};

struct feed {
	struct feed_entry *ring;
	size_t cap;   /* a power of two, or 0 */
	size_t first; /* index of the oldest entry */
	size_t count;
	size_t n_ready;
	size_t ready_from; /* no entry before this offset from `first` is READY */

	uint64_t next_seq; /* lagging: first sequence number not matched yet */
	bool live;         /* matched up to the partition's head; next_seq is then not used */
	bool blocked;      /* was full: wait for FEED_RESUME_AT */

	/* after feed_suspend or a claim, until next_seq has passed them */
	struct ranges ahead;     /* done ahead of the cursor */
	struct feed_entry *held; /* in flight when it was suspended, or done since; ascending */
	size_t n_held;
	size_t cap_held;

	/* durable: the row in `cursors` as last committed */
	uint64_t commit_no;
	uint64_t committed_through;
	bool dirty;      /* on the commit list */
	bool committing; /* one write in flight per cursor */
};

void feed_release(struct feed *f);

/* Begin at a cursor: everything through acked_through is done, and what `ahead` encodes. */
void feed_begin(struct feed *f, uint64_t acked_through, struct slice ahead);

static inline bool feed_full(const struct feed *f)
{
	return f->count >= FEED_MAX;
}

static inline bool feed_has_room(struct feed *f)
{
	if (f->blocked && f->count < FEED_RESUME_AT)
		f->blocked = false;
	return !f->blocked && !feed_full(f);
}

/* Append an entry; seq is above all others and the feed is not full. */
struct feed_entry *feed_push(struct feed *f, uint64_t seq, enum feed_state state);
struct feed_entry *feed_next_ready(struct feed *f); /* the lowest READY, or NULL */
struct feed_entry *feed_find(struct feed *f, uint64_t seq);
/* The lowest READY one of [from, to), or NULL. */
struct feed_entry *feed_ready_within(struct feed *f, uint64_t from, uint64_t to);
void feed_set(struct feed *f, struct feed_entry *e, enum feed_state state); /* not to DONE */
void feed_done(struct feed *f, struct feed_entry *e); /* e may be gone after this */

/* The packet id's event is done though the feed has not come by it again since it was suspended.
 * False when it is not held either. */
bool feed_done_held(struct feed *f, uint64_t seq);

/* What is known of seq though the feed has not come by it (again): NULL = nothing. */
struct feed_entry *feed_held(struct feed *f, uint64_t seq);
/* Know it: NULL when it is known already. Entries move with every call. */
struct feed_entry *feed_hold(struct feed *f, uint64_t seq, enum feed_state state);
void feed_unhold(struct feed *f, struct feed_entry *h);
/* All for which fn says so. */
void feed_unhold_if(struct feed *f, bool (*fn)(void *, struct feed_entry *), void *arg);

/* Ask before matching seq in a feed that has `ahead` or `held`; stamp identifies the batch. A held
 * entry with another stamp is another event: *stale is set to it and seq is NEW. */
enum feed_known feed_recall(struct feed *f, uint64_t seq, uint64_t stamp, struct feed_entry *stale);
static inline bool feed_recalls(const struct feed *f)
{
	return f->ahead.n || f->n_held;
}

/* Stored as done ahead of the cursor it began with: so it need not be in memory. */
void feed_learn(struct feed *f, uint64_t acked_through, struct slice ahead);

/* The cursor, given that matching got as far as matched_through. */
uint64_t feed_acked_through(const struct feed *f, uint64_t matched_through);
/* Encode what is done ahead of it; at most max_bytes. */
void feed_encode_ahead(const struct feed *f, uint64_t matched_through, size_t max_bytes,
                       struct buf *out);

/* Both of them as they will be when what is MOVING is done. */
uint64_t feed_cursor_moving(const struct feed *f, uint64_t matched_through, size_t max_bytes,
                            struct buf *ahead);

/* A new generation, or the consumer went: forget the entries but for what is known (cursor, done
 * ahead, in flight); matching starts again behind the cursor. */
void feed_suspend(struct feed *f, uint64_t matched_through);

bool feed_in_flight(const struct feed *f); /* anything? */

/* Walk the entries in flight to holder; fn may change packet_id and state through feed_set. */
void feed_each_held_by(struct feed *f, const struct consumer *holder,
                       void (*fn)(void *, struct feed_entry *), void *arg);

#endif
