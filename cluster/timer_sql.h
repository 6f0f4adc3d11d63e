/* timer_sql: the scheduled batches of a flush, inside its transaction: rows of `timer` are made,
 * removed and made due. Worker threads; whoever calls it fences first and commits. */
#ifndef LEAT_CLUSTER_TIMER_SQL_H
#define LEAT_CLUSTER_TIMER_SQL_H

#include "base/id128.h"
#include "cluster/batch.h"
#include "sql/conn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* timer.kind */
enum timer_kind {
	TIMER_SCHEDULED = 1,
	TIMER_WILL = 2,
};

struct timer_store {
	const struct id128 *me;    /* the node session that the wills belong to */
	const struct batch *batch; /* of BATCH_SCHEDULED */
	size_t no;                 /* of the batch, for on_missing */
	bool made;                 /* out: rows were made, so that gone_sql_look() is to be asked */
	/* The event (a cancel) found nothing to cancel. */
	void (*on_missing)(void *arg, size_t no, uint32_t event);
	void *arg;
};

enum sql_outcome timer_sql_store(struct sql_conn *c, struct timer_store *s);

#endif
