#include "node/cli/options.h"

#include "base/buf.h"
#include "base/mem.h"
#include "node/net/addr.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 64, FILE_MAX_BYTES = 64 * 1024, HELP_COLUMN = 28 };

/* ---- values */

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit size_units[] = {
        {"", 1},
        {"B", 1},
        {"kB", 1000},
        {"KB", 1000},
        {"MB", 1000 * 1000},
        {"GB", 1000 * 1000 * 1000},
        {"KiB", 1 << 10},
        {"MiB", 1 << 20},
        {"GiB", 1 << 30},
        {NULL, 0},
};

static const struct unit duration_units[] = {
        {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {NULL, 0},
};

static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

/* digits and one of the units, no sign, no space, no overflow */
static int parse_units(const char *text, const struct unit *units, uint64_t *out)
{
	uint64_t n = 0;
	const char *p = text;

	for (; isdigit((unsigned char)*p); p++) {
		if (__builtin_mul_overflow(n, (uint64_t)10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return -1;
	}
	if (p == text)
		return -1;
	for (const struct unit *u = units; u->name; u++) {
		if (strcmp(p, u->name) == 0)
			return __builtin_mul_overflow(n, u->factor, out) ? -1 : 0;
	}
	return -1;
}

int option_parse_size(const char *text, uint64_t *bytes, struct err *e)
{
	if (parse_units(text, size_units, bytes) < 0)
		return err_set(e, 0, "'%.40s' is not a size like 512, 64KiB or 10MiB", text);
	return 0;
}

int option_parse_duration(const char *text, uint64_t *ms, struct err *e)
{
	if (parse_units(text, duration_units, ms) < 0)
		return err_set(e, 0, "'%.40s' is not a duration like 250ms, 30s, 5m, 1h or 7d",
		               text);
	return 0;
}

int option_parse_number(const char *text, uint64_t *n, struct err *e)
{
	if (parse_units(text, no_units, n) < 0)
		return err_set(e, 0, "'%.40s' is not a whole number", text);
	return 0;
}

/* ---- kinds: each turns text into the value at `field` */

typedef int option_parser(const struct option *o, const char *text, void *field, struct err *e);

static int set_flag(const struct option *o, const char *text, void *field, struct err *e)
{
	static const char *const yes[] = {"1", "true", "yes", "on"};
	static const char *const no[] = {"0", "false", "no", "off", ""};

	(void)o;
	for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
		if (strcmp(text, yes[i]) == 0) {
			*(bool *)field = true;
			return 0;
		}
	}
	for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
		if (strcmp(text, no[i]) == 0) {
			*(bool *)field = false;
			return 0;
		}
	}
	return err_set(e, 0, "'%.40s' is not true or false", text);
}

static int set_text(const struct option *o, const char *text, void *field, struct err *e)
{
	(void)o;
	(void)e;
	*(const char **)field = text;
	return 0;
}

static int set_list(const struct option *o, const char *text, void *field, struct err *e)
{
	struct option_list *l = field;

	(void)o;
	(void)e;
	l->v = xrealloc(l->v, (l->n + 1) * sizeof *l->v);
	l->v[l->n++] = text;
	return 0;
}

static int set_integer(const struct option *o, const char *text, void *field, struct err *e)
{
	uint64_t n = 0;
	int rc = o->kind == OPTION_SIZE       ? option_parse_size(text, &n, e)
	         : o->kind == OPTION_DURATION ? option_parse_duration(text, &n, e)
	                                      : option_parse_number(text, &n, e);

	if (rc < 0)
		return -1;
	if (n < o->min || (o->max && n > o->max))
		return err_set(e, 0, "%.40s is out of range: %llu to %llu%s", text,
		               (unsigned long long)o->min,
		               (unsigned long long)(o->max ? o->max : UINT64_MAX),
		               o->kind == OPTION_SIZE       ? " bytes"
		               : o->kind == OPTION_DURATION ? " ms"
		                                            : "");
	*(uint64_t *)field = n;
	return 0;
}

static int set_address(const struct option *o, const char *text, void *field, struct err *e)
{
	(void)o;
	return addr_parse(field, text, e);
}

static int set_choice(const struct option *o, const char *text, void *field, struct err *e)
{
	size_t n = strlen(text);
	int index = 0;

	for (const char *p = o->choices; p; index++) {
		size_t len = strcspn(p, "|");

		if (len == n && memcmp(p, text, n) == 0) {
			*(int *)field = index;
			return 0;
		}
		p = p[len] ? p + len + 1 : NULL;
	}
	return err_set(e, 0, "'%.40s' is not one of %s", text, o->choices);
}

static const struct {
	option_parser *parse;
	size_t size; /* of the field, bytes */
} kinds[] = {
        [OPTION_FLAG] = {set_flag, sizeof(bool)},
        [OPTION_TEXT] = {set_text, sizeof(const char *)},
        [OPTION_LIST] = {set_list, sizeof(struct option_list)},
        [OPTION_NUMBER] = {set_integer, sizeof(uint64_t)},
        [OPTION_SIZE] = {set_integer, sizeof(uint64_t)},
        [OPTION_DURATION] = {set_integer, sizeof(uint64_t)},
        [OPTION_ADDRESS] = {set_address, sizeof(struct addr)},
        [OPTION_CHOICE] = {set_choice, sizeof(int)},
        [OPTION_ARGS] = {set_list, sizeof(struct option_list)},
};

/* ---- one parse */

struct parse {
	const struct options *spec;
	char *out;
	bool *given; /* per row: on the command line, or else in the environment */
	struct err *e;
};

static void *field_of(const struct option *o, void *out)
{
	return (char *)out + o->offset;
}

/* Text that must outlive the parse and belongs to nobody else: kept for the process's life. */
static const char *keep(char *text)
{
	static struct kept {
		struct kept *next;
		char *text;
	} * kept;
	struct kept *k = xmalloc(sizeof *k);

	k->next = kept;
	k->text = text;
	kept = k;
	return text;
}

static void env_name(const struct option *o, const char *suffix, char out[NAME_MAX_BYTES])
{
	snprintf(out, NAME_MAX_BYTES, "LEAT_%s%s", o->env ? o->env : o->name, suffix);
	for (char *p = out; *p; p++)
		*p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
}

/* Set the row's value; `from` is how the user named it, and errors begin with that. */
static int set_value(struct parse *p, const struct option *o, const char *from, const char *text)
{
	struct err why;

	/* a parser's error quotes the value */
	assert(!(o->flags & OPTION_SECRET) || o->kind == OPTION_TEXT);
	if (kinds[o->kind].parse(o, text, field_of(o, p->out), &why) < 0)
		return err_set(p->e, 0, "%s: %s", from, why.text);
	p->given[o - p->spec->rows] = true;
	return 0;
}

static int set_from_file(struct parse *p, const struct option *o, const char *from,
                         const char *path)
{
	FILE *f = fopen(path, "re");
	char *text;
	size_t n;

	if (!f)
		return err_set(p->e, errno, "%s: cannot read %.150s: %s", from, path,
		               strerror(errno));
	text = xmalloc(FILE_MAX_BYTES + 1);
	n = fread(text, 1, FILE_MAX_BYTES + 1, f);
	fclose(f);
	if (n > FILE_MAX_BYTES) {
		free(text);
		return err_set(p->e, 0, "%s: %.150s is longer than %d bytes", from, path,
		               FILE_MAX_BYTES);
	}
	while (n && isspace((unsigned char)text[n - 1]))
		n--;
	text[n] = '\0';
	return set_value(p, o, from, keep(text));
}

static int set_from_env(struct parse *p, const struct option *o)
{
	char name[NAME_MAX_BYTES];
	const char *text;
	char *words;
	char *save;

	env_name(o, "", name);
	text = getenv(name);
	if (text && o->kind != OPTION_LIST)
		return set_value(p, o, name, text);
	if (text) {
		words = xstrdup(text);
		keep(words);
		for (char *w = strtok_r(words, " \t\n", &save); w;
		     w = strtok_r(NULL, " \t\n", &save))
			set_value(p, o, name, w);
		return 0;
	}
	if (o->flags & OPTION_SECRET) {
		env_name(o, "_FILE", name);
		text = getenv(name);
		if (text)
			return set_from_file(p, o, name, text);
	}
	return 0;
}

/* ---- the command line */

/* What one word of the command line turned out to name. */
struct named {
	const struct option *row;
	const char *value; /* after '=' or after a letter; NULL = none in this word */
	bool no;           /* --no-x */
	bool file;         /* --x-file */
	char from[NAME_MAX_BYTES];
};

static const struct option *row_named(const struct options *spec, const char *name, size_t n)
{
	for (size_t i = 0; i < spec->count; i++) {
		const struct option *o = &spec->rows[i];

		if (o->kind != OPTION_ARGS && strlen(o->name) == n && memcmp(o->name, name, n) == 0)
			return o;
	}
	return NULL;
}

static bool find_long(const struct options *spec, const char *name, struct named *out)
{
	size_t n = strcspn(name, "=");

	out->value = name[n] ? name + n + 1 : NULL;
	snprintf(out->from, sizeof out->from, "--%.*s", (int)(n < 40 ? n : 40), name);
	out->row = row_named(spec, name, n);
	if (!out->row && n > 3 && memcmp(name, "no-", 3) == 0) {
		out->row = row_named(spec, name + 3, n - 3);
		out->no = true;
		return out->row && out->row->kind == OPTION_FLAG && !out->value;
	}
	if (!out->row && n > 5 && memcmp(name + n - 5, "-file", 5) == 0) {
		out->row = row_named(spec, name, n - 5);
		out->file = true;
		return out->row && (out->row->flags & OPTION_SECRET);
	}
	return out->row != NULL;
}

static bool find_letter(const struct options *spec, const char *word, struct named *out)
{
	snprintf(out->from, sizeof out->from, "-%c",
	         isprint((unsigned char)word[0]) ? word[0] : '?');
	out->value = word[1] ? word + 1 : NULL;
	for (size_t i = 0; i < spec->count; i++) {
		const struct option *o = &spec->rows[i];

		if (o->letter && o->letter == word[0]) {
			out->row = o;
			return o->kind != OPTION_FLAG || !out->value;
		}
	}
	return false;
}

static int unknown_option(const struct parse *p, const char *from)
{
	struct buf list = {0};
	int rc;

	for (size_t i = 0; i < p->spec->count; i++) {
		if (p->spec->rows[i].kind != OPTION_ARGS)
			buf_printf(&list, " --%s", p->spec->rows[i].name);
	}
	rc = err_set(p->e, 0, "unknown option %s; there are:%.*s --help", from, (int)list.len,
	             list.data ? list.data : "");
	buf_release(&list);
	return rc;
}

static int set_named(struct parse *p, const struct named *named, const char *value)
{
	const struct option *o = named->row;
	bool again = p->given[o - p->spec->rows];

	if (again && o->kind != OPTION_LIST)
		return err_set(p->e, 0, "%s is given twice", named->from);
	if (named->file)
		return set_from_file(p, o, named->from, value);
	return set_value(p, o, named->from, value);
}

/* argv[*at] is an option: take it and its value or values. */
static int take_option(struct parse *p, int argc, char **argv, int *at)
{
	const char *word = argv[*at];
	struct named named = {0};
	bool is_long = word[1] == '-';

	if (is_long ? !find_long(p->spec, word + 2, &named)
	            : !find_letter(p->spec, word + 1, &named))
		return unknown_option(p, named.from);
	if (named.row->kind == OPTION_FLAG)
		return set_named(p, &named, named.value ? named.value : named.no ? "0" : "1");
	if (!named.value) {
		const char *next = *at + 1 < argc ? argv[*at + 1] : NULL;

		if (!next || (next[0] == '-' && next[1] == '-'))
			return err_set(p->e, 0, "%s needs a value: %s", named.from,
			               named.row->arg ? named.row->arg : "VALUE");
		named.value = next;
		++*at;
	}
	if (set_named(p, &named, named.value) < 0)
		return -1;
	while (named.row->kind == OPTION_LIST && *at + 1 < argc &&
	       (argv[*at + 1][0] != '-' || !argv[*at + 1][1])) {
		if (set_named(p, &named, argv[++*at]) < 0)
			return -1;
	}
	return 0;
}

static int take_word(struct parse *p, const char *word, int at)
{
	for (size_t i = 0; i < p->spec->count; i++) {
		const struct option *o = &p->spec->rows[i];
		const struct option_list *l = field_of(o, p->out);

		if (o->kind == OPTION_ARGS && (!o->max || l->n < o->max))
			return set_value(p, o, o->name, word);
	}
	/* not quoted: it may be a secret whose option was forgotten */
	return err_set(p->e, 0, "argument %d belongs to no option", at);
}

/* 0, 1 = --help, -1 */
static int take_command_line(struct parse *p, int argc, char **argv)
{
	bool words_only = false;

	for (int i = 1; i < argc; i++) {
		const char *w = argv[i];

		if (words_only || w[0] != '-' || !w[1]) {
			if (take_word(p, w, i) < 0)
				return -1;
		} else if (strcmp(w, "--") == 0) {
			words_only = true;
		} else if (strcmp(w, "--help") == 0 || strcmp(w, "-h") == 0) {
			return 1;
		} else if (take_option(p, argc, argv, &i) < 0) {
			return -1;
		}
	}
	return 0;
}

/* ---- the whole */

static int take_rest(struct parse *p, const struct option *o)
{
	bool *given = &p->given[o - p->spec->rows];
	const struct option_list *l = field_of(o, p->out);
	char env[NAME_MAX_BYTES];

	if (o->kind == OPTION_ARGS) {
		if (l->n < o->min)
			return err_set(p->e, 0, "needs %s", o->arg ? o->arg : o->name);
		return 0;
	}
	if (!*given && !(o->flags & OPTION_NO_ENV) && set_from_env(p, o) < 0)
		return -1;
	if (!*given && (o->flags & OPTION_REQUIRED)) {
		env_name(o, "", env);
		return err_set(p->e, 0, "--%s %s is required (or %s): %s", o->name,
		               o->arg ? o->arg : "", env, o->help);
	}
	if (!*given && o->fallback)
		return set_value(p, o, o->name, o->fallback);
	return 0;
}

int options_parse(const struct options *spec, int argc, char **argv, void *out, struct err *e)
{
	struct parse p = {spec, out, xcalloc(spec->count, sizeof(bool)), e};
	int rc;

	for (size_t i = 0; i < spec->count; i++)
		memset(field_of(&spec->rows[i], out), 0, kinds[spec->rows[i].kind].size);
	rc = take_command_line(&p, argc, argv);
	for (size_t i = 0; rc == 0 && i < spec->count; i++)
		rc = take_rest(&p, &spec->rows[i]);
	free(p.given);
	if (rc != 0)
		options_release(spec, out);
	return rc;
}

bool options_take(const struct options *spec, int argc, char **argv, void *out, int *rc)
{
	struct err e;
	int parsed = options_parse(spec, argc, argv, out, &e);

	if (parsed == 0)
		return true;
	if (parsed > 0) {
		options_help(spec, stdout);
		*rc = 0;
		return false;
	}
	fprintf(stderr, "leat %s: %s\nTry: leat %s --help\n", spec->command, e.text, spec->command);
	*rc = OPTIONS_EXIT_USAGE;
	return false;
}

void options_release(const struct options *spec, void *out)
{
	for (size_t i = 0; i < spec->count; i++) {
		const struct option *o = &spec->rows[i];
		struct option_list *l = field_of(o, out);

		if (o->kind != OPTION_LIST && o->kind != OPTION_ARGS)
			continue;
		free(l->v);
		*l = (struct option_list){0};
	}
}

/* ---- --help */

static void help_row(const struct option *o, FILE *f)
{
	char left[128];
	char env[NAME_MAX_BYTES];
	int n = 0;

	if (o->letter)
		n = snprintf(left, sizeof left, "-%c, ", o->letter);
	snprintf(left + n, sizeof left - (size_t)n, "--%s%s%s", o->name, o->arg ? " " : "",
	         o->arg ? o->arg : "");
	fprintf(f, "  %-*s %s", HELP_COLUMN, left, o->help);
	if (o->choices)
		fprintf(f, ": %s", o->choices);
	if (o->flags & OPTION_REQUIRED)
		fputs(" (required)", f);
	if (o->fallback)
		fprintf(f, " (default %s)", o->fallback);
	if (o->flags & OPTION_SECRET)
		fprintf(f, " [or --%s-file FILE]", o->name);
	if (!(o->flags & OPTION_NO_ENV)) {
		env_name(o, "", env);
		fprintf(f, " [%s]", env);
	}
	fputc('\n', f);
}

void options_help(const struct options *spec, FILE *f)
{
	fprintf(f, "usage: leat %s", spec->command);
	for (size_t i = 0; i < spec->count; i++) {
		const struct option *o = &spec->rows[i];

		if (o->kind == OPTION_ARGS)
			fprintf(f, " %s", o->arg ? o->arg : o->name);
	}
	fprintf(f, " [options]\n\n%s\n\n", spec->about);
	for (size_t i = 0; i < spec->count; i++) {
		const struct option *o = &spec->rows[i];

		if (o->kind == OPTION_ARGS)
			fprintf(f, "  %-*s %s\n", HELP_COLUMN, o->arg ? o->arg : o->name, o->help);
		else
			help_row(o, f);
	}
	fprintf(f, "  %-*s this text\n", HELP_COLUMN, "-h, --help");
}
