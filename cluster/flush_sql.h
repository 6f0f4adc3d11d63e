/* flush_sql: batches of the journal, inside a transaction: the heads are advanced, their new
 * numbers read back, the rows inserted. Used by appends (cluster/journal_sql.c) and by what the
 * leader moves (cluster/fire_sql.c). Worker threads; whoever calls it fences first and commits. */
#ifndef LEAT_CLUSTER_FLUSH_SQL_H
#define LEAT_CLUSTER_FLUSH_SQL_H

#include "base/id128.h"
#include "cluster/batch.h"
#include "cluster/layout.h"
#include "sql/conn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct flush_head;

struct flush {
	const struct id128 *me; /* the flush: whose, of which writer, its number */
	uint32_t writer_no;
	uint64_t flush_no;
	/* An update of one row, of integers only, that is sent in front and must match: else LOST.
	 * NULL: the fence was checked already. */
	const char *fence;
	size_t n;
	struct batch *const *batches; /* sealed, sorted by (tenant, partition); none scheduled */

	uint64_t *base_seqs; /* out, [n]; the batches themselves are set on the loop thread */
	size_t culprit;      /* out, FATAL: the batch; SIZE_MAX = unknown */
	char error[160];     /* out: the database's words, without data */
	unsigned error_no;   /* out: its number of it; 0 = it was not asked */
	/* out, FATAL, not 0: a head of this tenant is sealed or gone; where its events go now */
	uint32_t sealed_tenant;
	struct layout layout;

	struct flush_head *heads; /* flush_sql.c's own, from here on */
	size_t n_heads;
	size_t heads_read;
	bool fenced;
};

/* FATAL because a tenant's partitions were changed since its events were placed. */
static inline bool flush_is_outdated(const struct flush *f)
{
	return f->sealed_tenant && batch_partition(f->batches[f->culprit]) < f->layout.first;
}

/* OK, RETRY, LOST, FATAL, or UNKNOWN never: nothing is committed. */
enum sql_outcome flush_sql_run(struct sql_conn *c, struct flush *f);

#endif
