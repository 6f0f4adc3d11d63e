#include "node/cli/command.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/zone.h"
#include "cluster/cron.h"
#include "node/cli/admin_run.h"
#include "node/cli/options.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAYLOAD_MAX = 1 << 20 };

struct schedule_options {
	const char *db, *tenant, *cron, *zone, *topic, *message, *file, *content_type;
	struct option_list names;
};

#define FIELD(f) offsetof(struct schedule_options, f)

#define OPT_TENANT                                                                       \
	{                                                                                \
		"tenant", 0, OPTION_TEXT, FIELD(tenant), .arg = "NAME", .help = "whose", \
		                                         .flags = OPTION_REQUIRED        \
	}
#define OPT_NAME                                                                             \
	{                                                                                    \
		"name", 0, OPTION_ARGS, FIELD(names), .arg = "NAME", .help = "the schedule", \
		                                      .min = 1, .max = 1                     \
	}

static struct sql_param text(const char *s)
{
	return s ? sql_utf8(s, strlen(s)) : sql_null();
}

/* ---- the verbs ---- */

/* The database knows neither cron nor time zones as the nodes do. */
static int check(const struct schedule_options *o, struct err *e)
{
	struct cron cron;
	struct zone *z = zone_open(slice_str(o->zone), e);
	int rc = z ? cron_parse(slice_str(o->cron), &cron, e) : -1;

	if (rc == 0 && cron_next(&cron, z, clock_wall_ms()) == UINT64_MAX)
		rc = err_set(e, 0, "--cron %s never ticks: no month that it names has such a day",
		             log_quote_str(o->cron));
	zone_free(z);
	return rc;
}

static int payload(const struct schedule_options *o, struct buf *out, struct err *e)
{
	if (!o->message == !o->file)
		return err_set(e, 0, "give one of -m TEXT and -f FILE");
	if (o->file)
		return file_read(o->file, PAYLOAD_MAX, out, e);
	buf_append_str(out, o->message);
	return 0;
}

static int create(struct sql_conn *c, const void *options, struct err *e)
{
	const struct schedule_options *o = options;
	struct buf bytes = {0};
	int rc = -1;

	if (check(o, e) == 0 && payload(o, &bytes, e) == 0) {
		struct sql_param params[] = {
		        text(o->tenant),
		        text(o->names.v[0]),
		        text(o->cron),
		        text(o->zone),
		        text(o->topic),
		        text(o->content_type),
		        sql_bytes(bytes.data, bytes.len),
		};

		rc = admin_outcome(c, sql_exec(c, STMT_ADMIN_SCHEDULE_CREATE, params, 7), e);
	}
	buf_release(&bytes);
	if (rc == 0)
		printf("schedule %s ticks %s, %s\n", o->names.v[0], o->cron, o->zone);
	return rc;
}

static int on_row(void *arg, const struct sql_cell *cells, unsigned n)
{
	(void)arg;
	if (n < 7)
		return 1;
	printf("%-24.*s %-8.*s %-24.*s %10" PRIu64 "  %-20.*s %-20.*s %.*s\n",
	       (int)cells[0].bytes.n, cells[0].bytes.p, (int)cells[1].bytes.n, cells[1].bytes.p,
	       (int)cells[2].bytes.n, cells[2].bytes.n ? cells[2].bytes.p : "", cells[3].u,
	       (int)cells[4].bytes.n, cells[4].bytes.p, (int)cells[5].bytes.n, cells[5].bytes.p,
	       (int)cells[6].bytes.n, cells[6].bytes.p);
	return 0;
}

static int list(struct sql_conn *c, const void *options, struct err *e)
{
	const struct schedule_options *o = options;
	struct sql_param param = text(o->tenant);

	printf("%-24s %-8s %-24s %10s  %-20s %-20s %s\n", "NAME", "STATE", "NEXT (UTC)", "TICKS",
	       "CRON", "ZONE", "TOPIC");
	return admin_outcome(c, sql_query(c, STMT_ADMIN_SCHEDULE_LIST, &param, 1, on_row, NULL), e);
}

static int change(struct sql_conn *c, const struct schedule_options *o, enum sql_stmt stmt,
                  const char *done, struct err *e)
{
	struct sql_param params[] = {text(o->tenant), text(o->names.v[0])};
	int rc = admin_outcome(c, sql_exec(c, stmt, params, 2), e);

	if (rc == 0)
		printf("schedule %s is %s\n", o->names.v[0], done);
	return rc;
}

static int pause_one(struct sql_conn *c, const void *options, struct err *e)
{
	return change(c, options, STMT_ADMIN_SCHEDULE_PAUSE, "paused", e);
}

static int resume(struct sql_conn *c, const void *options, struct err *e)
{
	return change(c, options, STMT_ADMIN_SCHEDULE_RESUME, "active", e);
}

static int delete_one(struct sql_conn *c, const void *options, struct err *e)
{
	return change(c, options, STMT_ADMIN_SCHEDULE_DELETE, "deleted", e);
}

/* ---- the table ---- */

static const struct option list_rows[] = {OPT_TENANT, OPT_DB};
static const struct option name_rows[] = {OPT_NAME, OPT_TENANT, OPT_DB};
static const struct option create_rows[] = {
        OPT_NAME,
        OPT_TENANT,
        {"cron", 0, OPTION_TEXT, FIELD(cron), .arg = "WHEN",
         .help = "five fields as in crontab, @hourly, @daily …, or @every 90s",
         .flags = OPTION_REQUIRED},
        {"zone", 0, OPTION_TEXT, FIELD(zone), .arg = "ZONE",
         .help = "time zone that the fields are read in", .fallback = "UTC"},
        {"topic", 't', OPTION_TEXT, FIELD(topic), .arg = "TOPIC", .help = "of its events",
         .flags = OPTION_REQUIRED},
        {"message", 'm', OPTION_TEXT, FIELD(message), .arg = "TEXT", .help = "their payload"},
        {"file", 'f', OPTION_TEXT, FIELD(file), .arg = "FILE", .help = "or what is in this file"},
        {"content-type", 0, OPTION_TEXT, FIELD(content_type), .arg = "TYPE",
         .help = "of the payload"},
        OPT_DB,
};

static const struct admin_verb verbs[] = {
        {"create",
         create,
         {"schedule create", "publish an event at each tick", OPTIONS_ROWS(create_rows)}},
        {"list", list, {"schedule list", "a tenant's schedules", OPTIONS_ROWS(list_rows)}},
        {"pause",
         pause_one,
         {"schedule pause", "no ticks until it is resumed", OPTIONS_ROWS(name_rows)}},
        {"resume", resume, {"schedule resume", "tick again, from now on", OPTIONS_ROWS(name_rows)}},
        {"delete",
         delete_one,
         {"schedule delete", "what it published stays", OPTIONS_ROWS(name_rows)}},
};

int cmd_schedule(int argc, char **argv)
{
	struct schedule_options o = {0};
	struct admin_command command = {.name = "schedule",
	                                .operands = " [NAME]",
	                                .verbs = verbs,
	                                .n_verbs = sizeof verbs / sizeof *verbs,
	                                .options = &o,
	                                .db = &o.db};

	return admin_run(&command, argc, argv);
}
