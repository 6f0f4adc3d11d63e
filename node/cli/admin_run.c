#include "node/cli/admin_run.h"

#include "node/cli/options.h"

#include <stdio.h>
#include <stdlib.h>

enum { TRIES = 5 }; /* of a transaction that another one got in the way of */

int admin_outcome(struct sql_conn *c, enum sql_outcome o, struct err *e)
{
	if (o == SQL_OK)
		return 0;
	if (o == SQL_UNKNOWN)
		err_set(e, (int)o,
		        "the connection was lost at COMMIT: it may be done or not; look first");
	else
		err_set(e, (int)o, "%.240s", sql_error(c));
	sql_rollback(c);
	return -1;
}

static int run_on(struct sql_conn *c, admin_fn *fn, const void *arg, struct err *e)
{
	for (int i = 1;; i++) {
		if (!sql_conn_is_open(c) && sql_conn_open(c, e))
			return -1;
		if (fn(c, arg, e) == 0)
			return 0;
		if (e->code != SQL_RETRY || i == TRIES)
			return -1;
	}
}

int admin_run(const char *command, const char *db, admin_fn *fn, const void *arg)
{
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	struct err e = {0};
	struct sql_conn *c;
	struct dsn dsn;
	int rc;

	if (dsn_load(&dsn, db, &e)) {
		fprintf(stderr, "%s: %s\n", command, e.text);
		return OPTIONS_EXIT_USAGE;
	}
	sql_library_init();
	c = sql_conn_new(&dsn, &limits);
	rc = run_on(c, fn, arg, &e);
	sql_conn_free(c);
	sql_library_end();
	dsn_release(&dsn);
	if (rc < 0)
		fprintf(stderr, "%s: %s\n", command, e.text);
	return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
