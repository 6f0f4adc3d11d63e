#include "node/cli/admin_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRIES = 5 }; /* of a transaction that another one got in the way of */

int admin_outcome(struct sql_conn *c, enum sql_outcome o, struct err *e)
{
	if (o == SQL_OK)
		return 0;
	if (o == SQL_UNKNOWN)
		err_set(e, (int)o,
		        "the connection was lost at COMMIT: it may be done or not; look first");
	else
		err_set(e, (int)o, "%.240s", sql_error(c));
	sql_rollback(c);
	return -1;
}

static int run_on(struct sql_conn *c, admin_fn *fn, const void *arg, struct err *e)
{
	for (int i = 1;; i++) {
		if (!sql_conn_is_open(c) && sql_conn_open(c, e))
			return -1;
		if (fn(c, arg, e) == 0)
			return 0;
		if (e->code != SQL_RETRY || i == TRIES)
			return -1;
	}
}

static int run_once(const struct admin_command *command, admin_fn *fn)
{
	struct sql_limits limits = command->limits ? *command->limits : SQL_LIMITS_DEFAULT;
	struct err e = {0};
	struct sql_conn *c;
	struct dsn dsn;
	int rc;

	if (dsn_load(&dsn, *command->db, &e)) {
		fprintf(stderr, "%s: %s\n", command->name, e.text);
		return OPTIONS_EXIT_USAGE;
	}
	sql_library_init();
	c = sql_conn_new(&dsn, &limits);
	rc = run_on(c, fn, command->options, &e);
	sql_conn_free(c);
	sql_library_end();
	dsn_release(&dsn);
	if (rc < 0)
		fprintf(stderr, "%s: %s\n", command->name, e.text);
	return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int usage(const struct admin_command *command, bool asked)
{
	FILE *f = asked ? stdout : stderr;

	fprintf(f, "usage: leat %s VERB%s [options]\n\n", command->name, command->operands);
	for (size_t i = 0; i < command->n_verbs; i++)
		fprintf(f, "  %-13s %s\n", command->verbs[i].name, command->verbs[i].spec.about);
	fprintf(f, "\nleat %s VERB --help lists the options\n", command->name);
	return asked ? EXIT_SUCCESS : OPTIONS_EXIT_USAGE;
}

static int run_verb(const struct admin_command *command, const struct admin_verb *v)
{
	struct err e;

	if (command->check && command->check(command->options, &e) < 0) {
		fprintf(stderr, "%s: %s\n", command->name, e.text);
		return OPTIONS_EXIT_USAGE;
	}
	return run_once(command, v->run);
}

int admin_run(const struct admin_command *command, int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "";

	for (size_t i = 0; i < command->n_verbs; i++) {
		const struct admin_verb *v = &command->verbs[i];
		int rc;

		if (strcmp(word, v->name) != 0)
			continue;
		if (!options_take(&v->spec, argc - 1, argv + 1, command->options, &rc))
			return rc;
		rc = run_verb(command, v);
		options_release(&v->spec, command->options);
		return rc;
	}
	return usage(command, strcmp(word, "--help") == 0 || strcmp(word, "help") == 0);
}
