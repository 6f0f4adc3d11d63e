#include "node/net/ca.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static const char *in_dir(const char *name)
{
	static char path[128];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	return path;
}

static X509 *read_cert(const char *name)
{
	FILE *f = fopen(in_dir(name), "r");
	X509 *x;

	assert_non_null(f);
	x = PEM_read_X509(f, NULL, NULL, NULL);
	fclose(f);
	assert_non_null(x);
	return x;
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/leat-ca-XXXXXX");
	/* ca_issue makes the directory */
	return mkdtemp(dir) && rmdir(dir) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
	static const char *const names[] = {"ca.crt", "ca.key", "server.crt", "server.key"};

	(void)state;
	for (int i = 0; i < 4; i++)
		unlink(in_dir(names[i]));
	rmdir(dir);
	return 0;
}

static void assert_mode(const char *name, mode_t want)
{
	struct stat st;

	assert_int_equal(stat(in_dir(name), &st), 0);
	assert_int_equal(st.st_mode & 0777, want);
}

static void test_files_and_names(void **state)
{
	const char *names[] = {"leat.example", "10.1.2.3"};
	struct err e;
	X509 *ca;
	X509 *server;

	(void)state;
	assert_int_equal(ca_issue(dir, names, 2, &e), 0);
	assert_mode("", 0700);
	assert_mode("ca.key", 0600);
	assert_mode("server.key", 0600);
	ca = read_cert("ca.crt");
	server = read_cert("server.crt");
	assert_int_equal(X509_check_host(server, "localhost", 0, 0, NULL), 1);
	assert_int_equal(X509_check_host(server, "leat.example", 0, 0, NULL), 1);
	assert_int_equal(X509_check_host(server, "other.example", 0, 0, NULL), 0);
	assert_int_equal(X509_check_ip_asc(server, "127.0.0.1", 0), 1);
	assert_int_equal(X509_check_ip_asc(server, "::1", 0), 1);
	assert_int_equal(X509_check_ip_asc(server, "10.1.2.3", 0), 1);
	assert_int_equal(X509_check_ca(ca), 1);
	assert_int_equal(X509_check_ca(server), 0);
	assert_int_equal(X509_verify(server, X509_get0_pubkey(ca)), 1);
	X509_free(ca);
	X509_free(server);
}

static void test_the_ca_is_kept(void **state)
{
	struct err e;
	X509 *ca[2];
	X509 *server[2];

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(ca_issue(dir, NULL, 0, &e), 0);
		ca[i] = read_cert("ca.crt");
		server[i] = read_cert("server.crt");
	}
	assert_int_equal(X509_cmp(ca[0], ca[1]), 0);
	assert_int_not_equal(X509_cmp(server[0], server[1]), 0);
	for (int i = 0; i < 2; i++) {
		X509_free(ca[i]);
		X509_free(server[i]);
	}
}

/* The names go through OpenSSL's configuration syntax: none may bring syntax of its own. */
static void test_names_that_are_none(void **state)
{
	const char *bad[] = {"a,DNS:b", "a b", "", "a:b", "@section"};
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(ca_issue(dir, &bad[i], 1, &e), -1);
	assert_int_not_equal(access(in_dir("ca.key"), F_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_setup_teardown(test_files_and_names, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_the_ca_is_kept, setup, teardown),
	        cmocka_unit_test_setup_teardown(test_names_that_are_none, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
