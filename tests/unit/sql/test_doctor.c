/* Every check of doctor.def: a server as it should be, then one fact at a time that is not. */
#include "sql/doctor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct doctor_settings three_nodes = {.nodes = 3};

static const struct {
	const char *name, *text;
} good[] = {
        {"version", "10.11.6-MariaDB-log"},
        {"version_comment", "Debian"},
        {"read_only", "OFF"},
        {"innodb_flush_log_at_trx_commit", "1"},
        {"innodb_flush_method", "O_DIRECT"},
        {"innodb_doublewrite", "ON"},
        {"log_bin", "ON"},
        {"sync_binlog", "1"},
        {"binlog_format", "ROW"},
        {"max_allowed_packet", "67108864"},
        {"leat.session.transaction_isolation", "READ-COMMITTED"},
        {"leat.session.autocommit", "0"},
        {"leat.session.wait_timeout", "6"},
        {"leat.session.innodb_lock_wait_timeout", "1"},
        {"leat.session.time_zone", "+00:00"},
        {"leat.session.character_set_client", "utf8mb4"},
        {"leat.session.character_set_connection", "utf8mb4"},
        {"leat.session.sql_mode", "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"},
        {"max_statement_time", "0.000000"},
        {"max_connections", "500"},
        {"max_user_connections", "0"},
        {"Max_used_connections", "20"},
        {"innodb_buffer_pool_size", "1073741824"},
        {"innodb_log_file_size", "1073741824"},
        {"innodb_autoinc_lock_mode", "2"},
        {"wsrep_on", "OFF"},
        {"wsrep_cluster_status", "Primary"},
        {"wsrep_ready", "ON"},
        {"wsrep_cluster_size", "3"},
        {"wsrep_trx_fragment_size", "0"},
        {"wsrep_max_ws_size", "2147483647"},
        {"leat.schema", "leat"},
        {"leat.account", "'leat'@'%'"},
        {"leat.grants", "GRANT USAGE ON *.* TO `leat`@`%`\n"
                        "GRANT ALL PRIVILEGES ON `leat`.* TO `leat`@`%`\n"},
        {"leat.schema_version", "3"},
        {"leat.clock_ahead_ms", "-3"},
        {"leat.round_trip_us", "210"},
        {"leat.commit_us", "600"},
        {"leat.commit_worst_us", "2100"},
        {"leat.local", "OFF"},
        {"Ssl_cipher", "TLS_AES_256_GCM_SHA384"},
};

/* NAME=TEXT, up to three, on top of a good server. */
struct row {
	enum doctor_check check;
	enum doctor_verdict verdict;
	const char *facts[4];
	const char *says; /* in found or change; NULL = anything */
};

static void set_text(struct facts *f, const char *text)
{
	char name[64];
	size_t n = strcspn(text, "=");

	snprintf(name, sizeof name, "%.*s", (int)n, text);
	facts_set(f, name, text + n + 1);
}

static struct doctor_finding examine(const struct row *row, const struct doctor_settings *settings)
{
	struct doctor_finding out;
	struct facts f = {0};

	for (size_t i = 0; i < sizeof good / sizeof *good; i++)
		facts_set(&f, good[i].name, good[i].text);
	for (size_t i = 0; i < 4 && row->facts[i]; i++)
		set_text(&f, row->facts[i]);
	doctor_check(&f, settings, row->check, &out);
	facts_release(&f);
	return out;
}

static void expect(const struct row *row, const struct doctor_settings *settings)
{
	struct doctor_finding out = examine(row, settings);
	const char *fact = row->facts[0] ? row->facts[0] : "a good server";

	if (out.verdict != row->verdict)
		fail_msg("%s: %s: %s: %s", fact, out.check, doctor_verdict_name(out.verdict),
		         out.found);
	if ((out.verdict == DOCTOR_OK) != !*out.change || !*out.found || !*out.why)
		fail_msg("%s: %s: found '%s' change '%s'", fact, out.check, out.found, out.change);
	if (row->says && !strstr(out.found, row->says) && !strstr(out.change, row->says))
		fail_msg("%s: %s: no '%s' in '%s' or '%s'", fact, out.check, row->says, out.found,
		         out.change);
}

#define ROW(check, verdict, says, ...)                                \
	{                                                             \
		DOCTOR_##check, DOCTOR_##verdict, {__VA_ARGS__}, says \
	}

static const struct row rows[] = {
        ROW(version, PROBLEM, "upgrade", "version=10.5.9-MariaDB"),
        ROW(version, PROBLEM, "upgrade", "version=8.0.15"),
        ROW(version, OK, "8.0.16", "version=8.0.16"),
        ROW(version, PROBLEM, "not supported", "version=8.0.11-TiDB-v7.5.0"),
        ROW(version, PROBLEM, "upgrade", "version="),

        ROW(writable, PROBLEM, "read_only=ON", "read_only=ON"),
        ROW(writable, PROBLEM, "innodb_read_only", "innodb_read_only=1"),
        ROW(writable, PROBLEM, "super_read_only", "super_read_only=ON"),

        ROW(durability, PROBLEM, "at_trx_commit=1", "innodb_flush_log_at_trx_commit=2"),
        ROW(durability, PROBLEM, "at_trx_commit=1", "innodb_flush_log_at_trx_commit="),
        ROW(durability, PROBLEM, "SET GLOBAL sync_binlog=1", "sync_binlog=0"),
        ROW(durability, OK, NULL, "log_bin=OFF", "sync_binlog=0"),
        ROW(durability, PROBLEM, "nosync", "innodb_flush_method=nosync"),
        ROW(durability, ADVICE, "doublewrite", "innodb_doublewrite=OFF"),

        ROW(binlog, ADVICE, "log_bin", "log_bin=OFF"),
        ROW(binlog, PROBLEM, "binlog_format=ROW", "binlog_format=STATEMENT"),
        ROW(binlog, OK, "MIXED", "binlog_format=MIXED"),

        ROW(packet, PROBLEM, "67108864", "max_allowed_packet=1048576"),
        ROW(packet, ADVICE, "67108864", "max_allowed_packet=4194304"),
        ROW(packet, OK, "16 MiB", "max_allowed_packet=16777216"),

        ROW(session, PROBLEM, "REPEATABLE-READ",
            "leat.session.transaction_isolation=REPEATABLE-READ"),
        ROW(session, PROBLEM, "wait_timeout=28800", "leat.session.wait_timeout=28800"),
        ROW(session, PROBLEM, "proxy", "leat.session.autocommit=1"),
        ROW(session, PROBLEM, "SYSTEM", "leat.session.time_zone=SYSTEM"),
        ROW(session, PROBLEM, "latin1", "leat.session.character_set_client=latin1"),
        ROW(session, PROBLEM, "sql_mode", "leat.session.sql_mode="),

        ROW(statement_limit, ADVICE, "max_statement_time=0", "max_statement_time=2.5"),
        ROW(statement_limit, ADVICE, "max_execution_time=0", "max_execution_time=1000"),

        ROW(connections, PROBLEM, "SET GLOBAL max_connections=58", "max_connections=21"),
        ROW(connections, ADVICE, "SET GLOBAL max_connections=58", "max_connections=57"),
        ROW(connections, OK, NULL, "max_connections=58"),
        ROW(connections, PROBLEM, "SET GLOBAL max_user_connections=58", "max_user_connections=20"),

        ROW(memory, ADVICE, "1G", "innodb_buffer_pool_size=134217728"),
        ROW(redo, ADVICE, "innodb_log_file_size=1G", "innodb_log_file_size=50331648"),
        ROW(redo, ADVICE, "innodb_redo_log_capacity=1G", "innodb_redo_log_capacity=8388608"),

        ROW(galera, OK, "Primary", "wsrep_on=ON"),
        ROW(galera, OK, "not a Galera", "wsrep_cluster_status=non-Primary"),
        ROW(galera, PROBLEM, "majority", "wsrep_on=ON", "wsrep_cluster_status=non-Primary"),
        ROW(galera, PROBLEM, "not ready", "wsrep_on=ON", "wsrep_ready=OFF"),
        ROW(galera, PROBLEM, "binlog_format", "wsrep_on=ON", "binlog_format=MIXED"),
        ROW(galera, PROBLEM, "autoinc", "wsrep_on=ON", "innodb_autoinc_lock_mode=1"),
        ROW(galera, PROBLEM, "max_ws_size", "wsrep_on=ON", "wsrep_max_ws_size=1048576"),
        ROW(galera, ADVICE, "fragment", "wsrep_on=ON", "wsrep_trx_fragment_size=1000"),
        ROW(galera, ADVICE, "three", "wsrep_on=ON", "wsrep_cluster_size=2"),
        ROW(galera, ADVICE, "odd", "wsrep_on=ON", "wsrep_cluster_size=4"),

        ROW(rights, OK, "`leat migrate` need them", NULL),
        ROW(rights, OK, "too",
            "leat.grants=GRANT SELECT, INSERT, UPDATE, DELETE ON `leat`.* TO `n`@`%`\n"),
        ROW(rights, PROBLEM, "GRANT UPDATE, DELETE ON `leat`.* TO 'leat'@'%'",
            "leat.grants=GRANT SELECT, INSERT ON `leat`.* TO `n`@`%`\n"),
        ROW(rights, PROBLEM, "SELECT",
            "leat.grants=GRANT ALL PRIVILEGES ON `other`.* TO `n`@`%`\n"),
        ROW(rights, PROBLEM, "SELECT", "leat.grants=GRANT SELECT ON `leat`.`journal` TO `n`@`%`\n"),
        ROW(rights, PROBLEM, "SELECT",
            "leat.grants=GRANT ALL PRIVILEGES ON `lea\\_`.* TO `n`@`%`\n"),
        ROW(rights, OK, NULL, "leat.grants=GRANT ALL PRIVILEGES ON `lea_`.* TO `n`@`%`\n"),
        ROW(rights, OK, NULL, "leat.grants=GRANT ALL PRIVILEGES ON `l%`.* TO `n`@`%`\n"),
        ROW(rights, OK, NULL, "leat.schema=a_b",
            "leat.grants=GRANT ALL PRIVILEGES ON `a\\_b`.* TO `n`@`%`\n"),
        ROW(rights, ADVICE, "roles are not looked into",
            "leat.grants=GRANT `other` TO `leat_node`@`%`\n"),
        ROW(rights, OK, "role `leat_node`",
            "leat.grants=GRANT USAGE ON *.* TO `n`@`%`\nGRANT `leat_node` TO `n`@`%`\n"),
        ROW(rights, OK, "role `leat_node`",
            "leat.grants=GRANT `other`@`%`,`leat_node`@`%` TO `n`@`%`\n"),
        ROW(rights, ADVICE, "SUPER",
            "leat.grants=GRANT ALL PRIVILEGES ON *.* TO `root`@`%` WITH GRANT OPTION\n"),
        ROW(rights, ADVICE, "FILE",
            "leat.grants=GRANT FILE ON *.* TO `n`@`%`\nGRANT ALL PRIVILEGES ON `leat`.* TO "
            "`n`@`%`\n"),
        ROW(rights, PROBLEM, "SELECT", "leat.grants="),

        ROW(schema, PROBLEM, "version 1", "leat.schema_problem=the schema is at version 1"),

        ROW(clock, OK, "behind", NULL),
        ROW(clock, ADVICE, "1000 ms ahead", "leat.clock_ahead_ms=1000"),
        ROW(clock, PROBLEM, "60000 ms behind", "leat.clock_ahead_ms=-60000"),

        ROW(round_trip, ADVICE, "2.000 ms", "leat.round_trip_us=2000"),
        ROW(round_trip, PROBLEM, "region", "leat.round_trip_us=100000"),
        ROW(commit, ADVICE, "10.000 ms", "leat.commit_us=10000"),
        ROW(commit, PROBLEM, "disk", "leat.commit_us=1000000"),
        ROW(commit, ADVICE, "read-only", "leat.commit_us=", "leat.commit_problem=read-only"),

        ROW(locks, OK, "no transaction", "leat.holders="),
        ROW(locks, OK, "PROCESS", "leat.holders_problem=denied"),
        ROW(locks, ADVICE, "KILL 7", "leat.holders=thread 7 of app", "leat.holder_thread=7"),
        ROW(locks, ADVICE, "XA ROLLBACK", "leat.holders=a prepared one", "leat.holder_thread=0"),
        ROW(tls, ADVICE, "ssl-ca", "Ssl_cipher="),
        ROW(tls, OK, "within this machine", "Ssl_cipher=", "leat.local=ON"),
};

static void test_doctor_good_server(void **state)
{
	(void)state;
	for (int check = 0; check < DOCTOR_CHECKS; check++) {
		struct row row = {.check = (enum doctor_check)check, .verdict = DOCTOR_OK};

		expect(&row, &three_nodes);
	}
}

static void test_doctor_every_row(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		expect(&rows[i], &three_nodes);
}

/* A check that no row makes fail would not be missed if it were gone. */
static void test_doctor_every_check_can_fail(void **state)
{
	bool fails[DOCTOR_CHECKS] = {false};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		fails[rows[i].check] = fails[rows[i].check] || rows[i].verdict != DOCTOR_OK;
	for (int check = 0; check < DOCTOR_CHECKS; check++)
		assert_true(fails[check]);
}

static void test_doctor_settings(void **state)
{
	const struct doctor_settings careless = {.nodes = 3, .accept_data_loss = true};
	const struct doctor_settings many = {.nodes = 100};
	const struct row unsynced =
	        ROW(durability, ADVICE, "at_trx_commit=1", "innodb_flush_log_at_trx_commit=0");
	const struct row crowded = ROW(connections, PROBLEM, "100 nodes keep 800", NULL);

	(void)state;
	expect(&unsynced, &careless);
	expect(&crowded, &many);
}

/* Nothing known at all must be judged, not crash. */
static void test_doctor_no_facts(void **state)
{
	struct facts none = {0};
	struct doctor_finding out;

	(void)state;
	for (int check = 0; check < DOCTOR_CHECKS; check++) {
		doctor_check(&none, &three_nodes, (enum doctor_check)check, &out);
		assert_true(*out.found);
	}
	facts_release(&none);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_doctor_good_server),
	        cmocka_unit_test(test_doctor_every_row),
	        cmocka_unit_test(test_doctor_every_check_can_fail),
	        cmocka_unit_test(test_doctor_settings),
	        cmocka_unit_test(test_doctor_no_facts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
