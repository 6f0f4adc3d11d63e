/* The admin listener over a real socket, and the text of /metrics. */
#include "node/admin.h"

#include "node/metrics.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static struct loop *loop;
static struct admin *admin;
static const char *not_ready;
static struct mqtt_stats mqtt;
static char answer[32768];

static bool write_ready(void *arg, struct buf *out)
{
	(void)arg;
	buf_printf(out, "%s\n", not_ready ? not_ready : "ok");
	return !not_ready;
}

static void write_metrics(void *arg, struct buf *out)
{
	struct metrics_source s = {.ready = true, .generation = 7, .mqtt = &mqtt};

	(void)arg;
	metrics_write(&s, out);
}

static int setup(void **state)
{
	struct admin_events events = {.write_ready = write_ready, .write_metrics = write_metrics};
	struct addr addr = {.host = "127.0.0.1"};
	struct err e;

	(void)state;
	loop = loop_new();
	admin = admin_new(loop, &addr, &events, &e);
	return admin ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	admin_free(admin);
	loop_free(loop);
	return 0;
}

/* Send a request; the status code, with the whole answer in `answer`. */
static int ask(const char *request)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
	                         .sin_port = htons(admin_port(admin)),
	                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t have = 0;
	ssize_t n = 1;

	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
	assert_int_equal(write(fd, request, strlen(request)), (ssize_t)strlen(request));
	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (int turns = 0; turns < 2000 && n != 0; turns++) {
		loop_again(loop);
		loop_turn(loop);
		n = read(fd, answer + have, sizeof answer - 1 - have);
		if (n > 0)
			have += (size_t)n;
		else
			usleep(500);
	}
	close(fd);
	answer[have] = '\0';
	assert_memory_equal(answer, "HTTP/1.1 ", 9);
	return (int)strtol(answer + 9, NULL, 10);
}

static int get(const char *path)
{
	char request[256];

	snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	         path);
	return ask(request);
}

static void test_health(void **state)
{
	(void)state;
	not_ready = NULL;
	assert_int_equal(get("/livez"), 200);
	assert_int_equal(get("/readyz?verbose"), 200);
	assert_non_null(strstr(answer, "\r\n\r\nok\n"));
	not_ready = "waiting for the database";
	assert_int_equal(get("/readyz"), 503);
	assert_non_null(strstr(answer, "\r\n\r\nwaiting for the database\n"));
	assert_int_equal(get("/livez"), 200);
	assert_int_equal(get("/readyz/"), 404);
	assert_int_not_equal(ask("POST /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	                         "Content-Length: 0\r\n\r\n"),
	                     200);
}

static void expect_line(const char *line)
{
	if (!strstr(answer, line))
		fail_msg("/metrics has no '%s'", line);
}

static void test_metrics(void **state)
{
	(void)state;
	mqtt.connects = 5;
	mqtt.latency[0] = 2;
	mqtt.latency[3] = 1;
	mqtt.latency[MQTT_LATENCY_BUCKETS - 1] = 1;
	mqtt.latency_sum_us = 1500000;
	mqtt.connect_refused[0x86] = 3;
	mqtt.token_refused[TOKEN_EXPIRED] = 9;
	assert_int_equal(get("/metrics"), 200);
	expect_line("\n# TYPE leat_connects_total counter\nleat_connects_total 5\n");
	expect_line("\nleat_generation 7\n");
	expect_line("\nleat_puback_seconds_bucket{le=\"0.00025\"} 2\n");
	expect_line("\nleat_puback_seconds_bucket{le=\"0.001\"} 3\n"); /* cumulative */
	expect_line("\nleat_puback_seconds_bucket{le=\"+Inf\"} 4\n");
	expect_line("\nleat_puback_seconds_sum 1.5\nleat_puback_seconds_count 4\n");
	expect_line("\nleat_connect_refused_total{code=\"0x86\",reason=\"bad user name or "
	            "password\"} 3\n");
	expect_line("\nleat_token_refused_total{why=\"expired\"} 9\n");
	assert_null(strstr(answer, "0x87")); /* what never occurred is left out */
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_health),
	        cmocka_unit_test(test_metrics),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
