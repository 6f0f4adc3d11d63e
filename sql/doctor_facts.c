/* doctor_facts: what `leat doctor` knows of a server: see sql/doctor.h. */
#include "sql/doctor.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/id128.h"
#include "base/mem.h"
#include "base/order.h"
#include "sql/conn.h"
#include "sql/migrate.h"
#include "sql/schema.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 21 };

/* Of transactions that are open for long and have locked or changed rows. Their times are the
 * server's own, whatever the session's zone. */
#define HOLDERS_OPEN_S "5"
#define HOLDERS                                                                     \
	"SELECT CONCAT(IF(t.trx_mysql_thread_id=0,'a prepared XA transaction',"     \
	"CONCAT('thread ',t.trx_mysql_thread_id,' of "                              \
	"',COALESCE(p.USER,'?'),'@',COALESCE(p.HOST,'?'),"                          \
	"' in ',COALESCE(p.DB,'no schema'),' (',COALESCE(p.COMMAND,'?'),')')),"     \
	"', open for ',TIMESTAMPDIFF(SECOND,t.trx_started,NOW()),' s, rows locked " \
	"',t.trx_rows_locked,"                                                      \
	"', changed ',t.trx_rows_modified),t.trx_mysql_thread_id"                   \
	" FROM information_schema.innodb_trx t"                                     \
	" LEFT JOIN information_schema.processlist p ON p.ID=t.trx_mysql_thread_id" \
	" WHERE t.trx_started<NOW()-INTERVAL " HOLDERS_OPEN_S " SECOND"             \
	" AND (t.trx_rows_locked>0 OR t.trx_rows_modified>0) AND "                  \
	"t.trx_mysql_thread_id<>CONNECTION_ID()"                                    \
	" ORDER BY t.trx_rows_locked=0,t.trx_started LIMIT 3"

struct reader {
	struct facts *facts;
	struct sql_conn *conn;
	struct err *e;
};

static void set_number(struct facts *f, const char *name, int64_t v)
{
	char text[24];

	snprintf(text, sizeof text, "%" PRId64, v);
	facts_set(f, name, text);
}

static void set_slice(struct facts *f, const char *name, struct slice text)
{
	char *copy = xstrndup(text.p, text.n);

	facts_set(f, name, copy);
	free(copy);
}

/* ---- reading ------------------------------------------------------------------------------------
 */

static int failed(struct reader *r)
{
	return err_set(r->e, (int)sql_errno(r->conn), "%s", sql_error(r->conn));
}

static int run(struct reader *r, const char *text, sql_row_fn on_row, void *arg)
{
	struct sql_text_sink sink = {.on_row = on_row, .arg = arg};

	return sql_text(r->conn, text, strlen(text), &sink, SQL_TEXT_PLAIN) == SQL_OK ? 0
	                                                                              : failed(r);
}

/* name, value */
static int on_setting(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct facts *f = arg;
	char name[128];

	if (n < 2)
		return 1;
	snprintf(name, sizeof name, "%.*s", (int)cells[0].bytes.n, cells[0].bytes.p);
	set_slice(f, name, cells[1].bytes);
	return 0;
}

static int on_session(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct facts *f = arg;
	char name[128];

	if (n < 2)
		return 1;
	snprintf(name, sizeof name, "leat.session.%.*s", (int)cells[0].bytes.n, cells[0].bytes.p);
	if (strcmp(name, "leat.session.tx_isolation") == 0) /* MariaDB's name for it before 11.1 */
		snprintf(name, sizeof name, "leat.session.transaction_isolation");
	set_slice(f, name, cells[1].bytes);
	return 0;
}

static int on_grant(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct buf *out = arg;

	if (n) {
		buf_append_slice(out, cells[0].bytes);
		buf_u8(out, '\n');
	}
	return 0;
}

static int on_account(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct facts *f = arg;

	if (n)
		set_slice(f, "leat.account", cells[0].bytes);
	return 1;
}

static int read_rights(struct reader *r)
{
	struct buf grants = {0};
	int rc = run(r, "SHOW GRANTS", on_grant, &grants);
	char *text = xstrndup(grants.data ? grants.data : "", grants.len);

	facts_set(r->facts, "leat.grants", text);
	free(text);
	buf_release(&grants);
	return rc ? rc
	          : run(r,
	                "SELECT CONCAT(QUOTE(SUBSTRING_INDEX(CURRENT_USER(),'@',1)),'@',"
	                "QUOTE(SUBSTRING_INDEX(CURRENT_USER(),'@',-1)))",
	                on_account, r->facts);
}

static int read_settings(struct reader *r)
{
	struct facts *f = r->facts;

	if (run(r, "SHOW GLOBAL VARIABLES", on_setting, f))
		return -1;
	if (run(r,
	        "SHOW GLOBAL STATUS WHERE Variable_name IN ('Max_used_connections',"
	        "'wsrep_cluster_status','wsrep_ready','wsrep_cluster_size',"
	        "'wsrep_local_state_comment')",
	        on_setting, f))
		return -1;
	if (run(r, "SHOW SESSION STATUS LIKE 'Ssl_cipher'", on_setting, f))
		return -1;
	return run(r,
	           "SHOW SESSION VARIABLES WHERE Variable_name IN ('tx_isolation',"
	           "'transaction_isolation','wait_timeout','innodb_lock_wait_timeout','time_zone',"
	           "'character_set_client','character_set_connection','sql_mode')",
	           on_session, f);
}

static int on_count(void *arg, const struct sql_cell *cells, unsigned n)
{
	if (n)
		*(uint64_t *)arg = cells[0].u;
	return 1;
}

/* SHOW says ON and OFF, a SELECT 1 and 0. */
static int read_autocommit(struct reader *r)
{
	uint64_t v = 1;

	if (run(r, "SELECT @@SESSION.autocommit", on_count, &v))
		return -1;
	set_number(r->facts, "leat.session.autocommit", (int64_t)v);
	return 0;
}

static int read_schema(struct reader *r)
{
	struct err e = {0};

	if (sql_schema_check(r->conn, &e) < 0)
		facts_set(r->facts, "leat.schema_problem", e.text);
	else
		set_number(r->facts, "leat.schema_version", schema_latest());
	return sql_conn_is_open(r->conn) ? 0 : failed(r);
}

/* ---- who holds locks ----------------------------------------------------------------------------
 */

static int on_holder(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct facts *f = arg;
	struct buf all = {0};

	if (n < 2)
		return 1;
	if (!*facts_get(f, "leat.holders"))
		set_number(f, "leat.holder_thread", (int64_t)cells[1].u);
	buf_append_str(&all, facts_get(f, "leat.holders"));
	buf_append_str(&all, all.len ? "; " : "");
	buf_append_slice(&all, cells[0].bytes);
	buf_u8(&all, '\0');
	facts_set(f, "leat.holders", all.data);
	buf_release(&all);
	return 0;
}

/* Whom it may not see (PROCESS) it says. */
static int read_holders(struct reader *r)
{
	if (run(r, "SET time_zone='SYSTEM'", NULL, NULL))
		return -1;
	if (run(r, HOLDERS, on_holder, r->facts)) {
		facts_set(r->facts, "leat.holders_problem", r->e->text);
		if (!sql_conn_is_open(r->conn))
			return -1;
	}
	return run(r, "SET time_zone='+00:00'", NULL, NULL);
}

/* ---- measuring ----------------------------------------------------------------------------------
 */

static int measure_round_trip(struct reader *r)
{
	uint64_t us[SAMPLES];

	for (int i = 0; i < SAMPLES; i++) {
		uint64_t from = clock_us();

		if (run(r, "DO 1", NULL, NULL))
			return -1;
		us[i] = clock_us() - from;
	}
	qsort(us, SAMPLES, sizeof *us, order_u64);
	set_number(r->facts, "leat.round_trip_us", (int64_t)us[SAMPLES / 2]);
	return 0;
}

/* Of several looks the quickest: half of its time is the error. */
static int measure_clock(struct reader *r)
{
	static const char text[] =
	        "SELECT TIMESTAMPDIFF(MICROSECOND,'1970-01-01 00:00:00',UTC_TIMESTAMP(6)) DIV 1000";
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < SAMPLES; i++) {
		uint64_t wall_ms = clock_wall_ms_now();
		uint64_t from = clock_us();
		uint64_t server_ms = 0, took;

		if (run(r, text, on_count, &server_ms))
			return -1;
		took = clock_us() - from;
		if (took >= best)
			continue;
		best = took;
		set_number(r->facts, "leat.clock_ahead_ms",
		           (int64_t)server_ms - (int64_t)(wall_ms + took / 2000));
	}
	return 0;
}

/* `text`, which ends where the id of our row is wanted. */
static int write_row(struct reader *r, const char *text, const char *hex)
{
	struct buf b = {0};
	int rc;

	buf_printf(&b, "%sx'%s'", text, hex);
	buf_u8(&b, '\0');
	rc = run(r, b.data, NULL, NULL);
	buf_release(&b);
	return rc;
}

static int commit(struct reader *r)
{
	return sql_commit(r->conn) == SQL_OK ? 0 : failed(r);
}

/* A row of a session that never was, and of no live one: nobody else looks at it. */
static int measure_commits(struct reader *r, const char *hex)
{
	uint64_t us[SAMPLES];

	if (write_row(r, "INSERT INTO writer SET writer_no=0,state=0,session_id=", hex) ||
	    commit(r))
		return -1;
	for (int i = 0; i < SAMPLES; i++) {
		uint64_t from;

		if (write_row(r, "UPDATE writer SET fence=fence+1 WHERE session_id=", hex))
			return -1;
		from = clock_us();
		if (commit(r))
			return -1;
		us[i] = clock_us() - from;
	}
	qsort(us, SAMPLES, sizeof *us, order_u64);
	set_number(r->facts, "leat.commit_us", (int64_t)us[SAMPLES / 2]);
	set_number(r->facts, "leat.commit_worst_us", (int64_t)us[SAMPLES - 1]);
	return 0;
}

/* A server that cannot be written to is a finding, not a failure, though it ends the connection:
 * the last step, then. */
static int measure_commit(struct reader *r)
{
	struct id128 id = id128_random();
	char hex[ID128_HEX];

	if (*facts_get(r->facts, "leat.schema_problem")) {
		facts_set(r->facts, "leat.commit_problem", "there is no schema to write to");
		return 0;
	}
	id128_hex(&id, hex);
	if (measure_commits(r, hex))
		facts_set(r->facts, "leat.commit_problem", r->e->text);
	sql_rollback(r->conn);
	if (write_row(r, "DELETE FROM writer WHERE session_id=", hex) == 0)
		commit(r);
	return 0;
}

/* ---- all of it ----------------------------------------------------------------------------------
 */

static bool is_local(const struct dsn *d, const char *host)
{
	return d->socket || strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 ||
	       strcmp(host, "::1") == 0;
}

int facts_read(struct facts *f, const struct dsn *dsn, unsigned host, struct err *e)
{
	static int (*const steps[])(struct reader *) = {
	        read_settings, read_autocommit,    read_rights,   read_schema,
	        read_holders,  measure_round_trip, measure_clock, measure_commit,
	};
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	struct reader r = {.facts = f, .conn = sql_conn_new(dsn, &limits), .e = e};
	int rc = sql_conn_open_at(r.conn, host, e);

	facts_set(f, "leat.schema", dsn->schema);
	facts_set(f, "leat.local", is_local(dsn, dsn->hosts[host].name) ? "ON" : "OFF");
	for (size_t i = 0; rc == 0 && i < sizeof steps / sizeof *steps; i++) {
		rc = steps[i](&r);
		sql_rollback(r.conn);
	}
	sql_conn_free(r.conn);
	return rc;
}
