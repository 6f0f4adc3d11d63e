/* transfer_walk: the rows of a tenant that a transfer carries, read from the database; and what
 * both its ends ask of a tenant. One thread, blocks. Errors as in sql/transfer.h. */
#ifndef LEAT_SQL_TRANSFER_WALK_H
#define LEAT_SQL_TRANSFER_WALK_H

#include "base/err.h"
#include "base/slice.h"
#include "sql/conn.h"
#include "sql/transfer_record.h"

#include <stdbool.h>
#include <stdint.h>

enum transfer_direction { TRANSFER_NOT_MOVED = 0, TRANSFER_OUT = 1, TRANSFER_IN = 2 };

/* A row of ADMIN_EXPORT_TENANT. */
struct transfer_tenant {
	uint32_t id;   /* 0 = there is none of this name */
	uint8_t state; /* tenant.state: 1 active, 2 suspended, 3 deleted */
	enum transfer_direction direction;
	bool move_complete;
	uint8_t source[32];
	uint32_t chunks;
	char created_at[32];
};

int transfer_tenant_find(struct sql_conn *c, struct slice name, struct transfer_tenant *out,
                         struct err *e);

struct transfer_head {
	uint32_t partition;
	uint64_t next_seq, first_seq;
};

struct transfer_heads {
	struct transfer_head *v;
	size_t n, cap;
	char durable[32]; /* every batch before this time is, as the database writes times */
};

int transfer_heads_read(struct sql_conn *c, uint32_t tenant_id, struct transfer_heads *out,
                        struct err *e);
void transfer_heads_release(struct transfer_heads *h);

/* Gets a row; must not use the connection. Other than 0: no more of them. */
typedef int (*transfer_row_fn)(void *arg, const struct transfer_table *t,
                               const struct sql_cell *cells);

/* Every row of one table, not the journal's. */
int transfer_walk_table(struct sql_conn *c, const struct transfer_table *t, uint32_t tenant_id,
                        transfer_row_fn fn, void *arg, struct err *e);

/* A partition's batches from `from` on. */
int transfer_walk_journal(struct sql_conn *c, uint32_t tenant_id, uint32_t partition, uint64_t from,
                          transfer_row_fn fn, void *arg, struct err *e);

/* All that the tenant has, summed up. */
int transfer_walk_sum(struct sql_conn *c, uint32_t tenant_id, bool without_keys,
                      struct transfer_sum *out, struct err *e);

/* 0 when the outcome is OK; else what the database said, with nothing left open. */
int transfer_outcome(struct sql_conn *c, enum sql_outcome o, struct err *e);

#endif
