#include "sql/conn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct sql_server good(void)
{
	return (struct sql_server){.version = "10.11.6-MariaDB",
	                           .mariadb = true,
	                           .version_no = 101106,
	                           .max_packet = 16 << 20,
	                           .flush_at_commit = 1,
	                           .sync_binlog = 0};
}

static void refused(struct sql_server s, bool accept_data_loss, const char *says)
{
	struct err e;

	assert_int_equal(sql_check_durable(&s, accept_data_loss, &e), -1);
	if (!strstr(e.text, says))
		fail_msg("%s", e.text);
}

static void accepted(struct sql_server s, bool accept_data_loss)
{
	struct err e;

	if (sql_check_durable(&s, accept_data_loss, &e))
		fail_msg("%s", e.text);
}

static void test_server_versions(void **state)
{
	struct sql_server s = good();

	(void)state;
	accepted(s, false);
	s.version_no = 100600;
	accepted(s, false);
	s.version_no = 100599;
	refused(s, true, "MariaDB 10.6");
	s.mariadb = false;
	s.version_no = 80016;
	accepted(s, false);
	s.version_no = 80015;
	refused(s, true, "MySQL 8.0.16");
	s.version_no = 90700;
	accepted(s, false);
}

static void test_server_must_fsync(void **state)
{
	struct sql_server s = good();

	(void)state;
	s.flush_at_commit = 2;
	refused(s, false, "innodb_flush_log_at_trx_commit=2");
	accepted(s, true);
	s = good();
	s.log_bin = true;
	refused(s, false, "sync_binlog=0");
	accepted(s, true);
	s.sync_binlog = 1;
	accepted(s, false);
}

static void test_server_must_be_writable(void **state)
{
	struct sql_server s = good();

	(void)state;
	s.read_only = true;
	refused(s, true, "read-only");
}

/* Such a server was accepted: with 64 KiB every statement with parameters was refused by ourselves,
 * the renewal too, and the node waited for the database for ever and did not say why. */
static void test_server_must_take_a_batch(void **state)
{
	struct sql_server s = good();

	(void)state;
	s.max_packet = 2 << 20;
	accepted(s, false);
	s.max_packet--;
	refused(s, true, "max_allowed_packet=2097151");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_server_versions),
	        cmocka_unit_test(test_server_must_fsync),
	        cmocka_unit_test(test_server_must_be_writable),
	        cmocka_unit_test(test_server_must_take_a_batch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
