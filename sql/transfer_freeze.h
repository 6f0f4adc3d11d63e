/* transfer_freeze: makes sure that nothing of a suspended tenant changes any more, for as long as
 * it has its row in tenant_move. One thread, blocks; errors as in sql/transfer.h. */
#ifndef LEAT_SQL_TRANSFER_FREEZE_H
#define LEAT_SQL_TRANSFER_FREEZE_H

#include "base/err.h"
#include "sql/conn.h"

#include <stdint.h>

/* Puts it under tenant_move, so that no leader touches it; waits until every node that lives has
 * renewed its session often enough to have followed the suspension (three seconds or more, none
 * without nodes); takes its subscriptions from their owners, in small steps, and makes its wills
 * due. */
int transfer_freeze(struct sql_conn *c, uint32_t tenant_id, struct err *e);

#endif
