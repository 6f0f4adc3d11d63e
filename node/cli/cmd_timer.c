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

static const struct admin_verb verbs[] = {
        {"list", list, {"timer list", "what a tenant has scheduled", OPTIONS_ROWS(list_rows)}},
        {"cancel",
         cancel,
         {"timer cancel", "a scheduled publish is not published", OPTIONS_ROWS(cancel_rows)}},
};

int cmd_timer(int argc, char **argv)
{
	struct timer_options o = {0};
	struct admin_command command = {.name = "timer",
	                                .operands = " [NAME]",
	                                .verbs = verbs,
	                                .n_verbs = sizeof verbs / sizeof *verbs,
	                                .options = &o,
	                                .db = &o.db};

	return admin_run(&command, argc, argv);
}
