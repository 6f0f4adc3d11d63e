#include "node/cli/command.h"

#include "node/cli/admin_run.h"
#include "node/cli/options.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct timer_options {
	const char *db, *tenant, *subject;
	uint64_t limit;
	struct option_list names;
};

#define FIELD(f) offsetof(struct timer_options, f)

#define OPT_DB                                                                          \
	{                                                                               \
		"db", 0, OPTION_TEXT, FIELD(db),                                        \
		        .arg = "DSN",                                                   \
		        .help = "mysql://user:password@host:port/schema?socket=PATH&…", \
		        .flags = OPTION_REQUIRED | OPTION_SECRET                        \
	}
#define OPT_TENANT                                                                       \
	{                                                                                \
		"tenant", 0, OPTION_TEXT, FIELD(tenant), .arg = "NAME", .help = "whose", \
		                                         .flags = OPTION_REQUIRED        \
	}

static struct sql_param text(const char *s)
{
	return s ? sql_utf8(s, strlen(s)) : sql_null();
}

static int on_row(void *arg, const struct sql_cell *cells, unsigned n)
{
	(void)arg;
	for (unsigned i = 0; i < n; i++) {
		static const int widths[] = {26, 10, 24, 24};
		const struct slice *s = &cells[i].bytes;

		printf(i < 4 ? "%-*.*s " : "%*.*s\n", i < 4 ? widths[i] : 0, (int)s->n,
		       s->n ? s->p : "");
	}
	return 0;
}

static int list(struct sql_conn *c, const void *options, struct err *e)
{
	const struct timer_options *o = options;
	struct sql_param params[] = {text(o->tenant), sql_u64(o->limit)};

	printf("%-26s %-10s %-24s %-24s %s\n", "DUE (UTC)", "KIND", "SUBJECT", "NAME", "TOPIC");
	return admin_outcome(c, sql_query(c, STMT_ADMIN_TIMER_LIST, params, 2, on_row, NULL), e);
}

static int cancel(struct sql_conn *c, const void *options, struct err *e)
{
	const struct timer_options *o = options;
	struct sql_param params[] = {text(o->tenant), text(o->subject), text(o->names.v[0])};
	int rc = admin_outcome(c, sql_exec(c, STMT_ADMIN_TIMER_CANCEL, params, 3), e);

	if (rc == 0)
		printf("%s is not published\n", o->names.v[0]);
	return rc;
}

static const struct option list_rows[] = {
        OPT_TENANT,
        {"limit", 0, OPTION_NUMBER, FIELD(limit), .arg = "N",
         .help = "at most so many, earliest first", .fallback = "100", .min = 1, .max = 100000},
        OPT_DB,
};
static const struct option cancel_rows[] = {
        {"name", 0, OPTION_ARGS, FIELD(names), .arg = "NAME", .help = "its leat-timer name",
         .min = 1, .max = 1},
        OPT_TENANT,
        {"subject", 0, OPTION_TEXT, FIELD(subject), .arg = "SUBJECT",
         .help = "sub claim of the token that named it", .fallback = ""},
        OPT_DB,
};

static const struct verb {
	const char *name;
	admin_fn *run;
	struct options spec;
} verbs[] = {
        {"list", list, {"timer list", "what a tenant has scheduled", OPTIONS_ROWS(list_rows)}},
        {"cancel",
         cancel,
         {"timer cancel", "a scheduled publish is not published", OPTIONS_ROWS(cancel_rows)}},
};

static int usage(bool asked)
{
	FILE *f = asked ? stdout : stderr;

	fputs("usage: leat timer VERB [NAME] [options]\n\n", f);
	for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
		fprintf(f, "  %-12s %s\n", verbs[i].name, verbs[i].spec.about);
	fputs("\nleat timer VERB --help lists the options\n", f);
	return asked ? EXIT_SUCCESS : OPTIONS_EXIT_USAGE;
}

int cmd_timer(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "";

	for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
		struct timer_options o = {0};
		int rc;

		if (strcmp(word, verbs[i].name) != 0)
			continue;
		if (!options_take(&verbs[i].spec, argc - 1, argv + 1, &o, &rc))
			return rc;
		rc = admin_run("timer", o.db, verbs[i].run, &o);
		options_release(&verbs[i].spec, &o);
		return rc;
	}
	return usage(strcmp(word, "--help") == 0 || strcmp(word, "help") == 0);
}
