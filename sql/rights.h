/* rights: what an account may do on one schema, out of the text of SHOW GRANTS. Plain data, which
 * borrows that text. Pure, any thread. */
#ifndef LEAT_SQL_RIGHTS_H
#define LEAT_SQL_RIGHTS_H

#include <stdbool.h>
#include <stddef.h>

enum { RIGHTS_GRANTS = 64 }; /* lines that are looked at */

/* One GRANT line. */
struct grant {
	bool here;         /* on the whole of our schema; or on everything */
	bool global;       /* on everything */
	bool role;         /* no privileges: a role */
	const char *names; /* the privileges, with ", " between them */
	size_t n;          /* bytes */
};

struct rights {
	struct grant grants[RIGHTS_GRANTS];
	size_t n;
	bool has_role;  /* what its roles allow is not known here, */
	bool node_role; /* but for SCHEMA_node, made from sql/roles.def: all a node needs */
};

/* `text` has one grant a line; `schema` is a name as it is, without backticks. */
void rights_parse(struct rights *r, const char *text, const char *schema);

/* Of the `wanted` privileges, with commas: those that are missing on the schema; or, with `global`,
 * those that are there on everything. */
void rights_list(const struct rights *r, const char *const *wanted, size_t n, bool global,
                 char *out, size_t size);

#endif
