/* peer: what the nodes of a cluster tell each other, and how one of them is told something. Links
 * (node/peer/link.h) carry it; delivery and the leader's work see only this. Loop thread only.
 *
 * Nothing here is needed for correctness: the database decides who owns what, every write is fenced
 * there, and whatever a message says is checked against what this node knows. A message may be
 * lost with its link; then both sides hear on_down, and what was under way is settled as if the
 * other had gone. On one link messages arrive in the order they were sent. */
#ifndef LEAT_NODE_PEER_H
#define LEAT_NODE_PEER_H

#include "base/id128.h"
#include "base/slice.h"
#include "cluster/bus.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PEER_DELIVERIES_MAX = 256, PEER_USES_MAX = 1000 };

enum peer_type {
	PEER_STORED = 1, /* hint: I committed a flush: these heads moved */
	PEER_DUE,        /* hint to the leader of timers: something is due that early */
	PEER_OWNER,      /* to all: I own this subscription now; tell me what you have of it */
	PEER_HELD, /* the answer, also unasked: deliveries of it that I have in flight, or settled
	            */
	PEER_RELEASED, /* to all who consume it from me: I let go of it, anybody may claim it */
	PEER_ATTACH,   /* to its owner: I have consumers for this subscription */
	PEER_ATTACHED, /* the answer: this is its id, epoch, filters, policy */
	PEER_REFUSED,  /* the answer: I do not own it (any more) */
	PEER_CREDIT,   /* to its owner: so many more deliveries have room here */
	PEER_DELIVER,  /* from its owner: one event for one of your consumers */
	PEER_SETTLE,   /* to its owner: what became of deliveries */
	PEER_DETACH,   /* to its owner: I have no consumers for it any more; all came back */
	PEER_USE,      /* to all: what tenants use here of what they share among the nodes */
	PEER_OPENED,   /* to all: a client connected here; whoever has it connected lets it go */
};

/* What became of a delivery. */
enum peer_result {
	PEER_ACKED,
	PEER_NACKED,   /* a failed attempt; reason says why */
	PEER_DEAD,     /* the consumer wants no further attempt */
	PEER_TIMEOUT,  /* its consumer held it too long and was cut off: a failed attempt */
	PEER_RETURNED, /* its consumer went away: no attempt was made */
	PEER_FLYING,   /* HELD only: still in flight to a live consumer */
};

/* One delivery: names it in DELIVER, SETTLE and HELD. */
struct peer_delivery {
	uint32_t partition_id;
	uint64_t seq;
	uint64_t stamp;      /* fingerprint of the batch it is of */
	uint64_t timer_id;   /* it came from this timer row; 0 = from the journal */
	uint32_t attempt;    /* 1 = the first */
	uint8_t result;      /* SETTLE, HELD: enum peer_result */
	struct slice reason; /* SETTLE: NACKED: what the consumer said */
};

/* What a tenant, or one of its subjects, uses at the sender: see node/limits/limits.h. */
struct peer_use {
	uint32_t tenant_id;
	uint64_t subject; /* a hash; 0 = the whole tenant */
	uint32_t connections;
	uint32_t subscriptions;
	uint64_t events;  /* published in the last second, thousandths */
	uint64_t bytes;   /* likewise */
	uint32_t waiting; /* connections that would publish more */
	uint32_t told;    /* a bit a limit: its tenant was told of a breach */
	bool watched;     /* somebody there wants to know what it uses elsewhere */
};

/* One message; which fields count is said by its type. Bytes are borrowed for the call. */
struct peer_message {
	enum peer_type type;

	/* OWNER, RELEASED, ATTACH, ATTACHED, REFUSED, HELD, DETACH: by name. OPENED: a session, by
	 * its subject, a zero byte and its client id */
	uint32_t tenant_id; /* these, and CREDIT, DELIVER, SETTLE */
	enum bus_sub_kind kind;
	struct slice name;

	/* OWNER, HELD, ATTACHED, CREDIT, DELIVER, SETTLE: a stale epoch is refused */
	uint64_t subscription_id;
	uint64_t epoch;

	struct slice filters;     /* ATTACHED: the JSON text of its row */
	struct bus_policy policy; /* ATTACHED: queues */

	/* ATTACH, CREDIT: sessions that share them; CREDIT: 0 takes back what was granted before */
	uint32_t consumers;
	uint32_t credit;   /* CREDIT: deliveries beyond those granted before */
	uint32_t expiry_s; /* ATTACH: it is to be kept so long after its last consumer */

	/* DELIVER: one delivery and its event as the journal keeps it (cluster/batch.h) */
	struct slice attributes;
	struct slice body;
	uint64_t gap_from; /* and what of its partition was gone before it: [from, to) */
	uint64_t gap_to;   /* 0 = nothing */

	/* DELIVER (1), SETTLE, HELD: at most PEER_DELIVERIES_MAX; a HELD that is full is followed
	 * by another, and what no part names is not in flight. HELD's epoch is the one they were
	 * delivered under. */
	size_t n_deliveries;
	const struct peer_delivery *deliveries;

	/* STORED */
	struct id128 session_id; /* whose flush: the sender's */
	uint32_t writer_no;
	uint64_t flush_no;
	size_t n_heads;
	const struct bus_head *heads;

	uint64_t due_in_ms; /* DUE */
	uint64_t age_ms;    /* OPENED: it connected so long ago */

	size_t n_uses; /* USE: at most PEER_USES_MAX */
	const struct peer_use *uses;
};

/* What a user of the links is told. on_message's peer is one that on_up was called for. */
struct peer_events {
	void (*on_up)(void *arg, const struct id128 *peer);
	void (*on_down)(void *arg, const struct id128 *peer);
	void (*on_room)(void *arg,
	                const struct id128 *peer); /* send() that refused will take more */
	void (*on_message)(void *arg, const struct id128 *peer, const struct peer_message *m);
	void *arg;
};

/* What a user of the links may do; a table, so that tests can put two of them face to face. */
struct peer_port {
	/* Queue it (copied, coalesced, sent at the end of the turn). False: the peer is not up, or
	 * its queue is full, which refuses DELIVER, SETTLE and HELD: on_room tells when to go on.
	 * STORED, DUE and USE are dropped instead; nothing else is lost but with its link. */
	bool (*send)(void *self, const struct id128 *to, const struct peer_message *m);
	void (*send_all)(void *self, const struct peer_message *m); /* to every peer that is up */
	bool (*is_up)(void *self, const struct id128 *peer);
	size_t (*n_up)(void *self);
	/* Somebody we hear of by name and address alone (a subscription's holder): connect now,
	 * without waiting for the next look; on_up tells. */
	void (*expect)(void *self, const struct bus_peer *peer);
	void *self;
};

#endif
