/* transfer_record: a row of a table of sql/transfer.def as bytes, and a sum over rows. The same row
 * is the same bytes on every server. Pure functions, any thread.
 *
 * A record is its table's columns, one after the other: a byte 0 for null; 1 and 8 bytes, most
 * significant first, for an integer; 2, 4 bytes of length and so many bytes for everything else. */
#ifndef LEAT_SQL_TRANSFER_RECORD_H
#define LEAT_SQL_TRANSFER_RECORD_H

#include "base/buf.h"
#include "base/err.h"
#include "sql/conn.h"

#include <stdint.h>

enum { TRANSFER_COLUMNS_MAX = 24 };

/* A table that is carried; constant data. */
struct transfer_table {
	const char *name;
	const char *types; /* a letter a column, as in the .def */
	enum sql_stmt get; /* (tenant): its rows; the journal's: (tenant, partition, from, rows) */
	enum sql_stmt put; /* a record's columns */
	enum sql_stmt put_many; /* of `many` records */
	unsigned many;
	uint8_t number; /* in the file */
};

unsigned transfer_table_count(void);
const struct transfer_table *transfer_table_at(unsigned i);     /* in the order they are stored */
const struct transfer_table *transfer_table_of(uint8_t number); /* NULL: there is none */

/* `number` of tables that are handled apart */
enum { TRANSFER_KEYS = 2, TRANSFER_JOURNAL = 3, TRANSFER_CERTIFICATES = 12 };

/* Its rows say who somebody is, and are found without a tenant: in a database each can be there but
 * once. What --without-keys leaves out. */
bool transfer_is_identity(const struct transfer_table *t);

/* Append a row; more cells than the table has columns are left. */
void transfer_record_put(struct buf *out, const char *types, const struct sql_cell *cells);

/* Take the first record off `rest`; params, as many as types, borrow from it. -1: it is none. */
int transfer_record_take(struct slice *rest, const char *types, struct sql_param *params,
                         struct err *e);

/* A sum of rows in which their order does not matter: the SHA-256 of each, added up (four lanes of
 * 64 bits, each modulo 2^64). Against accidents, not against an adversary. */
struct transfer_sum {
	uint64_t lane[4];
	uint64_t rows;
};

void transfer_sum_row(struct transfer_sum *s, uint8_t table, struct slice record);
void transfer_sum_add(struct transfer_sum *s, const struct transfer_sum *more);
void transfer_sum_subtract(struct transfer_sum *s, const struct transfer_sum *less);
bool transfer_sum_eq(const struct transfer_sum *a, const struct transfer_sum *b);

enum { TRANSFER_SUM_HEX = 65 };
void transfer_sum_hex(const struct transfer_sum *s, char out[TRANSFER_SUM_HEX]);

#endif
