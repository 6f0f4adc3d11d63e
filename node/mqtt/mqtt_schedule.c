#include "node/mqtt/mqtt_schedule.h"

#include "base/log.h"
#include "base/rfc3339.h"

#include <string.h>

static const char deliver_at[] = "leat-deliver-at";
static const char timer_name[] = "leat-timer";
static const char delayed[] = "$delayed/";
static const char cancel[] = "cancel";

#define SECONDS_ALLOWED "decimal seconds, 0 to 31622400 (366 days), up to three digits of fraction"

/* Decimal digits to the end, at most `most` of them. */
static bool take_digits(struct slice s, size_t most, uint64_t *out)
{
	if (!s.n || s.n > most)
		return false;
	for (*out = 0; s.n; s = slice(s.p + 1, s.n - 1)) {
		if (s.p[0] < '0' || s.p[0] > '9')
			return false;
		*out = *out * 10 + (uint64_t)(s.p[0] - '0');
	}
	return true;
}

/* "90" or "0.25", in milliseconds. */
static bool parse_seconds(struct slice s, uint64_t *ms)
{
	const char *dot = s.n ? memchr(s.p, '.', s.n) : NULL;
	struct slice whole = dot ? slice(s.p, (size_t)(dot - s.p)) : s;
	struct slice part = dot ? slice(dot + 1, s.n - whole.n - 1) : slice("0", 1);
	uint64_t seconds;
	uint64_t fraction;

	if (!take_digits(whole, 8, &seconds) || !take_digits(part, 3, &fraction))
		return false;
	for (size_t i = part.n; i < 3; i++)
		fraction *= 10;
	*ms = seconds * 1000 + fraction;
	return *ms <= MQTT_SCHEDULE_MAX_S * UINT64_C(1000);
}

static int set_name(struct mqtt_schedule *out, struct slice name, struct err *e)
{
	if (!name.n || name.n > MQTT_SCHEDULE_NAME_MAX)
		return err_set(e, 0, "the name of a scheduled publish has 1 to %d bytes",
		               MQTT_SCHEDULE_NAME_MAX);
	out->name = name;
	return 0;
}

/* topic is what follows $delayed/ */
static int parse_delayed(struct slice topic, struct mqtt_schedule *out, struct err *e)
{
	const char *slash = topic.n ? memchr(topic.p, '/', topic.n) : NULL;
	struct slice first = slash ? slice(topic.p, (size_t)(slash - topic.p)) : topic;

	out->topic = slash ? slice(slash + 1, topic.n - first.n - 1) : slice(NULL, 0);
	if (slice_eq(first, slice_str(cancel))) {
		out->when = EVENT_CANCEL;
		return set_name(out, out->topic, e);
	}
	if (!out->topic.n || !parse_seconds(first, &out->when_ms))
		return err_set(e, 0,
		               "a scheduled topic is $delayed/SECONDS/TOPIC (" SECONDS_ALLOWED
		               ") or $delayed/cancel/NAME");
	out->when = EVENT_AFTER;
	out->in_ms = out->when_ms;
	return 0;
}

static int parse_at(struct slice value, uint64_t now_ms, struct mqtt_schedule *out, struct err *e)
{
	if (out->when == EVENT_AT)
		return err_set(e, 0, "%s twice", deliver_at);
	if (out->when != EVENT_NOW)
		return err_set(e, 0, "%s does not go with a topic under $delayed/", deliver_at);
	if (!take_digits(value, 15, &out->when_ms) && !rfc3339_parse(value, &out->when_ms))
		return err_set(e, 0,
		               "%s %s is not understood: an RFC 3339 time such as "
		               "2026-03-01T12:00:00Z, or milliseconds since 1970",
		               deliver_at, log_quote(value.p, value.n));
	out->when = EVENT_AT;
	out->in_ms = out->when_ms > now_ms ? out->when_ms - now_ms : 0;
	if (out->in_ms > MQTT_SCHEDULE_MAX_S * UINT64_C(1000))
		return err_set(e, 0, "%s is more than 366 days ahead", deliver_at);
	return 0;
}

static int parse_properties(const struct mqtt_props *props, uint64_t now_ms,
                            struct mqtt_schedule *out, struct err *e)
{
	struct slice rest = props->raw;
	struct slice key;
	struct slice value;
	bool named = false;

	while (mqtt_user_prop_next(&rest, &key, &value)) {
		if (slice_eq(key, slice_str(deliver_at))) {
			if (parse_at(value, now_ms, out, e) < 0)
				return -1;
		} else if (slice_eq(key, slice_str(timer_name))) {
			if (named || out->when == EVENT_CANCEL)
				return err_set(e, 0, "%s twice", timer_name);
			named = true;
			if (set_name(out, value, e) < 0)
				return -1;
		}
	}
	if (named && out->when == EVENT_NOW)
		return err_set(e, 0, "%s names a scheduled publish: say when, with %s or $delayed/",
		               timer_name, deliver_at);
	return 0;
}

int mqtt_schedule_parse(struct slice topic, const struct mqtt_props *props, uint64_t now_ms,
                        struct mqtt_schedule *out, struct err *e)
{
	size_t n = sizeof delayed - 1;

	*out = (struct mqtt_schedule){.topic = topic};
	if (topic.n >= n && memcmp(topic.p, delayed, n) == 0 &&
	    parse_delayed(slice(topic.p + n, topic.n - n), out, e) < 0)
		return -1;
	if (mqtt_has(props, MQTT_PROP_USER_PROPERTY) && parse_properties(props, now_ms, out, e) < 0)
		return -1;
	if (out->when == EVENT_CANCEL || out->in_ms)
		return 0;
	/* At once; but one with a name takes the place of another first, and that is done there. */
	out->when = out->name.n ? EVENT_AFTER : EVENT_NOW;
	out->when_ms = 0;
	return 0;
}

void mqtt_schedule_strip(struct buf *props)
{
	struct slice rest = buf_slice(props);
	struct mqtt_prop p;
	size_t to = 0;

	while (mqtt_prop_next(&rest, &p)) {
		if (p.id == MQTT_PROP_USER_PROPERTY && (slice_eq(p.key, slice_str(deliver_at)) ||
		                                        slice_eq(p.key, slice_str(timer_name))))
			continue;
		memmove(props->data + to, p.wire.p, p.wire.n);
		to += p.wire.n;
	}
	props->len = to;
}
