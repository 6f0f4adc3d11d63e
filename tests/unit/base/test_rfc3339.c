#include "base/rfc3339.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static uint64_t ms_of(const char *text)
{
	uint64_t ms = 12345;

	return rfc3339_parse(slice_str(text), &ms) ? ms : UINT64_MAX;
}

static void test_times(void **state)
{
	(void)state;
	assert_int_equal(ms_of("1970-01-01T00:00:00Z"), 0);
	assert_int_equal(ms_of("2026-03-01T12:00:00Z"), UINT64_C(1772366400000));
	assert_int_equal(ms_of("2026-03-01t12:00:00.1239z"), UINT64_C(1772366400123));
	assert_int_equal(ms_of("2026-03-01T14:30:00+02:30"), UINT64_C(1772366400000));
	assert_int_equal(ms_of("2026-03-01T11:00:00-01:00"), UINT64_C(1772366400000));
	assert_int_equal(ms_of("2024-02-29T23:59:60Z"), ms_of("2024-02-29T23:59:59Z"));
}

static void test_no_times(void **state)
{
	static const char *const texts[] = {
	        "",
	        "2026-03-01",
	        "2026-03-01 12:00:00Z",
	        "2026-03-01T12:00:00",
	        "2026-03-01T12:00:00Zx",
	        "2026-03-01T12:00:00.Z",
	        "2026-02-30T12:00:00Z",
	        "2026-13-01T12:00:00Z",
	        "2026-03-01T24:00:00Z",
	        "2026-03-01T12:60:00Z",
	        "2026-03-01T12:00:00+24:00",
	        "2026-03-01T12:00:00+0100",
	        "1969-12-31T23:59:59Z",
	        "1970-01-01T00:00:00+00:01",
	        "2026-03-01T12:00:00.00000000000000000000000000Z",
	        "2026-3-1T12:00:00Z",
	};

	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		if (ms_of(texts[i]) != UINT64_MAX)
			fail_msg("taken for a time: %s", texts[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_times),
	        cmocka_unit_test(test_no_times),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
