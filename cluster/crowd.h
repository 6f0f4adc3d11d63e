/* crowd: the tenants of whom more waits, in a table that a leader empties, than one transaction
 * takes, and whose part of the next one is how large: by weight, of what is left by those who have
 * less than their part. Who had less last time comes first.
 *
 * Of a tenant that is known where its last part ended is remembered: rows that were taken stay in
 * the index until the server purges them, and a look from the beginning meets them all. For the
 * same reason others are looked for only in the gaps between those that are known. Plain data of
 * one user; zero-initialise. */
#ifndef LEAT_CLUSTER_CROWD_H
#define LEAT_CLUSTER_CROWD_H

#include "cluster/lead_rows.h"
#include "sql/conn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	CROWD_MAX = 100,        /* tenants that get a part of one transaction */
	CROWD_RANK_ONE = 65536, /* what a row of a tenant of weight 1 costs it */
};

/* Its next rows are behind (from_at, from_id); ids alone are above 0. */
struct crowd_turn {
	uint32_t tenant_id;
	uint32_t weight;
	bool had;  /* a part, in this round */
	bool more; /* its last part was not all that it had */
	uint64_t from_at;
	uint64_t from_id; /* 0 = from the beginning */
	uint64_t upto;    /* the caller's, of a turn that was continued */
};

struct crowd {
	struct crowd_turn turns[CROWD_MAX]; /* [n], by tenant_id */
	size_t n;
	bool over;        /* the last listing did not come to its end */
	uint32_t listed;  /* then: the next one is of others, and begins behind this one */
	uint32_t after;   /* who had the last part */
	uint64_t list_ms; /* the caller's: when they are to be listed again */
	uint64_t anew_ms; /* the caller's: when each is to be looked at from the beginning again */
	uint64_t shared_ms; /* when there were last several; 0 = never */
};

/* Add the tenants with something there whose ids are above `above`, up to `upto`, in their order:
 * crowd_add(), as long as there is room, or crowd_stop(). */
typedef enum sql_outcome (*crowd_find_fn)(struct sql_conn *c, void *arg, uint32_t above,
                                          uint32_t upto);

bool crowd_has_room(const struct crowd *w);
/* Besides one tenant there are others, now or a moment ago: who has only a few comes and goes. */
bool crowd_is_shared(struct crowd *w, uint64_t now_ms);
/* NULL: there is no room. One that is known stays as it is. Pointers are good until the next. */
struct crowd_turn *crowd_add(struct crowd *w, uint32_t tenant_id, uint32_t weight);
bool crowd_knows(const struct crowd *w, uint32_t tenant_id);
void crowd_stop(struct crowd *w, uint32_t tenant_id); /* this listing ends behind that one */
/* Worker thread: the known stay, unless the last listing did not come to its end. */
enum sql_outcome crowd_list(struct crowd *w, struct sql_conn *c, crowd_find_fn find, void *arg);

/* One transaction's parts. */
struct crowd_round {
	struct crowd *crowd;
	struct crowd_turn *order[CROWD_MAX]; /* [crowd->n] */
	size_t i;                            /* who is next */
	uint64_t rows;                       /* left */
	uint64_t weights;                    /* of those who are to come */
};

void crowd_begin(struct crowd_round *r, struct crowd *w, uint64_t limit);
/* Whose turn is next, and how many rows it may have; NULL: nobody's, or nothing is left. */
struct crowd_turn *crowd_next(struct crowd_round *r, uint64_t *part);
/* It had so many: of the last that crowd_next() told. */
void crowd_took(struct crowd_round *r, uint64_t found, bool more);
/* True: somebody has more, or did not come. Who has no more is not known any longer. */
bool crowd_end(struct crowd_round *r);

/* When it is done: those of `rows` that were moved need not be met again, up to the first of each
 * tenant that was not. */
void crowd_passed(struct crowd *w, const struct lead_rows *rows);
void crowd_anew(struct crowd *w);   /* the next look at each is from the beginning */
void crowd_forget(struct crowd *w); /* who they were, but not whose turn is next */

#endif
