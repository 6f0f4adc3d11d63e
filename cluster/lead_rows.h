/* lead_rows: the rows of a table of its own that a leader moves into the journal in one
 * transaction: found, their events read until a flush is full, and those that are moved deleted by
 * their ids. What is in them besides is the leader's. Embedded: zero-initialise but for `size`,
 * lead_rows_release. One thread at a time. */
#ifndef LEAT_CLUSTER_LEAD_ROWS_H
#define LEAT_CLUSTER_LEAD_ROWS_H

#include "cluster/batch.h"
#include "cluster/gather.h"
#include "sql/conn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What each row begins with. */
struct lead_row {
	uint64_t id;
	uint64_t rank; /* fair: when its turn is */
	uint64_t at;   /* what a tenant's are ordered by before their ids; 0 = nothing */
	uint64_t late_ms;
	struct batch *one; /* its event, once read */
	uint32_t tenant_id;
	bool moved; /* to be deleted: it is in the journal, or nobody wants it any more */
};

struct lead_rows {
	size_t size; /* of a row */
	size_t n;
	size_t cap;
	size_t reading; /* the first of those that are being read */
	void *rows;     /* [n] */
};

/* Statements that take ids as a JSON array: one that reads the events of rows, whose first column
 * is which of them, from 1; and what is done with those that were read. */
struct lead_taking {
	enum sql_stmt read;
	sql_row_fn on_event; /* lead_rows_read() tells whose it is */
	enum sql_outcome (*take)(struct sql_conn *c, void *arg, size_t from, size_t to);
	void *arg;
	const struct gather *gather; /* what `take` adds to */
};

void *lead_rows_at(const struct lead_rows *r, size_t i);
void *lead_rows_add(struct lead_rows *r);                        /* at the end, zeroed */
void lead_rows_sort(struct lead_rows *r);                        /* by rank, then by id */
void *lead_rows_read(const struct lead_rows *r, uint64_t which); /* NULL: there is no such row */
/* Worker thread. From the first row on, until the flush is full; how many it came to in *done. */
enum sql_outcome lead_rows_take(struct sql_conn *c, struct lead_rows *r,
                                const struct lead_taking *taking, size_t *done);
/* Worker thread: RETRY when fewer of the moved are there than were read. */
enum sql_outcome lead_rows_delete(struct sql_conn *c, const struct lead_rows *r,
                                  enum sql_stmt stmt);
size_t lead_rows_moved(const struct lead_rows *r);
void lead_rows_release(struct lead_rows *r);

#endif
