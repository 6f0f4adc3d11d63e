/* transfer: a tenant from one database to another, as `leat tenant export`, `import` and `checksum`
 * do it, between MariaDB and MySQL too. What is carried is in sql/transfer.def, the file in
 * sql/transfer_file.h. For a CLI's main thread, on a connection of its own whose account may read
 * and write every table; blocks. Memory is bounded by the largest row and a chunk of a few MiB.
 *
 * Export copies the journal while the tenant is in use, what is older than ten seconds, and may be
 * run again and again. Its last round needs the tenant suspended: it puts the tenant under
 * tenant_move (no leader touches it then), waits until every live node has followed, takes the
 * subscriptions from their owners, copies the rest of the journal and every other table, and writes
 * the sum of all rows. From then on the file is compared with the tenant whenever it is run again:
 * one that was resumed, or changed, since is an error.
 *
 * Import makes a suspended tenant, chunk by chunk, each with the count of chunks in one
 * transaction. When it has all, it reads the tenant back from the database and compares its sum
 * with the file's. Only then may the tenant be resumed.
 *
 * Both end at any point and go on from there when they are run again. Errors: e->code is an enum
 * sql_outcome; SQL_RETRY: run it again. */
#ifndef LEAT_SQL_TRANSFER_H
#define LEAT_SQL_TRANSFER_H

#include "base/err.h"
#include "base/slice.h"
#include "sql/conn.h"
#include "sql/transfer_record.h"

#include <stdbool.h>
#include <stdint.h>

struct transfer_request {
	struct slice name; /* export, checksum: whose; import: its new name, empty = its old one */
	const char *path;  /* of the file */
	bool suspend;      /* export: suspend it when the live rounds have caught up */
	bool without_keys; /* export, checksum */
	/* import: may a tenant be called so? */
	int (*name_check)(struct slice name, struct err *e);
};

struct transfer_report {
	struct transfer_sum sum; /* complete: of the tenant's whole content */
	uint64_t bytes;          /* of the file, that this run wrote or read */
	uint64_t rows;           /* likewise */
	double seconds;
	char name[64];
	bool complete; /* export: the file is; import: the tenant is, and verified */
	bool before;   /* it was so before this run */
};

int transfer_export(struct sql_conn *c, const struct transfer_request *req,
                    struct transfer_report *out, struct err *e);
int transfer_import(struct sql_conn *c, const struct transfer_request *req,
                    struct transfer_report *out, struct err *e);

/* Of a tenant as it is in the database; it stays the same only while the tenant is moved. */
int transfer_checksum(struct sql_conn *c, const struct transfer_request *req,
                      struct transfer_report *out, struct err *e);

#endif
