#include "sql/migrate.h"

#include "sql/roles.h"
#include "sql/schema.h"

#include <string.h>

enum {
	LOCK_TRIES = 200, /* of LOCK_WAIT_S each: how long another migration may take */
	LOCK_WAIT_S = 3,
	DDL_S = 3600,              /* how long one statement of a step may take */
	ERROR_NO_SUCH_TABLE = 1146 /* the server's number */
};

struct migration {
	struct sql_conn *lock; /* holds the row of schema_lock in an open transaction */
	struct sql_conn *work; /* runs the steps */
	const struct migrate_events *events;
};

static const char bootstrap[] =
        "CREATE TABLE IF NOT EXISTS schema_version ("
        " version INT UNSIGNED NOT NULL COMMENT 'number of the step',"
        " name VARBINARY(64) NOT NULL,"
        " applied_at DATETIME(3) NOT NULL DEFAULT (UTC_TIMESTAMP(3)),"
        " PRIMARY KEY (version)) ENGINE=InnoDB COMMENT='schema steps that were run';"
        "CREATE TABLE IF NOT EXISTS schema_lock ("
        " id TINYINT UNSIGNED NOT NULL COMMENT 'always 1',"
        " PRIMARY KEY (id)) ENGINE=InnoDB COMMENT='locked by the migration that is running';"
        "INSERT IGNORE INTO schema_lock VALUES (1);"
        "COMMIT";

static int failed(const struct sql_conn *c, const char *doing, struct err *e)
{
	return err_set(e, (int)sql_errno(c), "%s: %s", doing, sql_error(c));
}

static enum sql_outcome run(struct sql_conn *c, const char *text, const struct sql_text_sink *sink,
                            enum sql_text_flags flags)
{
	return sql_text(c, text, strlen(text), sink, flags);
}

static int on_number(void *arg, const struct sql_cell *cells, unsigned n)
{
	(void)n;
	*(uint64_t *)arg = cells[0].u;
	return 0;
}

static enum sql_outcome query_number(struct sql_conn *c, const char *text, uint64_t *out)
{
	struct sql_text_sink sink = {.on_row = on_number, .arg = out};

	*out = 0;
	return run(c, text, &sink, SQL_TEXT_PLAIN);
}

/* The schema's version, 0 when it has none yet. */
static int read_version(struct sql_conn *c, unsigned *version, struct err *e)
{
	uint64_t n;
	enum sql_outcome o =
	        query_number(c, "SELECT COALESCE(MAX(version),0) FROM schema_version", &n);

	if (o != SQL_OK && sql_errno(c) != ERROR_NO_SUCH_TABLE)
		return failed(c, "schema version", e);
	sql_rollback(c);
	*version = (unsigned)n;
	return 0;
}

static int refuse_newer(unsigned version, struct err *e)
{
	if (version <= schema_latest())
		return 0;
	return err_set(
	        e, 0,
	        "the schema is at version %u, this leat knows versions up to %u: use the newer "
	        "leat that migrated it",
	        version, schema_latest());
}

/* ---- the lock ---------------------------------------------------------------------------------
 */

/* The two tables that everything else stands on. Looked for first: creating them, even IF NOT
 * EXISTS, would wait for a migration that holds the lock. */
static int make_lock_row(struct sql_conn *c, struct err *e)
{
	uint64_t n;

	for (int tries = 0; tries < 5; tries++) {
		enum sql_outcome o = query_number(c, "SELECT COUNT(*) FROM schema_lock", &n);

		sql_rollback(c);
		if (o == SQL_OK && n == 1)
			return 0;
		if (o != SQL_OK && sql_errno(c) != ERROR_NO_SUCH_TABLE)
			break;
		o = run(c, bootstrap, NULL, SQL_TEXT_COMMITS);
		sql_rollback(c);
		/* RETRY: another migration is just making them */
		if (o != SQL_OK && o != SQL_RETRY)
			break;
	}
	return failed(c, "schema_lock", e);
}

static int take_lock(struct migration *m, struct err *e)
{
	uint64_t id;

	for (int tries = 0; tries < LOCK_TRIES; tries++) {
		enum sql_outcome o = query_number(
		        m->lock, "SELECT id FROM schema_lock WHERE id=1 FOR UPDATE", &id);

		if (o == SQL_OK)
			return id == 1 ? 0 : err_set(e, 0, "schema_lock: its row is gone");
		sql_rollback(m->lock);
		if (o != SQL_RETRY || !sql_conn_is_open(m->lock))
			return failed(m->lock, "schema_lock", e);
		if (tries == 0 && m->events && m->events->on_wait)
			m->events->on_wait(m->events->arg);
	}
	return err_set(e, 0, "another migration has been running for %d s: see SHOW PROCESSLIST",
	               LOCK_TRIES * LOCK_WAIT_S);
}

static int check_lock(struct migration *m, struct err *e)
{
	if (run(m->lock, "SELECT 1", NULL, SQL_TEXT_PLAIN) != SQL_OK)
		return failed(m->lock, "schema_lock was lost: run this again", e);
	return 0;
}

/* ---- steps ------------------------------------------------------------------------------------
 */

static int record(struct migration *m, const struct schema_step *step, struct err *e)
{
	struct sql_param params[] = {sql_u64(step->version),
	                             sql_bytes(step->name, strlen(step->name))};

	if (sql_exec(m->work, STMT_SCHEMA_RECORD, params, 2) != SQL_OK ||
	    sql_commit(m->work) != SQL_OK)
		return failed(m->work, step->name, e);
	return 0;
}

static int run_step(struct migration *m, unsigned version, struct err *e)
{
	struct schema_step step = schema_step(version);
	enum sql_outcome o;

	if (m->events && m->events->on_step)
		m->events->on_step(m->events->arg, version, step.name);
	if (check_lock(m, e))
		return -1;
	o = sql_text(m->work, step.text.p, step.text.n, NULL, SQL_TEXT_COMMITS);
	if (o == SQL_OK)
		o = sql_commit(m->work);
	if (o != SQL_OK)
		return err_set(e, (int)sql_errno(m->work), "schema step %04u_%s, statement %u: %s",
		               version, step.name, sql_text_result(m->work) + 1,
		               sql_error(m->work));
	return record(m, &step, e);
}

static int run_steps(struct migration *m, unsigned *before, unsigned *after, struct err *e)
{
	if (make_lock_row(m->work, e) || take_lock(m, e) || read_version(m->work, before, e))
		return -1;
	if (refuse_newer(*before, e))
		return -1;
	for (*after = *before; *after < schema_latest(); ++*after)
		if (run_step(m, *after + 1, e))
			return -1;
	return 0;
}

/* Every time: a procedure that was made anew has lost its grants, and an account with more rights
 * may come later. Without the roles everything works, for accounts that have rights of their own.
 */
static void make_roles(struct migration *m, const char *schema)
{
	struct err e;

	if (roles_grant(m->work, schema, &e) && m->events && m->events->on_no_roles)
		m->events->on_no_roles(m->events->arg, e.text);
}

static struct sql_conn *open_conn(const struct dsn *dsn, struct err *e)
{
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	struct sql_conn *c;

	limits.wait_timeout_s = DDL_S; /* the lock connection is idle while a step runs */
	limits.io_timeout_s = DDL_S;
	limits.lock_wait_s = LOCK_WAIT_S;
	limits.ddl_wait_s = 60; /* a transaction on the table; the nodes' own last milliseconds */
	c = sql_conn_new(dsn, &limits);
	if (sql_conn_open(c, e) == 0)
		return c;
	sql_conn_free(c);
	return NULL;
}

int migrate_run(const struct dsn *dsn, const struct migrate_events *events,
                unsigned *version_before, unsigned *version_after, struct err *e)
{
	struct migration m = {.events = events};
	int rc = -1;

	m.lock = open_conn(dsn, e);
	m.work = m.lock ? open_conn(dsn, e) : NULL;
	/* Durability is the nodes' business; version and writability are this command's too. */
	if (m.work && sql_check_durable(sql_conn_server(m.work), true, e) == 0)
		rc = run_steps(&m, version_before, version_after, e);
	if (rc == 0)
		make_roles(&m, dsn->schema);
	sql_conn_free(m.work);
	sql_conn_free(m.lock);
	return rc;
}

int sql_schema_check(struct sql_conn *c, struct err *e)
{
	unsigned version = 0;

	if (read_version(c, &version, e) || refuse_newer(version, e))
		return -1;
	if (version < schema_latest())
		return err_set(e, 0,
		               "the schema is at version %u, this leat needs %u: run `leat migrate "
		               "--db …`",
		               version, schema_latest());
	return 0;
}
