#include "base/zone.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	FILE_MAX = 64 * 1024, /* bytes; real ones have at most 4 KiB */
	HEADER = 44,
	TYPE_BYTES = 6,
	DAY_S = 86400,
	OFFSET_MAX_S = 26 * 3600, /* RFC 8536, section 3.2: -25:59:59 to 26:00:00 */
	RULE_TIME_MAX_S = 167 * 3600 + 3599,
};

/* When a rule of the footer takes effect, in every year. */
enum rule_kind {
	RULE_JULIAN, /* Jn: 1..365, no 29 February */
	RULE_DAY,    /* n: 0..365 */
	RULE_WEEK,   /* Mm.w.d */
};

struct rule {
	enum rule_kind kind;
	int day; /* of the year; WEEK: of the week, 0 = Sunday */
	int month;
	int week;  /* 5 = the last */
	int32_t s; /* of that day, in the clocks' time before it; may be negative */
};

struct zone {
	size_t n;
	int64_t *at;      /* [n] transitions, UTC, ascending */
	int32_t *offsets; /* [n] from that one on */
	int32_t before;   /* until the first */

	bool footer; /* for what comes after the last */
	bool dst;    /* it has two offsets */
	int32_t standard;
	int32_t daylight;
	struct rule start; /* of daylight */
	struct rule end;
};

/* ---- the table ---------------------------------------------------------------------------------
 */

static uint32_t u32(const char *p)
{
	const unsigned char *b = (const unsigned char *)p;

	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static int64_t i64(const char *p)
{
	return (int64_t)((uint64_t)u32(p) << 32 | u32(p + 4));
}

/* How many of each a block has; see RFC 8536, section 3.1. */
struct counts {
	uint64_t isut;
	uint64_t isstd;
	uint64_t leap;
	uint64_t times;
	uint64_t types;
	uint64_t chars;
};

static bool take_header(struct slice *s, struct counts *c)
{
	if (s->n < HEADER || memcmp(s->p, "TZif", 4) != 0 || s->p[4] < '2')
		return false;
	*c = (struct counts){u32(s->p + 20), u32(s->p + 24), u32(s->p + 28),
	                     u32(s->p + 32), u32(s->p + 36), u32(s->p + 40)};
	*s = slice(s->p + HEADER, s->n - HEADER);
	return true;
}

static bool skip_block(struct slice *s, const struct counts *c, unsigned time_bytes)
{
	uint64_t bytes = c->times * (time_bytes + 1) + c->types * TYPE_BYTES + c->chars +
	                 c->leap * (time_bytes + 4) + c->isstd + c->isut;

	if (bytes > s->n)
		return false;
	*s = slice(s->p + bytes, s->n - bytes);
	return true;
}

static bool read_types(struct zone *z, const struct counts *c, const char *p)
{
	const char *indexes = p + c->times * 8;
	const char *types = indexes + c->times;

	for (size_t i = 0; i < c->types; i++) {
		int32_t offset = (int32_t)u32(types + i * TYPE_BYTES);

		if (offset < -OFFSET_MAX_S || offset > OFFSET_MAX_S)
			return false;
	}
	z->before = (int32_t)u32(types);
	for (size_t i = 0; i < c->times; i++) {
		unsigned char type = (unsigned char)indexes[i];

		z->at[i] = i64(p + i * 8);
		if (type >= c->types || (i && z->at[i] <= z->at[i - 1]))
			return false;
		z->offsets[i] = (int32_t)u32(types + type * TYPE_BYTES);
	}
	return true;
}

/* ---- the footer: a POSIX TZ string -------------------------------------------------------------
 */

static bool take_char(struct slice *s, char c)
{
	if (!s->n || s->p[0] != c)
		return false;
	*s = slice(s->p + 1, s->n - 1);
	return true;
}

static bool take_int(struct slice *s, int min, int max, int *out)
{
	size_t n = 0;
	int v = 0;

	for (; n < s->n && n < 4 && s->p[n] >= '0' && s->p[n] <= '9'; n++)
		v = v * 10 + (s->p[n] - '0');
	*s = slice(s->p + n, s->n - n);
	*out = v;
	return n && v >= min && v <= max;
}

/* CET, or <+03> */
static bool take_zone_name(struct slice *s)
{
	bool quoted = take_char(s, '<');
	size_t n = 0;

	while (n < s->n &&
	       (quoted ? s->p[n] != '>'
	               : (s->p[n] >= 'A' && s->p[n] <= 'Z') || (s->p[n] >= 'a' && s->p[n] <= 'z')))
		n++;
	*s = slice(s->p + n, s->n - n);
	return n >= 3 && (!quoted || take_char(s, '>'));
}

/* [+-]h[h][:mm[:ss]] */
static bool take_time(struct slice *s, int32_t *out)
{
	bool minus = take_char(s, '-');
	int h;
	int m = 0;
	int sec = 0;

	if (!minus)
		take_char(s, '+');
	if (!take_int(s, 0, 167, &h) || (take_char(s, ':') && !take_int(s, 0, 59, &m)) ||
	    (take_char(s, ':') && !take_int(s, 0, 59, &sec)))
		return false;
	*out = (h * 3600 + m * 60 + sec) * (minus ? -1 : 1);
	return true;
}

static bool take_rule(struct slice *s, struct rule *r)
{
	*r = (struct rule){.s = 2 * 3600};
	if (!take_char(s, ','))
		return false;
	if (take_char(s, 'M')) {
		r->kind = RULE_WEEK;
		if (!take_int(s, 1, 12, &r->month) || !take_char(s, '.') ||
		    !take_int(s, 1, 5, &r->week) || !take_char(s, '.') ||
		    !take_int(s, 0, 6, &r->day))
			return false;
	} else {
		r->kind = take_char(s, 'J') ? RULE_JULIAN : RULE_DAY;
		if (!take_int(s, r->kind == RULE_JULIAN, 365, &r->day))
			return false;
	}
	return !take_char(s, '/') || take_time(s, &r->s);
}

static bool read_footer(struct zone *z, struct slice s)
{
	if (!take_char(&s, '\n'))
		return false;
	if (take_char(&s, '\n'))
		return true;
	if (!take_zone_name(&s) || !take_time(&s, &z->standard))
		return false;
	z->footer = true;
	z->standard = -z->standard; /* POSIX counts west of Greenwich */
	if (take_char(&s, '\n'))
		return true;
	z->dst = true;
	z->daylight = z->standard + 3600;
	if (!take_zone_name(&s))
		return false;
	if (s.n && s.p[0] != ',') {
		if (!take_time(&s, &z->daylight))
			return false;
		z->daylight = -z->daylight;
	}
	return take_rule(&s, &z->start) && take_rule(&s, &z->end) && take_char(&s, '\n');
}

/* ---- the calendar ------------------------------------------------------------------------------
 */

static bool is_leap(int64_t year)
{
	return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

/* Days from 1970-01-01 to the first of January. */
static int64_t year_days(int64_t year)
{
	int64_t y = year - 1;

	return y * 365 + y / 4 - y / 100 + y / 400 - 719162;
}

static int64_t year_of(int64_t utc_s)
{
	int64_t year = 1970 + utc_s / (366 * (int64_t)DAY_S);

	while (year_days(year + 1) * DAY_S <= utc_s)
		year++;
	return year;
}

static int rule_week_day(const struct rule *r, int64_t year)
{
	static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
	int leap = is_leap(year);
	int first = before[r->month - 1] + (r->month > 2 ? leap : 0);
	int end = before[r->month] + (r->month > 1 ? leap : 0);
	int weekday = (int)((year_days(year) + first + 4) % 7); /* 1970-01-01 was a Thursday */
	int day = first + (r->day - weekday + 7) % 7 + (r->week - 1) * 7;

	while (day >= end)
		day -= 7;
	return day;
}

/* When it takes effect in that year, UTC, `offset` being in force before. */
static int64_t rule_at(const struct rule *r, int64_t year, int32_t offset)
{
	int day = r->day;

	if (r->kind == RULE_WEEK)
		day = rule_week_day(r, year);
	else if (r->kind == RULE_JULIAN)
		day = r->day - 1 + (is_leap(year) && r->day >= 60);
	return (year_days(year) + day) * DAY_S + r->s - offset;
}

static int32_t footer_offset(const struct zone *z, int64_t utc_s)
{
	int64_t year = year_of(utc_s + z->standard);
	int64_t start;
	int64_t end;

	if (!z->dst)
		return z->standard;
	start = rule_at(&z->start, year, z->standard);
	end = rule_at(&z->end, year, z->daylight);
	if (start < end)
		return utc_s >= start && utc_s < end ? z->daylight : z->standard;
	return utc_s >= end && utc_s < start ? z->standard : z->daylight;
}

int32_t zone_offset_s(const struct zone *z, int64_t utc_s)
{
	size_t lo = 0;
	size_t hi = z->n;

	if (z->footer && utc_s >= 0 && (!z->n || utc_s >= z->at[z->n - 1]))
		return footer_offset(z, utc_s);
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (z->at[mid] <= utc_s)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? z->offsets[lo - 1] : z->before;
}

/* ---- life --------------------------------------------------------------------------------------
 */

void zone_free(struct zone *z)
{
	if (!z)
		return;
	free(z->at);
	free(z->offsets);
	free(z);
}

struct zone *zone_parse(struct slice bytes, struct err *e)
{
	struct zone *z = xcalloc(1, sizeof *z);
	struct counts c;
	const char *block;

	if (!take_header(&bytes, &c) || !skip_block(&bytes, &c, 4) || !take_header(&bytes, &c))
		goto bad;
	block = bytes.p;
	if (!skip_block(&bytes, &c, 8) || !c.types)
		goto bad;
	z->n = c.times;
	z->at = xcalloc(c.times + 1, sizeof *z->at);
	z->offsets = xcalloc(c.times + 1, sizeof *z->offsets);
	if (read_types(z, &c, block) && read_footer(z, bytes))
		return z;
bad:
	zone_free(z);
	err_set(e, 0, "not a zone file (TZif of version 2 or later)");
	return NULL;
}

static bool is_name(struct slice name)
{
	static const char allowed[] =
	        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-_/";

	if (!name.n || name.n > ZONE_NAME_MAX || name.p[0] == '/' || name.p[name.n - 1] == '/')
		return false;
	for (size_t i = 0; i < name.n; i++) {
		if (!name.p[i] || !strchr(allowed, name.p[i]))
			return false;
	}
	return true;
}

struct zone *zone_open(struct slice name, struct err *e)
{
	const char *dir = getenv("TZDIR");
	char path[PATH_MAX];
	struct buf bytes = {0};
	struct zone *z = NULL;
	struct err why;

	if (is_name(name)) {
		snprintf(path, sizeof path, "%s/%.*s", dir ? dir : "/usr/share/zoneinfo",
		         (int)name.n, name.p);
		if (file_read(path, FILE_MAX, &bytes, &why) == 0)
			z = zone_parse(buf_slice(&bytes), &why);
	}
	buf_release(&bytes);
	if (!z)
		err_set(e, 0,
		        "there is no time zone %s: names are those of the IANA, such as "
		        "Europe/Berlin, and need the package tzdata",
		        log_quote(name.p, name.n));
	return z;
}
