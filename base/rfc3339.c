#include "base/rfc3339.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TIME_MAX = 40 }; /* bytes of the longest one read, nanoseconds and zone included */

/* Exactly n digits at the front. */
static bool take_digits(struct slice *s, size_t n, uint64_t *out)
{
	uint64_t v = 0;

	if (n > s->n)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (s->p[i] < '0' || s->p[i] > '9')
			return false;
		v = v * 10 + (uint64_t)(s->p[i] - '0');
	}
	*s = slice(s->p + n, s->n - n);
	*out = v;
	return true;
}

static bool take_char(struct slice *s, char c)
{
	if (!s->n || s->p[0] != c)
		return false;
	*s = slice(s->p + 1, s->n - 1);
	return true;
}

/* Fractions of a second: kept to the millisecond. */
static bool take_fraction(struct slice *s, uint64_t *ms)
{
	uint64_t unit = 100;
	size_t n = 0;

	*ms = 0;
	if (!take_char(s, '.'))
		return true;
	for (; s->n && s->p[0] >= '0' && s->p[0] <= '9'; n++) {
		*ms += unit * (uint64_t)(s->p[0] - '0');
		unit /= 10;
		*s = slice(s->p + 1, s->n - 1);
	}
	return n > 0;
}

static bool take_zone(struct slice *s, int64_t *offset_s)
{
	uint64_t h;
	uint64_t m;
	bool minus;

	*offset_s = 0;
	if (take_char(s, 'Z') || take_char(s, 'z'))
		return true;
	minus = take_char(s, '-');
	if (!minus && !take_char(s, '+'))
		return false;
	if (!take_digits(s, 2, &h) || !take_char(s, ':') || !take_digits(s, 2, &m) || h > 23 ||
	    m > 59)
		return false;
	*offset_s = (int64_t)(h * 3600 + m * 60) * (minus ? -1 : 1);
	return true;
}

static bool take_date(struct slice *s, struct tm *tm)
{
	uint64_t y;
	uint64_t mo;
	uint64_t d;

	if (!take_digits(s, 4, &y) || !take_char(s, '-') || !take_digits(s, 2, &mo) ||
	    !take_char(s, '-') || !take_digits(s, 2, &d))
		return false;
	if (y < 1970 || mo < 1 || mo > 12 || d < 1 || d > 31)
		return false;
	tm->tm_year = (int)y - 1900;
	tm->tm_mon = (int)mo - 1;
	tm->tm_mday = (int)d;
	return true;
}

static bool take_clock(struct slice *s, struct tm *tm)
{
	uint64_t h;
	uint64_t m;
	uint64_t sec;

	if (!take_digits(s, 2, &h) || !take_char(s, ':') || !take_digits(s, 2, &m) ||
	    !take_char(s, ':') || !take_digits(s, 2, &sec))
		return false;
	if (h > 23 || m > 59 || sec > 60)
		return false;
	tm->tm_hour = (int)h;
	tm->tm_min = (int)m;
	tm->tm_sec = sec == 60 ? 59 : (int)sec; /* a leap second begins with its neighbour */
	return true;
}

bool rfc3339_parse(struct slice s, uint64_t *out_ms)
{
	struct tm tm = {0};
	int day;
	uint64_t ms;
	int64_t offset_s;
	int64_t at_s;

	if (s.n > TIME_MAX || !take_date(&s, &tm))
		return false;
	if (!take_char(&s, 'T') && !take_char(&s, 't'))
		return false;
	if (!take_clock(&s, &tm) || !take_fraction(&s, &ms) || !take_zone(&s, &offset_s) || s.n)
		return false;
	day = tm.tm_mday;
	at_s = (int64_t)timegm(&tm) - offset_s;
	if (tm.tm_mday != day || at_s < 0) /* the 31st of a month that has none */
		return false;
	*out_ms = (uint64_t)at_s * 1000 + ms;
	return true;
}

const char *rfc3339_text(uint64_t ms, char out[RFC3339_TEXT])
{
	time_t s = (time_t)(ms / 1000);
	struct tm tm;
	size_t n = 0;

	if (ms / 1000 <= UINT64_C(253402300799) && gmtime_r(&s, &tm)) /* the end of 9999 */
		n = strftime(out, RFC3339_TEXT, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out + n, RFC3339_TEXT - n, ".%03" PRIu64 "Z", ms % 1000);
	return out;
}
