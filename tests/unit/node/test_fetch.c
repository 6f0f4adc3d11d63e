/* What a fetch refuses, that one waits for no other, and that it can be broken off. Good answers
 * are in tests/e2e/test_issuers.py. */
#include "node/net/fetch.h"

#include "base/clock.h"
#include "node/net/loop.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static const struct fetch_settings settings = {
        .max_bytes = 1000, .max_at_once = 2, .timeout_ms = 5000};

struct told {
	unsigned n;
	char error[256];
};

static void on_done(void *arg, struct slice body, const char *error)
{
	struct told *t = arg;

	assert_non_null(error);
	assert_int_equal(body.n, 0);
	snprintf(t->error, sizeof t->error, "%s", error);
	t->n++;
}

static void test_fetch_refuses(void **state)
{
	static const struct {
		const char *url, *error;
	} rows[] = {
	        {"http://127.0.0.1:1/", "Protocol \"http\" not supported or disabled"},
	        {"file:///etc/passwd", "Protocol \"file\" not supported or disabled"},
	        {"", "URL"},
	        {"https://127.0.0.1:1/", "127.0.0.1"}, /* nobody listens */
	};
	struct loop *l = loop_new();
	struct fetcher *f = fetcher_new(l, &settings);
	char url[FETCH_URL_MAX + 2];
	struct told t = {0};
	struct err e;
	(void)state;

	for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
		assert_int_equal(fetcher_get(f, rows[i].url, on_done, &t, &e), 0);
		assert_int_equal(t.n, i); /* never before it returned */
		while (t.n == i)
			loop_turn(l);
		if (!strstr(t.error, rows[i].error))
			fail_msg("%s: '%s'", rows[i].url, t.error);
	}
	memset(url, 'x', sizeof url);
	url[sizeof url - 1] = '\0';
	assert_int_equal(fetcher_get(f, url, on_done, &t, &e), -1);
	fetcher_free(f);
	loop_free(l);
}

/* A server that takes connections and says nothing. */
static int silent_server(char url[64])
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	snprintf(url, 64, "https://127.0.0.1:%u/", ntohs(at.sin_port));
	return fd;
}

static void test_fetch_side_by_side(void **state)
{
	struct fetch_settings short_ones = settings;
	struct told hung = {0};
	struct told other = {0};
	struct loop *l = loop_new();
	struct fetcher *f;
	struct err e;
	char url[64];
	int fd = silent_server(url);
	(void)state;

	short_ones.timeout_ms = 1000;
	f = fetcher_new(l, &short_ones);
	assert_int_equal(fetcher_get(f, url, on_done, &hung, &e), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(fetcher_get(f, "https://127.0.0.1:1/", on_done, &other, &e), 0);
		assert_int_equal(fetcher_get(f, url, on_done, &hung, &e), -1);
		assert_string_equal(e.text, "2 fetches are under way");
		while (other.n == i)
			loop_turn(l);
		assert_int_equal(hung.n, 0);
	}
	while (!hung.n)
		loop_turn(l);
	assert_non_null(strstr(hung.error, "timed out"));
	fetcher_free(f);
	loop_free(l);
	close(fd);
}

/* A server that hangs holds up nobody's shutdown. */
static void test_fetch_is_broken_off(void **state)
{
	struct loop *l = loop_new();
	struct fetcher *f = fetcher_new(l, &settings);
	struct told t = {0};
	uint64_t start;
	char url[64];
	int fd = silent_server(url);
	int conn;
	(void)state;

	assert_int_equal(fetcher_get(f, url, on_done, &t, NULL), 0);
	conn = accept(fd, NULL, NULL);
	assert_true(conn >= 0);
	start = clock_us();
	fetcher_free(f);
	assert_true(clock_us() - start < 2000000);
	assert_int_equal(t.n, 0);
	loop_free(l);
	close(conn);
	close(fd);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_fetch_refuses),
	        cmocka_unit_test(test_fetch_side_by_side),
	        cmocka_unit_test(test_fetch_is_broken_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
