/* inbox_look: where the leader of the inbox looks, and whose rows are to be moved now.
 *
 * Order: rows of one transaction have ascending ids and appear together, so in the order of the ids
 * each application's calls keep theirs. Its next transaction takes its ids after the commit of the
 * one before: moving a row, all lower ids of its tenant that were visible with it must have been
 * looked at, in a snapshot that is not older. Where to look: cluster/sweep.h. Fair: when there is
 * more than a few milliseconds' work, whose end others would wait for, or somebody may not move all
 * that is there, tenants are looked at one by one and each gets its part: cluster/crowd.h.
 *
 * Who may move no more (bus_collect.allow) is held: it costs one step in the index to pass over
 * however many rows of such a tenant, and they are not read until it may move some. */
#ifndef LEAT_CLUSTER_INBOX_LOOK_H
#define LEAT_CLUSTER_INBOX_LOOK_H

#include "cluster/bus_sql_impl.h"
#include "cluster/lead_rows.h"

enum { INBOX_ROWS_LEAST = 50 }; /* however long they take: cluster/stint.h */

/* What becomes of a row. */
enum inbox_fate {
	INBOX_GONE,  /* it was not there when it was read */
	INBOX_LEFT,  /* it stays for the next transaction */
	INBOX_MOVED, /* deleted: its event is stored, or its tenant is no more */
	INBOX_ASIDE, /* it stays for people */
};

struct inbox_item {
	struct lead_row row; /* first */
	uint64_t bytes;      /* of its payload */
	uint32_t weight;     /* its tenant's, of a crowd */
	uint64_t due_in_ms;  /* to be delivered later: in so long */
	enum inbox_fate fate;
	bool later;   /* it names a time */
	bool no_room; /* if that is still to come, it is one too many */
	bool too_large;
	char reason[BUS_REASON_MAX + 1];
};

struct inbox_look {
	struct inbox_state state; /* what is known, and will be */
	uint32_t limit;           /* the caller's */
	uint32_t at_once;         /* rows of one read of everything */
	struct lead_rows rows;    /* struct inbox_item */
	bool left;                /* there is more that may be moved */
	struct sweep_look parts;
	size_t n_tenants; /* of the rows, by tenant_id */
	struct bus_collected *tenants;
};

static inline struct inbox_item *inbox_item(const struct inbox_look *l, size_t i)
{
	return lead_rows_at(&l->rows, i);
}

/* The three steps, in their order. Loop thread: who is held may move something again? */
void inbox_look_begin(struct inbox_look *l, const struct bus_collect *req);
/* Worker thread. */
enum sql_outcome inbox_look(struct sql_conn *c, struct inbox_look *l, uint64_t now_ms);
/* Loop thread: of what was found, what may be moved. */
void inbox_look_sieve(struct inbox_look *l, const struct bus_collect *req);

/* Loop thread: what was moved is known. */
void inbox_look_end(struct inbox_look *l);
struct bus_collected *inbox_look_tenant(const struct inbox_look *l, uint32_t tenant_id);

#endif
