/* away: the inside of a share that another node owns. Shared by away.c (who owns it, and what
 * became of its events here), arrivals.c (what the owner sends) and reports.c (what it is told).
 * Made and freed by away.c. Loop thread only. */
#ifndef LEAT_NODE_AWAY_H
#define LEAT_NODE_AWAY_H

#include "node/delivery/delivery.h"

enum away_link {
	AWAY_SEEKING,  /* the owner is not known or not linked */
	AWAY_ASKED,    /* ATTACH is on its way */
	AWAY_ATTACHED, /* the owner knows our consumers */
};

STAILQ_HEAD(arrival_list, arrival);

struct away {
	enum away_link link;
	struct id128 owner; /* zero = not known */
	uint32_t pause_ms;
	uint32_t granted; /* and not used yet */
	uint32_t told;    /* consumers, as the owner knows */
	/* Attached, but another says that it owns it: a claim will tell. */
	bool doubted;
	bool scheduled;                /* flush runs at the end of the turn */
	struct peer_delivery *settled; /* not sent yet */
	size_t n_settled;
	size_t cap_settled;
	struct arrival_list arrivals; /* nobody here had room for them; as they came */
	uint32_t n_arrivals;
	uint64_t swept_retry; /* as place.swept */
};

static inline bool away_is_leaving(const struct subscription *s)
{
	return s->space->dispatch->leaving || s->space->dispatch->draining;
}

/* arrivals.c */
void arrivals_take(struct subscription *s, const struct peer_message *m); /* DELIVER */
/* The same where nobody consumes it, and the owner has not heard of that. */
void arrivals_decline(struct dispatch *d, const struct id128 *peer, const struct peer_message *m);
void arrivals_give_back(struct subscription *s);
void arrivals_release(struct away *a);

/* reports.c */
/* What became of a delivery, for the owner: at the end of the turn. */
void reports_add(struct place *pl, uint64_t seq, uint64_t stamp, enum peer_result result,
                 struct slice reason);
void reports_schedule(struct subscription *s); /* the same of the room that there is */
bool reports_send(struct subscription *s);     /* now; false = the link is full */
void reports_flush(struct subscription *s);    /* now, and the room */
void reports_drop(struct away *a);

#endif
