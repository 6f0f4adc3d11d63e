/* subscription_admin: what an admin does to subscriptions. Changes are procedures of the schema
 * (sql/schema/0006_subscriptions.sql): each a transaction of its own with its row in `audit`, which
 * takes the subscription from its owner; whoever has consumers claims it anew within a second. On
 * the connection it is given; blocks. For a CLI's main thread.
 *
 * Errors: e->code is the enum sql_outcome, the text is for a person. SQL_RETRY changed nothing and
 * may be repeated; after SQL_UNKNOWN look first. */
#ifndef LEAT_CLUSTER_SUBSCRIPTION_ADMIN_H
#define LEAT_CLUSTER_SUBSCRIPTION_ADMIN_H

#include "base/err.h"
#include "base/slice.h"
#include "sql/conn.h"

#include <stdint.h>

struct subscription_ref {
	struct slice tenant;  /* its name */
	struct slice kind;    /* "session", "share", "queue" */
	struct slice subject; /* of a session; else empty */
	struct slice name;    /* client id; NAME/FILTER; NAME */
};

/* `to` is what the procedure reads: earliest, latest, a number, or a UTC time such as
 * 2026-01-31 12:00:00.000. */
int subscription_admin_seek(struct sql_conn *c, const struct subscription_ref *ref, struct slice to,
                            struct err *e);
int subscription_admin_delete(struct sql_conn *c, const struct subscription_ref *ref,
                              struct err *e);

/* One subscription; borrowed for the call. */
struct subscription_row {
	struct slice kind;
	struct slice subject;
	struct slice name;
	struct slice state;
	struct slice node; /* that serves it; empty = none */
	uint64_t behind;   /* events, of all partitions */
};

int subscription_admin_list(struct sql_conn *c, struct slice tenant,
                            void (*fn)(void *arg, const struct subscription_row *row), void *arg,
                            struct err *e);

#endif
