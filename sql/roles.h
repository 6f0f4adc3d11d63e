/* roles: the database roles of a schema, made from sql/roles.def:
 *
 *     SCHEMA_node    what a node does: rows of the tables, no definitions
 *     SCHEMA_admin   the procedures and the views
 *     SCHEMA_read    the views
 *     SCHEMA_publish publish() and publish_at(), for the tenants that its account is allowed
 *
 * Roles belong to the whole server, so each carries its schema's name: two schemas on one server do
 * not share their admins. An account of that name counts as the role (to MySQL they are the same).
 *
 * Pure, any thread; roles_grant() runs on the thread that owns its connection. */
#ifndef LEAT_SQL_ROLES_H
#define LEAT_SQL_ROLES_H

#include "base/buf.h"
#include "base/err.h"
#include "sql/conn.h"

enum { ROLES_SCHEMA_MAX = 24 }; /* bytes: a role's name has up to 32 in MySQL */

/* The statements that make the roles and give them their rights, for whoever may. They can be run
 * again. -1: the schema's name is too long. */
int roles_sql(const char *schema, struct buf *out, struct err *e);

/* Run them. -1 when the account may not, or anything else is wrong: e says what. */
int roles_grant(struct sql_conn *c, const char *schema, struct err *e);

/* Does SCHEMA_node have this privilege on the table? */
bool roles_node_may(const char *table, const char *privilege);

#endif
