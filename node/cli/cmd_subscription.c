/* leat subscription: look at a tenant's durable subscriptions, move them, remove them. */
#include "cluster/subscription_admin.h"
#include "node/cli/admin_run.h"
#include "node/cli/admin_time.h"
#include "node/cli/command.h"
#include "node/cli/options.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TO_MAX = 40 }; /* bytes of a position as the procedure reads it */

struct subscription_options {
	const char *db, *tenant, *subject, *name, *to;
	int kind;
};

static const char *const kinds[] = {"session", "share", "queue"};

#define FIELD(f) offsetof(struct subscription_options, f)

#define OPT_TENANT                                                                             \
	{                                                                                      \
		"tenant", 0, OPTION_TEXT, FIELD(tenant), .arg = "NAME", .help = "whose it is", \
		                                         .flags = OPTION_REQUIRED              \
	}
#define OPT_KIND                                                                    \
	{                                                                           \
		"kind", 0, OPTION_CHOICE, FIELD(kind),                              \
		        .arg = "KIND", .choices = "session|share|queue",            \
		        .help = "session, share or queue", .flags = OPTION_REQUIRED \
	}
#define OPT_SUBJECT                                                                  \
	{                                                                            \
		"subject", 0, OPTION_TEXT, FIELD(subject),                           \
		        .arg = "SUBJECT",                                            \
		        .help = "of a session: the sub claim of its client's tokens" \
	}
#define OPT_NAME                                                                                   \
	{                                                                                          \
		"name", 0, OPTION_TEXT, FIELD(name),                                               \
		        .arg = "NAME",                                                             \
		        .help = "client id of a session; NAME/FILTER of a share; NAME of a queue", \
		        .flags = OPTION_REQUIRED                                                   \
	}

static const struct option list_rows[] = {OPT_TENANT, OPT_DB};
static const struct option delete_rows[] = {OPT_TENANT, OPT_KIND, OPT_SUBJECT, OPT_NAME, OPT_DB};
static const struct option seek_rows[] = {
        OPT_TENANT,
        OPT_KIND,
        OPT_SUBJECT,
        OPT_NAME,
        {"to", 0, OPTION_TEXT, FIELD(to), .arg = "earliest|head|TIME|SEQ",
         .help = "the first event it gets: the oldest kept, the next one published, the first "
                 "since a time (2026-03-01T12:00:00Z), or a number",
         .flags = OPTION_REQUIRED},
        OPT_DB,
};

/* ---- verbs ----------------------------------------------------------------------------------- */

static struct subscription_ref ref_of(const struct subscription_options *o)
{
	return (struct subscription_ref){
	        .tenant = slice_str(o->tenant),
	        .kind = slice_str(kinds[o->kind]),
	        .subject = slice_str(o->subject ? o->subject : ""),
	        .name = slice_str(o->name),
	};
}

static void print_row(void *arg, const struct subscription_row *r)
{
	(void)arg;
	printf("%-8.*s %-8.*s %10" PRIu64 "  %-24.*s %-24.*s %.*s\n", (int)r->kind.n, r->kind.p,
	       (int)r->state.n, r->state.p, r->behind, r->node.n ? (int)r->node.n : 1,
	       r->node.n ? r->node.p : "-", r->subject.n ? (int)r->subject.n : 1,
	       r->subject.n ? r->subject.p : "-", (int)r->name.n, r->name.p);
}

static int list(struct sql_conn *c, const void *arg, struct err *e)
{
	const struct subscription_options *o = arg;

	printf("%-8s %-8s %10s  %-24s %-24s %s\n", "KIND", "STATE", "BEHIND", "NODE", "SUBJECT",
	       "NAME");
	return subscription_admin_list(c, slice_str(o->tenant), print_row, NULL, e);
}

/* A time as MySQL writes it, or the word or number as it is: the procedure judges that. */
static void position(const char *to, char out[TO_MAX])
{
	if (!admin_time(to, out))
		snprintf(out, TO_MAX, "%s", strcmp(to, "head") == 0 ? "latest" : to);
}

static int seek(struct sql_conn *c, const void *arg, struct err *e)
{
	const struct subscription_options *o = arg;
	struct subscription_ref ref = ref_of(o);
	char to[TO_MAX];

	position(o->to, to);
	if (subscription_admin_seek(c, &ref, slice_str(to), e) < 0)
		return -1;
	printf("%s %s of tenant %s goes on from %s\n", kinds[o->kind], o->name, o->tenant, o->to);
	return 0;
}

static int delete (struct sql_conn *c, const void *arg, struct err *e)
{
	const struct subscription_options *o = arg;
	struct subscription_ref ref = ref_of(o);

	if (subscription_admin_delete(c, &ref, e) < 0)
		return -1;
	printf("%s %s of tenant %s is gone\n", kinds[o->kind], o->name, o->tenant);
	return 0;
}

static const struct admin_verb verbs[] = {
        {"list",
         list,
         {"subscription list", "a tenant's durable subscriptions and how far behind they are",
          OPTIONS_ROWS(list_rows)}},
        {"seek",
         seek,
         {"subscription seek", "deliver again, or skip: from a time or a number on",
          OPTIONS_ROWS(seek_rows)}},
        {"delete",
         delete,
         {"subscription delete", "with what it has still to deliver; its dead letters stay",
          OPTIONS_ROWS(delete_rows)}},
};

int cmd_subscription(int argc, char **argv)
{
	struct subscription_options o = {0};
	struct admin_command command = {.name = "subscription",
	                                .operands = "",
	                                .verbs = verbs,
	                                .n_verbs = sizeof verbs / sizeof *verbs,
	                                .options = &o,
	                                .db = &o.db};

	return admin_run(&command, argc, argv);
}
