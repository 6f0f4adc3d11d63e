/* admin_run: `leat tenant`, `leat subscription` and their like: commands with verbs, each of which
 * is done on one database connection of its own, opened for it, and done again where another
 * transaction got in the way. Main thread; blocks. */
#ifndef LEAT_NODE_ADMIN_RUN_H
#define LEAT_NODE_ADMIN_RUN_H

#include "base/err.h"
#include "node/cli/options.h"
#include "sql/conn.h"

#include <stddef.h>

/* 0, or -1 with e; with e->code SQL_RETRY it changed nothing and is called again. */
typedef int admin_fn(struct sql_conn *c, const void *arg, struct err *e);

struct admin_verb {
	const char *name;
	admin_fn *run; /* gets the command's options */
	struct options spec;
};

struct admin_command {
	const char *name;
	const char *operands; /* for the usage line, with a space before them */
	const struct admin_verb *verbs;
	size_t n_verbs;
	void *options; /* the caller's structure, all zero: what every verb's rows fill in */
	const char *const *db; /* its member for OPT_DB */
	/* What rows cannot say; or NULL. -1 with e: a usage error. */
	int (*check)(void *options, struct err *e);
	const struct sql_limits *limits; /* of the connection; NULL = those of a node's */
};

/* Do what the command line asks for. The exit status; what was wrong is printed, after the
 * command's name. */
int admin_run(const struct admin_command *command, int argc, char **argv);

/* 0 when the outcome is OK; else -1 with what the database said, and nothing is left open. */
int admin_outcome(struct sql_conn *c, enum sql_outcome o, struct err *e);

/* The row that every verb has. FIELD(member) is the offset in the command's options. */
#define OPT_DB                                                                          \
	{                                                                               \
		"db", 0, OPTION_TEXT, FIELD(db),                                        \
		        .arg = "DSN",                                                   \
		        .help = "mysql://user:password@host:port/schema?socket=PATH&…", \
		        .flags = OPTION_REQUIRED | OPTION_SECRET                        \
	}

#endif
