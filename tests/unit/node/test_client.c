/* The client against a scripted server: the bytes of both are written out. */
#include "node/cli/client.h"
#include "node/net/conn.h"
#include "node/net/loop.h"

#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void test_url(void **state)
{
	static const struct {
		const char *text;
		const char *addr; /* NULL = refused */
		const char *user;
		bool tls;
	} urls[] = {
	        {"mqtts://h", "h:8883", "", true},
	        {"mqtt://h", "h:1883", "", false},
	        {"mqtt://h/", "h:1883", "", false},
	        {"mqtt://h:99", "h:99", "", false},
	        {"mqtts://me@h:99", "h:99", "me", true},
	        {"mqtts://[::1]", "[::1]:8883", "", true},
	        {"mqtts://[::1]:7", "[::1]:7", "", true},
	        {"mqtts://me:secret@h", NULL, NULL, false},
	        {"mqtt://", NULL, NULL, false},
	        {"mqtt://me@", NULL, NULL, false},
	        {"mqtt://h/path", NULL, NULL, false},
	        {"http://h", NULL, NULL, false},
	        {"h:1883", NULL, NULL, false},
	};
	struct client_url u;
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
		int rc = client_url_parse(&u, urls[i].text, &e);

		assert_int_equal(rc, urls[i].addr ? 0 : -1);
		if (rc < 0)
			continue;
		assert_string_equal(u.addr, urls[i].addr);
		assert_string_equal(u.user, urls[i].user);
		assert_int_equal(u.tls, urls[i].tls);
	}
	assert_null(strstr(e.text, "secret"));
}

/* ---- a server by hand -------------------------------------------------------------------------
 */

struct bench {
	struct loop *loop;
	struct conn_table *table;
	struct client *client;
	struct client_config config;
	char addr[32];
	int listener;
	int fd; /* the server's end */
	int ups, downs, rooms, messages;
	uint64_t acked;      /* sum of tags */
	uint8_t last_reason; /* of on_acked or on_down */
	char text[256];      /* of on_down */
	bool take;           /* on_message's answer */
};

static void on_up(struct client *c, void *arg, const struct mqtt_packet *p)
{
	(void)c;
	(void)p;
	((struct bench *)arg)->ups++;
}

static bool on_message(struct client *c, void *arg, const struct mqtt_packet *p)
{
	(void)c;
	(void)p;
	((struct bench *)arg)->messages++;
	return ((struct bench *)arg)->take;
}

static void on_acked(struct client *c, void *arg, uint64_t tag, uint8_t reason, struct slice text)
{
	(void)c;
	(void)text;
	((struct bench *)arg)->acked += tag;
	((struct bench *)arg)->last_reason = reason;
}

static void on_room(struct client *c, void *arg)
{
	(void)c;
	((struct bench *)arg)->rooms++;
}

static void on_down(struct client *c, void *arg, uint8_t reason, const char *text)
{
	struct bench *b = arg;

	(void)c;
	b->downs++;
	b->last_reason = reason;
	snprintf(b->text, sizeof b->text, "%s", text);
}

static const struct client_ops ops = {on_up, NULL, on_message, on_acked, on_room, on_down};

static void bench_open(struct bench *b)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof sa;
	struct err e;

	*b = (struct bench){.take = true};
	b->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(b->listener, (struct sockaddr *)&sa, sizeof sa), 0);
	assert_int_equal(listen(b->listener, 4), 0);
	getsockname(b->listener, (struct sockaddr *)&sa, &len);
	snprintf(b->addr, sizeof b->addr, "127.0.0.1:%u", ntohs(sa.sin_port));
	b->config = (struct client_config){.addr = b->addr,
	                                   .version = MQTT_V5,
	                                   .clean_start = true,
	                                   .keep_alive_s = 60,
	                                   .window = 4,
	                                   .client_id = slice_str("c")};
	b->loop = loop_new();
	b->table = conn_table_new(b->loop);
	b->client = client_new(b->table, &b->config, &ops, b);
	assert_int_equal(client_connect(b->client, &e), 0);
	b->fd = accept(b->listener, NULL, NULL);
	assert_true(b->fd >= 0);
}

static void bench_close(struct bench *b)
{
	client_free(b->client);
	conn_table_free(b->table);
	loop_free(b->loop);
	close(b->fd);
	close(b->listener);
}

/* Turn until the client has sent something, and expect exactly that. */
static void expect(struct bench *b, const void *bytes, size_t n)
{
	char got[512];
	size_t have = 0;

	while (have < n) {
		struct pollfd p = {.fd = b->fd, .events = POLLIN};

		if (poll(&p, 1, 0) > 0)
			have += (size_t)read(b->fd, got + have, sizeof got - have);
		else
			loop_turn(b->loop);
	}
	assert_int_equal(have, n);
	assert_memory_equal(got, bytes, n);
}

static void feed(struct bench *b, const void *bytes, size_t n)
{
	assert_int_equal(write(b->fd, bytes, n), n);
}

#define EXPECT(b, lit) expect(b, lit, sizeof(lit) - 1)
#define FEED(b, lit) feed(b, lit, sizeof(lit) - 1)

static void bench_up(struct bench *b)
{
	bench_open(b);
	EXPECT(b, "\x10\x13\0\4MQTT\5\2\0\x3c\5\x27\4\0\0\0\0\1c");
	FEED(b, "\x20\6\0\0\3\x21\0\2"); /* Receive Maximum 2 */
	while (!b->ups)
		loop_turn(b->loop);
}

static void publish(struct bench *b, uint8_t qos, uint64_t tag)
{
	const struct client_message m = {
	        .topic = slice_str("t"), .payload = slice_str("p"), .expiry_s = -1, .qos = qos};

	client_publish(b->client, &m, tag);
}

/* The server's Receive Maximum holds; a refusal reaches the publisher; room is told. */
static void test_window(void **state)
{
	struct bench b;

	(void)state;
	bench_up(&b);
	assert_true(client_can_publish(b.client, 1));
	publish(&b, 1, 10);
	publish(&b, 1, 200);
	assert_false(client_can_publish(b.client, 1));
	EXPECT(&b, "\x32\7\0\1t\0\1\0p\x32\7\0\1t\0\2\0p");
	FEED(&b, "\x40\3\0\2\x87");
	while (!b.rooms)
		loop_turn(b.loop);
	assert_int_equal(b.acked, 200);
	assert_int_equal(b.last_reason, 0x87);
	assert_int_equal(client_inflight(b.client), 1);
	bench_close(&b);
}

static void test_qos2_both_ways(void **state)
{
	struct bench b;

	(void)state;
	bench_up(&b);
	publish(&b, 2, 7);
	EXPECT(&b, "\x34\7\0\1t\0\1\0p");
	FEED(&b, "\x50\2\0\1");
	EXPECT(&b, "\x62\2\0\1");
	FEED(&b, "\x70\2\0\1");
	FEED(&b, "\x34\7\0\1t\0\x09\0p");
	EXPECT(&b, "\x50\2\0\x09");
	assert_int_equal(b.acked, 7);
	FEED(&b, "\x3c\7\0\1t\0\x09\0p"); /* again: answered, not delivered */
	EXPECT(&b, "\x50\2\0\x09");
	assert_int_equal(b.messages, 1);
	FEED(&b, "\x62\2\0\x09");
	EXPECT(&b, "\x70\2\0\x09");
	bench_close(&b);
}

/* hold_acks: nothing is acknowledged before its time; what was not taken never is. */
static void test_held_acks(void **state)
{
	struct bench b;

	(void)state;
	bench_up(&b);
	b.config.hold_acks = true;
	FEED(&b, "\x32\7\0\1t\0\1\0p\x32\7\0\1t\0\2\0p");
	while (b.messages < 2)
		loop_turn(b.loop);
	b.take = false;
	FEED(&b, "\x32\7\0\1t\0\3\0p");
	while (b.messages < 3)
		loop_turn(b.loop);
	client_send_acks(b.client);
	EXPECT(&b, "\x40\2\0\1\x40\2\0\2");
	bench_close(&b);
}

static void down(struct bench *b, const void *bytes, size_t n, uint8_t reason, const char *text)
{
	feed(b, bytes, n);
	shutdown(b->fd, SHUT_WR); /* the client waits for it before it closes */
	while (!b->downs)
		loop_turn(b->loop);
	assert_int_equal(b->downs, 1);
	assert_int_equal(b->last_reason, reason);
	assert_string_equal(b->text, text);
	bench_close(b);
}

#define DOWN(b, lit, reason, text) down(b, lit, sizeof(lit) - 1, reason, text)

static void test_down_says_why(void **state)
{
	struct bench b;

	(void)state;
	bench_open(&b);
	DOWN(&b, "\x20\x08\0\x87\5\x1f\0\2no", 0x87, "connection refused: not authorized (no)");
	bench_up(&b);
	DOWN(&b, "\xe0\1\x8b", 0x8b, "disconnected by the server: server shutting down");
	bench_up(&b);
	DOWN(&b, "\x40\2\0\1", 0, "the server acknowledged what was not sent");
	bench_up(&b);
	DOWN(&b, "\x36\0", 0, "QoS is 3");
	bench_up(&b);
	DOWN(&b, "", 0, "the server closed the connection");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_url),
	        cmocka_unit_test(test_window),
	        cmocka_unit_test(test_qos2_both_ways),
	        cmocka_unit_test(test_held_acks),
	        cmocka_unit_test(test_down_says_why),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
