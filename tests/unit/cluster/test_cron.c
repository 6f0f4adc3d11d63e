#include "cluster/cron.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/rfc3339.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { TICKS = 4 };

static uint64_t at(const char *text)
{
	uint64_t ms;

	if (!rfc3339_parse(slice_str(text), &ms))
		fail_msg("%s is no time", text);
	return ms;
}

static const char *text_of(uint64_t ms)
{
	static char text[32];
	time_t s = (time_t)(ms / 1000);
	struct tm tm;

	gmtime_r(&s, &tm);
	strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
	return ms == UINT64_MAX ? "never" : text;
}

static struct zone *zone_of(const char *name)
{
	struct err e;
	struct zone *z = zone_open(slice_str(name), &e);

	if (!z)
		fail_msg("%s", e.text);
	return z;
}

/* after, then the ticks that follow one another */
static const struct {
	const char *cron;
	const char *zone;
	const char *after;
	const char *ticks[TICKS];
} rows[] = {
        {"* * * * *",
         "UTC",
         "2026-03-01T12:00:00Z",
         {"2026-03-01T12:01:00Z", "2026-03-01T12:02:00Z"}},
        {"* * * * *", "UTC", "2026-03-01T12:00:59.999Z", {"2026-03-01T12:01:00Z"}},
        {"*/15 * * * *",
         "UTC",
         "2026-03-01T12:01:00Z",
         {"2026-03-01T12:15:00Z", "2026-03-01T12:30:00Z", "2026-03-01T12:45:00Z",
          "2026-03-01T13:00:00Z"}},
        {"5-7,50 3,4 * * *",
         "UTC",
         "2026-03-01T03:05:00Z",
         {"2026-03-01T03:06:00Z", "2026-03-01T03:07:00Z", "2026-03-01T03:50:00Z",
          "2026-03-01T04:05:00Z"}},
        {"0 9-17/4 * * *",
         "UTC",
         "2026-03-01T10:00:00Z",
         {"2026-03-01T13:00:00Z", "2026-03-01T17:00:00Z", "2026-03-02T09:00:00Z"}},
        {"0 0 * * MON",
         "UTC",
         "2026-03-01T00:00:00Z",
         {"2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z"}},
        {"0 0 * * mon-wed,FRI",
         "UTC",
         "2026-03-01T00:00:00Z",
         {"2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z", "2026-03-04T00:00:00Z",
          "2026-03-06T00:00:00Z"}},
        {"0 0 * * 0", "UTC", "2026-03-01T00:00:00Z", {"2026-03-08T00:00:00Z"}},
        {"0 0 * * 7", "UTC", "2026-03-01T00:00:00Z", {"2026-03-08T00:00:00Z"}},
        {"0 0 * * 5-7",
         "UTC",
         "2026-03-01T00:00:00Z",
         {"2026-03-06T00:00:00Z", "2026-03-07T00:00:00Z", "2026-03-08T00:00:00Z",
          "2026-03-13T00:00:00Z"}},
        /* both days restricted: either will do */
        {"0 0 13 * FRI",
         "UTC",
         "2026-03-01T00:00:00Z",
         {"2026-03-06T00:00:00Z", "2026-03-13T00:00:00Z", "2026-03-20T00:00:00Z",
          "2026-03-27T00:00:00Z"}},
        /* one of them begins with *: both must match */
        {"0 0 */2 * MON",
         "UTC",
         "2026-03-01T00:00:00Z",
         {"2026-03-09T00:00:00Z", "2026-03-23T00:00:00Z"}},
        {"30 6 1 JAN,JUL *",
         "UTC",
         "2026-03-01T00:00:00Z",
         {"2026-07-01T06:30:00Z", "2027-01-01T06:30:00Z"}},
        {"0 0 31 * *",
         "UTC",
         "2026-03-31T00:00:00Z",
         {"2026-05-31T00:00:00Z", "2026-07-31T00:00:00Z"}},
        {"0 0 29 2 *",
         "UTC",
         "2026-03-01T00:00:00Z",
         {"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
        {"0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", {"2104-02-29T00:00:00Z"}},
        {"0 0 30 2 *", "UTC", "2026-03-01T00:00:00Z", {"never"}},
        {"0 0 31 4,6,9,11 *", "UTC", "2026-03-01T00:00:00Z", {"never"}},
        {"@hourly", "UTC", "2026-03-01T12:00:00Z", {"2026-03-01T13:00:00Z"}},
        {"@daily", "UTC", "2026-03-01T12:00:00Z", {"2026-03-02T00:00:00Z"}},
        {"@weekly", "UTC", "2026-03-01T12:00:00Z", {"2026-03-08T00:00:00Z"}},
        {"@monthly", "UTC", "2026-03-01T12:00:00Z", {"2026-04-01T00:00:00Z"}},
        {"@yearly", "UTC", "2026-03-01T12:00:00Z", {"2027-01-01T00:00:00Z"}},
        {"@every 90s",
         "UTC",
         "2026-03-01T12:00:00Z",
         {"2026-03-01T12:01:30Z", "2026-03-01T12:03:00Z"}},
        {"@every 1h30m", "UTC", "2026-03-01T12:00:07Z", {"2026-03-01T13:30:07Z"}},

        /* Berlin: CET is UTC+1; forward on 2026-03-29 01:00Z, back on 2026-10-25 01:00Z */
        {"0 3 * * *",
         "Europe/Berlin",
         "2026-03-27T12:00:00Z",
         {"2026-03-28T02:00:00Z", "2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"}},
        {"30 2 * * *", /* there is no 02:30 that day: once, when the clocks have skipped it */
         "Europe/Berlin",
         "2026-03-28T12:00:00Z",
         {"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
        {"*/20 2 * * *", /* once, not three times */
         "Europe/Berlin",
         "2026-03-28T12:00:00Z",
         {"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z", "2026-03-30T00:20:00Z"}},
        {"0,30 2-3 * * *", /* 02:00, 02:30 and 03:00 are one moment */
         "Europe/Berlin",
         "2026-03-28T12:00:00Z",
         {"2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:00:00Z"}},
        {"*/30 * * * *", /* real hours: nothing is skipped, nothing doubled */
         "Europe/Berlin",
         "2026-03-29T00:00:00Z",
         {"2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z",
          "2026-03-29T02:00:00Z"}},
        {"30 2 * * *", /* 02:30 comes twice: the first */
         "Europe/Berlin",
         "2026-10-24T12:00:00Z",
         {"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
        {"30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z", {"2026-10-26T01:30:00Z"}},
        {"*/30 * * * *", /* real hours: each half hour there is */
         "Europe/Berlin",
         "2026-10-25T00:00:00Z",
         {"2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z",
          "2026-10-25T02:00:00Z"}},
        {"0 12 * * *",
         "Europe/Berlin",
         "2026-10-24T00:00:00Z",
         {"2026-10-24T10:00:00Z", "2026-10-25T11:00:00Z"}},
        {"0 0 1 * *",
         "Europe/Berlin",
         "2026-03-15T00:00:00Z",
         {"2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z"}},

        /* New York: EST is UTC-5; forward on 2026-03-08 07:00Z, back on 2026-11-01 06:00Z */
        {"30 2 * * *",
         "America/New_York",
         "2026-03-07T12:00:00Z",
         {"2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"}},
        {"30 1 * * SUN",
         "America/New_York",
         "2026-10-26T00:00:00Z",
         {"2026-11-01T05:30:00Z", "2026-11-08T06:30:00Z"}},
        {"30 * 1 11 *",
         "America/New_York",
         "2026-11-01T04:45:00Z",
         {"2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z", "2026-11-01T07:30:00Z"}},
        {"59 23 31 12 *", "America/New_York", "2026-06-01T00:00:00Z", {"2027-01-01T04:59:00Z"}},
        /* the years after the table: by the footer's rule */
        {"0 12 * * *",
         "America/New_York",
         "2060-03-13T00:00:00Z",
         {"2060-03-13T17:00:00Z", "2060-03-14T16:00:00Z"}},
        {"0 12 1 7 *", "Australia/Sydney", "2060-01-01T00:00:00Z", {"2060-07-01T02:00:00Z"}},
        {"0 12 1 1 *", "Australia/Sydney", "2060-07-01T00:00:00Z", {"2061-01-01T01:00:00Z"}},
        /* half an hour, and quarters */
        {"30 2 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", {"2026-04-04T16:00:00Z"}},
        {"0 12 * * *", "Asia/Kathmandu", "2026-03-01T00:00:00Z", {"2026-03-01T06:15:00Z"}},
        /* a midnight that did not exist: Cairo, 2026-04-24 */
        {"0 0 * * *",
         "Africa/Cairo",
         "2026-04-22T22:30:00Z",
         {"2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"}},
};

static void test_ticks(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct zone *z = zone_of(rows[i].zone);
		uint64_t now = at(rows[i].after);
		struct cron c;
		struct err e;

		if (cron_parse(slice_str(rows[i].cron), &c, &e) < 0)
			fail_msg("%s: %s", rows[i].cron, e.text);
		for (size_t k = 0; k < TICKS && rows[i].ticks[k]; k++) {
			uint64_t next = cron_next(&c, z, now);

			if (strcmp(text_of(next), rows[i].ticks[k]) != 0)
				fail_msg("%s in %s after %s, tick %zu: %s, want %s", rows[i].cron,
				         rows[i].zone, rows[i].after, k, text_of(next),
				         rows[i].ticks[k]);
			now = next;
		}
		zone_free(z);
	}
}

/* Against going through every minute. */
static void test_against_every_minute(void **state)
{
	static const char *const crons[] = {
	        "7 * * * *",          "*/11 */5 * * *",    "0 0 1,15 * 3",
	        "59 23 28-31 2,12 *", "1-3 4 * 6-8 1-5/2",
	};
	struct zone *z = zone_of("UTC");

	(void)state;
	for (size_t i = 0; i < sizeof crons / sizeof *crons; i++) {
		uint64_t now = at("2027-12-20T00:00:00Z");
		uint64_t end = at("2028-07-10T00:00:00Z");
		struct cron c;
		uint64_t next;

		assert_int_equal(cron_parse(slice_str(crons[i]), &c, NULL), 0);
		next = cron_next(&c, z, now);
		for (uint64_t m = now + 60000; m < end; m += 60000) {
			time_t s = (time_t)(m / 1000);
			struct tm tm;
			bool day;
			bool weekday;

			gmtime_r(&s, &tm);
			day = c.days >> tm.tm_mday & 1;
			weekday = c.weekdays >> tm.tm_wday & 1;
			day = c.any_day || c.any_weekday ? day && weekday : day || weekday;
			if (!(day && (c.minutes >> tm.tm_min & 1) && (c.hours >> tm.tm_hour & 1) &&
			      (c.months >> (tm.tm_mon + 1) & 1)))
				continue;
			if (next != m)
				fail_msg("%s: %s left out", crons[i], text_of(m));
			next = cron_next(&c, z, m);
		}
		assert_true(next >= end);
	}
	zone_free(z);
}

static void test_refused(void **state)
{
	static const char *const bad[] = {
	        "",
	        "*",
	        "* * * *",
	        "* * * * * *",
	        "60 * * * *",
	        "* 24 * * *",
	        "* * 0 * *",
	        "* * 32 * *",
	        "* * * 0 *",
	        "* * * 13 *",
	        "* * * * 8",
	        "-1 * * * *",
	        "1- * * * *",
	        "5-1 * * * *",
	        "1,,2 * * * *",
	        "1, * * * *",
	        "*/0 * * * *",
	        "*/ * * * *",
	        "5/2 * * * *",
	        "a * * * *",
	        "* * * FOO *",
	        "* * * * MONDAY",
	        "MON * * * *",
	        "@",
	        "@foo",
	        "@daily x",
	        "@every",
	        "@every 0s",
	        "@every 5",
	        "@every 1m1h",
	        "@every 1h x",
	        "@every -1s",
	        "@every 367d",
	        "@every 99999999999s",
	        "1\n* * * *",
	        "999999999 * * * *",
	};
	char long_text[300];
	struct cron c;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct err e = {0};

		if (cron_parse(slice_str(bad[i]), &c, &e) == 0)
			fail_msg("'%s' was taken", bad[i]);
		assert_true(e.text[0]);
	}
	memset(long_text, ' ', sizeof long_text);
	assert_int_equal(cron_parse(slice(long_text, sizeof long_text), &c, NULL), -1);
}

static void test_zones_refused(void **state)
{
	static const char *const bad[] = {
	        "",
	        "Europe/Atlantis",
	        "/etc/passwd",
	        "../../../etc/passwd",
	        "Europe/",
	        "a b",
	        "posix",
	        "Europe",
	        "UTC\n",
	        "zone.tab",
	};
	struct buf berlin = {0};
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_null(zone_open(slice_str(bad[i]), &e));
		assert_non_null(strstr(e.text, "time zone"));
	}
	/* cut short anywhere */
	assert_int_equal(file_read("/usr/share/zoneinfo/Europe/Berlin", 65536, &berlin, &e), 0);
	for (size_t n = 0; n < berlin.len; n++)
		assert_null(zone_parse(slice(berlin.data, n), NULL));
	buf_release(&berlin);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_ticks),
	        cmocka_unit_test(test_against_every_minute),
	        cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_zones_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
