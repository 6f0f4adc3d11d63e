#include "base/file.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/leat-file-XXXXXX";
static char path[64];

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof path, "%s/f", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(dir); /* fails when a part was left behind */
}

static void test_round_trip(void **state)
{
	char bytes[10000];
	struct buf out = {0};
	struct stat st;
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (char)i;
	assert_int_equal(file_write_private(path, slice("old", 3), &e), 0);
	assert_int_equal(file_write_private(path, slice(bytes, sizeof bytes), &e), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(file_read(path, sizeof bytes, &out, &e), 0);
	assert_int_equal(out.len, sizeof bytes);
	assert_memory_equal(out.data, bytes, sizeof bytes);
	buf_release(&out);
}

static void test_errors(void **state)
{
	struct buf out = {0};
	struct err e;

	(void)state;
	assert_int_equal(file_read("/nowhere/at/all", 10, &out, &e), -1);
	assert_int_equal(e.code, ENOENT);
	assert_non_null(strstr(e.text, "/nowhere/at/all"));
	assert_int_equal(file_write_private(path, slice("12345", 5), &e), 0);
	assert_int_equal(file_read(path, 4, &out, &e), -1);
	assert_int_equal(e.code, EFBIG);
	assert_int_equal(file_write_private("/nowhere/at/all", slice("x", 1), &e), -1);
	buf_release(&out);
}

static void test_secret(void **state)
{
	struct buf out = {0};
	struct err e;

	(void)state;
	assert_int_equal(file_write_private(path, slice("12345", 5), &e), 0);
	assert_int_equal(file_read_secret(path, 5, &out, &e), 0);
	assert_true(slice_eq(buf_slice(&out), slice_str("12345")));
	buf_clear(&out);
	assert_int_equal(file_read_secret(path, 4, &out, &e), -1);
	assert_int_equal(e.code, EFBIG);
	buf_clear(&out);
	assert_int_equal(chmod(path, 0640), 0); /* a group is somebody's choice */
	assert_int_equal(file_read_secret(path, 5, &out, &e), 0);
	buf_clear(&out);
	assert_int_equal(chmod(path, 0604), 0);
	assert_int_equal(file_read_secret(path, 5, &out, &e), -1);
	assert_int_equal(e.code, EACCES);
	assert_int_equal(out.len, 0);
	assert_int_equal(file_read_secret("/nowhere/at/all", 5, &out, &e), -1);
	buf_release(&out);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_round_trip),
	        cmocka_unit_test(test_errors),
	        cmocka_unit_test(test_secret),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
