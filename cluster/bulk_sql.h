/* bulk_sql: many rows through prepared inserts of 64, 32 … 1 rows: any number of them in few round
 * trips, none larger than half a packet. Worker threads, inside a transaction. */
#ifndef LEAT_CLUSTER_BULK_SQL_H
#define LEAT_CLUSTER_BULK_SQL_H

#include "sql/conn.h"

#include <stddef.h>

enum { BULK_SIZES = 7 };

struct bulk {
	enum sql_stmt stmts[BULK_SIZES]; /* for 64, 32, 16, 8, 4, 2 and 1 rows */
	unsigned row_params;
	size_t n; /* rows */
	size_t (*bytes)(void *arg, size_t i);
	void (*params)(void *arg, size_t i, struct sql_param *out); /* borrowed until it is over */
	void *arg;

	size_t culprit; /* out, FATAL and DUP: the row; SIZE_MAX: one of several */
};

/* A row that no packet holds must not come here. Stops at the first insert that fails. */
enum sql_outcome bulk_sql_insert(struct sql_conn *c, struct bulk *b);

#endif
