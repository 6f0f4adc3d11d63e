#include "sql/roles.h"

#include <string.h>

static const struct {
	const char *role, *privileges, *object;
} grants[] = {
#define ROLE_GRANT(role, privileges, object) {#role, privileges, #object},
#include "sql/roles.def"
#undef ROLE_GRANT
};

/* `name`, or `name` followed by _ and what, in backticks. */
static void put_name(struct buf *b, const char *name, const char *what)
{
	buf_u8(b, '`');
	for (; *name; name++) {
		if (*name == '`')
			buf_u8(b, '`');
		buf_u8(b, (uint8_t)*name);
	}
	if (what) {
		buf_u8(b, '_');
		buf_append_str(b, what);
	}
	buf_u8(b, '`');
}

static void put_grant(struct buf *b, const char *schema, size_t i)
{
	buf_append_str(b, "GRANT ");
	buf_append_str(b, grants[i].privileges);
	buf_append_str(b, strcmp(grants[i].privileges, "EXECUTE") == 0 ? " ON PROCEDURE " : " ON ");
	put_name(b, schema, NULL);
	buf_u8(b, '.');
	put_name(b, grants[i].object, NULL);
	buf_append_str(b, " TO ");
	put_name(b, schema, grants[i].role);
	buf_append_str(b, ";\n");
}

int roles_sql(const char *schema, struct buf *out, struct err *e)
{
	static const char *const roles[] = {"node", "admin", "read", "publish"};

	if (strlen(schema) > ROLES_SCHEMA_MAX)
		return err_set(e, 0,
		               "a role is named after its schema, whose name has %zu bytes: up to "
		               "%d will do",
		               strlen(schema), ROLES_SCHEMA_MAX);
	for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
		buf_append_str(out, "CREATE ROLE IF NOT EXISTS ");
		put_name(out, schema, roles[i]);
		buf_append_str(out, ";\n");
	}
	for (size_t i = 0; i < sizeof grants / sizeof *grants; i++)
		put_grant(out, schema, i);
	return 0;
}

int roles_grant(struct sql_conn *c, const char *schema, struct err *e)
{
	struct buf text = {0};
	int rc = roles_sql(schema, &text, e);

	/* the last ; would begin an empty statement */
	if (rc == 0 && sql_text(c, text.data, text.len - 2, NULL, SQL_TEXT_COMMITS) != SQL_OK)
		rc = err_set(e, (int)sql_errno(c), "%s", sql_error(c));
	buf_release(&text);
	return rc;
}

bool roles_node_may(const char *table, const char *privilege)
{
	for (size_t i = 0; i < sizeof grants / sizeof *grants; i++) {
		if (strcmp(grants[i].role, "node") == 0 && strcmp(grants[i].object, table) == 0)
			return strstr(grants[i].privileges, privilege) != NULL;
	}
	return false;
}
