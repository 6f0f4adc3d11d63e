#include "sql/rights.h"

#include "sql/roles.h"

#include <stdio.h>
#include <string.h>

/* LIKE, as MySQL matches schema names in grants: % and _, and \ before either. */
static bool like(const char *p, const char *end, const char *text)
{
	for (; p < end; p++, text++) {
		if (*p == '%') {
			do {
				if (like(p + 1, end, text))
					return true;
			} while (*text++);
			return false;
		}
		if (*p == '\\' && p + 1 < end)
			p++;
		else if (*p == '_' && *text)
			continue;
		if (*p != *text)
			return false;
	}
	return !*text;
}

static bool parse_grant(const char *line, size_t len, const char *schema, struct grant *out)
{
	const char *end = line + len, *on, *to;

	if (len < 6 || memcmp(line, "GRANT ", 6) != 0)
		return false;
	*out = (struct grant){.names = line + 6};
	on = memmem(line, len, " ON ", 4);
	to = on ? memmem(on, (size_t)(end - on), " TO ", 4) : NULL;
	out->role = !on;
	if (!to)
		return out->role;
	out->n = (size_t)(on - out->names);
	on += 4;
	out->global = to - on == 3 && memcmp(on, "*.*", 3) == 0;
	if (to - on > 4 && *on == '`' && memcmp(to - 3, "`.*", 3) == 0)
		out->here = like(on + 1, to - 3, schema);
	out->here = out->here || out->global;
	return true;
}

static bool grant_names(const struct grant *g, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < g->n;) {
		const char *p = g->names + i;
		const char *comma = memchr(p, ',', g->n - i);
		size_t n = comma ? (size_t)(comma - p) : g->n - i;

		if (n == len && memcmp(p, name, n) == 0)
			return true;
		i += n + 2; /* ", " */
	}
	return false;
}

/* Is SCHEMA_node among the roles that this line grants? */
static bool is_node_role(const char *line, size_t len, const char *schema)
{
	const char *to = memmem(line, len, " TO ", 4);
	char name[80];

	if (!to || strlen(schema) > ROLES_SCHEMA_MAX)
		return false;
	snprintf(name, sizeof name, "`%s_node`", schema);
	return memmem(line, (size_t)(to - line), name, strlen(name)) != NULL;
}

void rights_parse(struct rights *r, const char *text, const char *schema)
{
	*r = (struct rights){0};
	while (*text && r->n < RIGHTS_GRANTS) {
		size_t len = strcspn(text, "\n");

		if (parse_grant(text, len, schema, &r->grants[r->n])) {
			r->has_role = r->has_role || r->grants[r->n].role;
			r->node_role = r->node_role ||
			               (r->grants[r->n].role && is_node_role(text, len, schema));
			r->n++;
		}
		text += len + (text[len] == '\n');
	}
}

static bool may(const struct rights *r, const char *name, bool global)
{
	for (size_t i = 0; i < r->n; i++) {
		const struct grant *g = &r->grants[i];

		if ((global ? g->global : g->here) &&
		    (grant_names(g, name) || grant_names(g, "ALL PRIVILEGES")))
			return true;
	}
	return false;
}

void rights_list(const struct rights *r, const char *const *wanted, size_t n, bool global,
                 char *out, size_t size)
{
	size_t at = 0;

	*out = '\0';
	for (size_t i = 0; i < n && at < size; i++) {
		if (may(r, wanted[i], global) == global)
			at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "",
			                       wanted[i]);
	}
}
