#include "sql/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_error_verdicts(void **state)
{
	static const struct {
		unsigned no;
		enum sql_outcome statement, commit;
		bool drop_statement;
	} rows[] = {
	        {1062, SQL_DUP, SQL_DUP, false},      /* duplicate key */
	        {1213, SQL_RETRY, SQL_RETRY, false},  /* deadlock, certification failure */
	        {1205, SQL_RETRY, SQL_RETRY, false},  /* lock wait */
	        {1020, SQL_RETRY, SQL_RETRY, false},  /* record changed */
	        {1180, SQL_RETRY, SQL_UNKNOWN, true}, /* error during COMMIT */
	        {1047, SQL_RETRY, SQL_UNKNOWN, true}, /* Galera not ready */
	        {2006, SQL_RETRY, SQL_UNKNOWN, true}, /* gone away */
	        {2013, SQL_RETRY, SQL_UNKNOWN, true}, /* lost */
	        {2055, SQL_RETRY, SQL_UNKNOWN, true}, /* lost, with errno */
	        {1927, SQL_RETRY, SQL_UNKNOWN, true}, /* killed */
	        {1290, SQL_RETRY, SQL_RETRY, true},   /* read-only: reconnect */
	        {1836, SQL_RETRY, SQL_RETRY, true},   /* read-only: reconnect */
	        {1064, SQL_FATAL, SQL_FATAL, false},  /* syntax: not in the table */
	        {1142, SQL_FATAL, SQL_FATAL, false},  /* denied */
	        {1644, SQL_FATAL, SQL_FATAL, false},  /* a procedure refuses */
	        {1366, SQL_FATAL, SQL_FATAL, false},  /* bad text: not in the table */
	        {2999, SQL_FATAL, SQL_UNKNOWN, true}, /* a client error nobody knows */
	        {5999, SQL_FATAL, SQL_UNKNOWN, true}, /* likewise, MariaDB's range */
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct sql_verdict s = sql_error_verdict(rows[i].no, false);
		struct sql_verdict c = sql_error_verdict(rows[i].no, true);

		if (s.outcome != rows[i].statement || c.outcome != rows[i].commit ||
		    s.drop != rows[i].drop_statement)
			fail_msg("%u: %s, %s, %d", rows[i].no, sql_outcome_name(s.outcome),
			         sql_outcome_name(c.outcome), s.drop);
	}
}

/* Whatever is not known to have failed is not called failed, and is resolved on a new connection.
 */
static void test_error_unknown_drops(void **state)
{
	(void)state;
	for (unsigned no = 1000; no < 6000; no++) {
		struct sql_verdict c = sql_error_verdict(no, true);

		assert_true(c.outcome != SQL_UNKNOWN || c.drop);
		assert_int_not_equal(sql_error_verdict(no, false).outcome, SQL_UNKNOWN);
		assert_int_not_equal(c.outcome, SQL_OK);
	}
}

static void test_error_values_are_hidden(void **state)
{
	static const struct {
		const char *in, *out;
	} rows[] = {
	        {"Duplicate entry '1-secret' for key 'PRIMARY'", "Duplicate entry '?' for key '?'"},
	        {"Incorrect string value: '\\xFF' for column",
	         "Incorrect string value: '?' for column"},
	        {"near 'secret that was cut", "near '?"},
	        {"value \"secret\" bad", "value \"?\" bad"},
	        {"plain", "plain"},
	        {"", ""},
	};
	char out[64], small[12];

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		sql_error_redact(out, sizeof out, rows[i].in);
		assert_string_equal(out, rows[i].out);
	}
	sql_error_redact(small, sizeof small, "a rather long message 'secret'");
	assert_true(strlen(small) < sizeof small);
	sql_error_redact(small, sizeof small, "'a' 'b' 'c' 'd' 'e'");
	assert_true(strlen(small) < sizeof small);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_error_verdicts),
	        cmocka_unit_test(test_error_unknown_drops),
	        cmocka_unit_test(test_error_values_are_hidden),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
