#include "node/net/conn_impl.h"

#include "node/net/loop.h"
#include "node/net/timeshare.h"

enum {
	LOW_WATER = 64 * 1024,   /* bytes */
	HIGH_WATER = 256 * 1024, /* bytes */
	REF_MIN = 4096,          /* below this a copy is cheaper than a reference; bytes */
};

/* ---- sending */

size_t conn_output_bytes(const struct conn *c)
{
	return c->out.bytes + c->wire.left.len;
}

/* All output is with the kernel: what was to happen then? */
static void drained(struct conn *c)
{
	struct err e;
	enum wire_result r;

	if (c->state != CONN_FINISHING)
		return;
	if (!c->said_bye) {
		r = wire_bye(&c->wire, &e);
		if (r == WIRE_AGAIN)
			conn_set_writing(c, true);
		if (r == WIRE_FAIL)
			conn_close(c, c->reason);
		if (r != WIRE_OK)
			return;
		c->said_bye = true;
	}
	if (c->eof)
		conn_close(c, c->reason);
}

/* Send what can be sent. No callbacks: conn_flush comes here too. */
static void send_output(struct conn *c)
{
	struct err e;
	enum wire_result r = WIRE_OK;

	if (c->state == CONN_READY || c->state == CONN_FINISHING)
		r = wire_send(&c->wire, &c->out, &e);
	else if (c->state == CONN_HANDSHAKE && c->wire.left.len)
		r = wire_send(&c->wire, &(struct outq){0}, &e);
	else
		return;
	if (r == WIRE_FAIL) {
		conn_fail(c, e.text);
		return;
	}
	conn_set_writing(c, r == WIRE_AGAIN);
	if (r == WIRE_OK)
		drained(c);
}

static void tell_lowat(struct conn *c)
{
	if (c->state != CONN_READY || !c->above || conn_output_bytes(c) > LOW_WATER)
		return;
	c->above = false;
	if (c->ops->on_lowat)
		c->ops->on_lowat(c, c->arg);
}

static void send_in_time(struct conn *c)
{
	uint64_t began_us = timeshare_begin(c->write_time);

	send_output(c);
	timeshare_end(c->write_time, began_us);
}

size_t conn_flush_dirty(struct conn_table *t)
{
	size_t put_off = 0;
	struct conn *c;

	for (size_t n = t->dirty_count; n && (c = TAILQ_FIRST(&t->dirty)); n--) {
		conn_unlist(c, CONN_LIST_DIRTY);
		if (!timeshare_left(c->write_time)) {
			conn_mark_dirty(c);
			put_off++;
			continue;
		}
		/* a full socket calls conn_on_writable when it has room */
		if (!c->writing)
			send_in_time(c);
		tell_lowat(c);
	}
	return put_off;
}

void conn_flush(struct conn *c)
{
	if (!c->writing)
		send_output(c);
	/* on_lowat, if due, comes at the end of the turn */
	if (c->above && c->state == CONN_READY)
		conn_mark_dirty(c);
}

void conn_on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;

	(void)fd;
	(void)what;
	loop_enter(c->table->loop);
	if (c->state == CONN_CONNECTING) {
		conn_set_writing(c, false);
		conn_connected(c);
		return;
	}
	if (!timeshare_turn(c->write_time, &c->write_round)) /* the event fires again */
		return;
	send_in_time(c);
	tell_lowat(c);
}

/* ---- writing */

static bool is_open(const struct conn *c)
{
	return c->state == CONN_CONNECTING || c->state == CONN_HANDSHAKE || c->state == CONN_READY;
}

static void wrote(struct conn *c)
{
	if (conn_output_bytes(c) > HIGH_WATER)
		c->above = true;
	conn_mark_dirty(c);
}

void conn_write(struct conn *c, const void *p, size_t n)
{
	if (!is_open(c) || !n)
		return;
	outq_copy(&c->out, p, n);
	wrote(c);
}

void conn_write_ref(struct conn *c, const void *p, size_t n, void *owner, void (*release)(void *))
{
	if (!is_open(c) || n < REF_MIN) {
		conn_write(c, p, n);
		release(owner);
		return;
	}
	outq_ref(&c->out, p, n, owner, release);
	wrote(c);
}

bool conn_above_high(const struct conn *c)
{
	return c->above;
}
