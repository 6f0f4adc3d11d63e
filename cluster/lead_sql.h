/* lead_sql: the beginning and the end that transactions made in a role have in common: the fence,
 * and events that go from a table of their own into the journal. */
#ifndef LEAT_CLUSTER_LEAD_SQL_H
#define LEAT_CLUSTER_LEAD_SQL_H

#include "base/id128.h"
#include "cluster/bus.h"
#include "cluster/gather.h"
#include "sql/conn.h"

#include <stdbool.h>
#include <stdint.h>

struct lead {
	const struct id128 *me;
	enum bus_role role;
	uint32_t writer_no;
	uint64_t epoch;      /* the role is held by */
	uint64_t flush_no;   /* out, of the fence: this transaction's number */
	uint64_t *base_seqs; /* out, of the append: free() */
	uint64_t fixed_us;   /* out: what the fence and the commit took */
	char error[160];     /* out, append FATAL: the database's words, without data */
	unsigned error_no;   /* likewise: its number of it; 0 = it was not asked */
};

/* Worker thread, first in the transaction: OK, or LOST when the role or the session is not ours any
 * more. */
enum sql_outcome lead_sql_fence(struct sql_conn *c, struct lead *l);

/* Worker thread: append what was gathered and sealed. */
enum sql_outcome lead_sql_append(struct sql_conn *c, struct lead *l, const struct gather *g);

enum sql_outcome lead_sql_commit(struct sql_conn *c, struct lead *l);

/* Is FATAL with this number (0 = none) about what was to be written? A right or a table that is
 * missing is nobody's fault among the rows that were tried. */
bool lead_sql_about_rows(unsigned error_no);

/* Loop thread, after the commit: the batches get their numbers and their stamp. */
void lead_sql_stored(const struct lead *l, const struct gather *g);

#endif
