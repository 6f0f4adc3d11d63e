/* conn: one database connection with Leat's session rules: READ COMMITTED, autocommit off, utf8mb4,
 * UTC, strict mode, CLIENT_FOUND_ROWS (an unchanged row counts as matched), wait_timeout = the
 * node's TTL, a lock wait of 1 s. One thread owns a connection from sql_conn_new() to
 * sql_conn_free(): a worker of sql/sql.h inside a job, or the main thread of a CLI command. Calls
 * block, bounded by the time-outs. Nothing reconnects by itself.
 *
 * Transactions: the first statement opens one; end it with sql_commit() or sql_rollback(). After a
 * SQL_RETRY the transaction is poisoned: further statements answer SQL_RETRY unsent, and
 * sql_commit() sends ROLLBACK and answers SQL_RETRY (after a mid-transaction 1213 a COMMIT would
 * "succeed" and store nothing). A job that returns with a transaction open has it rolled back.
 *
 * Outcomes (sql/outcome.h; which error is which: sql/error.h): a connection lost before COMMIT was
 * sent is SQL_RETRY: the server rolls back. Lost at COMMIT, or in a statement marked COMMITS, is
 * SQL_UNKNOWN. After either sql_conn_is_open() is false. */
#ifndef LEAT_SQL_CONN_H
#define LEAT_SQL_CONN_H

#include "base/err.h"
#include "base/slice.h"
#include "sql/dsn.h"
#include "sql/outcome.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sql_conn;

/* ---- statements: one per row of statements.def, prepared at first use on each connection ---- */

enum sql_stmt {
#define SQL_STMT(name, commits, text, doc) STMT_##name,
#include "sql/statements.def"
#undef SQL_STMT
	STMT_COUNT,
};

enum sql_type {
	SQL_TYPE_NULL,
	SQL_TYPE_U64,
	SQL_TYPE_BYTES, /* raw bytes: BINARY, VARBINARY, BLOB */
	SQL_TYPE_TEXT,  /* UTF-8: VARCHAR, LONGTEXT, JSON */
};

struct sql_param {
	enum sql_type type;
	uint64_t u;         /* U64 */
	struct slice bytes; /* BYTES, TEXT; borrowed until the call returns */
};

static inline struct sql_param sql_u64(uint64_t v)
{
	return (struct sql_param){.type = SQL_TYPE_U64, .u = v};
}

static inline struct sql_param sql_bytes(const void *p, size_t n)
{
	return (struct sql_param){.type = SQL_TYPE_BYTES, .bytes = {.p = p, .n = n}};
}

static inline struct sql_param sql_utf8(const void *p, size_t n)
{
	return (struct sql_param){.type = SQL_TYPE_TEXT, .bytes = {.p = p, .n = n}};
}

static inline struct sql_param sql_null(void)
{
	return (struct sql_param){.type = SQL_TYPE_NULL};
}

/* One column of a row. Bytes are borrowed until the callback returns and are never cut short. */
struct sql_cell {
	bool null;          /* u is 0 and bytes empty */
	uint64_t u;         /* integer columns; a signed one as two's complement */
	struct slice bytes; /* every other column. DECIMAL and DATETIME come as text: CAST or
	                       TIMESTAMPDIFF them in the statement when a number is wanted */
};

/* Called for each row. Return 0 to go on, other to skip the remaining rows (still SQL_OK). */
typedef int (*sql_row_fn)(void *arg, const struct sql_cell *cells, unsigned n);

/* Run a prepared statement without rows. nparams must equal the statement's question marks. */
enum sql_outcome sql_exec(struct sql_conn *c, enum sql_stmt s, const struct sql_param *params,
                          unsigned nparams);

/* Run a prepared statement and stream its rows, LOBs of any size included. on_row must not use c.
 */
enum sql_outcome sql_query(struct sql_conn *c, enum sql_stmt s, const struct sql_param *params,
                           unsigned nparams, sql_row_fn on_row, void *arg);

/* Rows matched (not just changed) by the last successful sql_exec, or by the last statement of the
 * last sql_text; for LAST_INSERT_ID(expr) idioms, the value it left. */
uint64_t sql_affected(const struct sql_conn *c);
uint64_t sql_insert_id(const struct sql_conn *c);

/* ---- text: statements built from integers only, one or several separated by ';' ---- */

struct sql_text_sink {
	sql_row_fn on_row; /* may be NULL; sql_text_result() tells whose row it is */
	/* may be NULL; each finished statement: its number from 0 and its matched rows */
	void (*on_done)(void *arg, unsigned result, uint64_t affected);
	void *arg;
};

enum sql_text_flags {
	SQL_TEXT_PLAIN = 0,
	SQL_TEXT_COMMITS = 1, /* it commits (COMMIT, DDL, a procedure that does): loss = UNKNOWN */
	SQL_TEXT_ENDS = 3,    /* and with its last statement: no transaction is open after it */
};

/* Run text as it is: never put a client's bytes in it. Integer columns arrive in cell.u and the
 * digits in cell.bytes. sink may be NULL. Stops at the first statement that fails. */
enum sql_outcome sql_text(struct sql_conn *c, const char *text, size_t len,
                          const struct sql_text_sink *sink, enum sql_text_flags flags);

/* The number, from 0, of the statement a text's on_row is being called for, or that failed. */
unsigned sql_text_result(const struct sql_conn *c);

enum sql_outcome sql_commit(struct sql_conn *c);   /* OK, RETRY or UNKNOWN */
enum sql_outcome sql_rollback(struct sql_conn *c); /* OK, or RETRY when the connection was lost */

/* What the last call that did not answer OK had to say: error number, SQLSTATE, statement and the
 * server's message without data values. For logs and struct err. */
const char *sql_error(const struct sql_conn *c);
unsigned sql_errno(const struct sql_conn *c);

/* ---- life ---- */

struct sql_limits {
	unsigned wait_timeout_s; /* the server ends a session idle for this long: the node's TTL */
	unsigned connect_timeout_s;
	unsigned io_timeout_s; /* one read or write on the socket */
	unsigned lock_wait_s;  /* innodb_lock_wait_timeout */
	unsigned ddl_wait_s;   /* lock_wait_timeout: metadata locks */
};

#define SQL_LIMITS_DEFAULT                           \
	((struct sql_limits){.wait_timeout_s = 6,    \
	                     .connect_timeout_s = 5, \
	                     .io_timeout_s = 15,     \
	                     .lock_wait_s = 1,       \
	                     .ddl_wait_s = 5})

/* Not connected yet. dsn and limits are copied. Call sql_library_init() first. */
struct sql_conn *sql_conn_new(const struct dsn *dsn, const struct sql_limits *limits);
void sql_conn_free(struct sql_conn *c); /* an open transaction is rolled back; NULL does nothing */

/* Also after a loss; closes what was open. sql_conn_open() tries the DSN's hosts in their order,
 * sql_conn_open_at() that one alone (below dsn.host_count). A Galera member that is not ready
 * counts as one that does not answer. */
int sql_conn_open(struct sql_conn *c, struct err *e);
int sql_conn_open_at(struct sql_conn *c, unsigned host, struct err *e);
void sql_conn_close(struct sql_conn *c);
bool sql_conn_is_open(const struct sql_conn *c); /* false once a call found the connection lost */
enum sql_outcome sql_conn_ping(struct sql_conn *c); /* between transactions */

/* Once in the process before any thread uses the client library; at its end; and in each thread. */
void sql_library_init(void);
void sql_library_end(void);
void sql_thread_begin(void);
void sql_thread_end(void);

/* ---- the server, as seen when the connection was opened ---- */

struct sql_server {
	char version[64]; /* as the server says it */
	bool mariadb;
	unsigned version_no;      /* 10.11.6 = 101106, 8.0.16 = 80016 */
	uint64_t max_packet;      /* max_allowed_packet, bytes */
	unsigned flush_at_commit; /* innodb_flush_log_at_trx_commit */
	bool log_bin;
	uint64_t sync_binlog;
	bool read_only;
	bool galera; /* wsrep_on: the session then reads what any member has committed before */
};

const struct sql_server *sql_conn_server(const struct sql_conn *c);

/* Take note of one of the server's global variables; of others than those above, nothing. Pure. */
void sql_server_set(struct sql_server *s, const char *name, const char *value);

/* 0 when this server is new enough (MariaDB 10.6, MySQL 8.0.16), writable, takes packets of 2 MiB
 * and keeps what it has committed (unless accept_data_loss); -1 says what to change. Pure. */
int sql_check_durable(const struct sql_server *s, bool accept_data_loss, struct err *e);

#endif
