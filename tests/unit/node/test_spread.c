/* Several listeners on one socket: who has fewer connections gets the next one; who hangs holds
 * nobody up. The processes are played by two listeners on one loop, which the kernel does not
 * wake evenly: without the spread the first one takes all. */
#include "node/net/spread.h"

#include "base/clock.h"
#include "node/net/conn.h"
#include "node/net/listener.h"
#include "node/net/loop.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { CLIENTS = 20 };

static const struct conn_ops quiet;

struct rig {
	struct loop *loop;
	struct spread *spread;
	struct conn_table *tables[2];
	struct listener *listeners[2];
	struct sockaddr_in addr;
	int clients[CLIENTS];
	int n;
};

static void rig_open(struct rig *r, struct spread *spread)
{
	struct listener_options o = {
	        .name = "test", .addr = "127.0.0.1:0", .ops = &quiet, .spread = spread};
	socklen_t len = sizeof r->addr;
	struct err e;
	int fd = listener_bind(o.addr, &e);

	assert_true(fd >= 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&r->addr, &len), 0);
	r->loop = loop_new();
	r->spread = spread;
	r->n = 0;
	for (unsigned i = 0; i < 2; i++) {
		o.fd = dup(fd);
		o.slot = i;
		r->tables[i] = conn_table_new(r->loop);
		r->listeners[i] = listener_new(r->loop, r->tables[i], &o, &e);
		assert_non_null(r->listeners[i]);
	}
	close(fd);
}

static void rig_close(struct rig *r)
{
	for (int i = 0; i < r->n; i++)
		close(r->clients[i]);
	for (unsigned i = 0; i < 2; i++) {
		listener_free(r->listeners[i]);
		conn_table_free(r->tables[i]);
	}
	loop_free(r->loop);
	spread_free(r->spread);
}

static size_t connected(const struct rig *r)
{
	return conn_count(r->tables[0]) + conn_count(r->tables[1]);
}

/* One more client, until someone has it; how long that took, ms. */
static uint64_t connect_one(struct rig *r)
{
	size_t before = connected(r);
	uint64_t start_us = clock_us();
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&r->addr, sizeof r->addr), 0);
	r->clients[r->n++] = fd;
	while (connected(r) == before)
		loop_turn(r->loop);
	return (clock_us() - start_us) / 1000;
}

static void test_spread_evenly(void **state)
{
	struct rig r;

	(void)state;
	rig_open(&r, spread_new());
	for (int i = 0; i < CLIENTS; i++)
		connect_one(&r);
	assert_int_equal(conn_count(r.tables[0]), CLIENTS / 2);
	assert_int_equal(conn_count(r.tables[1]), CLIENTS / 2);
	rig_close(&r);
}

/* A worker that is stopped, or dead and not yet missed, stays the least busy one. */
static void test_spread_passes_one_that_hangs(void **state)
{
	struct rig r;

	(void)state;
	rig_open(&r, spread_new());
	spread_set(r.spread, 2, 0);
	for (int i = 0; i < CLIENTS; i++)
		assert_true(connect_one(&r) < 1000);
	rig_close(&r);
}

static void test_spread_knows_who_serves(void **state)
{
	struct spread *s = spread_new();

	(void)state;
	assert_false(spread_was_used(s));
	assert_false(spread_is_ahead(s, 0));
	spread_set(s, 0, 7);
	assert_true(spread_was_used(s));
	assert_false(spread_is_ahead(s, 0)); /* the others do not serve: they are not waited for */
	spread_set(s, 1, 6);
	assert_true(spread_is_ahead(s, 0));
	assert_false(spread_is_ahead(s, 1));
	spread_leave(s, 1);
	assert_false(spread_is_ahead(s, 0));
	spread_free(s);
}

/* Bound is not yet open: who comes before a worker serves is refused and goes elsewhere. */
static void test_bound_socket_refuses(void **state)
{
	struct sockaddr_in addr;
	socklen_t len = sizeof addr;
	struct err e;
	int fd = listener_bind("127.0.0.1:0", &e);
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	assert_int_equal(connect(client, (struct sockaddr *)&addr, sizeof addr), -1);
	close(client);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_spread_evenly),
	        cmocka_unit_test(test_spread_passes_one_that_hangs),
	        cmocka_unit_test(test_spread_knows_who_serves),
	        cmocka_unit_test(test_bound_socket_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
