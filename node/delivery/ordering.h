/* ordering: which event of each key of an ordered queue may go next. At most one is in flight per
 * key; when it fails, it waits in a timer row for its next attempt, and the later ones of its key
 * are parked in rows behind it, each made due when the one before it is over. Keys are 64-bit
 * hashes: two that collide share an order. Pure bookkeeping; embedded in a queue. Loop thread only.
 */
#ifndef LEAT_NODE_ORDERING_H
#define LEAT_NODE_ORDERING_H

#include "base/map.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct place;

struct ordering {
	struct map keys;    /* key -> struct order_key */
	struct map entries; /* place, seq -> struct order_entry */
};

enum ordering_turn {
	ORDERING_GO,   /* nothing of its key is before it */
	ORDERING_WAIT, /* one is in flight: ordering_left() or ordering_failed() will name it */
	ORDERING_PARK, /* one waits in a timer row: so must this one, which has left then */
};

void ordering_release(struct ordering *o); /* forgets all; may be used again */

/* What about this event of the journal, in order of seq? Asked again of one that came back. */
enum ordering_turn ordering_admit(struct ordering *o, struct place *pl, uint64_t seq, uint64_t key);
/* This one is in flight. */
void ordering_in_flight(struct ordering *o, struct place *pl, uint64_t seq, uint64_t key);
/* It is over. True: *seq_out of *pl_out has waited for it and may go. */
bool ordering_left(struct ordering *o, struct place *pl, uint64_t seq, struct place **pl_out,
                   uint64_t *seq_out);
/* It has a timer row now, for another attempt: its key. fn is called for each that has waited for
 * it: those are to be asked about again. */
uint64_t ordering_failed(struct ordering *o, struct place *pl, uint64_t seq,
                         void (*fn)(struct place *pl, uint64_t seq));
/* Its row is being written (PARK), and was. */
void ordering_parking(struct ordering *o, uint64_t key);
void ordering_parked(struct ordering *o, uint64_t key, uint64_t timer_id);

/* Rows found at the beginning, in order of seq. */
void ordering_found(struct ordering *o, uint64_t key, uint64_t timer_id, bool parked);
/* A row that was tried again is over. */
void ordering_row_left(struct ordering *o, uint64_t key);
/* The parked row of this key whose turn it is: it counts as one to be tried from now on. 0 = none.
 */
uint64_t ordering_next_row(struct ordering *o, uint64_t key);
/* Of any key, at the beginning; *key_out is its. */
uint64_t ordering_next_of_any(struct ordering *o, uint64_t *key_out);

#endif
