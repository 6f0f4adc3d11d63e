/* admin_run: what `leat tenant`, `leat subscription` and their like do on one database connection
 * of their own: opened for it, and done again where another transaction got in the way. Main
 * thread; blocks. */
#ifndef LEAT_NODE_ADMIN_RUN_H
#define LEAT_NODE_ADMIN_RUN_H

#include "base/err.h"
#include "sql/conn.h"

/* 0, or -1 with e; with e->code SQL_RETRY it changed nothing and is called again. */
typedef int admin_fn(struct sql_conn *c, const void *arg, struct err *e);

/* The exit status; what was wrong is printed, after the command's name. */
int admin_run(const char *command, const char *db, admin_fn *fn, const void *arg);

/* 0 when the outcome is OK; else -1 with what the database said, and nothing is left open. */
int admin_outcome(struct sql_conn *c, enum sql_outcome o, struct err *e);

#endif
