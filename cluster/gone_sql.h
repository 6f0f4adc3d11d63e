/* gone_sql: was one of these tenants deleted? Asked by whoever makes rows that no other row fences
 * (a subscription, what waits for its time), in the same transaction, after the last of them and
 * before COMMIT.
 *
 * Why after: who deletes a tenant commits that, and only then removes its rows by searches that
 * wait for what others have inserted and not committed (tenant_purge_step). A row inserted before
 * such a search came by is found by it; one inserted behind it was inserted after the deletion was
 * committed, which the question then sees. So nothing stays, however long a node slept, and nothing
 * is locked: nobody waits for anybody's administrator. (On Galera that is so on the member that
 * purges.)
 *
 * Events need none of it: without a head nothing is appended. Nor what hangs on a subscription's
 * row, which is written first. Worker threads. */
#ifndef LEAT_CLUSTER_GONE_SQL_H
#define LEAT_CLUSTER_GONE_SQL_H

#include "sql/conn.h"

#include <stddef.h>
#include <stdint.h>

#define GONE_ERROR "tenant is gone"

/* The caller rolls back when *gone is not 0: that is one of the n. Zeros among these are nobody. */
enum sql_outcome gone_sql_look(struct sql_conn *c, const uint32_t *tenants, size_t n,
                               uint32_t *gone);

#endif
