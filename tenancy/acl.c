#include "tenancy/acl.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "tenancy/topic.h"

#include <assert.h>
#include <stdlib.h>

enum acl_action {
	ACL_PUBLISH = 1,
	ACL_SUBSCRIBE = 2,
	ACL_ALL = ACL_PUBLISH | ACL_SUBSCRIBE,
};

struct acl_rule {
	bool allow;
	enum acl_action action;
	struct slice filter; /* owned; with placeholders until bound */
};

struct acl {
	bool bound;
	size_t n;
	struct acl_rule rules[];
};

struct placeholder {
	const char *text;
	struct slice value;
};

enum { PLACEHOLDERS = 2 };

static const struct placeholder unbound[PLACEHOLDERS] = {
        {"${clientid}", {"x", 1}},
        {"${sub}", {"x", 1}},
};

/* ---- placeholders ---- */

static bool starts_with(struct slice s, const char *prefix)
{
	size_t n = strlen(prefix);

	return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

static const struct placeholder *placeholder_at(struct slice s, const struct placeholder *values)
{
	for (size_t i = 0; i < PLACEHOLDERS; i++) {
		if (starts_with(s, values[i].text))
			return &values[i];
	}
	return NULL;
}

/* A value from outside becomes part of one level and nothing more: not a wildcard, not a level
 * separator, not a server topic. */
static int check_value(const struct placeholder *p, struct err *e)
{
	struct slice v = p->value;

	if (v.n == 0)
		return err_set(e, 0, "the token's acl uses %s, which is empty", p->text);
	if (v.p[0] == '$' || memchr(v.p, '/', v.n) || memchr(v.p, '+', v.n) ||
	    memchr(v.p, '#', v.n))
		return err_set(
		        e, 0,
		        "the token's acl uses %s, so %s may not contain / + # or start with $",
		        p->text, log_quote(v.p, v.n));
	return 0;
}

/* Append filter to out with its placeholders replaced; one pass, so a value is never expanded. */
static int expand(struct slice filter, const struct placeholder *values, struct buf *out,
                  struct err *e)
{
	while (filter.n) {
		const struct placeholder *p = placeholder_at(filter, values);
		size_t n = p ? strlen(p->text) : 1;

		if (!p && starts_with(filter, "${"))
			return err_set(e, 0, "%s: only ${clientid} and ${sub} are known",
			               log_quote(filter.p, filter.n));
		if (p && check_value(p, e) < 0)
			return -1;
		buf_append_slice(out, p ? p->value : slice(filter.p, 1));
		filter = slice(filter.p + n, filter.n - n);
	}
	return topic_filter_check(buf_slice(out), e);
}

/* ---- parsing ---- */

static struct slice json_slice(const json_t *v)
{
	return slice(json_string_value(v), json_string_length(v));
}

static int parse_permission(const json_t *v, bool *allow, struct err *e)
{
	const char *s = json_string_value(v);

	if (!s || (strcmp(s, "allow") != 0 && strcmp(s, "deny") != 0))
		return err_set(e, 0, "permission must be \"allow\" or \"deny\"");
	*allow = s[0] == 'a';
	return 0;
}

static bool action_named(struct slice name, enum acl_action *action)
{
	static const struct {
		const char *name;
		enum acl_action action;
	} names[] = {{"publish", ACL_PUBLISH}, {"subscribe", ACL_SUBSCRIBE}, {"all", ACL_ALL}};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (slice_eq(name, slice_str(names[i].name))) {
			*action = names[i].action;
			return true;
		}
	}
	return false;
}

static int parse_action(const json_t *v, enum acl_action *action, struct err *e)
{
	if (json_is_string(v) && action_named(json_slice(v), action))
		return 0;
	return err_set(e, 0, "action must be \"publish\", \"subscribe\" or \"all\"");
}

static int check_members(const json_t *entry, struct err *e)
{
	static const char *const known[] = {"permission", "action", "topic", "topics"};
	const char *name;
	json_t *value;

	if (!json_is_object(entry))
		return err_set(e, 0, "not an object");
	json_object_foreach((json_t *)entry, name, value)
	{
		bool found = false;

		for (size_t i = 0; i < sizeof known / sizeof *known; i++)
			found = found || strcmp(name, known[i]) == 0;
		if (!found)
			return err_set(e, 0, "member %s is not supported", log_quote_str(name));
	}
	return 0;
}

/* One rule for one filter, made like `like`. */
static int add_rule(struct acl *a, const struct acl_rule *like, struct slice text, struct err *e)
{
	struct buf probe = {0};
	int rc;

	if (a->n == ACL_MAX_FILTERS)
		return err_set(e, 0, "more than %d filters", ACL_MAX_FILTERS);
	if (text.n > TOPIC_MAX_BYTES)
		return err_set(e, 0, "topic has %zu bytes; at most %d are allowed", text.n,
		               TOPIC_MAX_BYTES);
	if (starts_with(text, "eq "))
		return err_set(e, 0, "the form \"eq FILTER\" is not supported");
	rc = expand(text, unbound, &probe, e);
	buf_release(&probe);
	if (rc < 0)
		return -1;
	a->rules[a->n] = *like;
	a->rules[a->n++].filter = slice(xmemdup(text.p, text.n), text.n);
	return 0;
}

static int add_topic(struct acl *a, const struct acl_rule *like, const json_t *topic, struct err *e)
{
	if (!json_is_string(topic))
		return err_set(e, 0, "topic must be a string");
	return add_rule(a, like, json_slice(topic), e);
}

static int parse_topics(struct acl *a, const struct acl_rule *like, const json_t *entry,
                        struct err *e)
{
	const json_t *one = json_object_get(entry, "topic"),
	             *many = json_object_get(entry, "topics");

	if ((one != NULL) == (many != NULL))
		return err_set(e, 0, "either topic or topics is needed");
	if (one)
		return add_topic(a, like, one, e);
	if (json_array_size(many) == 0)
		return err_set(e, 0, "topics must be an array of at least one filter");
	for (size_t i = 0; i < json_array_size(many); i++) {
		if (add_topic(a, like, json_array_get(many, i), e) < 0)
			return -1;
	}
	return 0;
}

static int parse_entry(struct acl *a, const json_t *entry, struct err *e)
{
	struct acl_rule like = {0};

	if (check_members(entry, e) < 0 ||
	    parse_permission(json_object_get(entry, "permission"), &like.allow, e) < 0 ||
	    parse_action(json_object_get(entry, "action"), &like.action, e) < 0)
		return -1;
	return parse_topics(a, &like, entry, e);
}

static int parse_entries(struct acl *a, const json_t *claim, struct err *e)
{
	struct err why = {0};

	if (!claim)
		return 0;
	if (!json_is_array(claim))
		return err_set(e, 0, "claim acl must be an array of {permission, action, topic}");
	for (size_t i = 0; i < json_array_size(claim); i++) {
		if (parse_entry(a, json_array_get(claim, i), &why) < 0)
			return err_set(e, 0, "acl entry %zu: %.200s", i + 1, why.text);
	}
	return 0;
}

static struct acl *acl_new(void)
{
	return xcalloc(1, sizeof(struct acl) + ACL_MAX_FILTERS * sizeof(struct acl_rule));
}

/* Shrunk: most tokens have few rules. */
static struct acl *parsed(struct acl *a, int rc)
{
	if (rc == 0)
		return xrealloc(a, sizeof *a + a->n * sizeof a->rules[0]);
	acl_free(a);
	return NULL;
}

struct acl *acl_parse(const json_t *claim, struct err *e)
{
	struct acl *a = acl_new();

	return parsed(a, parse_entries(a, claim, e));
}

/* ---- scopes ---- */

static int parse_scope(struct acl *a, struct slice scope, struct err *e)
{
	struct acl_rule like = {.allow = true};
	const char *colon;
	struct err why = {0};

	if (!starts_with(scope, "leat."))
		return 0;
	scope = slice(scope.p + 5, scope.n - 5);
	colon = scope.n ? memchr(scope.p, ':', scope.n) : NULL;
	if (!colon || !action_named(slice(scope.p, (size_t)(colon - scope.p)), &like.action))
		return err_set(e, 0,
		               "scope leat.%.80s: there are leat.publish:FILTER, "
		               "leat.subscribe:FILTER and leat.all:FILTER",
		               log_quote(scope.p, scope.n));
	if (add_rule(a, &like, slice(colon + 1, (size_t)(scope.p + scope.n - colon - 1)), &why) < 0)
		return err_set(e, 0, "scope leat.%.40s: %.180s", log_quote(scope.p, scope.n),
		               why.text);
	return 0;
}

static int parse_scope_text(struct acl *a, struct slice text, struct err *e)
{
	while (text.n) {
		const char *space = memchr(text.p, ' ', text.n);
		size_t n = space ? (size_t)(space - text.p) : text.n;

		if (parse_scope(a, slice(text.p, n), e) < 0)
			return -1;
		n += space != NULL;
		text = slice(text.p + n, text.n - n);
	}
	return 0;
}

static int parse_scopes(struct acl *a, const char *name, const json_t *claim, struct err *e)
{
	if (json_is_string(claim))
		return parse_scope_text(a, json_slice(claim), e);
	if (!json_is_array(claim))
		return err_set(e, 0, "claim %.80s must be a string or an array of strings", name);
	for (size_t i = 0; i < json_array_size(claim); i++) {
		const json_t *v = json_array_get(claim, i);

		if (json_is_string(v) && parse_scope(a, json_slice(v), e) < 0)
			return -1;
	}
	return 0;
}

struct acl *acl_parse_scopes(const char *name, const json_t *claim, struct err *e)
{
	struct acl *a = acl_new();

	return parsed(a, claim ? parse_scopes(a, name, claim, e) : 0);
}

void acl_free(struct acl *a)
{
	if (!a)
		return;
	for (size_t i = 0; i < a->n; i++)
		free((char *)a->rules[i].filter.p);
	free(a);
}

int acl_bind(struct acl *a, struct slice subject, struct slice client_id, struct err *e)
{
	struct placeholder values[PLACEHOLDERS];

	assert(!a->bound);
	memcpy(values, unbound, sizeof values);
	values[0].value = client_id;
	values[1].value = subject;
	for (size_t i = 0; i < a->n; i++) {
		struct acl_rule *r = &a->rules[i];
		struct buf out = {0};

		if (expand(r->filter, values, &out, e) < 0) {
			buf_release(&out);
			return -1;
		}
		free((char *)r->filter.p);
		r->filter = slice(xmemdup(out.data, out.len), out.len);
		buf_release(&out);
	}
	a->bound = true;
	return 0;
}

/* ---- judging ---- */

bool acl_may_publish(const struct acl *a, struct slice topic)
{
	assert(a->bound);
	for (size_t i = 0; i < a->n; i++) {
		const struct acl_rule *r = &a->rules[i];

		if ((r->action & ACL_PUBLISH) && topic_match(r->filter, topic))
			return r->allow;
	}
	return false;
}

bool acl_may_subscribe(const struct acl *a, struct slice filter)
{
	assert(a->bound);
	for (size_t i = 0; i < a->n; i++) {
		const struct acl_rule *r = &a->rules[i];

		if (!(r->action & ACL_SUBSCRIBE))
			continue;
		if (r->allow && topic_filter_covers(r->filter, filter))
			return true;
		if (!r->allow && topic_filter_overlaps(r->filter, filter))
			return false;
	}
	return false;
}
