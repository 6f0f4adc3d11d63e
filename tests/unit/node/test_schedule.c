#include "node/mqtt/mqtt_schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NOW_MS UINT64_C(1767225600000) /* 2026-01-01T00:00:00Z */

/* A PUBLISH with these user properties, as the codec hands it on. */
static int parse(const char *topic, const char *const *pairs, struct mqtt_schedule *out,
                 struct err *e)
{
	static struct buf block;
	struct mqtt_props props;
	uint8_t reason;

	buf_clear(&block);
	for (size_t i = 0; pairs && pairs[i]; i += 2)
		mqtt_put_user(&block, slice_str(pairs[i]), slice_str(pairs[i + 1]));
	assert_null(mqtt_props_parse(&props, buf_slice(&block), MQTT_IN_PUBLISH_UP, &reason));
	return mqtt_schedule_parse(slice_str(topic), &props, NOW_MS, out, e);
}

static void test_when(void **state)
{
	static const struct {
		const char *topic;
		const char *at;
		const char *name;
		const char *real; /* topic */
		enum event_when when;
		uint64_t when_ms;
		uint64_t in_ms;
	} rows[] = {
	        {"a/b", NULL, NULL, "a/b", EVENT_NOW, 0, 0},
	        {"$delayed/5/a/b", NULL, NULL, "a/b", EVENT_AFTER, 5000, 5000},
	        {"$delayed/0.05/a", NULL, "n", "a", EVENT_AFTER, 50, 50},
	        {"$delayed/1.5/a", NULL, NULL, "a", EVENT_AFTER, 1500, 1500},
	        {"$delayed/31622400/a", NULL, NULL, "a", EVENT_AFTER, 31622400000, 31622400000},
	        {"$delayed/0/a", NULL, NULL, "a", EVENT_NOW, 0, 0},
	        {"$delayed/0.000/a", NULL, "n", "a", EVENT_AFTER, 0, 0},
	        {"$delayed/cancel/a/b", NULL, NULL, "a/b", EVENT_CANCEL, 0, 0},
	        {"$delayed", NULL, NULL, "$delayed", EVENT_NOW, 0, 0}, /* no topic of ours */
	        {"a", "2026-01-01T00:00:01.5Z", NULL, "a", EVENT_AT, NOW_MS + 1500, 1500},
	        {"a", "2026-01-01T02:00:00+02:00", NULL, "a", EVENT_NOW, 0, 0},
	        {"a", "1767225600001", "n", "a", EVENT_AT, NOW_MS + 1, 1},
	        {"a", "0", NULL, "a", EVENT_NOW, 0, 0},
	        {"a", "0", "n", "a", EVENT_AFTER, 0, 0},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		const char *pairs[5] = {0};
		struct mqtt_schedule s;
		struct err e;
		size_t n = 0;

		if (rows[i].at) {
			pairs[n++] = "leat-deliver-at";
			pairs[n++] = rows[i].at;
		}
		if (rows[i].name) {
			pairs[n++] = "leat-timer";
			pairs[n++] = rows[i].name;
		}
		if (parse(rows[i].topic, pairs, &s, &e) < 0)
			fail_msg("row %zu: %s", i, e.text);
		assert_true(slice_eq(s.topic, slice_str(rows[i].real)));
		assert_int_equal(s.when, rows[i].when);
		assert_true(s.when_ms == rows[i].when_ms);
		assert_true(s.in_ms == rows[i].in_ms);
		if (rows[i].name)
			assert_true(slice_eq(s.name, slice_str(rows[i].name)));
	}
}

static void test_refused(void **state)
{
	static const struct {
		const char *topic;
		const char *pairs[5];
		const char *words;
	} rows[] = {
	        {"$delayed//a", {0}, "SECONDS"},
	        {"$delayed/", {0}, "SECONDS"},
	        {"$delayed/1", {0}, "SECONDS"},
	        {"$delayed/1/", {0}, "SECONDS"},
	        {"$delayed/+1/a", {0}, "SECONDS"},
	        {"$delayed/1./a", {0}, "SECONDS"},
	        {"$delayed/.5/a", {0}, "SECONDS"},
	        {"$delayed/1.0001/a", {0}, "SECONDS"},
	        {"$delayed/1e3/a", {0}, "SECONDS"},
	        {"$delayed/99999999/a", {0}, "366 days"},
	        {"$delayed/31622400.001/a", {0}, "366 days"},
	        {"$delayed/184467440737095516160/a", {0}, "SECONDS"},
	        {"$delayed/cancel", {0}, "1 to 255"},
	        {"$delayed/cancel/", {0}, "1 to 255"},
	        {"$delayed/cancel/a", {"leat-timer", "b"}, "twice"},
	        {"a", {"leat-deliver-at", ""}, "RFC 3339"},
	        {"a", {"leat-deliver-at", "-1"}, "RFC 3339"},
	        {"a", {"leat-deliver-at", "1767225600.5"}, "RFC 3339"},
	        {"a", {"leat-deliver-at", "9999999999999999"}, "RFC 3339"},
	        {"a", {"leat-deliver-at", "2030-01-01T00:00:00Z"}, "366 days"},
	        {"a", {"leat-deliver-at", "0", "leat-deliver-at", "0"}, "leat-deliver-at twice"},
	        {"$delayed/1/a", {"leat-deliver-at", "0"}, "does not go"},
	        {"a", {"leat-timer", "n"}, "say when"},
	        {"$delayed/1/a", {"leat-timer", "n", "leat-timer", "m"}, "twice"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct mqtt_schedule s;
		struct err e = {0};

		assert_int_equal(parse(rows[i].topic, rows[i].pairs, &s, &e), -1);
		if (!strstr(e.text, rows[i].words))
			fail_msg("row %zu: '%s' does not say '%s'", i, e.text, rows[i].words);
	}
}

static void test_strip(void **state)
{
	struct buf block = {0};
	struct buf want = {0};

	(void)state;
	mqtt_put_user(&block, slice_str("leat-timer"), slice_str("n"));
	mqtt_put_user(&block, slice_str("a"), slice_str("1"));
	mqtt_put_user(&block, slice_str("leat-deliver-at"), slice_str("0"));
	mqtt_put_user(&block, slice_str("leat-timers"), slice_str("2"));
	mqtt_put_user(&want, slice_str("a"), slice_str("1"));
	mqtt_put_user(&want, slice_str("leat-timers"), slice_str("2"));
	mqtt_schedule_strip(&block);
	assert_true(slice_eq(buf_slice(&block), buf_slice(&want)));
	buf_release(&block);
	buf_release(&want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_when),
	        cmocka_unit_test(test_refused),
	        cmocka_unit_test(test_strip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
