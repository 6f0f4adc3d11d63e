/* options: the command line and environment of one command, from a table. Each row names an option
 * (--name, perhaps -n, and LEAT_NAME in the environment), its kind, default and help line, and the
 * field of the command's struct that receives it. The command line wins over the environment, the
 * environment over the default. Errors say what is allowed; a secret's value is never printed.
 * Start-up only.
 *
 *     struct ca_options { const char *dir; struct option_list sans; };
 *     static const struct option rows[] = {
 *             {"dir", 'd', OPTION_TEXT, offsetof(struct ca_options, dir), .arg = "DIR",
 *              .help = "where the files go", .flags = OPTION_REQUIRED},
 *             {"san", 0, OPTION_LIST, offsetof(struct ca_options, sans), .arg = "NAME..",
 *              .help = "further names or addresses"},
 *     };
 *     static const struct options spec = {"ca", "create a private CA", OPTIONS_ROWS(rows)};
 *
 *     int cmd_ca(int argc, char **argv)
 *     {
 *             struct ca_options o;
 *             int rc;
 *
 *             if (!options_take(&spec, argc, argv, &o, &rc))
 *                     return rc;
 *             …
 *             options_release(&spec, &o);
 */
#ifndef LEAT_NODE_OPTIONS_H
#define LEAT_NODE_OPTIONS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum option_kind {
	OPTION_FLAG,   /* bool: --x, --no-x; in the environment 1/0/true/false/yes/no */
	OPTION_TEXT,   /* const char *, NULL when absent; borrowed from argv, environment, table */
	OPTION_LIST,   /* struct option_list: given again, or several values after one name */
	OPTION_NUMBER, /* uint64_t within min..max */
	OPTION_SIZE,   /* uint64_t bytes: 512, 64KiB, 10MiB, 1GiB (also kB, MB, GB = 1000s) */
	OPTION_DURATION, /* uint64_t milliseconds: 250ms, 30s, 5m, 1h, 7d */
	OPTION_ADDRESS,  /* struct addr (node/net/addr.h); host "" and port 0 when absent */
	OPTION_CHOICE,   /* int: index into choices "a|b|c" */
	OPTION_ARGS,     /* struct option_list: the words that are no options; name is for --help */
};

enum option_flags {
	OPTION_REQUIRED = 1 << 0,
	/* the value is never printed, and --NAME-file F (LEAT_NAME_FILE) reads it from a file */
	OPTION_SECRET = 1 << 1,
	OPTION_NO_ENV = 1 << 2, /* command line only */
};

struct option {
	const char *name;
	char letter; /* 0 = no short form */
	enum option_kind kind;
	size_t offset;        /* of the field in the command's struct */
	const char *arg;      /* what --help calls the value: "DSN", "ADDR" */
	const char *help;     /* one line */
	const char *fallback; /* the default as one would type it; NULL = zero */
	const char *choices;  /* OPTION_CHOICE: "json|text" */
	const char *env;      /* LEAT_ENV, where NAME is something else elsewhere; NULL = name */
	unsigned flags;       /* enum option_flags */
	uint64_t min, max;    /* OPTION_NUMBER, SIZE, DURATION; max 0 = no limit.
	                         OPTION_ARGS: how many words */
};

struct option_list {
	const char **v; /* the array is freed by options_release; borrowed text */
	size_t n;
};

struct options {
	const char *command; /* "node": for usage and errors */
	const char *about;   /* one line under the usage */
	const struct option *rows;
	size_t count;
};

#define OPTIONS_ROWS(rows) rows, sizeof(rows) / sizeof((rows)[0])

enum { OPTIONS_EXIT_USAGE = 2 }; /* exit status after a bad command line */

/* Fill *out, which the call zeroes field by field through the table: zero it first if it has more.
 * argv[0] is the command's name. 0; 1 = --help was asked for; -1 = bad, e says why. */
int options_parse(const struct options *spec, int argc, char **argv, void *out, struct err *e);
/* The same for a command's main: prints --help or the error. false = exit with *rc now. */
bool options_take(const struct options *spec, int argc, char **argv, void *out, int *rc);
void options_release(const struct options *spec, void *out);
void options_help(const struct options *spec, FILE *f);

/* The value parsers, for other places where people write these. */
int option_parse_size(const char *text, uint64_t *bytes, struct err *e);
int option_parse_duration(const char *text, uint64_t *ms, struct err *e);
int option_parse_number(const char *text, uint64_t *n, struct err *e);

#endif
