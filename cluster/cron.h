/* cron: when a schedule ticks. Five fields as in crontab(5): minute, hour, day of the month, month,
 * day of the week; with * lists, ranges, steps, names (JAN, SUN), 7 for Sunday. Where both days are
 * restricted, either will do. @hourly, @daily (@midnight), @weekly, @monthly, @yearly (@annually),
 * and
 * @every DURATION such as 90s, 15m or 1h30m.
 *
 * Fields are read in a time zone. An hour that its clocks skip: what was to happen then happens
 * once, when they have skipped it. An hour that they repeat: once, the first time, unless the hour
 * field is *, which means real hours. Pure functions, any thread. */
#ifndef LEAT_CLUSTER_CRON_H
#define LEAT_CLUSTER_CRON_H

#include "base/err.h"
#include "base/slice.h"
#include "base/zone.h"

#include <stdbool.h>
#include <stdint.h>

enum { CRON_TEXT_MAX = 255, CRON_EVERY_MAX_S = 366 * 24 * 3600 };

/* Bit i = value i. */
struct cron {
	uint64_t every_ms; /* not 0: @every, and the rest does not count */
	uint64_t minutes;
	uint64_t hours;
	uint64_t days;     /* of the month, 1..31 */
	uint64_t months;   /* 1..12 */
	uint64_t weekdays; /* 0..6, 0 = Sunday */
	bool any_hour;     /* the field begins with * */
	bool any_day;
	bool any_weekday;
};

int cron_parse(struct slice text, struct cron *out, struct err *e);

/* The first tick after that time, milliseconds since 1970; UINT64_MAX = none within eight years.
 * @every is counted from after_ms. */
uint64_t cron_next(const struct cron *c, const struct zone *z, uint64_t after_ms);

#endif
