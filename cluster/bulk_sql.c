#include "cluster/bulk_sql.h"

#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>

enum {
	ROWS_MAX = 64,
	PACKET_SLACK = 64 * 1024, /* bytes of a packet that are not the rows' own */
};

/* The largest insert for the rows from i on that a packet holds: its place in stmts. */
static unsigned size_for(const struct bulk *b, size_t i, uint64_t max_packet)
{
	unsigned size = 0;
	size_t rows = ROWS_MAX;

	for (; rows > 1; size++, rows /= 2) {
		uint64_t bytes = PACKET_SLACK;

		if (b->n - i < rows)
			continue;
		for (size_t k = i; k < i + rows; k++)
			bytes += b->bytes(b->arg, k);
		if (bytes <= max_packet)
			break;
	}
	return size;
}

enum sql_outcome bulk_sql_insert(struct sql_conn *c, struct bulk *b)
{
	uint64_t max_packet = sql_conn_server(c)->max_packet / 2;
	struct sql_param *params = xcalloc((size_t)ROWS_MAX * b->row_params, sizeof *params);
	enum sql_outcome o = SQL_OK;

	b->culprit = SIZE_MAX;
	for (size_t i = 0; o == SQL_OK && i < b->n;) {
		unsigned size = size_for(b, i, max_packet);
		unsigned rows = ROWS_MAX >> size;

		for (size_t k = 0; k < rows; k++)
			b->params(b->arg, i + k, params + k * b->row_params);
		o = sql_exec(c, b->stmts[size], params, rows * b->row_params);
		if (o != SQL_OK && rows == 1)
			b->culprit = i;
		i += rows;
	}
	free(params);
	return o;
}
