/* What the roles may do: enough for every statement a node runs, and for the node alone. */
#include "sql/roles.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static const struct {
	const char *name, *text;
} statements[] = {
#define SQL_STMT(name, commits, text, doc) {#name, text},
#include "sql/statements.def"
#undef SQL_STMT
};

static void need(const char *statement, const char *privilege, const char *at)
{
	char table[64];
	size_t n = strspn(at, "abcdefghijklmnopqrstuvwxyz_");

	if (n == 0) /* JSON_TABLE, or a subquery */
		return;
	assert_true(n < sizeof table);
	memcpy(table, at, n);
	table[n] = '\0';
	if (!roles_node_may(table, privilege))
		fail_msg("%s: a node may not %s %s: add it to sql/roles.def", statement, privilege,
		         table);
}

/* Every table that follows `word` in the text. */
static void need_after(const char *statement, const char *text, const char *word,
                       const char *privilege)
{
	for (const char *p = text; (p = strstr(p, word)); p += strlen(word))
		need(statement, privilege, p + strlen(word));
}

/* Which table is changed: the one named, or of JSON_TABLE(…) the one joined to it. */
static const char *changed(const char *at)
{
	const char *from = strstr(at, "JSON_TABLE") ? strstr(at, "JOIN ") : NULL;

	if (from)
		return from + strlen("JOIN ");
	return strncmp(at, "FROM ", 5) == 0 ? at + 5 : at;
}

static void test_node_may_what_it_does(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
		const char *name = statements[i].name, *text = statements[i].text;

		if (strncmp(text, "CALL ", 5) == 0 || strncmp(name, "SCHEMA_", 7) == 0 ||
		    strncmp(name, "ADMIN_", 6) == 0)
			continue; /* leat tenant, leat migrate, leat subscription */
		need_after(name, text, " JOIN ", "SELECT");
		need_after(name, text, "STRAIGHT_JOIN ", "SELECT");
		need_after(name, text, "INSERT INTO ", "INSERT");
		if (strncmp(text, "DELETE FROM", 11) != 0)
			need_after(name, text, " FROM ", "SELECT");
		if (strncmp(text, "DELETE ", 7) == 0)
			need(name, "DELETE", changed(text + 7));
		if (strncmp(text, "UPDATE ", 7) == 0)
			need(name, "UPDATE", changed(text + 7));
		if (strstr(text, "ON DUPLICATE KEY UPDATE"))
			need(name, "UPDATE", strstr(text, "INSERT INTO ") + 12);
	}
}

static void test_node_may_no_more(void **state)
{
	(void)state;
	assert_false(roles_node_may("tenant", "INSERT"));
	assert_false(roles_node_may("tenant", "DELETE"));
	assert_false(roles_node_may("tenant_key", "INSERT"));
	assert_false(roles_node_may("audit", "DELETE"));
	assert_false(roles_node_may("audit", "UPDATE"));
	assert_false(roles_node_may("change_counter", "DELETE"));
	assert_false(roles_node_may("nothing", "SELECT"));
}

static void test_sql(void **state)
{
	char name[ROLES_SCHEMA_MAX + 2];
	struct buf text = {0};
	struct err e;

	(void)state;
	assert_int_equal(roles_sql("my`bus", &text, &e), 0);
	buf_u8(&text, '\0');
	assert_non_null(strstr(text.data, "CREATE ROLE IF NOT EXISTS `my``bus_node`;\n"));
	assert_non_null(
	        strstr(text.data, "GRANT SELECT ON `my``bus`.`tenant_key` TO `my``bus_node`;\n"));
	assert_non_null(strstr(text.data, "GRANT EXECUTE ON PROCEDURE `my``bus`.`key_add`"
	                                  " TO `my``bus_admin`;\n"));
	buf_release(&text);
	memset(name, 'x', sizeof name - 1);
	name[sizeof name - 1] = '\0';
	assert_int_equal(roles_sql(name, &text, &e), -1);
	assert_non_null(strstr(e.text, "25 bytes"));
	buf_release(&text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_node_may_what_it_does),
	        cmocka_unit_test(test_node_may_no_more),
	        cmocka_unit_test(test_sql),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
