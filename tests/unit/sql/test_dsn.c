#include "sql/dsn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_dsn_all_parts(void **state)
{
	struct dsn d;
	struct err e;

	(void)state;
	assert_int_equal(
	        dsn_parse(&d,
	                  "mysql://le%40at:p%3Aw%2Fd%25@db.example:3307/bus?ssl-ca=/a%20b/ca.pem"
	                  "&ssl-cert=c.pem&ssl-key=k.pem",
	                  &e),
	        0);
	assert_string_equal(d.user, "le@at");
	assert_string_equal(d.password, "p:w/d%");
	assert_string_equal(d.hosts[0].name, "db.example");
	assert_int_equal(d.hosts[0].port, 3307);
	assert_string_equal(d.schema, "bus");
	assert_string_equal(d.ssl_ca, "/a b/ca.pem");
	assert_string_equal(d.ssl_cert, "c.pem");
	assert_string_equal(d.ssl_key, "k.pem");
	assert_null(d.socket);
	dsn_release(&d);
}

static void test_dsn_defaults(void **state)
{
	struct dsn d;
	struct err e;

	(void)state;
	assert_int_equal(dsn_parse(&d, "mysql://u@h/s", &e), 0);
	assert_int_equal(d.hosts[0].port, 3306);
	assert_null(d.password);
	assert_null(d.ssl_ca);
	dsn_release(&d);
}

static void test_dsn_ipv6(void **state)
{
	struct dsn d;
	struct err e;

	(void)state;
	assert_int_equal(dsn_parse(&d, "mysql://u:p@[::1]:3310/s", &e), 0);
	assert_string_equal(d.hosts[0].name, "::1");
	assert_int_equal(d.hosts[0].port, 3310);
	dsn_release(&d);
	assert_int_equal(dsn_parse(&d, "mysql://u:p@[fe80::1]/s", &e), 0);
	assert_string_equal(d.hosts[0].name, "fe80::1");
	assert_int_equal(d.hosts[0].port, 3306);
	dsn_release(&d);
}

static void test_dsn_several_hosts(void **state)
{
	char out[DSN_DESCRIBE_MAX];
	struct dsn d, copy;
	struct err e;

	(void)state;
	assert_int_equal(dsn_parse(&d, "mysql://u:p@a:1,[::1]:2,c/s?ssl-ca=x", &e), 0);
	dsn_copy(&copy, &d);
	dsn_release(&d);
	assert_int_equal(copy.host_count, 3);
	assert_string_equal(copy.hosts[0].name, "a");
	assert_int_equal(copy.hosts[0].port, 1);
	assert_string_equal(copy.hosts[1].name, "::1");
	assert_int_equal(copy.hosts[1].port, 2);
	assert_string_equal(copy.hosts[2].name, "c");
	assert_int_equal(copy.hosts[2].port, 3306);
	assert_string_equal(dsn_describe(&copy, out), "u@a:1,::1:2,c:3306/s");
	dsn_release(&copy);
}

static void test_dsn_socket_needs_no_host(void **state)
{
	struct dsn d;
	struct err e;

	(void)state;
	assert_int_equal(dsn_parse(&d, "mysql://u:p@/s?socket=/run/db", &e), 0);
	assert_string_equal(d.socket, "/run/db");
	assert_string_equal(d.hosts[0].name, "");
	dsn_release(&d);
}

static void test_dsn_copy_is_whole(void **state)
{
	struct dsn d, copy;
	struct err e;

	(void)state;
	assert_int_equal(dsn_parse(&d, "mysql://u:p@h:1/s?ssl-ca=a&ssl-cert=b&ssl-key=c", &e), 0);
	dsn_copy(&copy, &d);
	dsn_release(&d);
	assert_string_equal(copy.user, "u");
	assert_string_equal(copy.password, "p");
	assert_string_equal(copy.hosts[0].name, "h");
	assert_int_equal(copy.hosts[0].port, 1);
	assert_string_equal(copy.schema, "s");
	assert_string_equal(copy.ssl_ca, "a");
	assert_string_equal(copy.ssl_cert, "b");
	assert_string_equal(copy.ssl_key, "c");
	dsn_release(&copy);
}

/* Each with what its message must say; none may hold the password. */
static void test_dsn_refused(void **state)
{
	static const struct {
		const char *text, *says;
	} rows[] = {
	        {"", "begin with mysql://"},
	        {"postgres://u:SECRET@h/s", "begin with mysql://"},
	        {"mysql://h/s", "no user"},
	        {"mysql://:SECRET@h/s", "user is empty"},
	        {"mysql://u:SECRET@h", "no schema"},
	        {"mysql://u:SECRET@h/", "no schema"},
	        {"mysql://u:SECRET@/s", "neither a host nor a socket"},
	        {"mysql://u:SECRET@a,/s", "a host in the list is empty"},
	        {"mysql://u:SECRET@,a/s", "a host in the list is empty"},
	        {"mysql://u:SECRET@a:1,b:0/s", "port"},
	        {"mysql://u:SECRET@a,a,a,a,a,a,a,a,a/s", "more than 8 hosts"},
	        {"mysql://u:SECRET@a,b/s?socket=/x", "a socket is one server"},
	        {"mysql://u:SECRET@x@h/s", "more than one '@'"},
	        {"mysql://u:SEC/RET@h/s", "no user"},
	        {"mysql://u:SEC RET@h/s", "password holds"},
	        {"mysql://u:SECRET%@h/s", "password holds"},
	        {"mysql://u:SECRET%0@h/s", "password holds"},
	        {"mysql://u:SECRET%zz@h/s", "password holds"},
	        {"mysql://u:SECRET%00@h/s", "password holds"},
	        {"mysql://u:SECRET\xc3\xa4@h/s", "password holds"},
	        {"mysql://u:SECRET@h:/s", "port"},
	        {"mysql://u:SECRET@h:0/s", "port"},
	        {"mysql://u:SECRET@h:65536/s", "port"},
	        {"mysql://u:SECRET@h:99999999999999999999/s", "port"},
	        {"mysql://u:SECRET@h:33x/s", "port"},
	        {"mysql://u:SECRET@[::1/s", "IPv6"},
	        {"mysql://u:SECRET@[::1]x/s", "IPv6"},
	        {"mysql://u:SECRET@h/s/t", "followed by"},
	        {"mysql://u:SECRET@h/s#f", "followed by"},
	        {"mysql://u:SECRET@h/s?", "unknown option"},
	        {"mysql://u:SECRET@h/s?sslca=x", "unknown option"},
	        {"mysql://u:SECRET@h/s?ssl-ca", "ssl-ca needs a value"},
	        {"mysql://u:SECRET@h/s?ssl-ca=", "ssl-ca needs a value"},
	        {"mysql://u:SECRET@h/s?ssl-ca=a&ssl-ca=b", "twice"},
	        {"mysql://u:SECRET@h/s?ssl-ca=a&", "unknown option"},
	        {"mysql://u:SECRET@h/s?ssl-ca=a&ssl-cert=b", "go together"},
	        {"mysql://u:SECRET@h/s?ssl-cert=a&ssl-key=b", "need ssl-ca"},
	        {"mysql://u:SECRET@h/s?socket=/x&ssl-ca=a", "socket has no TLS"},
	        {"mysql://u:SECRET@h/s?password-file=x", "both a password"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct dsn d;
		struct err e;

		if (dsn_parse(&d, rows[i].text, &e) != -1 || !strstr(e.text, rows[i].says))
			fail_msg("%s: %s", rows[i].text, e.text);
		assert_null(strstr(e.text, "SEC"));
		assert_null(d.user);
		assert_null(d.password);
	}
}

static void test_dsn_too_long(void **state)
{
	static char text[DSN_MAX + 100] = "mysql://u:p@h/";
	struct dsn d;
	struct err e;

	(void)state;
	memset(text + strlen(text), 's', sizeof text - strlen(text) - 1);
	assert_int_equal(dsn_parse(&d, text, &e), -1);
	assert_non_null(strstr(e.text, "longer"));
}

static void test_dsn_describe_hides_the_password(void **state)
{
	char out[DSN_DESCRIBE_MAX];
	struct dsn d;
	struct err e;

	(void)state;
	assert_int_equal(dsn_parse(&d, "mysql://u:SECRET@h:1/s", &e), 0);
	assert_string_equal(dsn_describe(&d, out), "u@h:1/s");
	dsn_release(&d);
}

static int load(struct dsn *d, const char *content, struct err *e)
{
	char path[] = "/tmp/test_dsn.XXXXXX", text[256];
	int fd = mkstemp(path), rc;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, strlen(content)), (ssize_t)strlen(content));
	close(fd);
	snprintf(text, sizeof text, "mysql://u@h/s?password-file=%s", path);
	rc = dsn_load(d, text, e);
	unlink(path);
	return rc;
}

static void test_dsn_password_file(void **state)
{
	struct dsn d;
	struct err e;

	(void)state;
	assert_int_equal(load(&d, "pass word\nsecond line\n", &e), 0);
	assert_string_equal(d.password, "pass word");
	dsn_release(&d);
	assert_int_equal(load(&d, "", &e), -1);
	assert_non_null(strstr(e.text, "password-file"));
	assert_int_equal(dsn_load(&d, "mysql://u@h/s?password-file=/does/not/exist", &e), -1);
	assert_non_null(strstr(e.text, "No such file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_dsn_all_parts),
	        cmocka_unit_test(test_dsn_defaults),
	        cmocka_unit_test(test_dsn_ipv6),
	        cmocka_unit_test(test_dsn_several_hosts),
	        cmocka_unit_test(test_dsn_socket_needs_no_host),
	        cmocka_unit_test(test_dsn_copy_is_whole),
	        cmocka_unit_test(test_dsn_refused),
	        cmocka_unit_test(test_dsn_too_long),
	        cmocka_unit_test(test_dsn_describe_hides_the_password),
	        cmocka_unit_test(test_dsn_password_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
