#include "node/mqtt/mqtt_start.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rfc3339.h"

#include <stdbool.h>
#include <string.h>

static bool take_prefix(struct slice *s, const char *prefix)
{
	size_t n = strlen(prefix);

	if (s->n < n || memcmp(s->p, prefix, n) != 0)
		return false;
	*s = slice(s->p + n, s->n - n);
	return true;
}

/* All of it, a number that fits. */
static bool take_number(struct slice s, uint64_t *out)
{
	if (!s.n || s.n > 18)
		return false;
	for (*out = 0; s.n; s = slice(s.p + 1, s.n - 1)) {
		if (s.p[0] < '0' || s.p[0] > '9')
			return false;
		*out = *out * 10 + (uint64_t)(s.p[0] - '0');
	}
	return true;
}

int mqtt_start_parse(struct slice text, enum session_start_at *at, uint64_t *value, struct err *e)
{
	struct slice s = text;

	*value = 0;
	if (slice_eq(text, slice_str("new"))) {
		*at = SESSION_START_NEW;
		return 0;
	}
	if (slice_eq(text, slice_str("earliest"))) {
		*at = SESSION_START_EARLIEST;
		return 0;
	}
	if (take_prefix(&s, "seq:")) {
		*at = SESSION_START_SEQ;
		if (take_number(s, value) && *value >= 1)
			return 0;
	} else if (take_prefix(&s, "time:")) {
		*at = SESSION_START_TIME;
		if (rfc3339_parse(s, value))
			return 0;
	}
	return err_set(e, 0,
	               "leat-start %s is not understood: new, earliest, seq:N (N from 1) or time: "
	               "and an RFC 3339 time such as 2026-03-01T12:00:00Z",
	               log_quote(text.p, text.n));
}

int mqtt_until_parse(struct slice text, enum session_start_at *at, uint64_t *value, struct err *e)
{
	struct slice s = text;

	*value = 0;
	if (slice_eq(text, slice_str("now"))) {
		*at = SESSION_START_HEAD;
		return 0;
	}
	if (take_prefix(&s, "seq:")) {
		*at = SESSION_START_SEQ;
		if (take_number(s, value) && *value >= 1) {
			++*value;
			return 0;
		}
	} else if (take_prefix(&s, "time:")) {
		*at = SESSION_START_TIME;
		if (rfc3339_parse(s, value) && *value <= clock_wall_ms())
			return 0;
	}
	return err_set(e, 0,
	               "leat-until %s is not understood: now, seq:N (N from 1) or time: and an RFC "
	               "3339 time that is past, such as 2026-03-01T12:00:00Z",
	               log_quote(text.p, text.n));
}

int mqtt_range_check(const struct session_subscribe *req, struct err *e)
{
	uint64_t until = req->until_value;

	if (req->start == SESSION_START_NEW)
		return err_set(e, 0,
		               "leat-until needs a leat-start that is earlier: earliest, seq:N or "
		               "time: and an RFC 3339 time");
	if (req->start == SESSION_START_TIME && req->until == SESSION_START_HEAD)
		until = clock_wall_ms();
	else if (req->start != req->until)
		return 0;
	if (req->start_value < until)
		return 0;
	return err_set(e, 0,
	               "leat-start is not before leat-until: nothing would be delivered; seq:N to "
	               "seq:M from N to M, or a time and a later one that is past");
}
