#include "node/mqtt/mqtt_policy.h"

#include "base/log.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum kind { COUNT, TIME, FLAG };

static const struct rule {
	const char *property;
	size_t offset;
	enum kind kind;
	uint64_t least;
	uint64_t most;
} rules[] = {
#define MQTT_POLICY(property, field, kind, least, most) \
	{property, offsetof(struct bus_policy, field), kind, least, most},
#include "node/mqtt/mqtt_policy.def"
#undef MQTT_POLICY
};

static bool take_number(struct slice *s, uint64_t *n)
{
	size_t i = 0;

	for (*n = 0; i < s->n && i < 12 && s->p[i] >= '0' && s->p[i] <= '9'; i++)
		*n = *n * 10 + (uint64_t)(s->p[i] - '0');
	*s = slice(s->p + i, s->n - i);
	return i > 0;
}

static bool parse_time(struct slice s, uint64_t *ms)
{
	static const struct {
		const char *unit;
		uint64_t ms;
	} units[] = {{"", 1000}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};

	if (!take_number(&s, ms))
		return false;
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
		if (!slice_eq(s, slice_str(units[i].unit)))
			continue;
		*ms *= units[i].ms;
		return true;
	}
	return false;
}

static bool parse(enum kind kind, struct slice value, uint64_t *out)
{
	if (kind == TIME)
		return parse_time(value, out);
	if (kind == COUNT)
		return take_number(&value, out) && !value.n;
	*out = slice_eq(value, slice_str("true"));
	return *out || slice_eq(value, slice_str("false"));
}

static int refuse(const struct rule *r, struct slice value, struct err *e)
{
	const char *quoted = log_quote(value.p, value.n);

	switch (r->kind) {
	case FLAG:
		return err_set(e, 0, "%s is true or false, not %s", r->property, quoted);
	case COUNT:
		return err_set(e, 0, "%s is a number from %" PRIu64 " to %" PRIu64 ", not %s",
		               r->property, r->least, r->most, quoted);
	case TIME:
		break;
	}
	return err_set(e, 0,
	               "%s is a time from %" PRIu64 "ms to %" PRIu64
	               "h, as in 500ms, 30s, 5m or 1h, not %s",
	               r->property, r->least, r->most / 3600000, quoted);
}

int mqtt_policy_take(struct bus_policy *p, struct slice key, struct slice value, struct err *e)
{
	for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
		const struct rule *r = &rules[i];
		void *field = (char *)p + r->offset;
		uint64_t n;

		if (!slice_eq(key, slice_str(r->property)))
			continue;
		if (!parse(r->kind, value, &n) || n < r->least || n > r->most)
			return refuse(r, value, e);
		if (r->kind == FLAG)
			*(bool *)field = n != 0;
		else
			*(uint32_t *)field = (uint32_t)n;
		return 1;
	}
	return 0;
}

int mqtt_policy_check(const struct bus_policy *p, struct err *e)
{
	if (p->backoff_ms > p->backoff_max_ms)
		return err_set(e, 0,
		               "leat-backoff (%" PRIu32 "ms) is above leat-backoff-max (%" PRIu32
		               "ms)",
		               p->backoff_ms, p->backoff_max_ms);
	return 0;
}
