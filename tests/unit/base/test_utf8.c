#include "base/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const struct {
	const char *bytes;
	size_t n;
	bool ok;
} rows[] = {
        {"", 0, true},
        {"plain ascii, longer than eight bytes", 36, true},
        {"seven..\0after", 13, false},
        {"\0", 1, false},
        {"12345678\0", 9, false},
        {"\x7f", 1, true},
        {"\x80", 1, false},
        {"abcdefg\x80", 8, false},
        {"\xc2\x80", 2, true},
        {"\xc2", 1, false},
        {"\xc1\xbf", 2, false},         /* overlong */
        {"\xc0\x80", 2, false},         /* overlong NUL */
        {"\xe0\x9f\xbf", 3, false},     /* overlong */
        {"\xe0\xa0\x80", 3, true},      /* U+0800 */
        {"\xed\x9f\xbf", 3, true},      /* U+D7FF */
        {"\xed\xa0\x80", 3, false},     /* U+D800, a surrogate */
        {"\xef\xbb\xbf", 3, true},      /* U+FEFF is text ([MQTT-1.5.4-3]) */
        {"\xef\xbf\xbf", 3, true},      /* U+FFFF */
        {"\xf0\x8f\xbf\xbf", 4, false}, /* overlong */
        {"\xf0\x90\x80\x80", 4, true},  /* U+10000 */
        {"\xf4\x8f\xbf\xbf", 4, true},  /* U+10FFFF */
        {"\xf4\x90\x80\x80", 4, false}, /* above */
        {"\xf5\x80\x80\x80", 4, false},
        {"\xf0\x9f\x98", 3, false},
        {"\xe2\x28\xa1", 3, false},
        {"\xe2\x82\x28", 3, false},
        {"gr\xc3\xbc\xc3\x9f Gott \xf0\x9f\x98\x80 done", 21, true},
};

static void test_utf8_rows(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		if (utf8_valid_text(slice(rows[i].bytes, rows[i].n)) != rows[i].ok)
			fail_msg("row %zu", i);
	}
}

/* The eight-at-a-time path finds a bad byte wherever it stands. */
static void test_utf8_every_offset(void **state)
{
	char text[40];

	(void)state;
	for (size_t i = 0; i < sizeof text; i++) {
		memset(text, 'x', sizeof text);
		assert_true(utf8_valid_text(slice(text, sizeof text)));
		text[i] = '\0';
		assert_false(utf8_valid_text(slice(text, sizeof text)));
		text[i] = (char)0xff;
		assert_false(utf8_valid_text(slice(text, sizeof text)));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_utf8_rows),
	        cmocka_unit_test(test_utf8_every_offset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
