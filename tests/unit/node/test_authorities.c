/* That a file with certificates is taken whole, whatever else is in it, and no other. */
#include "node/net/authorities.h"

#include "base/buf.h"
#include "base/file.h"
#include "node/net/ca.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];
static struct buf cert; /* ca.crt */

static const char *in_dir(const char *name)
{
	static char path[128];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	return path;
}

static int setup(void **state)
{
	struct err e;

	(void)state;
	strcpy(dir, "/tmp/leat-authorities-XXXXXX");
	return mkdtemp(dir) && rmdir(dir) == 0 && ca_issue(dir, NULL, 0, &e) == 0 &&
	                       file_read(in_dir("ca.crt"), 65536, &cert, &e) == 0
	               ? 0
	               : -1;
}

static int teardown(void **state)
{
	static const char *const names[] = {"ca.crt", "ca.key", "server.crt", "server.key", "made"};

	(void)state;
	for (int i = 0; i < 5; i++)
		unlink(in_dir(names[i]));
	rmdir(dir);
	buf_release(&cert);
	return 0;
}

/* What is read of the certificate so many times, between two texts. */
static struct authorities *read_made(const char *before, int times, const char *after,
                                     struct err *e)
{
	struct buf text = {0};

	buf_append_str(&text, before);
	for (int i = 0; i < times; i++)
		buf_append_slice(&text, buf_slice(&cert));
	buf_append_str(&text, after);
	assert_int_equal(file_write_private(in_dir("made"), buf_slice(&text), e), 0);
	buf_release(&text);
	return authorities_read(in_dir("made"), e);
}

static void test_authorities_good(void **state)
{
	struct err e;
	struct authorities *a = read_made("of us\n", 2, "and of nobody else\n", &e);
	struct slice pem;
	(void)state;

	assert_non_null(a);
	assert_int_equal(authorities_count(a), 2);
	pem = authorities_pem(a);
	assert_int_equal(pem.n, 2 * cert.len + strlen("of us\n"
	                                              "and of nobody else\n"));
	assert_ptr_equal(authorities_ref(a), a);
	authorities_free(a);
	assert_memory_equal(authorities_pem(a).p, "of us\n", 6);
	authorities_free(a);
	authorities_free(authorities_ref(NULL));
}

static void test_authorities_bad(void **state)
{
	struct err e;
	(void)state;

	assert_null(authorities_read(in_dir("none"), &e));
	assert_non_null(strstr(e.text, "No such file"));
	assert_null(authorities_read(in_dir("ca.key"), &e));
	assert_non_null(strstr(e.text, "no PEM certificates in"));
	assert_null(read_made("", 0, "", &e));
	assert_non_null(strstr(e.text, "no PEM certificates in"));
	assert_null(read_made("", 1, "-----BEGIN CERTIFICATE-----\nMIIB", &e)); /* half of one */
	assert_null(read_made("", 3000, "", &e));
	assert_non_null(strstr(e.text, "has more than 1048576 bytes"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_authorities_good),
	        cmocka_unit_test(test_authorities_bad),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
