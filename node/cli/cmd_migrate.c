#include "node/cli/command.h"

#include "base/buf.h"
#include "node/cli/options.h"
#include "sql/migrate.h"
#include "sql/roles.h"

#include <stdio.h>

struct migrate_options {
	const char *db;
	bool show_roles;
};

static const struct option rows[] = {
        {"db", 0, OPTION_TEXT, offsetof(struct migrate_options, db), .arg = "DSN",
         .help = "mysql://user:password@host:port/schema?socket=PATH&ssl-ca=F&…",
         .flags = OPTION_REQUIRED | OPTION_SECRET},
        {"show-roles", 0, OPTION_FLAG, offsetof(struct migrate_options, show_roles),
         .help = "change nothing: print the SQL that makes the schema's roles",
         .flags = OPTION_NO_ENV},
};
static const struct options spec = {
        "migrate", "bring the database schema up to this version of leat", OPTIONS_ROWS(rows)};

static void on_wait(void *arg)
{
	(void)arg;
	fputs("migrate: waiting for another migration to end\n", stderr);
}

static void on_step(void *arg, unsigned version, const char *name)
{
	(void)arg;
	fprintf(stderr, "migrate: step %04u_%s\n", version, name);
}

static void on_no_roles(void *arg, const char *why)
{
	(void)arg;
	fprintf(stderr,
	        "migrate: the schema's roles were not made (%s); who administers the server may "
	        "run what `leat migrate --db … --show-roles` prints\n",
	        why);
}

static int show_roles(const char *db)
{
	struct buf text = {0};
	struct dsn dsn;
	struct err e;
	int rc;

	if (dsn_parse(&dsn, db, &e)) {
		fprintf(stderr, "migrate: %s\n", e.text);
		return OPTIONS_EXIT_USAGE;
	}
	rc = roles_sql(dsn.schema, &text, &e);
	if (rc)
		fprintf(stderr, "migrate: %s\n", e.text);
	else
		fwrite(text.data, 1, text.len, stdout);
	buf_release(&text);
	dsn_release(&dsn);
	return rc ? 1 : 0;
}

static int migrate(const char *db)
{
	static const struct migrate_events events = {
	        .on_wait = on_wait, .on_step = on_step, .on_no_roles = on_no_roles};
	unsigned before, after;
	struct dsn dsn;
	struct err e;
	int rc;

	if (dsn_load(&dsn, db, &e)) {
		fprintf(stderr, "migrate: %s\n", e.text);
		return OPTIONS_EXIT_USAGE;
	}
	sql_library_init();
	rc = migrate_run(&dsn, &events, &before, &after, &e);
	sql_library_end();
	dsn_release(&dsn);
	if (rc)
		fprintf(stderr, "migrate: %s\n", e.text);
	else if (before == after)
		printf("schema is up to date, at version %u\n", after);
	else
		printf("schema migrated from version %u to %u\n", before, after);
	return rc ? 1 : 0;
}

int cmd_migrate(int argc, char **argv)
{
	struct migrate_options o = {0};
	int rc;

	if (!options_take(&spec, argc, argv, &o, &rc))
		return rc;
	rc = o.show_roles ? show_roles(o.db) : migrate(o.db);
	options_release(&spec, &o);
	return rc;
}
