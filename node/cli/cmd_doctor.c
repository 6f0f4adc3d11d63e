/* leat doctor: is this database fit for Leat? Status 0: yes; 1: yes, and there is advice; 2: no. */
#include "node/cli/command.h"

#include "node/cli/options.h"
#include "sql/conn.h"
#include "sql/doctor.h"

#include <jansson.h>
#include <stdio.h>

struct doctor_options {
	const char *db;
	uint64_t nodes;
	bool accept_data_loss;
	bool json;
};

static const struct option rows[] = {
        {"db", 0, OPTION_TEXT, offsetof(struct doctor_options, db), .arg = "DSN",
         .help = "mysql://user:password@host:port/schema?socket=PATH&ssl-ca=F&…",
         .flags = OPTION_REQUIRED | OPTION_SECRET},
        {"nodes", 0, OPTION_NUMBER, offsetof(struct doctor_options, nodes), .arg = "N",
         .help = "how many nodes will run on it", .fallback = "3", .min = 1, .max = 10000},
        {"accept-data-loss", 0, OPTION_FLAG, offsetof(struct doctor_options, accept_data_loss),
         .help = "the nodes are started with it: commits that are not synced are no problem"},
        {"json", 0, OPTION_FLAG, offsetof(struct doctor_options, json),
         .help = "print one JSON object instead of lines"},
};
static const struct options spec = {
        "doctor",
        "check a database: settings, rights, schema, clocks, speed; say what to change.\n"
        "Exit status 0: all is well; 1: there is advice; 2: there is a problem, or no answer",
        OPTIONS_ROWS(rows)};

/* Of one server. */
struct report {
	char server[288]; /* host:port, or the socket */
	struct doctor_finding findings[DOCTOR_CHECKS];
	size_t n;
	enum doctor_verdict worst;
	char error[sizeof(struct err)]; /* why there are no findings */
};

static void name_server(struct report *r, const struct dsn *dsn, unsigned host)
{
	const struct dsn_host *at = &dsn->hosts[host];

	if (dsn->socket)
		snprintf(r->server, sizeof r->server, "%s", dsn->socket);
	else
		snprintf(r->server, sizeof r->server, "%s:%u", at->name, at->port);
}

static void examine(struct report *r, const struct dsn *dsn, unsigned host,
                    const struct doctor_options *o)
{
	struct doctor_settings settings = {.nodes = (unsigned)o->nodes,
	                                   .accept_data_loss = o->accept_data_loss};
	struct facts facts = {0};
	struct err e;

	*r = (struct report){0};
	name_server(r, dsn, host);
	if (facts_read(&facts, dsn, host, &e) < 0) {
		r->worst = DOCTOR_PROBLEM;
		snprintf(r->error, sizeof r->error, "%s", e.text);
	} else {
		for (; r->n < DOCTOR_CHECKS; r->n++) {
			struct doctor_finding *found = &r->findings[r->n];

			doctor_check(&facts, &settings, (enum doctor_check)r->n, found);
			if (found->verdict > r->worst)
				r->worst = found->verdict;
		}
	}
	facts_release(&facts);
}

static void print_lines(const struct report *r)
{
	printf("%s\n", r->server);
	if (*r->error)
		printf("problem  %-15s %s\n", "connect", r->error);
	for (size_t i = 0; i < r->n; i++) {
		const struct doctor_finding *f = &r->findings[i];

		printf("%-8s %-15s %s\n", doctor_verdict_name(f->verdict), f->check, f->found);
		if (f->verdict != DOCTOR_OK)
			printf("%-8s %-15s why: %s\n%-8s %-15s change: %s\n", "", "", f->why, "",
			       "", f->change);
	}
}

static json_t *finding_json(const struct doctor_finding *f)
{
	json_t *j = json_pack("{s:s, s:s, s:s}", "check", f->check, "verdict",
	                      doctor_verdict_name(f->verdict), "found", f->found);

	if (j && f->verdict != DOCTOR_OK) {
		json_object_set_new(j, "why", json_string(f->why));
		json_object_set_new(j, "change", json_string(f->change));
	}
	return j;
}

static json_t *report_json(const struct report *r)
{
	json_t *checks = json_array();
	json_t *j;

	for (size_t i = 0; i < r->n; i++)
		json_array_append_new(checks, finding_json(&r->findings[i]));
	j = json_pack("{s:s, s:s, s:o}", "server", r->server, "verdict",
	              doctor_verdict_name(r->worst), "checks", checks);
	if (*r->error)
		json_object_set_new(j, "error", json_string(r->error));
	return j;
}

static void print_json(enum doctor_verdict worst, json_t *take)
{
	json_t *j = json_pack("{s:s, s:o}", "verdict", doctor_verdict_name(worst), "servers", take);

	json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
}

/* Every host of the DSN: a node may end up on any of them. */
static enum doctor_verdict examine_all(const struct dsn *dsn, const struct doctor_options *o)
{
	enum doctor_verdict worst = DOCTOR_OK;
	json_t *servers = json_array();

	for (unsigned host = 0; host < dsn->host_count; host++) {
		struct report r;

		examine(&r, dsn, host, o);
		if (r.worst > worst)
			worst = r.worst;
		if (o->json)
			json_array_append_new(servers, report_json(&r));
		else
			print_lines(&r);
	}
	if (o->json)
		print_json(worst, servers);
	else
		json_decref(servers);
	return worst;
}

static int doctor(const struct doctor_options *o)
{
	static const int status[] = {
	        [DOCTOR_OK] = 0,
	        [DOCTOR_ADVICE] = 1,
	        [DOCTOR_PROBLEM] = 2,
	};
	enum doctor_verdict worst;
	struct dsn dsn;
	struct err e;

	if (dsn_load(&dsn, o->db, &e)) {
		fprintf(stderr, "doctor: %s\n", e.text);
		return OPTIONS_EXIT_USAGE;
	}
	sql_library_init();
	worst = examine_all(&dsn, o);
	sql_library_end();
	dsn_release(&dsn);
	return status[worst];
}

int cmd_doctor(int argc, char **argv)
{
	struct doctor_options o = {0};
	int rc;

	if (!options_take(&spec, argc, argv, &o, &rc))
		return rc;
	rc = doctor(&o);
	options_release(&spec, &o);
	return rc;
}
