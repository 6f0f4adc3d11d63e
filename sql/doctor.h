/* doctor: is this database fit for Leat, and what should be changed? In two halves: facts are read
 * from a server (sql/doctor_facts.c; blocking, for the main thread of a command), and checks judge
 * them (sql/doctor.c; pure, any thread). Facts are texts by name: the server's global variables and
 * some of its status under their own names, and what was measured or read besides under
 * "leat.NAME". */
#ifndef LEAT_SQL_DOCTOR_H
#define LEAT_SQL_DOCTOR_H

#include "base/err.h"
#include "base/map.h"
#include "sql/dsn.h"

#include <stdbool.h>
#include <stddef.h>

/* ---- facts ---- */

struct facts {
	struct map texts; /* name -> struct fact; names and texts are ours */
};

void facts_set(struct facts *f, const char *name, const char *text); /* the last one counts */
const char *facts_get(const struct facts *f, const char *name);      /* "" when unknown */
void facts_release(struct facts *f);

/* Connect to that one of the DSN's hosts and look. Writes one row of its own to the table writer,
 * where there is one, and deletes it: that is how long a commit takes. -1: the server was not
 * reached, or hung up. */
int facts_read(struct facts *f, const struct dsn *dsn, unsigned host, struct err *e);

/* ---- checks ---- */

enum doctor_verdict {
	DOCTOR_OK,
	DOCTOR_ADVICE,  /* it works; it could be better */
	DOCTOR_PROBLEM, /* a node would not start, or lose events, or stand still */
};

struct doctor_finding {
	const char *check; /* its name in doctor.def */
	const char *why;   /* why it matters */
	enum doctor_verdict verdict;
	char found[256];
	char change[384]; /* what exactly to do; empty when OK */
};

enum doctor_check {
#define DOCTOR_CHECK(name, why) DOCTOR_##name,
#include "sql/doctor.def"
#undef DOCTOR_CHECK
	DOCTOR_CHECKS,
};

struct doctor_settings {
	unsigned nodes;        /* that will run on this database */
	bool accept_data_loss; /* they are started with it: what is not synced is advice then */
};

void doctor_check(const struct facts *f, const struct doctor_settings *settings,
                  enum doctor_check check, struct doctor_finding *out);

const char *doctor_verdict_name(enum doctor_verdict v); /* "ok", "advice", "problem" */

#endif
