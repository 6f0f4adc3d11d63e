#include "cluster/cron.h"

#include "base/log.h"

#include <strings.h>
#include <time.h>

enum {
	DAY_S = 86400,
	YEARS_MAX = 8, /* from one 29 February to the next, over 2100 */
};

/* ---- fields ------------------------------------------------------------------------------------
 */

static const char *const month_names[] = {"jan", "feb", "mar", "apr", "may", "jun",
                                          "jul", "aug", "sep", "oct", "nov", "dec"};
static const char *const day_names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};

static const struct field {
	const char *name;
	unsigned min;
	unsigned max;
	const char *const *names;
	unsigned n_names; /* the first stands for min */
} fields[] = {
        {"minute", 0, 59, NULL, 0},
        {"hour", 0, 23, NULL, 0},
        {"day of the month", 1, 31, NULL, 0},
        {"month", 1, 12, month_names, 12},
        {"day of the week", 0, 7, day_names, 7},
};

enum { FIELDS = sizeof fields / sizeof fields[0], MINUTE = 0, HOUR, DAY, MONTH, WEEKDAY };

static bool take_char(struct slice *s, char c)
{
	if (!s->n || s->p[0] != c)
		return false;
	*s = slice(s->p + 1, s->n - 1);
	return true;
}

static bool take_number(struct slice *s, unsigned *out)
{
	size_t n = 0;
	unsigned v = 0;

	for (; n < s->n && n < 8 && s->p[n] >= '0' && s->p[n] <= '9'; n++)
		v = v * 10 + (unsigned)(s->p[n] - '0');
	*s = slice(s->p + n, s->n - n);
	*out = v;
	return n > 0;
}

static bool take_value(struct slice *s, const struct field *f, unsigned *out)
{
	for (unsigned i = 0; i < f->n_names && s->n >= 3; i++) {
		if (strncasecmp(s->p, f->names[i], 3) == 0) {
			*s = slice(s->p + 3, s->n - 3);
			*out = f->min + i;
			return true;
		}
	}
	return take_number(s, out) && *out >= f->min && *out <= f->max;
}

/* "*", "5", "1-5", with "/2" behind the first and the last. */
static bool take_range(struct slice *s, const struct field *f, uint64_t *bits)
{
	unsigned from = f->min;
	unsigned to = f->max;
	unsigned step = 1;
	bool single = false;

	if (!take_char(s, '*')) {
		if (!take_value(s, f, &from))
			return false;
		single = !take_char(s, '-');
		if (single)
			to = from;
		else if (!take_value(s, f, &to) || to < from)
			return false;
	}
	if (take_char(s, '/') && (single || !take_number(s, &step) || !step))
		return false;
	for (; from <= to; from += step)
		*bits |= UINT64_C(1) << from;
	return true;
}

static int parse_field(struct slice s, const struct field *f, uint64_t *bits, struct err *e)
{
	struct slice whole = s;

	*bits = 0;
	do {
		if (!take_range(&s, f, bits))
			return err_set(e, 0, "%s %s: from %u to %u, with * - , and /STEP", f->name,
			               log_quote(whole.p, whole.n), f->min, f->max);
	} while (take_char(&s, ','));
	if (s.n)
		return err_set(e, 0, "%s %s: from %u to %u, with * - , and /STEP", f->name,
		               log_quote(whole.p, whole.n), f->min, f->max);
	return 0;
}

static struct slice take_word(struct slice *s)
{
	struct slice word;
	size_t n = 0;

	while (s->n && (s->p[0] == ' ' || s->p[0] == '\t'))
		*s = slice(s->p + 1, s->n - 1);
	while (n < s->n && s->p[n] != ' ' && s->p[n] != '\t')
		n++;
	word = slice(s->p, n);
	*s = slice(s->p + n, s->n - n);
	return word;
}

static int parse_fields(struct slice text, struct cron *out, struct err *e)
{
	uint64_t *const bits[FIELDS] = {&out->minutes, &out->hours, &out->days, &out->months,
	                                &out->weekdays};
	struct slice words[FIELDS];

	for (int i = 0; i < FIELDS; i++) {
		words[i] = take_word(&text);
		if (!words[i].n)
			return err_set(e, 0,
			               "a schedule has five fields (minute, hour, day of the "
			               "month, month, day of the week), or is @every "
			               "DURATION, @hourly, @daily …");
		if (parse_field(words[i], &fields[i], bits[i], e) < 0)
			return -1;
	}
	if (take_word(&text).n)
		return err_set(e, 0, "a schedule has five fields, not more");
	if (out->weekdays & 1 << 7) /* Sunday too */
		out->weekdays |= 1;
	out->weekdays &= 0x7f;
	out->any_hour = words[HOUR].p[0] == '*';
	out->any_day = words[DAY].p[0] == '*';
	out->any_weekday = words[WEEKDAY].p[0] == '*';
	return 0;
}

/* ---- what begins with @ ------------------------------------------------------------------------
 */

static int parse_every(struct slice s, struct cron *out, struct err *e)
{
	static const struct {
		char letter;
		unsigned seconds;
	} units[] = {{'d', DAY_S}, {'h', 3600}, {'m', 60}, {'s', 1}};
	uint64_t total = 0;
	size_t unit = 0;

	while (s.n) {
		unsigned v;

		if (!take_number(&s, &v))
			break;
		while (unit < 4 && (!s.n || s.p[0] != units[unit].letter))
			unit++;
		if (unit == 4)
			break;
		total += (uint64_t)v * units[unit++].seconds;
		s = slice(s.p + 1, s.n - 1);
		if (!s.n && total >= 1 && total <= CRON_EVERY_MAX_S) {
			out->every_ms = total * 1000;
			return 0;
		}
	}
	return err_set(e, 0, "@every needs a duration from 1s to 366d, such as 90s, 15m or 1h30m");
}

static int parse_word(struct slice text, struct cron *out, struct err *e)
{
	static const struct {
		const char *name;
		const char *fields;
	} words[] = {
	        {"@hourly", "0 * * * *"},   {"@daily", "0 0 * * *"},   {"@midnight", "0 0 * * *"},
	        {"@weekly", "0 0 * * 0"},   {"@monthly", "0 0 1 * *"}, {"@yearly", "0 0 1 1 *"},
	        {"@annually", "0 0 1 1 *"},
	};
	struct slice word = take_word(&text);
	struct slice more = take_word(&text);

	if (slice_eq(word, slice_str("@every")) && !take_word(&text).n)
		return parse_every(more, out, e);
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
		if (!slice_eq(word, slice_str(words[i].name)))
			continue;
		if (more.n)
			return err_set(e, 0, "%s takes nothing behind it", words[i].name);
		return parse_fields(slice_str(words[i].fields), out, e);
	}
	return err_set(e, 0,
	               "%s is not known: @every DURATION, @hourly, @daily, @weekly, @monthly "
	               "or @yearly",
	               log_quote(word.p, word.n));
}

int cron_parse(struct slice text, struct cron *out, struct err *e)
{
	*out = (struct cron){0};
	if (text.n > CRON_TEXT_MAX)
		return err_set(e, 0, "a schedule has at most %d bytes", CRON_TEXT_MAX);
	while (text.n && text.p[0] == ' ')
		text = slice(text.p + 1, text.n - 1);
	return text.n && text.p[0] == '@' ? parse_word(text, out, e) : parse_fields(text, out, e);
}

/* ---- the next tick -----------------------------------------------------------------------------
 */

static bool day_matches(const struct cron *c, int64_t day)
{
	time_t at = (time_t)(day * DAY_S);
	struct tm tm;
	bool by_day;
	bool by_weekday;

	gmtime_r(&at, &tm); /* of a local date: a calendar, no clock */
	if (!(c->months >> (tm.tm_mon + 1) & 1))
		return false;
	by_day = c->days >> tm.tm_mday & 1;
	by_weekday = c->weekdays >> tm.tm_wday & 1;
	return c->any_day || c->any_weekday ? by_day && by_weekday : by_day || by_weekday;
}

/* The moment between the two at which the clocks are changed. */
static int64_t change_between(const struct zone *z, int64_t lo, int64_t hi)
{
	int32_t after = zone_offset_s(z, hi);

	while (hi - lo > 1) {
		int64_t mid = lo + (hi - lo) / 2;

		if (zone_offset_s(z, mid) == after)
			hi = mid;
		else
			lo = mid;
	}
	return hi;
}

/* When the zone's clocks show this (seconds since 1970 as if they were UTC) after `after_s`. Shown
 * twice: the first time; with `real` hours also the second. Never shown: when it was skipped, but
 * not with real hours. INT64_MAX = not after that. */
static int64_t shown_at(const struct zone *z, int64_t local_s, bool real, int64_t after_s)
{
	int32_t early = zone_offset_s(z, local_s - DAY_S);
	int32_t late = zone_offset_s(z, local_s + DAY_S);
	int64_t first = local_s - early;
	int64_t second = local_s - late;
	bool first_shows = zone_offset_s(z, first) == early;
	bool second_shows = zone_offset_s(z, second) == late;

	if (!first_shows && !second_shows) {
		if (real)
			return INT64_MAX;
		first = change_between(z, local_s - DAY_S - early, local_s + DAY_S - late);
		return first > after_s ? first : INT64_MAX;
	}
	if (first_shows && (first > after_s || !real || early == late))
		return first > after_s ? first : INT64_MAX;
	return second_shows && second > after_s ? second : INT64_MAX;
}

/* The first tick of that local day after `after_s`. Where clocks are set back a later hour may come
 * first, so all are tried. */
static int64_t next_of_day(const struct cron *c, const struct zone *z, int64_t day, int64_t after_s)
{
	int64_t best = INT64_MAX;

	for (unsigned hour = 0; hour < 24; hour++) {
		if (!(c->hours >> hour & 1))
			continue;
		for (unsigned minute = 0; minute < 60; minute++) {
			int64_t at;

			if (!(c->minutes >> minute & 1))
				continue;
			at = shown_at(z, day * DAY_S + hour * 3600 + minute * 60, c->any_hour,
			              after_s);
			if (at < best)
				best = at;
		}
	}
	return best;
}

uint64_t cron_next(const struct cron *c, const struct zone *z, uint64_t after_ms)
{
	int64_t after_s = (int64_t)(after_ms / 1000);
	int64_t today = (after_s + zone_offset_s(z, after_s)) / DAY_S;

	if (c->every_ms)
		return after_ms + c->every_ms;
	/* from yesterday on: clocks set back over midnight show it again */
	for (int64_t day = today - 1; day < today + YEARS_MAX * 366; day++) {
		int64_t at = day_matches(c, day) ? next_of_day(c, z, day, after_s) : INT64_MAX;

		if (at != INT64_MAX)
			return (uint64_t)at * 1000;
	}
	return UINT64_MAX;
}
