#include "tenancy/topic.h"

#include "base/log.h"

/* A cursor over the levels of one name or filter. */
struct walk {
	struct slice rest;
	bool more;
	struct slice level; /* the current one */
	bool live;          /* is there a current one? */
	bool first;         /* is it the first? */
};

static void walk_next(struct walk *w)
{
	w->live = topic_next_level(&w->rest, &w->more, &w->level);
	w->first = false;
}

static struct walk walk_start(struct slice s)
{
	struct walk w = {.rest = s, .more = true};

	walk_next(&w);
	w.first = true;
	return w;
}

static bool walk_at(const struct walk *w, char wildcard)
{
	return w->live && topic_level_is(w->level, wildcard);
}

static bool is_system(struct slice topic)
{
	return topic.n > 0 && topic.p[0] == '$';
}

static int check_size(struct slice s, const char *what, struct err *e)
{
	int levels = 1;

	if (s.n == 0)
		return err_set(e, 0, "%s is empty", what);
	if (s.n > TOPIC_MAX_BYTES)
		return err_set(e, 0, "%s has %zu bytes; at most %d are allowed", what, s.n,
		               TOPIC_MAX_BYTES);
	if (memchr(s.p, '\0', s.n))
		return err_set(e, 0, "%s contains U+0000", what);
	for (size_t i = 0; i < s.n; i++)
		levels += s.p[i] == '/';
	if (levels > TOPIC_MAX_LEVELS)
		return err_set(e, 0, "%s has %d levels; at most %d are allowed", what, levels,
		               TOPIC_MAX_LEVELS);
	return 0;
}

int topic_check(struct slice topic, struct err *e)
{
	if (check_size(topic, "topic", e) < 0)
		return -1;
	if (memchr(topic.p, '#', topic.n) || memchr(topic.p, '+', topic.n))
		return err_set(e, 0, "topic %s contains a wildcard; + and # are for filters",
		               log_quote(topic.p, topic.n));
	if (is_system(topic))
		return err_set(e, 0, "topic %s starts with $, which is kept for the server",
		               log_quote(topic.p, topic.n));
	return 0;
}

static int check_level(const struct walk *w, struct slice filter, struct err *e)
{
	bool hash = memchr(w->level.p, '#', w->level.n) != NULL;
	bool plus = memchr(w->level.p, '+', w->level.n) != NULL;

	if ((hash || plus) && w->level.n > 1)
		return err_set(e, 0, "filter %s: %c must be a whole level",
		               log_quote(filter.p, filter.n), hash ? '#' : '+');
	if (hash && w->more)
		return err_set(e, 0, "filter %s: # must be the last level",
		               log_quote(filter.p, filter.n));
	return 0;
}

static bool first_level_is(struct slice s, const char *name)
{
	return slice_eq(walk_start(s).level, slice_str(name));
}

int topic_filter_check(struct slice filter, struct err *e)
{
	if (check_size(filter, "filter", e) < 0)
		return -1;
	if (first_level_is(filter, "$share") || first_level_is(filter, "$queue"))
		return err_set(e, 0, "filter %s: $share and $queue are not allowed here",
		               log_quote(filter.p, filter.n));
	for (struct walk w = walk_start(filter); w.live; walk_next(&w)) {
		/* an empty level has no bytes to look at */
		if (w.level.n && check_level(&w, filter, e) < 0)
			return -1;
	}
	return 0;
}

/* NAME of $share/NAME/… and $queue/NAME [MQTT-4.8.2-1]. */
static int check_share(struct slice share, const char *form, struct err *e)
{
	if (share.n == 0)
		return err_set(e, 0, "NAME is missing: the form is %s", form);
	if (share.n > TOPIC_MAX_SHARE_BYTES)
		return err_set(e, 0, "NAME in %s has %zu bytes; at most %d are allowed", form,
		               share.n, TOPIC_MAX_SHARE_BYTES);
	if (memchr(share.p, '#', share.n) || memchr(share.p, '+', share.n) ||
	    memchr(share.p, '\0', share.n))
		return err_set(e, 0, "NAME in %s may not contain +, # or U+0000", form);
	return 0;
}

int topic_filter_parse(struct slice text, struct topic_filter *out, struct err *e)
{
	struct walk w = walk_start(text);
	const char *form = "$share/NAME/FILTER";

	*out = (struct topic_filter){.kind = FILTER_PLAIN, .filter = text};
	if (slice_eq(w.level, slice_str("$share"))) {
		out->kind = FILTER_SHARED;
	} else if (slice_eq(w.level, slice_str("$queue"))) {
		out->kind = FILTER_QUEUE;
		form = "$queue/NAME or $queue/NAME/FILTER";
	} else {
		return topic_filter_check(text, e);
	}
	walk_next(&w);
	out->share = w.live ? w.level : slice(NULL, 0);
	if (check_share(out->share, form, e) < 0)
		return -1;
	if (!w.more && out->kind == FILTER_SHARED)
		return err_set(e, 0, "FILTER is missing: the form is %s", form);
	if (text.n > TOPIC_MAX_BYTES) /* NAME/FILTER is a column of `subscription` */
		return err_set(e, 0, "filter has %zu bytes; at most %d are allowed", text.n,
		               TOPIC_MAX_BYTES);
	out->filter = w.more ? w.rest : slice(NULL, 0);
	return w.more ? topic_filter_check(out->filter, e) : 0;
}

bool topic_match(struct slice filter, struct slice topic)
{
	struct walk f = walk_start(filter), t = walk_start(topic);

	if (is_system(topic) && (walk_at(&f, '#') || walk_at(&f, '+')))
		return false;
	for (;; walk_next(&f), walk_next(&t)) {
		if (walk_at(&f, '#')) /* also when the topic ended: a/# matches a */
			return true;
		if (!f.live || !t.live)
			return f.live == t.live;
		if (!walk_at(&f, '+') && !slice_eq(f.level, t.level))
			return false;
	}
}

/* "+/#" is "#" in other words: every topic has a first level. */
static struct slice shortest_form(struct slice filter)
{
	return slice_eq(filter, slice_str("+/#")) ? slice("#", 1) : filter;
}

bool topic_filter_covers(struct slice allowed, struct slice wanted)
{
	struct walk a = walk_start(shortest_form(allowed)), w = walk_start(shortest_form(wanted));

	if (is_system(wanted) && (walk_at(&a, '#') || walk_at(&a, '+')))
		return false;
	for (;; walk_next(&a), walk_next(&w)) {
		if (walk_at(&a, '#'))
			return true;
		if (!a.live || !w.live)
			return a.live == w.live;
		if (walk_at(&w, '#')) /* reaches deeper than allowed does */
			return false;
		if (walk_at(&a, '+'))
			continue;
		if (!slice_eq(a.level, w.level)) /* also a literal against + */
			return false;
	}
}

/* A wildcard at the first level against a name that starts with $. */
static bool kept_apart(const struct walk *wild, struct slice other)
{
	return is_system(other) && (walk_at(wild, '#') || walk_at(wild, '+'));
}

bool topic_filter_overlaps(struct slice a, struct slice b)
{
	struct walk x = walk_start(a), y = walk_start(b);

	if (kept_apart(&x, b) || kept_apart(&y, a))
		return false;
	for (;; walk_next(&x), walk_next(&y)) {
		if (walk_at(&x, '#') || walk_at(&y, '#'))
			return true;
		if (!x.live || !y.live)
			return x.live == y.live;
		if (!walk_at(&x, '+') && !walk_at(&y, '+') && !slice_eq(x.level, y.level))
			return false;
	}
}
