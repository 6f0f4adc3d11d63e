/* Two connections of one loop talk over loopback, once plain and once with TLS. */
#include "node/net/conn.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/net/addr.h"
#include "node/net/ca.h"
#include "node/net/conn_impl.h"
#include "node/net/listener.h"
#include "node/net/loop.h"
#include "node/net/timeshare.h"
#include "node/net/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATIENCE_MS = 5000 };

/* Where a test wants a connection to be closed. */
enum moment { NEVER, AT_READY, AT_DATA, AT_LOWAT, AT_EOF, AT_TIMEOUT };

/* One end, and all it was told. */
struct end {
	struct conn *c;
	uint64_t id;
	struct buf got; /* consumed input */
	size_t least;   /* on_data consumes nothing below this many bytes … */
	size_t most;    /* … and at most this many; 0 = all */
	size_t shown;   /* bytes in the last on_data */
	int data;
	int ready;
	int lowat;
	int eof;
	int timeout;
	int timeout_kind;
	int errors;
	int closed;
	int after_close;  /* callbacks other than the last after conn_close */
	bool gone;        /* we closed it */
	bool pause_after; /* pause in every on_data */
	bool yields;      /* asks in every on_data whether it may go on, and is in no hurry */
	size_t at_eof;    /* bytes that had come then */
	enum moment close_at;
	char error[256];
	char reason[64];
};

static struct loop *l;
static struct conn_table *table;
static struct listener *listener;
static struct tls_server *server_tls;
static struct tls_client *client_tls;
static struct timeshare *shared; /* of the tests that have one */
static struct end server;
static struct end client;
static bool with_tls;
static char dir[] = "/tmp/leat-conn-XXXXXX";
static char path[4][64];
static int released;

static void told(struct end *x, enum moment m)
{
	if (x->gone)
		x->after_close++;
	if (x->close_at == m) {
		x->gone = true;
		conn_close(x->c, "test");
	}
}

static void on_ready(struct conn *c, void *arg)
{
	struct end *x = arg;

	x->c = c;
	x->id = conn_id(c);
	x->ready++;
	told(x, AT_READY);
}

static size_t on_data(struct conn *c, void *arg, const char *p, size_t n)
{
	struct end *x = arg;

	x->data++;
	x->shown = n;
	if (n < x->least)
		return 0;
	if (x->most && n > x->most)
		n = x->most;
	buf_append(&x->got, p, n);
	if (x->pause_after)
		conn_pause_read(c, CONN_PAUSE_RATE);
	if (x->yields)
		assert_true(conn_yield(c));
	told(x, AT_DATA);
	return n;
}

static void on_lowat(struct conn *c, void *arg)
{
	struct end *x = arg;

	(void)c;
	x->lowat++;
	told(x, AT_LOWAT);
}

static void on_eof(struct conn *c, void *arg)
{
	struct end *x = arg;

	(void)c;
	x->eof++;
	x->at_eof = x->got.len;
	told(x, AT_EOF);
}

static void on_timeout(struct conn *c, void *arg, int kind)
{
	struct end *x = arg;

	(void)c;
	x->timeout++;
	x->timeout_kind = kind;
	told(x, AT_TIMEOUT);
}

static void on_error(struct conn *c, void *arg, const char *text)
{
	struct end *x = arg;

	(void)c;
	x->errors++;
	snprintf(x->error, sizeof x->error, "%s", text);
}

static void on_closed(struct conn *c, void *arg, const char *reason)
{
	struct end *x = arg;

	assert_null(conn_find(table, conn_id(c)));
	assert_int_equal(conn_state(c), CONN_CLOSED);
	x->closed++;
	x->c = NULL;
	snprintf(x->reason, sizeof x->reason, "%s", reason);
}

static const struct conn_ops ops = {
        .on_ready = on_ready,
        .on_data = on_data,
        .on_lowat = on_lowat,
        .on_eof = on_eof,
        .on_timeout = on_timeout,
        .on_error = on_error,
        .on_closed = on_closed,
};

static void nothing(void *arg)
{
	(void)arg;
}

/* Turn the loop until the expression holds. */
#define UNTIL(what)                                                                              \
	do {                                                                                     \
		uint64_t until_us_ = clock_us() + PATIENCE_MS * 1000ull;                         \
		struct loop_timer *wake_ = loop_every(l, 5, nothing, NULL);                      \
		while (!(what) && clock_us() < until_us_)                                        \
			loop_turn(l);                                                            \
		loop_timer_free(wake_);                                                          \
		if (!(what))                                                                     \
			fail_msg("never came true: %s (errors: '%s' '%s')", #what, server.error, \
			         client.error);                                                  \
	} while (0)

static void turns_for(uint64_t ms)
{
	uint64_t until_us = clock_us() + ms * 1000;
	struct loop_timer *wake = loop_every(l, 5, nothing, NULL);

	while (clock_us() < until_us)
		loop_turn(l);
	loop_timer_free(wake);
}

static void count_release(void *owner)
{
	(void)owner;
	released++;
}

static void connect_to(const char *host)
{
	char addr[64];
	struct err e;
	struct conn *c;

	snprintf(addr, sizeof addr, "%s:%u", host, listener_port(listener));
	c = conn_connect(table, addr, with_tls ? client_tls : NULL, &ops, &client, &e);
	assert_non_null(c);
	client.c = c;
}

static void both_ready(void)
{
	connect_to("127.0.0.1");
	UNTIL(client.ready && server.ready);
}

static int open_all(bool tls)
{
	struct tls_server_options so = {.cert_file = path[0], .key_file = path[1], .alpn = "mqtt"};
	struct tls_client_options co = {.ca_file = path[2], .alpn = "mqtt"};
	struct listener_options lo = {
	        .name = "test", .addr = "127.0.0.1:0", .ops = &ops, .arg = &server};
	struct err e;

	memset(&server, 0, sizeof server);
	memset(&client, 0, sizeof client);
	released = 0;
	with_tls = tls;
	l = loop_new();
	table = conn_table_new(l);
	server_tls = tls_server_new(&so, &e);
	client_tls = tls_client_new(&co, &e);
	lo.tls = tls ? server_tls : NULL;
	listener = listener_new(l, table, &lo, &e);
	return server_tls && client_tls && listener ? 0 : -1;
}

static int open_plain(void **state)
{
	(void)state;
	return open_all(false);
}

static int open_tls(void **state)
{
	(void)state;
	return open_all(true);
}

static int close_all(void **state)
{
	(void)state;
	listener_free(listener);
	conn_table_free(table);
	timeshare_free(shared);
	shared = NULL;
	tls_server_free(server_tls);
	tls_client_free(client_tls);
	loop_free(l);
	buf_release(&server.got);
	buf_release(&client.got);
	/* whatever happened, the last call came once and nothing but it followed conn_close */
	assert_int_equal(server.closed, server.ready || server.errors ? 1 : server.closed);
	assert_int_equal(client.closed, 1);
	assert_int_equal(server.after_close + client.after_close, 0);
	return 0;
}

static char *random_bytes(size_t n)
{
	char *p = xmalloc(n);

	for (size_t i = 0; i < n; i++)
		p[i] = (char)random();
	return p;
}

/* ---- bytes */

static void test_a_partial_packet_comes_again_with_more(void **state)
{
	(void)state;
	server.least = 10;
	both_ready();
	conn_write(client.c, "12345", 5);
	UNTIL(server.data == 1);
	assert_int_equal(server.got.len, 0);
	conn_write(client.c, "67890abc", 8);
	UNTIL(server.got.len);
	assert_int_equal(server.shown, 13);
	assert_memory_equal(server.got.data, "1234567890abc", 13);
}

static void one_chunking(unsigned seed)
{
	size_t total = 1 + (size_t)random() % 300000;
	char *data = random_bytes(total);
	size_t sent = 0;

	srandom(seed);
	buf_clear(&server.got);
	server.most = random() % 2 ? 1 + (size_t)random() % 30000 : 0;
	while (sent < total) {
		size_t n = 1 + (size_t)random() % (random() % 4 ? 500 : 70000);

		if (n > total - sent)
			n = total - sent;
		if (random() % 3)
			conn_write(client.c, data + sent, n);
		else
			conn_write_ref(client.c, data + sent, n, NULL, count_release);
		sent += n;
		if (random() % 5 == 0)
			conn_flush(client.c);
		if (random() % 3 == 0)
			loop_turn(l);
		if (random() % 7 == 0) {
			conn_pause_read(server.c, CONN_PAUSE_RATE);
			loop_turn(l);
			conn_resume_read(server.c, CONN_PAUSE_RATE);
		}
	}
	/* what on_data left needs a push: the protocol would have asked for it */
	while (server.got.len < total) {
		size_t before = server.got.len;

		UNTIL(server.got.len > before || server.got.len == total ||
		      (conn_pause_read(server.c, CONN_PAUSE_RATE),
		       conn_resume_read(server.c, CONN_PAUSE_RATE), false));
	}
	assert_int_equal(server.got.len, total);
	assert_memory_equal(server.got.data, data, total);
	free(data);
}

static void test_a_hundred_chunkings_arrive_equal(void **state)
{
	(void)state;
	both_ready();
	conn_set_max_pending(server.c, 1 << 20);
	for (unsigned seed = 1; seed <= 100; seed++)
		one_chunking(seed);
}

static void test_too_long_a_packet_is_an_error(void **state)
{
	char *data = random_bytes(20000);

	(void)state;
	server.least = 100000;
	both_ready();
	conn_set_max_pending(server.c, 10000);
	conn_write(client.c, data, 9000);
	UNTIL(server.data);
	assert_int_equal(server.errors, 0);
	conn_write(client.c, data, 9000);
	UNTIL(server.closed);
	assert_int_equal(server.errors, 1);
	assert_non_null(strstr(server.error, "longer than allowed"));
	free(data);
}

static void test_data_behind_the_handshake_is_not_lost(void **state)
{
	(void)state;
	connect_to("127.0.0.1");
	conn_write(client.c, "early", 5); /* before anything is connected */
	UNTIL(server.got.len == 5);
	assert_int_equal(server.ready, 1);
}

/* ---- pressure */

static void test_water_marks(void **state)
{
	char *data = random_bytes(4096);
	size_t total = 0;

	(void)state;
	both_ready();
	conn_pause_read(server.c, CONN_PAUSE_USER);
	/* the kernel takes its part first */
	while (!conn_above_high(client.c) && total < 64u << 20) {
		conn_write(client.c, data, 4096);
		total += 4096;
		if (total % (1 << 17) == 0)
			loop_turn(l);
	}
	for (int i = 0; i < 3; i++) {
		conn_write(client.c, data, 4096);
		total += 4096;
	}
	turns_for(20);
	assert_true(conn_above_high(client.c));
	assert_true(conn_output_bytes(client.c) > 200000);
	assert_int_equal(client.lowat, 0);
	assert_int_equal(server.got.len, 0);
	conn_resume_read(server.c, CONN_PAUSE_USER);
	UNTIL(server.got.len == total);
	UNTIL(client.lowat);
	turns_for(20);
	assert_int_equal(client.lowat, 1);
	assert_false(conn_above_high(client.c));
	assert_int_equal(conn_output_bytes(client.c), 0);
	free(data);
}

static void test_every_pauser_must_resume(void **state)
{
	(void)state;
	both_ready();
	conn_pause_read(server.c, CONN_PAUSE_RATE);
	conn_pause_read(server.c, CONN_PAUSE_JOURNAL);
	conn_write(client.c, "x", 1);
	turns_for(20);
	conn_resume_read(server.c, CONN_PAUSE_RATE);
	turns_for(20);
	assert_int_equal(server.data, 0);
	assert_true(conn_paused(server.c, CONN_PAUSE_JOURNAL));
	conn_resume_read(server.c, CONN_PAUSE_JOURNAL);
	UNTIL(server.got.len == 1);
}

/* A rate limiter lets one packet through at a time; what is kept must not grow meanwhile. */
static void test_kept_input_comes_in_turns(void **state)
{
	char *data = random_bytes(1 << 20);

	(void)state;
	server.most = 1000;
	server.pause_after = true;
	both_ready();
	conn_write(client.c, data, 1 << 20);
	UNTIL(server.data == 1);
	for (int i = 2; i < 200; i++) {
		conn_resume_read(server.c, CONN_PAUSE_RATE);
		UNTIL(server.data == i);
		assert_true(server.shown <= 200000);
	}
	assert_memory_equal(server.got.data, data, server.got.len);
	free(data);
}

/* ---- the time of tenants */

/* Whatever is done takes the whole turn. */
static uint64_t slow_clock(void)
{
	static uint64_t now_us;

	return now_us += 1000;
}

static void share_time(void)
{
	struct timeshare_settings s = {.turn_us = 1000, .bug = "unfair", .now_us = slow_clock};

	shared = timeshare_new(l, &s);
	both_ready();
}

static void one_turn(void)
{
	loop_again(l);
	loop_turn(l);
}

static size_t unsent_after_a_turn(uint32_t tenant, uint32_t other)
{
	conn_set_accounts(server.c, NULL, timeshare_account(shared, tenant));
	conn_set_accounts(client.c, NULL, timeshare_account(shared, other));
	conn_write(server.c, "s", 1);
	conn_write(client.c, "c", 1);
	one_turn();
	return conn_output_bytes(server.c) + conn_output_bytes(client.c);
}

/* A tenant that has used its time sends the rest in the next turn; the others do not wait for it.
 */
static void test_writing_takes_a_tenants_time(void **state)
{
	(void)state;
	share_time();
	turns_for(20);
	assert_int_equal(unsent_after_a_turn(1, 1), 1);
	UNTIL(server.got.len == 1 && client.got.len == 1);
	turns_for(20);
	assert_int_equal(unsent_after_a_turn(1, 2), 0);
	UNTIL(server.got.len == 2 && client.got.len == 2);
}

/* Input that came at once is handled over many turns, in order, and what comes after it after it.
 */
static void test_reading_is_cut(void **state)
{
	enum { TOTAL = 50000, PIECE = 1000 };
	char *data = random_bytes(TOTAL);

	(void)state;
	share_time();
	conn_set_accounts(server.c, timeshare_account(shared, 1), NULL);
	server.most = PIECE;
	server.yields = true;
	conn_write(client.c, data, TOTAL);
	conn_finish(client.c, "done", 2000);
	while (server.got.len < TOTAL) {
		int before = server.data;

		one_turn();
		assert_in_range(server.data - before, 0, 1);
	}
	assert_memory_equal(server.got.data, data, TOTAL);
	UNTIL(server.eof);
	assert_int_equal(server.at_eof, TOTAL);
	conn_close(server.c, "test");
	UNTIL(client.closed);
	free(data);
}

/* ---- ends */

static void test_finish_sends_everything_first(void **state)
{
	char *data = random_bytes(3 << 20);

	(void)state;
	server.close_at = AT_EOF;
	both_ready();
	conn_write_ref(client.c, data, 3 << 20, NULL, count_release);
	conn_finish(client.c, "done", 3000);
	conn_write(client.c, "too late", 8);
	UNTIL(client.closed && server.closed);
	assert_int_equal(released, 1);
	assert_int_equal(server.got.len, 3 << 20);
	assert_memory_equal(server.got.data, data, 3 << 20);
	assert_int_equal(server.eof, 1);
	assert_int_equal(server.errors + client.errors, 0);
	assert_string_equal(client.reason, "done");
	free(data);
}

static void test_finish_does_not_linger_for_ever(void **state)
{
	char *data = random_bytes(16 << 20);
	uint64_t began_us = clock_us();

	(void)state;
	both_ready();
	conn_pause_read(server.c, CONN_PAUSE_USER);
	conn_write_ref(client.c, data, 16 << 20, NULL, count_release);
	conn_finish(client.c, "done", 200);
	UNTIL(client.closed);
	assert_true(clock_us() - began_us >= 190000);
	assert_true(clock_us() - began_us < 2000000);
	assert_int_equal(released, 1);
	free(data);
}

static void test_eof_comes_after_the_data_before_it(void **state)
{
	(void)state;
	both_ready();
	conn_pause_read(server.c, CONN_PAUSE_USER);
	conn_write(client.c, "last words", 10);
	conn_finish(client.c, "done", 500);
	turns_for(30);
	assert_int_equal(server.eof, 0);
	conn_resume_read(server.c, CONN_PAUSE_USER);
	UNTIL(server.eof);
	assert_int_equal(server.got.len, 10);
	conn_write(server.c, "an answer", 9); /* half-closed: the other way still works */
	turns_for(10);
	assert_int_equal(server.errors, 0);
}

/* One that waits for the database does not read; it once was not let go of before that answered. */
static void test_who_goes_unread_is_noticed(void **state)
{
	(void)state;
	both_ready();
	conn_pause_read(server.c, CONN_PAUSE_SESSION);
	turns_for(150); /* watched */
	conn_finish(client.c, "gives up", 500);
	UNTIL(server.eof);
	assert_int_equal(server.data, 0);
	assert_true(conn_paused(server.c, CONN_PAUSE_SESSION));
	conn_resume_read(server.c, CONN_PAUSE_SESSION);
	turns_for(30);
	assert_int_equal(server.eof, 1);
}

static void test_who_goes_before_it_is_watched_is_noticed(void **state)
{
	(void)state;
	both_ready();
	conn_pause_read(server.c, CONN_PAUSE_SESSION);
	conn_finish(client.c, "gives up", 500);
	UNTIL(server.eof);
}

static void test_who_resets_unread_is_noticed(void **state)
{
	struct linger at_once = {.l_onoff = 1};
	int fd;

	(void)state;
	both_ready();
	fd = client.c->wire.fd;
	conn_write(client.c, "unread", 6);
	conn_pause_read(server.c, CONN_PAUSE_SESSION);
	turns_for(150);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	conn_close(client.c, "resets");
	UNTIL(server.closed);
	assert_int_equal(server.errors, 1);
	assert_int_equal(server.data, 0);
}

/* Whoever stays, and says more than it should, is not read for it. */
static void test_who_stays_is_not_read(void **state)
{
	char *data = random_bytes(8 << 20);

	(void)state;
	both_ready();
	conn_pause_read(server.c, CONN_PAUSE_SESSION);
	turns_for(150);
	conn_write(client.c, data, 8 << 20);
	turns_for(150);
	assert_true(conn_output_bytes(client.c) > 0);
	assert_int_equal(server.c->pending.len, 0);
	conn_resume_read(server.c, CONN_PAUSE_SESSION);
	UNTIL(server.got.len == 8 << 20);
	assert_memory_equal(server.got.data, data, 8 << 20);
	free(data);
}

/* What it sent last is kept, as far as there is room; none of it is lost. */
static void test_who_goes_with_much_unread(void **state)
{
	size_t total = 300000;
	char *data = random_bytes(total);

	(void)state;
	both_ready();
	conn_pause_read(server.c, CONN_PAUSE_RATE);
	conn_write(client.c, data, total);
	conn_finish(client.c, "done", 2000);
	turns_for(300);
	assert_int_equal(server.eof, 0);
	assert_true(server.c->pending.len < 256 << 10);
	conn_resume_read(server.c, CONN_PAUSE_RATE);
	UNTIL(server.eof);
	assert_int_equal(server.got.len, total);
	assert_memory_equal(server.got.data, data, total);
	free(data);
}

static void test_deadline(void **state)
{
	uint64_t began_us;

	(void)state;
	both_ready();
	conn_set_deadline(server.c, 30, 1);
	conn_set_deadline(server.c, 150, 7);
	began_us = clock_us();
	UNTIL(server.timeout);
	assert_int_equal(server.timeout_kind, 7);
	assert_true(clock_us() - began_us >= 148000);
	conn_set_deadline(server.c, 10, 7);
	conn_set_deadline(server.c, 0, 0);
	turns_for(250);
	assert_int_equal(server.timeout, 1);
}

static void close_server_at(enum moment m)
{
	server.close_at = m;
	connect_to("127.0.0.1");
	UNTIL(client.ready);
	UNTIL(server.ready);
	if (m == AT_DATA)
		conn_write(client.c, "x", 1);
	if (m == AT_EOF)
		conn_finish(client.c, "test", 1000);
	if (m == AT_TIMEOUT)
		conn_set_deadline(server.c, 1, 0);
	if (m == AT_LOWAT) {
		char *data = random_bytes(600000);

		conn_write(server.c, data, 600000);
		assert_true(conn_above_high(server.c));
		free(data);
	}
	UNTIL(server.closed);
	if (m == AT_LOWAT)
		assert_int_equal(server.lowat, 1);
	assert_string_equal(server.reason, "test");
	assert_null(conn_find(table, server.id));
	UNTIL(client.eof || client.closed);
}

static void test_close_in_ready(void **state)
{
	(void)state;
	close_server_at(AT_READY);
}

static void test_close_in_data(void **state)
{
	(void)state;
	close_server_at(AT_DATA);
}

static void test_close_in_lowat(void **state)
{
	(void)state;
	close_server_at(AT_LOWAT);
}

static void test_close_in_eof(void **state)
{
	(void)state;
	close_server_at(AT_EOF);
}

static void test_close_in_timeout(void **state)
{
	(void)state;
	close_server_at(AT_TIMEOUT);
}

static void test_close_releases_what_was_not_sent(void **state)
{
	char *data = random_bytes(16 << 20);

	(void)state;
	both_ready();
	conn_pause_read(server.c, CONN_PAUSE_USER);
	conn_write_ref(client.c, data, 16 << 20, NULL, count_release);
	turns_for(10);
	assert_int_equal(released, 0);
	conn_close(client.c, "test");
	assert_int_equal(released, 1);
	conn_write_ref(client.c, data, 16 << 20, NULL, count_release);
	assert_int_equal(released, 2); /* dropped at once */
	UNTIL(client.closed);
	assert_int_equal(client.errors, 0);
	free(data);
}

static void test_ids_are_not_used_again(void **state)
{
	uint64_t old;

	(void)state;
	both_ready();
	old = conn_id(server.c);
	assert_ptr_equal(conn_find(table, old), server.c);
	assert_int_equal(conn_count(table), 2);
	conn_close(server.c, "test");
	assert_null(conn_find(table, old));
	UNTIL(server.closed);
	conn_close(client.c, "test");
	UNTIL(client.closed);
	client.closed = server.closed = server.ready = client.ready = 0;
	both_ready();
	assert_true(conn_id(server.c) != old && conn_id(client.c) != old);
	assert_null(conn_find(table, old));
	assert_null(conn_find(table, 0));
	assert_null(conn_find(table, UINT64_MAX));
}

static void test_a_refused_connection_is_an_error(void **state)
{
	char addr[64];
	struct err e;

	(void)state;
	snprintf(addr, sizeof addr, "127.0.0.1:%u", listener_port(listener));
	listener_stop(listener);
	client.c = conn_connect(table, addr, NULL, &ops, &client, &e);
	UNTIL(client.closed);
	assert_int_equal(client.errors, 1);
	assert_string_equal(client.error, "Connection refused");
}

/* ---- TLS */

static void test_what_tls_says(void **state)
{
	char text[CONN_PEER_TEXT];
	char alpn[32];

	(void)state;
	connect_to("localhost");
	UNTIL(client.ready && server.ready);
	assert_string_equal(conn_tls_version(server.c), "TLSv1.3");
	assert_string_equal(conn_tls_cipher(server.c), "TLS_AES_128_GCM_SHA256");
	assert_string_equal(conn_tls_sni(server.c), "localhost");
	assert_string_equal(conn_tls_alpn(server.c, alpn), "mqtt");
	assert_string_equal(conn_tls_alpn(client.c, alpn), "mqtt");
	assert_non_null(strstr(conn_peer(server.c, text), "127.0.0.1:"));
	assert_int_equal(conn_peer_ip(server.c).n, 4);
	assert_int_equal(conn_handshakes(table), 0);
}

static void test_the_wrong_name_is_refused(void **state)
{
	struct listener_options lo = {.name = "elsewhere",
	                              .addr = "127.0.0.2:0",
	                              .tls = server_tls,
	                              .ops = &ops,
	                              .arg = &server};
	struct err e;

	(void)state;
	listener_free(listener);
	listener = listener_new(l, table, &lo, &e);
	assert_non_null(listener);
	connect_to("127.0.0.2"); /* the certificate names 127.0.0.1 */
	UNTIL(client.closed && server.closed);
	assert_int_equal(client.ready, 0);
	assert_non_null(strstr(client.error, "IP address mismatch"));
}

static void test_a_stranger_is_refused(void **state)
{
	struct tls_client_options co = {0}; /* the system's CAs */
	struct err e;

	(void)state;
	tls_client_free(client_tls);
	client_tls = tls_client_new(&co, &e);
	assert_non_null(client_tls);
	connect_to("127.0.0.1");
	UNTIL(client.closed && server.closed);
	assert_int_equal(client.ready, 0);
	assert_non_null(strstr(client.error, "certificate verify failed"));
	assert_non_null(strstr(server.error, "unknown ca"));
}

static void test_plain_bytes_to_a_tls_port(void **state)
{
	(void)state;
	with_tls = false;
	connect_to("127.0.0.1");
	UNTIL(client.ready);
	conn_write(client.c, "GET / HTTP/1.1\r\n\r\n", 18);
	UNTIL(server.closed);
	assert_int_equal(server.errors, 1);
	assert_int_equal(server.ready, 0);
	assert_non_null(strstr(server.error, "TLS handshake"));
}

static bool serves_name(const char *name)
{
	X509 *cert = SSL_CTX_get0_certificate(tls_server_ctx(server_tls));

	return X509_check_host(cert, name, 0, 0, NULL) == 1;
}

static void test_reload_serves_new_connections_only(void **state)
{
	const char *names[] = {"fresh.example"};
	struct err e;

	(void)state;
	both_ready();
	assert_int_equal(ca_issue(dir, names, 1, &e), 0);
	assert_false(serves_name("fresh.example"));
	assert_int_equal(tls_server_reload(server_tls, &e), 0);
	assert_true(serves_name("fresh.example"));
	conn_write(client.c, "still here", 10);
	UNTIL(server.got.len == 10);
	conn_close(client.c, "test");
	UNTIL(client.closed && server.eof);
	conn_close(server.c, "test");
	UNTIL(server.closed);
	client.closed = server.closed = server.ready = client.ready = 0;
	both_ready();
}

static void test_a_bad_reload_changes_nothing(void **state)
{
	struct err e;
	FILE *f;

	(void)state;
	f = fopen(path[0], "w");
	fputs("no certificate\n", f);
	fclose(f);
	assert_int_equal(tls_server_reload(server_tls, &e), -1);
	assert_non_null(strstr(e.text, "no PEM certificate in"));
	unlink(path[0]);
	assert_int_equal(tls_server_reload(server_tls, &e), -1);
	assert_non_null(strstr(e.text, "No such file"));
	both_ready();
	assert_int_equal(ca_issue(dir, NULL, 0, &e), 0);
}

static void test_a_key_of_another_certificate(void **state)
{
	struct tls_server_options so = {.cert_file = path[0], .key_file = path[3]};
	struct err e;

	(void)state;
	assert_null(tls_server_new(&so, &e));
	assert_non_null(strstr(e.text, "does not belong to the certificate"));
	client.closed = 1; /* none was made */
}

/* ---- listener */

static void test_the_limit_of_connections_pauses_accepting(void **state)
{
	struct listener_options lo = {.name = "small",
	                              .addr = "127.0.0.1:0",
	                              .ops = &ops,
	                              .arg = &server,
	                              .max_conns = 2};
	struct conn *second;
	struct end other = {0};
	char addr[64];
	struct err e;

	(void)state;
	listener_free(listener);
	listener = listener_new(l, table, &lo, &e);
	assert_non_null(listener);
	both_ready();
	snprintf(addr, sizeof addr, "127.0.0.1:%u", listener_port(listener));
	second = conn_connect(table, addr, NULL, &ops, &other, &e);
	assert_non_null(second);
	turns_for(60);
	assert_int_equal(server.ready, 1);
	conn_close(client.c, "test");
	UNTIL(client.closed);
	conn_close(server.c, "test");
	UNTIL(server.closed);
	UNTIL(server.ready == 2);
	server.closed = 0;
	conn_close(second, "test");
	UNTIL(other.closed);
}

static int make_certificates(void **state)
{
	static const char *const files[] = {"server.crt", "server.key", "ca.crt", "ca.key"};
	struct err e;

	(void)state;
	log_set_level(LOG_ERROR);
	if (!mkdtemp(dir) || ca_issue(dir, NULL, 0, &e) < 0)
		return -1;
	for (int i = 0; i < 4; i++)
		snprintf(path[i], sizeof path[i], "%s/%s", dir, files[i]);
	return 0;
}

static int remove_certificates(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++)
		unlink(path[i]);
	return rmdir(dir);
}

#define BOTH(test)                                                    \
	cmocka_unit_test_setup_teardown(test, open_plain, close_all), \
	        cmocka_unit_test_setup_teardown(test, open_tls, close_all)
#define PLAIN(test) cmocka_unit_test_setup_teardown(test, open_plain, close_all)
#define TLS(test) cmocka_unit_test_setup_teardown(test, open_tls, close_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
	        BOTH(test_a_partial_packet_comes_again_with_more),
	        BOTH(test_a_hundred_chunkings_arrive_equal),
	        BOTH(test_too_long_a_packet_is_an_error),
	        BOTH(test_data_behind_the_handshake_is_not_lost),
	        BOTH(test_water_marks),
	        BOTH(test_every_pauser_must_resume),
	        BOTH(test_kept_input_comes_in_turns),
	        BOTH(test_writing_takes_a_tenants_time),
	        BOTH(test_reading_is_cut),
	        BOTH(test_finish_sends_everything_first),
	        BOTH(test_finish_does_not_linger_for_ever),
	        BOTH(test_eof_comes_after_the_data_before_it),
	        BOTH(test_who_goes_unread_is_noticed),
	        BOTH(test_who_goes_before_it_is_watched_is_noticed),
	        BOTH(test_who_resets_unread_is_noticed),
	        BOTH(test_who_stays_is_not_read),
	        BOTH(test_who_goes_with_much_unread),
	        BOTH(test_deadline),
	        BOTH(test_close_in_ready),
	        BOTH(test_close_in_data),
	        BOTH(test_close_in_lowat),
	        BOTH(test_close_in_eof),
	        BOTH(test_close_in_timeout),
	        BOTH(test_close_releases_what_was_not_sent),
	        BOTH(test_ids_are_not_used_again),
	        PLAIN(test_a_refused_connection_is_an_error),
	        PLAIN(test_the_limit_of_connections_pauses_accepting),
	        TLS(test_what_tls_says),
	        TLS(test_the_wrong_name_is_refused),
	        TLS(test_a_stranger_is_refused),
	        TLS(test_plain_bytes_to_a_tls_port),
	        TLS(test_reload_serves_new_connections_only),
	        TLS(test_a_bad_reload_changes_nothing),
	        TLS(test_a_key_of_another_certificate),
	};

	return cmocka_run_group_tests(tests, make_certificates, remove_certificates);
}
