/* The user properties that make a queue's policy. */
#include "node/mqtt/mqtt_policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct bus_policy p;
static struct err e;

static int take(const char *key, const char *value)
{
	return mqtt_policy_take(&p, slice_str(key), slice_str(value), &e);
}

static void test_taken(void **state)
{
	(void)state;
	p = BUS_POLICY_DEFAULT;
	assert_int_equal(take("leat-max-attempts", "3"), 1);
	assert_int_equal(take("leat-ack-timeout", "30"), 1);
	assert_int_equal(take("leat-backoff", "250ms"), 1);
	assert_int_equal(take("leat-backoff-max", "2h"), 1);
	assert_int_equal(take("leat-max-failed", "100000"), 1);
	assert_int_equal(take("leat-ordered", "true"), 1);
	assert_int_equal(take("leat-pin", "false"), 1);
	assert_int_equal(p.max_attempts, 3);
	assert_int_equal(p.ack_timeout_ms, 30000);
	assert_int_equal(p.backoff_ms, 250);
	assert_int_equal(p.backoff_max_ms, 7200000);
	assert_int_equal(p.max_failed, 100000);
	assert_true(p.ordered && !p.pin);
	assert_int_equal(mqtt_policy_check(&p, &e), 0);
	assert_int_equal(take("leat-backoff-max", "7"), 1);
	assert_int_equal(take("leat-backoff", "8"), 1);
	assert_int_equal(mqtt_policy_check(&p, &e), -1);
	assert_int_equal(take("leat-start", "new"), 0);
	assert_int_equal(take("colour", "red"), 0);
}

static void test_refused(void **state)
{
	static const char *const bad[][2] = {
	        {"leat-max-attempts", "0"},
	        {"leat-max-attempts", "1001"},
	        {"leat-max-attempts", ""},
	        {"leat-max-attempts", "3 "},
	        {"leat-ack-timeout", "99ms"},
	        {"leat-ack-timeout", "25h"},
	        {"leat-ack-timeout", "1.5s"},
	        {"leat-ack-timeout", "s"},
	        {"leat-backoff", "0"},
	        {"leat-backoff", "-1"},
	        {"leat-backoff-max", "8d"},
	        {"leat-backoff-max", "999999999999h"},
	        {"leat-max-failed", "99999999999999999999"},
	        {"leat-ordered", "True"},
	        {"leat-ordered", ""},
	        {"leat-pin", "1"},
	};
	struct bus_policy before = BUS_POLICY_DEFAULT;

	(void)state;
	p = before;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		assert_int_equal(take(bad[i][0], bad[i][1]), -1);
		assert_non_null(strstr(e.text, bad[i][0])); /* says which, and what it may be */
		assert_memory_equal(&p, &before, sizeof p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_taken),
	        cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
