#include "sql/conn.h"

#include "base/mem.h"
#include "base/point.h"
#include "sql/conn_impl.h"
#include "sql/error.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ERROR_SIGNAL = 1644 }; /* the server's number for a SIGNAL without one */

void sql_library_init(void)
{
	signal(SIGPIPE, SIG_IGN); /* the client library writes to sockets the server has closed */
	if (mysql_library_init(0, NULL, NULL))
		fatal("the database client library does not start");
}

void sql_library_end(void)
{
	mysql_library_end();
}

void sql_thread_begin(void)
{
	if (mysql_thread_init())
		fatal("the database client library refuses a thread");
}

void sql_thread_end(void)
{
	mysql_thread_end();
}

/* ---- failure -------------------------------------------------------------------------------- */

enum sql_outcome conn_failed(struct sql_conn *c, const char *what, unsigned no,
                             const char *sqlstate, const char *message, bool committing)
{
	struct sql_verdict v = sql_error_verdict(no, committing);
	char redacted[160];

	if (v.show)
		snprintf(redacted, sizeof redacted, "%s", message);
	else
		sql_error_redact(redacted, sizeof redacted, message);
	c->error_no = no;
	if (no == ERROR_SIGNAL) /* our own words, for people */
		snprintf(c->error, sizeof c->error, "%s", message);
	else
		snprintf(c->error, sizeof c->error, "%s: %u (%s) %s", what, no, sqlstate, redacted);
	if (v.outcome == SQL_RETRY)
		c->poisoned = true;
	if (v.drop)
		sql_conn_close(c);
	return v.outcome;
}

enum sql_outcome conn_failed_query(struct sql_conn *c, const char *what, bool committing)
{
	return conn_failed(c, what, mysql_errno(c->my), mysql_sqlstate(c->my), mysql_error(c->my),
	                   committing);
}

enum sql_outcome conn_refused(struct sql_conn *c, const char *what, const char *why)
{
	c->error_no = 0;
	snprintf(c->error, sizeof c->error, "%s: %s", what, why);
	return SQL_FATAL;
}

const char *sql_error(const struct sql_conn *c)
{
	return c->error;
}

unsigned sql_errno(const struct sql_conn *c)
{
	return c->error_no;
}

/* ---- transactions --------------------------------------------------------------------------- */

bool conn_begin(struct sql_conn *c, const char *what, enum sql_outcome *o)
{
	if (c->my && !c->poisoned) {
		c->in_tx = true;
		c->affected = c->insert_id = 0;
		return true;
	}
	*o = SQL_RETRY;
	if (!c->poisoned) /* else the text of what poisoned it says more */
		snprintf(c->error, sizeof c->error, "%s: not connected", what);
	/* What was done before the loss is gone: a later COMMIT in this job must not look well. */
	c->poisoned = true;
	return false;
}

enum sql_outcome sql_rollback(struct sql_conn *c)
{
	bool open = c->in_tx && c->my;

	c->in_tx = c->poisoned = false;
	if (!open || mysql_real_query(c->my, "ROLLBACK", 8) == 0)
		return SQL_OK;
	conn_failed_query(c, "ROLLBACK", false);
	sql_conn_close(c); /* whatever it said, the transaction must end: with the connection */
	return SQL_RETRY;
}

enum sql_outcome sql_commit(struct sql_conn *c)
{
	enum sql_outcome o;

	if (c->poisoned) {
		sql_rollback(c);
		return SQL_RETRY;
	}
	if (!c->my) {
		snprintf(c->error, sizeof c->error, "COMMIT: not connected");
		return SQL_RETRY;
	}
	POINT_COMMIT("commit");
	if (!c->in_tx || mysql_real_query(c->my, "COMMIT", 6) == 0) {
		c->in_tx = false;
		POINT_COMMIT("committed");
		return SQL_OK;
	}
	o = conn_failed_query(c, "COMMIT", true);
	if (o == SQL_RETRY) {
		sql_rollback(c);
		return SQL_RETRY;
	}
	/* An answer to COMMIT that the table does not know: assume nothing. */
	sql_conn_close(c);
	return SQL_UNKNOWN;
}

uint64_t sql_affected(const struct sql_conn *c)
{
	return c->affected;
}

uint64_t sql_insert_id(const struct sql_conn *c)
{
	return c->insert_id;
}

/* ---- life ----------------------------------------------------------------------------------- */

struct sql_conn *sql_conn_new(const struct dsn *dsn, const struct sql_limits *limits)
{
	struct sql_conn *c = xcalloc(1, sizeof *c);

	dsn_copy(&c->dsn, dsn);
	c->limits = *limits;
	return c;
}

void sql_conn_free(struct sql_conn *c)
{
	if (!c)
		return;
	sql_rollback(c);
	sql_conn_close(c);
	exec_release(c);
	dsn_release(&c->dsn);
	free(c);
}

/* poisoned outlives the connection, so that the rest of a job's statements fail, up to its
 * rollback. */
void sql_conn_close(struct sql_conn *c)
{
	if (!c->my)
		return;
	if (c->in_tx)
		c->poisoned = true;
	c->in_tx = false;
	mysql_close(c->my);
	c->my = NULL;
	exec_forget(c);
}

bool sql_conn_is_open(const struct sql_conn *c)
{
	return c->my != NULL;
}

enum sql_outcome sql_conn_ping(struct sql_conn *c)
{
	if (c->my && mysql_ping(c->my) == 0)
		return SQL_OK;
	if (c->my) {
		conn_failed_query(c, "ping", false);
		sql_conn_close(c);
	}
	return SQL_RETRY;
}

/* The certificate and the name in it are checked whenever TLS is asked for, and TLS is then never
 * given up silently: the two libraries spell that differently. */
static void set_tls(MYSQL *my, const struct dsn *d)
{
	mysql_options(my, MYSQL_OPT_SSL_CA, d->ssl_ca);
	if (d->ssl_cert) {
		mysql_options(my, MYSQL_OPT_SSL_CERT, d->ssl_cert);
		mysql_options(my, MYSQL_OPT_SSL_KEY, d->ssl_key);
	}
#ifdef MARIADB_PACKAGE_VERSION
	sql_my_bool yes = 1;

	mysql_options(my, MYSQL_OPT_SSL_ENFORCE, &yes);
	mysql_options(my, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &yes);
#else
	unsigned mode = SSL_MODE_VERIFY_IDENTITY;

	mysql_options(my, MYSQL_OPT_SSL_MODE, &mode);
#endif
}

static MYSQL *make_handle(const struct sql_conn *c)
{
	const struct dsn *d = &c->dsn;
	unsigned protocol = d->socket ? MYSQL_PROTOCOL_SOCKET : MYSQL_PROTOCOL_TCP;
	unsigned no_local_infile = 0; /* else a server may ask the client for any of its files */
	unsigned long max_packet = 1UL << 30;
	MYSQL *my = mysql_init(NULL);

	if (!my)
		fatal("out of memory");
	mysql_options(my, MYSQL_OPT_PROTOCOL, &protocol);
	mysql_options(my, MYSQL_OPT_LOCAL_INFILE, &no_local_infile);
	mysql_options(my, MYSQL_OPT_MAX_ALLOWED_PACKET, &max_packet);
	mysql_options(my, MYSQL_OPT_CONNECT_TIMEOUT, &c->limits.connect_timeout_s);
	mysql_options(my, MYSQL_OPT_READ_TIMEOUT, &c->limits.io_timeout_s);
	mysql_options(my, MYSQL_OPT_WRITE_TIMEOUT, &c->limits.io_timeout_s);
	mysql_options(my, MYSQL_SET_CHARSET_NAME, "utf8mb4");
	if (d->ssl_ca)
		set_tls(my, d);
	return my;
}

static enum sql_outcome set_session(struct sql_conn *c)
{
	char text[512];
	int n = snprintf(text, sizeof text,
	                 "SET NAMES utf8mb4 COLLATE utf8mb4_bin;"
	                 "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;"
	                 "SET SESSION autocommit=0,wait_timeout=%u,innodb_lock_wait_timeout=%u,"
	                 "lock_wait_timeout=%u,time_zone='+00:00',"
	                 "sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
	                 c->limits.wait_timeout_s, c->limits.lock_wait_s, c->limits.ddl_wait_s);

	return sql_text(c, text, (size_t)n, NULL, SQL_TEXT_PLAIN);
}

int sql_conn_open_at(struct sql_conn *c, unsigned host, struct err *e)
{
	const struct dsn *d = &c->dsn;
	const struct dsn_host *at = &d->hosts[host];
	const char *name = at->name;
	unsigned long flags = CLIENT_FOUND_ROWS | CLIENT_MULTI_STATEMENTS | CLIENT_MULTI_RESULTS;

	sql_conn_close(c);
	c->poisoned = false;
	c->my = make_handle(c);
	if (d->socket)
		name = NULL; /* with a host that is not "localhost" MariaDB's connector prefers TCP
		              */
	if (!mysql_real_connect(c->my, name, d->user, d->password, d->schema, at->port, d->socket,
	                        flags)) {
		conn_failed_query(c, "connect", false);
		sql_conn_close(c);
		c->poisoned = false;
		return err_set(e, (int)c->error_no, "%s", c->error);
	}
	if (d->ssl_ca && !mysql_get_ssl_cipher(c->my)) {
		sql_conn_close(c);
		return err_set(e, 0, "connect: the connection is not encrypted");
	}
	if (set_session(c) != SQL_OK || server_read(c) != SQL_OK) {
		err_set(e, (int)c->error_no, "%s", c->error);
		sql_conn_close(c);
		c->poisoned = false;
		return -1;
	}
	sql_rollback(c);
	return 0;
}

int sql_conn_open(struct sql_conn *c, struct err *e)
{
	for (unsigned i = 0; i < c->dsn.host_count; i++)
		if (sql_conn_open_at(c, i, e) == 0)
			return 0;
	return -1;
}
