#include "node/net/conn_impl.h"

#include "base/clock.h"
#include "node/net/loop.h"
#include "node/net/timeshare.h"

#include <assert.h>
#include <string.h>

enum {
	/* Processor time for handshakes in one turn: more of them wait for the next turn, so that
	 * a storm of new clients does not hold up the connected ones. */
	HANDSHAKE_TURN_US = 1000,
	LEFT_MAX = 64 * 1024, /* taken of what a peer that has gone sent last; bytes */
};

/* ---- what the protocol is shown */

/* Show the protocol n bytes at p; returns how many it did not consume (they are the last ones). */
static size_t show(struct conn *c, const char *p, size_t n)
{
	size_t used = n;

	if (c->state != CONN_READY)
		return 0;
	if (c->ops->on_data)
		used = c->ops->on_data(c, c->arg, p, n);
	assert(used <= n);
	return c->state == CONN_READY ? n - used : 0;
}

static void keep(struct conn *c, const char *p, size_t n)
{
	if (n == 0) {
		buf_release(&c->pending); /* idle connections hold no memory */
		return;
	}
	if (!c->paused && !c->yielded && n > c->max_pending) {
		conn_fail(c, "an unfinished packet is longer than allowed");
		return;
	}
	if (p != c->pending.data) {
		buf_clear(&c->pending);
		buf_append(&c->pending, p, n);
	}
}

/* What was kept before and n new bytes at p go to the protocol in one piece. A little that was kept
 * is copied in front of the new in a shared buffer; for a long unfinished packet the new bytes are
 * added to it instead, so that no byte is copied again and again. */
static void present(struct conn *c, const char *p, size_t n)
{
	size_t old = c->pending.len;
	size_t rest;

	if (c->paused || old > CONN_SMALL_PENDING) {
		buf_append(&c->pending, p, n);
		if (c->paused)
			return;
		rest = show(c, c->pending.data, c->pending.len);
		if (c->state != CONN_READY)
			return; /* freed with the connection: the protocol may still look at it */
		buf_consume(&c->pending, c->pending.len - rest);
		keep(c, c->pending.data, rest);
		return;
	}
	if (old) {
		memcpy(c->table->input, c->pending.data, old);
		if (n)
			memcpy(c->table->input + old, p, n);
		p = c->table->input;
		n += old;
	}
	rest = show(c, p, n);
	if (c->state == CONN_READY)
		keep(c, p + n - rest, rest);
}

/* Paused, and its peer has gone: does what it sent last need to be shown first? */
static bool may_end_unread(struct conn *c)
{
	if (!c->pending.len)
		return true;
	return c->ops->on_left && c->ops->on_left(c, c->arg, c->pending.data, c->pending.len) &&
	       c->state == CONN_READY;
}

static void tell_eof(struct conn *c)
{
	if (!c->eof || c->eof_told || c->state != CONN_READY)
		return;
	if (c->paused && !may_end_unread(c))
		return;
	if (c->yielded || (c->lists & CONN_LIST_RESUMED)) /* what came before it is not all shown */
		return;
	c->eof_told = true;
	if (c->ops->on_eof)
		c->ops->on_eof(c, c->arg);
	else
		conn_close(c, "eof");
}

static void got_eof(struct conn *c)
{
	c->eof = true;
	conn_update_reading(c);
	if (c->state == CONN_HANDSHAKE)
		conn_fail(c, "closed by the peer during the TLS handshake");
	else if (c->state == CONN_FINISHING && c->said_bye)
		conn_close(c, c->reason);
	else
		tell_eof(c);
}

/* ---- receiving */

/* n bytes were received, and lie in the shared buffers. */
static void received(struct conn *c, size_t n)
{
	enum wire_result r = WIRE_OK;
	struct err e;

	if (c->state == CONN_HANDSHAKE)
		conn_handshake(c);
	/* the bytes behind the handshake's last belong to the protocol */
	if (c->state != CONN_READY && c->state != CONN_FINISHING)
		return;
	if (c->wire.ssl)
		r = wire_decrypt(&c->wire, &n, &e);
	if (n && c->state == CONN_READY)
		present(c, wire_io_plain(c->table->io), n);
	if (c->state == CONN_CLOSED)
		return;
	if (c->wire.left.len)
		conn_set_writing(c, true);
	if (r == WIRE_FAIL)
		conn_fail(c, e.text);
	else if (r == WIRE_EOF)
		got_eof(c);
}

/* False: there was nothing. */
static bool receive(struct conn *c)
{
	struct err e;
	size_t n;

	if (!c->wire.ssl && (c->tls_server || c->tls_client))
		conn_start_tls(c);
	switch (wire_recv(&c->wire, &n, &e)) {
	case WIRE_OK:
		received(c, n);
		break;
	case WIRE_EOF:
		got_eof(c);
		break;
	case WIRE_FAIL:
		conn_fail(c, e.text);
		break;
	case WIRE_AGAIN:
		return false;
	}
	return true;
}

/* Is there time for its input in this turn? */
static bool may_read(struct conn *c)
{
	if (c->state == CONN_HANDSHAKE)
		return c->table->handshake_us <= HANDSHAKE_TURN_US;
	return timeshare_turn(c->read_time, &c->read_round);
}

/* After its input was shown: what it left is shown again without anything new arriving. */
static void reading_ends(struct conn *c)
{
	timeshare_end(c->read_time, c->read_began_us);
	if (!c->yielded)
		return;
	c->yielded = false;
	if (c->state == CONN_READY && !c->paused && c->pending.len) {
		conn_mark_resumed(c);
		conn_update_reading(c);
	} else {
		tell_eof(c);
	}
}

void conn_on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;

	(void)fd;
	(void)what;
	loop_enter(c->table->loop);
	if (!may_read(c)) /* it stays in the kernel, and the event fires again */
		return;
	c->read_began_us = timeshare_begin(c->read_time);
	receive(c);
	reading_ends(c);
}

/* What it sent before it went is kept, as far as there is room. Where there is more it goes on
 * waiting, like everybody else whose input is wanted. */
void conn_left(struct conn *c)
{
	size_t most = c->pending.len + LEFT_MAX;

	while (c->state == CONN_READY && !c->eof && c->pending.len < most && receive(c))
		;
}

/* ---- what was kept */

/* What was kept while reading was paused. False = there is no time for it in this turn. */
static bool show_kept(struct conn *c)
{
	if (!timeshare_turn(c->read_time, &c->read_round)) {
		conn_mark_resumed(c);
		return false;
	}
	c->read_began_us = timeshare_begin(c->read_time);
	present(c, NULL, 0);
	reading_ends(c);
	return true;
}

void conn_show_resumed(void *arg)
{
	struct conn_table *t = arg;
	struct conn *c;

	t->delivering = false;
	for (size_t n = t->resumed_count; n && (c = TAILQ_FIRST(&t->resumed)); n--) {
		conn_unlist(c, CONN_LIST_RESUMED);
		if (c->state == CONN_HANDSHAKE)
			conn_become_ready(c); /* plain, just accepted */
		else if (c->state == CONN_READY && !c->paused && c->pending.len && !show_kept(c))
			continue;
		tell_eof(c);
		conn_update_reading(c);
	}
}

/* ---- pauses */

bool conn_yield(struct conn *c)
{
	c->yielded = !timeshare_go_on(c->read_time, &c->read_began_us);
	return c->yielded;
}

void conn_pause_read(struct conn *c, enum conn_pause who)
{
	c->paused |= (uint8_t)who;
	conn_update_reading(c);
}

void conn_resume_read(struct conn *c, enum conn_pause who)
{
	if (!(c->paused & who))
		return;
	c->paused &= (uint8_t)~who;
	if (c->paused || c->state != CONN_READY)
		return;
	if (c->pending.len || (c->eof && !c->eof_told))
		conn_mark_resumed(c);
	conn_update_reading(c);
}

bool conn_paused(const struct conn *c, enum conn_pause who)
{
	return c->paused & who;
}

void conn_set_max_pending(struct conn *c, size_t bytes)
{
	c->max_pending = bytes;
}
