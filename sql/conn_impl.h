/* conn_impl: the inside of struct sql_conn, shared by conn.c (life, transactions), exec.c (prepared
 * statements), text.c (text statements) and server.c (what the server is). Nobody else includes it.
 */
#ifndef LEAT_SQL_CONN_IMPL_H
#define LEAT_SQL_CONN_IMPL_H

#include "sql/conn.h"

#include <mysql.h>

/* my_bool in MariaDB's connector, bool in MySQL's library since 8. */
typedef __typeof__(*((MYSQL_BIND *)NULL)->is_null) sql_my_bool;

struct sql_column; /* a result column's buffer: exec.c */

struct sql_conn {
	struct dsn dsn;
	struct sql_limits limits;
	MYSQL *my; /* NULL = not open */
	struct sql_server server;

	bool in_tx;    /* something was sent since the last COMMIT or ROLLBACK */
	bool poisoned; /* a statement answered RETRY: only ROLLBACK may follow */

	/* of the last call */
	uint64_t affected, insert_id;
	unsigned result; /* statement of a text */
	unsigned error_no;
	char error[256];

	/* prepared statements and the memory they are run with */
	MYSQL_STMT *stmts[STMT_COUNT];
	MYSQL_BIND *binds; /* room for cap_binds parameters */
	size_t cap_binds;
	struct sql_column *columns;
	struct sql_cell *cells;
	MYSQL_BIND *column_binds;
	unsigned cap_columns;
};

/* A statement may be sent: false with *o set when the connection is closed or poisoned. Marks the
 * transaction as open. */
bool conn_begin(struct sql_conn *c, const char *what, enum sql_outcome *o);

/* `what` failed with error `no`: keep the text, poison or close, and say how it ended. */
enum sql_outcome conn_failed(struct sql_conn *c, const char *what, unsigned no,
                             const char *sqlstate, const char *message, bool committing);
enum sql_outcome conn_failed_query(struct sql_conn *c, const char *what, bool committing);

/* An error of our own making, before anything was sent. */
enum sql_outcome conn_refused(struct sql_conn *c, const char *what, const char *why);

void exec_forget(struct sql_conn *c);  /* the connection is closed: drop its prepared statements */
void exec_release(struct sql_conn *c); /* and the memory they were run with */

/* Fills in c->server and sets what a session wants of such a server; not OK: it is of no use. */
enum sql_outcome server_read(struct sql_conn *c);

#endif
