#include "sql/doctor.h"

#include "base/mem.h"
#include "sql/conn.h"
#include "sql/rights.h"
#include "sql/sql.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
	MIB = 1 << 20,
	PACKET_MIN = 2 * MIB,   /* an event of the default --max-packet, and what surrounds it */
	PACKET_GOOD = 16 * MIB, /* what docs/operators.md asks for */
	POOL_SMALL = 128 * MIB, /* the servers' own default */
	REDO_SMALL = 64 * MIB,
	OTHER_CONNECTIONS = 10, /* people, backups, monitoring */
	CLOCK_ADVICE_MS = 1000,
	CLOCK_PROBLEM_MS = 60000,
	ROUND_TRIP_ADVICE_US = 2000,
	ROUND_TRIP_PROBLEM_US = 100000,
	COMMIT_ADVICE_US = 10000,
	COMMIT_PROBLEM_US = 1000000, /* renewals then come too late for the TTL */
};

/* ---- facts --------------------------------------------------------------------------------------
 */

struct fact {
	char *name;
	char *text;
};

static void fact_free(struct fact *x)
{
	if (!x)
		return;
	free(x->name);
	free(x->text);
	free(x);
}

void facts_set(struct facts *f, const char *name, const char *text)
{
	struct fact *x = xcalloc(1, sizeof *x);

	fact_free(map_del(&f->texts, name, strlen(name)));
	x->name = xstrdup(name);
	x->text = xstrdup(text);
	map_put(&f->texts, x->name, strlen(x->name), x);
}

const char *facts_get(const struct facts *f, const char *name)
{
	const struct fact *x = map_get(&f->texts, name, strlen(name));

	return x ? x->text : "";
}

void facts_release(struct facts *f)
{
	struct fact *x;
	size_t at = 0;

	while ((x = map_next(&f->texts, &at)))
		fact_free(x);
	map_release(&f->texts);
}

static bool is_known(const struct facts *f, const char *name)
{
	return *facts_get(f, name) != '\0';
}

static bool is_on(const struct facts *f, const char *name)
{
	const char *v = facts_get(f, name);

	return *v && strcmp(v, "0") != 0 && strcasecmp(v, "OFF") != 0;
}

static bool is(const struct facts *f, const char *name, const char *text)
{
	return strcasecmp(facts_get(f, name), text) == 0;
}

static uint64_t number(const struct facts *f, const char *name)
{
	return strtoull(facts_get(f, name), NULL, 10);
}

/* ---- findings -----------------------------------------------------------------------------------
 */

static void found(struct doctor_finding *out, const char *fmt, ...)
        __attribute__((format(printf, 2, 3)));
static void judge(struct doctor_finding *out, enum doctor_verdict v, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

static void found(struct doctor_finding *out, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(out->found, sizeof out->found, fmt, ap);
	va_end(ap);
}

/* The worst verdict of a check stands, with what to change for it; the first of equals. */
static void judge(struct doctor_finding *out, enum doctor_verdict v, const char *fmt, ...)
{
	va_list ap;

	if (v <= out->verdict)
		return;
	out->verdict = v;
	va_start(ap, fmt);
	vsnprintf(out->change, sizeof out->change, fmt, ap);
	va_end(ap);
}

const char *doctor_verdict_name(enum doctor_verdict v)
{
	static const char *const names[] = {"ok", "advice", "problem"};

	return names[v];
}

/* ---- the server ---------------------------------------------------------------------------------
 */

static void check_version(const struct facts *f, const struct doctor_settings *s,
                          struct doctor_finding *out)
{
	struct sql_server server = {.max_packet = UINT64_MAX}; /* judged by check_packet */
	struct err e;

	(void)s;
	sql_server_set(&server, "version", facts_get(f, "version"));
	found(out, "%s%s%s", *server.version ? server.version : "unknown",
	      is_known(f, "version_comment") ? ", " : "", facts_get(f, "version_comment"));
	if (strcasestr(server.version, "tidb") || strcasestr(server.version, "vitess"))
		judge(out, DOCTOR_PROBLEM,
		      "use MariaDB, MySQL or Galera: this one is not supported");
	if (sql_check_durable(&server, true, &e) < 0)
		judge(out, DOCTOR_PROBLEM, "upgrade to MariaDB 10.6 or MySQL 8.0.16, or newer");
}

static void check_writable(const struct facts *f, const struct doctor_settings *s,
                           struct doctor_finding *out)
{
	static const char *const names[] = {"read_only", "super_read_only", "innodb_read_only"};

	(void)s;
	found(out, "writes are allowed");
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (!is_on(f, names[i]))
			continue;
		found(out, "%s=%s", names[i], facts_get(f, names[i]));
		judge(out, DOCTOR_PROBLEM,
		      "connect to the primary; if this is it: SET GLOBAL %s=OFF", names[i]);
	}
}

static enum doctor_verdict unsafe(const struct doctor_settings *s)
{
	return s->accept_data_loss ? DOCTOR_ADVICE : DOCTOR_PROBLEM;
}

static void check_durability(const struct facts *f, const struct doctor_settings *s,
                             struct doctor_finding *out)
{
	bool binlog = is_on(f, "log_bin");

	found(out, "innodb_flush_log_at_trx_commit=%s%s%s, innodb_flush_method=%s",
	      facts_get(f, "innodb_flush_log_at_trx_commit"), binlog ? ", sync_binlog=" : "",
	      binlog ? facts_get(f, "sync_binlog") : "", facts_get(f, "innodb_flush_method"));
	if (number(f, "innodb_flush_log_at_trx_commit") != 1)
		judge(out, unsafe(s),
		      "SET GLOBAL innodb_flush_log_at_trx_commit=1, and in the server's "
		      "configuration");
	if (binlog && number(f, "sync_binlog") != 1)
		judge(out, unsafe(s),
		      "SET GLOBAL sync_binlog=1, and in the server's configuration");
	if (is(f, "innodb_flush_method", "nosync"))
		judge(out, unsafe(s),
		      "remove innodb_flush_method=nosync from the server's configuration and "
		      "restart it");
	if (is_known(f, "innodb_doublewrite") && !is_on(f, "innodb_doublewrite"))
		judge(out, DOCTOR_ADVICE,
		      "set innodb_doublewrite=ON, unless the file system writes whole pages (ZFS)");
}

static void check_binlog(const struct facts *f, const struct doctor_settings *s,
                         struct doctor_finding *out)
{
	(void)s;
	if (!is_on(f, "log_bin")) {
		found(out, "log_bin=OFF");
		judge(out, DOCTOR_ADVICE,
		      "start the server with log_bin: without it there is no replica to fail "
		      "over to and no restore to a point in time");
		return;
	}
	found(out, "log_bin=ON, binlog_format=%s", facts_get(f, "binlog_format"));
	if (is(f, "binlog_format", "STATEMENT"))
		judge(out, DOCTOR_PROBLEM,
		      "SET GLOBAL binlog_format=ROW, and in the server's configuration");
}

static void check_packet(const struct facts *f, const struct doctor_settings *s,
                         struct doctor_finding *out)
{
	uint64_t bytes = number(f, "max_allowed_packet");

	(void)s;
	found(out, "max_allowed_packet=%" PRIu64 " (%" PRIu64 " MiB)", bytes, bytes / MIB);
	if (bytes < PACKET_MIN)
		judge(out, DOCTOR_PROBLEM,
		      "SET GLOBAL max_allowed_packet=67108864, and in the server's configuration");
	if (bytes < PACKET_GOOD)
		judge(out, DOCTOR_ADVICE,
		      "SET GLOBAL max_allowed_packet=67108864, and in the server's configuration");
}

/* What sql/conn.c sets, as the connection has it afterwards. */
static const struct {
	const char *name, *wanted;
} session_rules[] = {
        {"leat.session.transaction_isolation", "READ-COMMITTED"},
        {"leat.session.autocommit", "0"},
        {"leat.session.wait_timeout", "6"},
        {"leat.session.innodb_lock_wait_timeout", "1"},
        {"leat.session.time_zone", "+00:00"},
        {"leat.session.character_set_client", "utf8mb4"},
        {"leat.session.character_set_connection", "utf8mb4"},
        {"leat.session.sql_mode", "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"},
};

static void check_session(const struct facts *f, const struct doctor_settings *s,
                          struct doctor_finding *out)
{
	(void)s;
	found(out, "as set: READ COMMITTED, wait_timeout=6, innodb_lock_wait_timeout=1, UTC, "
	           "utf8mb4, strict");
	for (size_t i = 0; i < sizeof session_rules / sizeof *session_rules; i++) {
		const char *name = session_rules[i].name;

		if (is(f, name, session_rules[i].wanted))
			continue;
		found(out, "%s=%s in our session, where %s was set", name + strlen("leat.session."),
		      facts_get(f, name), session_rules[i].wanted);
		judge(out, DOCTOR_PROBLEM,
		      "connect to the server itself, or set the proxy between to keep one "
		      "server connection for each client and pass SET on");
	}
}

static void check_statement_limit(const struct facts *f, const struct doctor_settings *s,
                                  struct doctor_finding *out)
{
	static const char *const names[] = {"max_statement_time", "max_execution_time"};

	(void)s;
	found(out, "statements may take their time");
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (strtod(facts_get(f, names[i]), NULL) == 0)
			continue;
		found(out, "%s=%s", names[i], facts_get(f, names[i]));
		judge(out, DOCTOR_ADVICE,
		      "SET GLOBAL %s=0, or exempt the account: lock waits are bounded by the "
		      "nodes themselves",
		      names[i]);
	}
}

/* ---- size ---------------------------------------------------------------------------------------
 */

static void check_connections(const struct facts *f, const struct doctor_settings *s,
                              struct doctor_finding *out)
{
	uint64_t most = number(f, "max_connections");
	uint64_t per_user = number(f, "max_user_connections");
	uint64_t now = (uint64_t)s->nodes * SQL_CONNECTIONS;
	uint64_t replaced = 2 * now + OTHER_CONNECTIONS;

	found(out, "max_connections=%" PRIu64 ", most used %s; %u nodes keep %" PRIu64, most,
	      facts_get(f, "Max_used_connections"), s->nodes, now);
	if (per_user && per_user < most) {
		most = per_user;
		found(out, "max_user_connections=%" PRIu64 "; %u nodes keep %" PRIu64, most,
		      s->nodes, now);
	}
	if (most < now + 1)
		judge(out, DOCTOR_PROBLEM, "SET GLOBAL %s=%" PRIu64 ", and in the configuration",
		      per_user == most ? "max_user_connections" : "max_connections", replaced);
	if (most < replaced)
		judge(out, DOCTOR_ADVICE,
		      "SET GLOBAL %s=%" PRIu64 " or more, and in the configuration: a rolling "
		      "restart needs twice as many",
		      per_user == most ? "max_user_connections" : "max_connections", replaced);
}

static void check_memory(const struct facts *f, const struct doctor_settings *s,
                         struct doctor_finding *out)
{
	uint64_t bytes = number(f, "innodb_buffer_pool_size");

	(void)s;
	found(out, "innodb_buffer_pool_size=%" PRIu64 " MiB", bytes / MIB);
	if (bytes <= POOL_SMALL)
		judge(out, DOCTOR_ADVICE,
		      "set innodb_buffer_pool_size to half of the server's memory; at least 1G");
}

static void check_redo(const struct facts *f, const struct doctor_settings *s,
                       struct doctor_finding *out)
{
	bool capacity = is_known(f, "innodb_redo_log_capacity");
	const char *name = capacity ? "innodb_redo_log_capacity" : "innodb_log_file_size";

	(void)s;
	found(out, "%s=%" PRIu64 " MiB", name, number(f, name) / MIB);
	if (number(f, name) < REDO_SMALL)
		judge(out, DOCTOR_ADVICE, "set %s=1G in the server's configuration", name);
}

static void galera_provider(const struct facts *f, struct doctor_finding *out)
{
	if (number(f, "wsrep_trx_fragment_size"))
		judge(out, DOCTOR_ADVICE,
		      "SET GLOBAL wsrep_trx_fragment_size=0: streaming replication only costs "
		      "here");
	if (number(f, "wsrep_max_ws_size") && number(f, "wsrep_max_ws_size") < PACKET_GOOD)
		judge(out, DOCTOR_PROBLEM, "SET GLOBAL wsrep_max_ws_size=2147483647");
	if (number(f, "wsrep_cluster_size") < 3)
		judge(out, DOCTOR_ADVICE,
		      "run three members (or two and garbd): with fewer, one that dies stops all");
	if (number(f, "wsrep_cluster_size") % 2 == 0)
		judge(out, DOCTOR_ADVICE,
		      "run an odd number of members: an even split has no majority");
}

static void check_galera(const struct facts *f, const struct doctor_settings *s,
                         struct doctor_finding *out)
{
	(void)s;
	found(out, "not a Galera member");
	if (!is_on(f, "wsrep_on"))
		return;
	found(out, "%s, ready=%s, %s members, %s", facts_get(f, "wsrep_cluster_status"),
	      facts_get(f, "wsrep_ready"), facts_get(f, "wsrep_cluster_size"),
	      facts_get(f, "wsrep_local_state_comment"));
	if (!is(f, "wsrep_cluster_status", "Primary"))
		judge(out, DOCTOR_PROBLEM,
		      "this member is outside the primary component: bring the majority back, or "
		      "connect to a member inside");
	if (!is_on(f, "wsrep_ready"))
		judge(out, DOCTOR_PROBLEM,
		      "this member is not ready (%s): wait, or connect to another",
		      facts_get(f, "wsrep_local_state_comment"));
	if (!is(f, "binlog_format", "ROW"))
		judge(out, DOCTOR_PROBLEM, "SET GLOBAL binlog_format=ROW, on every member");
	if (number(f, "innodb_autoinc_lock_mode") != 2)
		judge(out, DOCTOR_PROBLEM,
		      "set innodb_autoinc_lock_mode=2 in every member's configuration");
	galera_provider(f, out);
}

/* ---- the account --------------------------------------------------------------------------------
 */

static void check_rights(const struct facts *f, const struct doctor_settings *s,
                         struct doctor_finding *out)
{
	static const char *const node[] = {"SELECT", "INSERT", "UPDATE", "DELETE"};
	static const char *const migrate[] = {"CREATE",         "ALTER",         "DROP",
	                                      "INDEX",          "CREATE VIEW",   "REFERENCES",
	                                      "CREATE ROUTINE", "ALTER ROUTINE", "EXECUTE"};
	static const char *const excess[] = {"SUPER",        "FILE",   "SHUTDOWN", "CREATE USER",
	                                     "GRANT OPTION", "RELOAD", "PROCESS"};
	const char *schema = facts_get(f, "leat.schema");
	struct rights r;
	char names[128];

	(void)s;
	rights_parse(&r, facts_get(f, "leat.grants"), schema);
	found(out, "rights on `%s` as nodes and `leat migrate` need them", schema);
	rights_list(&r, node, sizeof node / sizeof *node, false, names, sizeof names);
	if (*names && r.node_role)
		found(out, "the role `%s_node`: enough for nodes", schema);
	else if (*names) {
		found(out, "on `%s` missing for nodes: %s%s", schema, names,
		      r.has_role ? " (roles are not looked into)" : "");
		judge(out, r.has_role ? DOCTOR_ADVICE : DOCTOR_PROBLEM, "GRANT %s ON `%s`.* TO %s",
		      names, schema, facts_get(f, "leat.account"));
	}
	rights_list(&r, excess, sizeof excess / sizeof *excess, true, names, sizeof names);
	if (*names && out->verdict == DOCTOR_OK) {
		found(out, "the account may do more than it needs, on *.*: %s", names);
		judge(out, DOCTOR_ADVICE,
		      "make an account with GRANT ALL ON `%s`.* and nothing else, and use it in "
		      "the DSN",
		      schema);
	}
	rights_list(&r, migrate, sizeof migrate / sizeof *migrate, false, names, sizeof names);
	if (*names && out->verdict == DOCTOR_OK && !r.node_role)
		found(out, "enough for nodes; `leat migrate` needs an account with %s too", names);
}

static void check_schema(const struct facts *f, const struct doctor_settings *s,
                         struct doctor_finding *out)
{
	(void)s;
	if (is_known(f, "leat.schema_problem")) {
		found(out, "%s", facts_get(f, "leat.schema_problem"));
		judge(out, DOCTOR_PROBLEM,
		      "`leat migrate --db …`; when the schema is the newer one, a newer leat");
		return;
	}
	found(out, "version %s, as this leat wants it", facts_get(f, "leat.schema_version"));
}

/* ---- what was measured --------------------------------------------------------------------------
 */

static void check_clock(const struct facts *f, const struct doctor_settings *s,
                        struct doctor_finding *out)
{
	int64_t ms = strtoll(facts_get(f, "leat.clock_ahead_ms"), NULL, 10);
	uint64_t by = (uint64_t)(ms < 0 ? -ms : ms);

	(void)s;
	found(out, "the server's clock is %" PRIu64 " ms %s this machine's", by,
	      ms < 0 ? "behind" : "ahead of");
	if (by >= CLOCK_PROBLEM_MS)
		judge(out, DOCTOR_PROBLEM, "run NTP (chrony, systemd-timesyncd) on both machines");
	if (by >= CLOCK_ADVICE_MS)
		judge(out, DOCTOR_ADVICE, "run NTP (chrony, systemd-timesyncd) on both machines");
}

static void check_round_trip(const struct facts *f, const struct doctor_settings *s,
                             struct doctor_finding *out)
{
	uint64_t us = number(f, "leat.round_trip_us");

	(void)s;
	found(out, "median %" PRIu64 ".%03" PRIu64 " ms", us / 1000, us % 1000);
	if (us >= ROUND_TRIP_PROBLEM_US)
		judge(out, DOCTOR_PROBLEM, "run the nodes in the database's region and network");
	if (us >= ROUND_TRIP_ADVICE_US)
		judge(out, DOCTOR_ADVICE,
		      "run the nodes in the same zone as the database's primary");
}

static void check_commit(const struct facts *f, const struct doctor_settings *s,
                         struct doctor_finding *out)
{
	uint64_t us = number(f, "leat.commit_us");
	uint64_t worst = number(f, "leat.commit_worst_us");

	(void)s;
	if (!is_known(f, "leat.commit_us")) {
		found(out, "not measured: %s", facts_get(f, "leat.commit_problem"));
		judge(out, DOCTOR_ADVICE, "see the other findings first, then run this again");
		return;
	}
	found(out, "median %" PRIu64 ".%03" PRIu64 " ms, worst %" PRIu64 ".%03" PRIu64 " ms",
	      us / 1000, us % 1000, worst / 1000, worst % 1000);
	if (us >= COMMIT_PROBLEM_US)
		judge(out, DOCTOR_PROBLEM,
		      "find out what holds the server's commits up: its disk, or a replica that "
		      "must answer first");
	if (us >= COMMIT_ADVICE_US)
		judge(out, DOCTOR_ADVICE,
		      "give the server a disk with a fast fsync (local NVMe, or provisioned IOPS)");
}

/* Only who has PROCESS sees other accounts' transactions, and nodes need it for nothing. */
static void check_locks(const struct facts *f, const struct doctor_settings *s,
                        struct doctor_finding *out)
{
	(void)s;
	found(out, "no transaction that has locked rows is open for longer than 5 s");
	if (is_known(f, "leat.holders_problem"))
		found(out,
		      "not looked at, since the account may not (PROCESS): ask as an administrator "
		      "when "
		      "writers wait, see docs/admins.md; %s",
		      facts_get(f, "leat.holders_problem"));
	if (!is_known(f, "leat.holders"))
		return;
	found(out, "%s", facts_get(f, "leat.holders"));
	if (number(f, "leat.holder_thread"))
		judge(out, DOCTOR_ADVICE,
		      "if writers wait, end it: KILL %" PRIu64
		      "; and see that its application ends its "
		      "transactions sooner",
		      number(f, "leat.holder_thread"));
	else
		judge(out, DOCTOR_ADVICE,
		      "if writers wait, end it: XA RECOVER shows it, XA ROLLBACK ends it");
}

static void check_tls(const struct facts *f, const struct doctor_settings *s,
                      struct doctor_finding *out)
{
	(void)s;
	if (is_known(f, "Ssl_cipher")) {
		found(out, "%s, the server's certificate verified", facts_get(f, "Ssl_cipher"));
		return;
	}
	found(out, "no TLS, %s",
	      is_on(f, "leat.local") ? "within this machine" : "over the network");
	if (!is_on(f, "leat.local"))
		judge(out, DOCTOR_ADVICE,
		      "add ssl-ca=FILE to the DSN, and ALTER USER %s REQUIRE SSL",
		      facts_get(f, "leat.account"));
}

void doctor_check(const struct facts *f, const struct doctor_settings *settings,
                  enum doctor_check check, struct doctor_finding *out)
{
	static const struct {
		const char *name, *why;
		void (*check)(const struct facts *, const struct doctor_settings *,
		              struct doctor_finding *);
	} table[] = {
#define DOCTOR_CHECK(name, why) {#name, why, check_##name},
#include "sql/doctor.def"
#undef DOCTOR_CHECK
	};

	*out = (struct doctor_finding){.check = table[check].name, .why = table[check].why};
	table[check].check(f, settings, out);
}
