/* migrate: bring a database's schema to the version this binary knows. Synchronous; for the main
 * thread of a command, after sql_library_init().
 *
 * Steps (sql/schema) are run in order and recorded in schema_version. Any number of migrations may
 * run at once: each holds the row of schema_lock, in a transaction on a connection of its own,
 * while it works on a second one, because DDL commits and would let go of a lock on the same
 * connection. The lock ends with its connection, so a killed migration blocks nobody. Should the
 * lock connection be lost in the middle of a step, another migration may run that step again: steps
 * are repeatable. */
#ifndef LEAT_SQL_MIGRATE_H
#define LEAT_SQL_MIGRATE_H

#include "base/err.h"
#include "sql/conn.h"
#include "sql/dsn.h"

struct migrate_events {
	void (*on_wait)(void *arg); /* another migration holds the lock; told once */
	void (*on_step)(void *arg, unsigned version, const char *name); /* about to be run */
	/* the account may not make the roles (sql/roles.h): told after the steps */
	void (*on_no_roles)(void *arg, const char *why);
	void *arg;
};

/* 0 with *version_before and *version_after set; -1: what stopped it. `events` may be NULL. */
int migrate_run(const struct dsn *dsn, const struct migrate_events *events,
                unsigned *version_before, unsigned *version_after, struct err *e);

/* For a node about to start: 0 when the schema is exactly what this binary knows, -1 says what to
 * do. Ends any transaction on c. */
int sql_schema_check(struct sql_conn *c, struct err *e);

#endif
