/* Why no bufferevents: a bufferevent_openssl keeps a filter, two evbuffers, their locks and
 * callbacks for every connection, moves each byte through an evbuffer on its way in and out, and
 * makes a TLS record of each piece it is given. Here an idle connection is this struct, OpenSSL's
 * state and nothing else; input is decrypted into one shared buffer and shown to the protocol in
 * place; output of a whole turn is packed into full records and sent with one call. wire.c does
 * that; this file is the connection's life: states, deadlines, pauses, water marks, callbacks. */
#include "node/net/conn.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/net/addr.h"
#include "node/net/loop.h"
#include "node/net/outq.h"
#include "node/net/tls.h"
#include "node/net/wire.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

enum {
	CONNECT_MS = 5000,
	HANDSHAKE_MS = 5000,
	SWEEP_MS = 100,
	/* Processor time for handshakes in one turn: more of them wait for the next turn, so that
	 * a storm of new clients does not hold up the connected ones. */
	HANDSHAKE_TURN_US = 1000,
	MAX_PENDING = 64 * 1024, /* default; bytes */
	LOW_WATER = 64 * 1024,   /* bytes */
	HIGH_WATER = 256 * 1024, /* bytes */
	REF_MIN = 4096,          /* below this a copy is cheaper than a reference; bytes */
	SMALL_PENDING = 4096,    /* up to this, kept input is copied in front of new; bytes */
	FLUSH_ROUNDS = 4,        /* on_lowat may write again: so often within one turn */
	PLAIN_ROOM = WIRE_PLAIN + SMALL_PENDING,
};

/* The lists a connection can be on; see struct conn_table. */
enum conn_list {
	LIST_DIRTY = 1 << 0,
	LIST_RESUMED = 1 << 1,
};

struct conn {
	struct wire wire;
	struct event readable;
	struct event writable;
	struct conn_table *table;
	uint64_t id;
	const struct conn_ops *ops;
	void *arg;
	enum conn_state state;
	uint8_t lists;  /* enum conn_list */
	uint8_t paused; /* enum conn_pause */
	bool reading;   /* `readable` is added */
	bool writing;   /* `writable` is added: the socket is full */
	bool above;     /* output went above high water and not yet below low */
	bool eof;       /* the peer closed its direction */
	bool eof_told;  /* … and on_eof was called */
	bool said_bye;  /* close_notify and FIN are out */
	uint8_t ip_len; /* 4, 16, or 0 */
	uint8_t ip[16];
	uint16_t port;
	int deadline_kind;
	/* input */
	struct buf pending; /* not yet consumed by on_data */
	size_t max_pending;
	/* output */
	struct outq out;
	/* a TLS connection before its SSL is made: on the first bytes, so that clients which
	 * connect and say nothing cost next to nothing */
	struct tls_server *tls_server;
	struct tls_client *tls_client;
	char *host; /* to verify; outgoing only */
	/* the end */
	const char *reason;
	char *error; /* for on_error, or NULL */
	TAILQ_ENTRY(conn) dirty;
	TAILQ_ENTRY(conn) resumed;
	TAILQ_ENTRY(conn) closed;
};

TAILQ_HEAD(conn_queue, conn);

/* Deadlines sit together here, so that a sweep over ten thousand idle connections reads a few
 * hundred kilobytes in a row and wakes nobody. */
struct slot {
	struct conn *conn;    /* NULL = free */
	uint64_t deadline_ms; /* 0 = none */
	uint32_t generation;  /* of the id; raised when the slot is freed */
	uint32_t next_free;
};

struct conn_table {
	struct loop *loop;
	struct wire_io *io;
	struct loop_timer *sweep;
	struct slot *slots; /* slot 0 is never used */
	uint32_t slots_used;
	uint32_t slots_cap;
	uint32_t free_slot; /* 0 = none */
	size_t count;
	size_t handshakes;
	uint64_t handshake_us; /* spent in this turn */
	bool delivering;       /* deliver_resumed is deferred */
	size_t dirty_count;
	size_t resumed_count;
	struct conn_queue dirty;   /* output to flush at the end of the turn */
	struct conn_queue resumed; /* kept input to present again, or on_ready due */
	struct conn_queue closed;  /* on_closed due */
	/* kept input in front of new input, for on_data; see present() */
	char input[PLAIN_ROOM];
};

static void on_readable(evutil_socket_t fd, short what, void *arg);
static void on_writable(evutil_socket_t fd, short what, void *arg);
static void deliver_resumed(void *arg);
static void connected(struct conn *c);

/* ---- slots and ids */

static struct slot *slot_of(struct conn *c)
{
	return &c->table->slots[(uint32_t)c->id];
}

static void slot_take(struct conn_table *t, struct conn *c)
{
	uint32_t i = t->free_slot;

	if (i) {
		t->free_slot = t->slots[i].next_free;
	} else {
		if (t->slots_used == t->slots_cap) {
			t->slots_cap *= 2;
			t->slots = xrealloc(t->slots, t->slots_cap * sizeof *t->slots);
		}
		i = t->slots_used++;
		t->slots[i] = (struct slot){.generation = 1};
	}
	t->slots[i].conn = c;
	t->slots[i].deadline_ms = 0;
	c->id = (uint64_t)t->slots[i].generation << 32 | i;
}

static void slot_give(struct conn *c)
{
	struct slot *s = slot_of(c);

	s->conn = NULL;
	s->deadline_ms = 0;
	s->generation++;
	s->next_free = c->table->free_slot;
	c->table->free_slot = (uint32_t)c->id;
}

struct conn *conn_find(struct conn_table *t, uint64_t id)
{
	uint32_t i = (uint32_t)id;
	struct conn *c;

	if (i == 0 || i >= t->slots_used || t->slots[i].generation != id >> 32)
		return NULL;
	c = t->slots[i].conn;
	return c && c->state != CONN_CLOSED ? c : NULL;
}

struct conn *conn_next(struct conn_table *t, size_t *at)
{
	while (++*at < t->slots_used) {
		struct conn *c = t->slots[*at].conn;

		if (c && c->state != CONN_CLOSED)
			return c;
	}
	return NULL;
}

size_t conn_count(const struct conn_table *t)
{
	return t->count;
}

size_t conn_handshakes(const struct conn_table *t)
{
	return t->handshakes;
}

/* ---- state, interest and queues */

static const char *const state_names[] = {"connecting", "handshake", "ready", "finishing",
                                          "closed"};

static void set_state(struct conn *c, enum conn_state to, const char *why)
{
	log_debug("conn", "conn=%" PRIx64 " state=%s was=%s why=%s", c->id, state_names[to],
	          state_names[c->state], log_quote_str(why));
	if (c->state == CONN_HANDSHAKE)
		c->table->handshakes--;
	if (to == CONN_HANDSHAKE)
		c->table->handshakes++;
	c->state = to;
}

static bool wants_input(const struct conn *c)
{
	switch (c->state) {
	case CONN_HANDSHAKE:
		return !c->eof && (c->tls_server || c->tls_client);
	case CONN_READY: /* what was kept goes first: else it would grow with every resume */
		return !c->eof && !c->paused && !(c->lists & LIST_RESUMED);
	case CONN_FINISHING: /* to see the peer's FIN */
		return !c->eof;
	case CONN_CONNECTING:
	case CONN_CLOSED:
		break;
	}
	return false;
}

static void update_reading(struct conn *c)
{
	bool want = wants_input(c);

	if (want == c->reading)
		return;
	c->reading = want;
	if (want)
		event_add(&c->readable, NULL);
	else
		event_del(&c->readable);
}

static void set_writing(struct conn *c, bool want)
{
	if (want == c->writing)
		return;
	c->writing = want;
	if (want)
		event_add(&c->writable, NULL);
	else
		event_del(&c->writable);
}

static void mark_dirty(struct conn *c)
{
	struct conn_table *t = c->table;

	if (c->lists & LIST_DIRTY)
		return;
	c->lists |= LIST_DIRTY;
	TAILQ_INSERT_TAIL(&t->dirty, c, dirty);
	t->dirty_count++;
	loop_wake(t->loop);
}

static void mark_resumed(struct conn *c)
{
	struct conn_table *t = c->table;

	if (c->lists & LIST_RESUMED)
		return;
	c->lists |= LIST_RESUMED;
	TAILQ_INSERT_TAIL(&t->resumed, c, resumed);
	t->resumed_count++;
	if (!t->delivering)
		loop_defer(t->loop, deliver_resumed, t);
	t->delivering = true;
}

static void unlist(struct conn *c, enum conn_list list)
{
	struct conn_table *t = c->table;

	if (!(c->lists & list))
		return;
	c->lists &= (uint8_t)~list;
	if (list == LIST_DIRTY) {
		TAILQ_REMOVE(&t->dirty, c, dirty);
		t->dirty_count--;
	} else {
		TAILQ_REMOVE(&t->resumed, c, resumed);
		t->resumed_count--;
	}
}

static void set_deadline(struct conn *c, uint64_t ms)
{
	slot_of(c)->deadline_ms = ms ? clock_now_ms() + ms : 0;
}

/* ---- the end */

void conn_close(struct conn *c, const char *reason)
{
	if (c->state == CONN_CLOSED)
		return;
	set_state(c, CONN_CLOSED, reason);
	c->reason = reason;
	set_deadline(c, 0);
	update_reading(c);
	set_writing(c, false);
	unlist(c, LIST_DIRTY);
	unlist(c, LIST_RESUMED);
	wire_close(&c->wire);
	outq_release(&c->out);
	c->table->count--;
	TAILQ_INSERT_TAIL(&c->table->closed, c, closed);
	loop_wake(c->table->loop);
}

/* on_error and on_closed both come at the end of the turn. */
static void conn_fail(struct conn *c, const char *text)
{
	if (c->state == CONN_CLOSED)
		return;
	if (c->state == CONN_FINISHING) { /* it was to end anyway */
		conn_close(c, c->reason);
		return;
	}
	c->error = xstrdup(text);
	conn_close(c, "error");
}

static void conn_free(struct conn *c)
{
	wire_release(&c->wire);
	buf_release(&c->pending);
	outq_release(&c->out);
	slot_give(c);
	free(c->host);
	free(c->error);
	free(c);
}

static void reap(struct conn_table *t)
{
	struct conn *c;

	while ((c = TAILQ_FIRST(&t->closed))) {
		TAILQ_REMOVE(&t->closed, c, closed);
		if (c->error && c->ops->on_error)
			c->ops->on_error(c, c->arg, c->error);
		if (c->ops->on_closed)
			c->ops->on_closed(c, c->arg, c->reason);
		conn_free(c);
	}
}

/* ---- output */

size_t conn_output_bytes(const struct conn *c)
{
	return c->out.bytes + c->wire.left.len;
}

static bool is_open(const struct conn *c)
{
	return c->state == CONN_CONNECTING || c->state == CONN_HANDSHAKE || c->state == CONN_READY;
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
			set_writing(c, true);
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
	set_writing(c, r == WIRE_AGAIN);
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

/* Once round the list as it is now; callbacks may add to it and take from it. */
static void flush_dirty(struct conn_table *t)
{
	struct conn *c;

	for (size_t n = t->dirty_count; n && (c = TAILQ_FIRST(&t->dirty)); n--) {
		unlist(c, LIST_DIRTY);
		/* a full socket calls on_writable when it has room */
		if (!c->writing)
			send_output(c);
		tell_lowat(c);
	}
}

/* The last hook of every turn. */
static void on_turn_last(void *arg)
{
	struct conn_table *t = arg;

	for (int i = 0; i < FLUSH_ROUNDS; i++) {
		flush_dirty(t);
		reap(t);
		if (TAILQ_EMPTY(&t->dirty) && TAILQ_EMPTY(&t->closed))
			break;
	}
	if (!TAILQ_EMPTY(&t->dirty))
		loop_again(t->loop);
	t->handshake_us = 0;
}

static void wrote(struct conn *c)
{
	if (conn_output_bytes(c) > HIGH_WATER)
		c->above = true;
	mark_dirty(c);
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

void conn_flush(struct conn *c)
{
	if (!c->writing)
		send_output(c);
	/* on_lowat, if due, comes at the end of the turn */
	if (c->above && c->state == CONN_READY)
		mark_dirty(c);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;

	(void)fd;
	(void)what;
	loop_enter(c->table->loop);
	if (c->state == CONN_CONNECTING) {
		set_writing(c, false);
		connected(c);
		return;
	}
	send_output(c);
	tell_lowat(c);
}

void conn_finish(struct conn *c, const char *reason, uint64_t linger_ms)
{
	if (c->state == CONN_CLOSED || c->state == CONN_FINISHING)
		return;
	if (c->state != CONN_READY) {
		conn_close(c, reason);
		return;
	}
	set_state(c, CONN_FINISHING, reason);
	c->reason = reason;
	set_deadline(c, linger_ms ? linger_ms : 1);
	update_reading(c);
	mark_dirty(c);
}

/* ---- input */

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
	if (!c->paused && n > c->max_pending) {
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

	if (c->paused || old > SMALL_PENDING) {
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

static void tell_eof(struct conn *c)
{
	if (!c->eof || c->eof_told || c->paused || c->state != CONN_READY)
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
	update_reading(c);
	if (c->state == CONN_HANDSHAKE)
		conn_fail(c, "closed by the peer during the TLS handshake");
	else if (c->state == CONN_FINISHING && c->said_bye)
		conn_close(c, c->reason);
	else
		tell_eof(c);
}

static void become_ready(struct conn *c)
{
	set_state(c, CONN_READY, "ready");
	set_deadline(c, 0);
	free(c->host);
	c->host = NULL;
	if (c->out.bytes)
		mark_dirty(c);
	update_reading(c);
	if (c->ops->on_ready)
		c->ops->on_ready(c, c->arg);
}

static void start_tls(struct conn *c)
{
	SSL *ssl = c->tls_server ? tls_server_ssl(c->tls_server)
	                         : tls_client_ssl(c->tls_client, c->host);

	wire_set_tls(&c->wire, ssl);
}

/* One step of the handshake, with what was received. */
static void handshake(struct conn *c)
{
	uint64_t began_us = clock_us();
	struct err e;
	enum wire_result r = wire_handshake(&c->wire, &e);

	c->table->handshake_us += clock_us() - began_us;
	if (r == WIRE_FAIL)
		conn_fail(c, e.text);
	else if (r == WIRE_OK)
		become_ready(c);
	if (c->wire.left.len && c->state != CONN_CLOSED)
		set_writing(c, true);
}

/* n bytes were received, and lie in the shared buffers. */
static void received(struct conn *c, size_t n)
{
	enum wire_result r = WIRE_OK;
	struct err e;

	if (c->state == CONN_HANDSHAKE)
		handshake(c);
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
		set_writing(c, true);
	if (r == WIRE_FAIL)
		conn_fail(c, e.text);
	else if (r == WIRE_EOF)
		got_eof(c);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	struct err e;
	size_t n;

	(void)fd;
	(void)what;
	loop_enter(c->table->loop);
	/* left in the kernel until a turn with time for it: the event fires again */
	if (c->state == CONN_HANDSHAKE && c->table->handshake_us > HANDSHAKE_TURN_US)
		return;
	if (!c->wire.ssl && (c->tls_server || c->tls_client))
		start_tls(c);
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
		break;
	}
}

void conn_pause_read(struct conn *c, enum conn_pause who)
{
	c->paused |= (uint8_t)who;
	update_reading(c);
}

void conn_resume_read(struct conn *c, enum conn_pause who)
{
	if (!(c->paused & who))
		return;
	c->paused &= (uint8_t)~who;
	if (c->paused || c->state != CONN_READY)
		return;
	if (c->pending.len || (c->eof && !c->eof_told))
		mark_resumed(c);
	update_reading(c);
}

bool conn_paused(const struct conn *c, enum conn_pause who)
{
	return c->paused & who;
}

void conn_set_max_pending(struct conn *c, size_t bytes)
{
	c->max_pending = bytes;
}

/* ---- connecting, and what was put off */

static void connected(struct conn *c)
{
	int failed = 0;
	socklen_t len = sizeof failed;

	if (getsockopt(c->wire.fd, SOL_SOCKET, SO_ERROR, &failed, &len) < 0)
		failed = errno;
	if (failed) {
		conn_fail(c, strerror(failed));
		return;
	}
	if (!c->tls_client) {
		become_ready(c);
		return;
	}
	set_state(c, CONN_HANDSHAKE, "connected");
	set_deadline(c, HANDSHAKE_MS);
	update_reading(c);
	start_tls(c);
	handshake(c);
}

static void deliver_resumed(void *arg)
{
	struct conn_table *t = arg;
	struct conn *c;

	t->delivering = false;
	for (size_t n = t->resumed_count; n && (c = TAILQ_FIRST(&t->resumed)); n--) {
		unlist(c, LIST_RESUMED);
		if (c->state == CONN_HANDSHAKE)
			become_ready(c); /* plain, just accepted */
		else if (c->state == CONN_READY && !c->paused && c->pending.len)
			present(c, NULL, 0);
		tell_eof(c);
		update_reading(c);
	}
}

/* ---- deadlines */

void conn_set_deadline(struct conn *c, uint64_t ms, int kind)
{
	if (c->state != CONN_READY)
		return;
	c->deadline_kind = kind;
	set_deadline(c, ms);
}

static void expired(struct conn *c)
{
	set_deadline(c, 0);
	if (c->state == CONN_CONNECTING)
		conn_fail(c, "connecting took too long");
	else if (c->state == CONN_HANDSHAKE)
		conn_fail(c, "the TLS handshake took too long");
	else if (c->state == CONN_FINISHING)
		conn_close(c, c->reason);
	else if (c->ops->on_timeout)
		c->ops->on_timeout(c, c->arg, c->deadline_kind);
	else
		conn_close(c, "timeout");
}

static void on_sweep(void *arg)
{
	struct conn_table *t = arg;
	uint64_t now_ms = clock_now_ms();

	/* a callback may add connections and move the array: index it anew each time */
	for (uint32_t i = 1; i < t->slots_used; i++) {
		if (t->slots[i].deadline_ms && t->slots[i].deadline_ms <= now_ms)
			expired(t->slots[i].conn);
	}
}

/* ---- making one */

static void set_peer(struct conn *c, const struct sockaddr *sa)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;

	if (sa->sa_family == AF_INET) {
		c->ip_len = 4;
		memcpy(c->ip, &in->sin_addr, 4);
		c->port = ntohs(in->sin_port);
	} else if (sa->sa_family == AF_INET6) {
		bool v4 = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);

		c->ip_len = v4 ? 4 : 16;
		memcpy(c->ip, in6->sin6_addr.s6_addr + (v4 ? 12 : 0), c->ip_len);
		c->port = ntohs(in6->sin6_port);
	}
}

static struct conn *conn_new(struct conn_table *t, int fd, enum conn_state state,
                             const struct conn_ops *ops, void *arg)
{
	struct conn *c = xcalloc(1, sizeof *c);
	struct event_base *base = loop_base(t->loop);
	int on = 1;

	wire_init(&c->wire, t->io, fd);
	c->table = t;
	c->ops = ops;
	c->arg = arg;
	c->max_pending = MAX_PENDING;
	c->state = state;
	slot_take(t, c);
	t->count++;
	if (state == CONN_HANDSHAKE)
		t->handshakes++;
	event_assign(&c->readable, base, fd, EV_READ | EV_PERSIST, on_readable, c);
	event_assign(&c->writable, base, fd, EV_WRITE | EV_PERSIST, on_writable, c);
	/* output leaves once a turn: waiting for more would only delay it. Not TCP in some tests */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return c;
}

struct conn *conn_accept(struct conn_table *t, int fd, struct tls_server *tls,
                         const struct conn_ops *ops, void *arg)
{
	struct conn *c = conn_new(t, fd, CONN_HANDSHAKE, ops, arg);
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof ss;

	if (getpeername(fd, (struct sockaddr *)&ss, &len) == 0)
		set_peer(c, (struct sockaddr *)&ss);
	c->tls_server = tls;
	if (tls) {
		set_deadline(c, HANDSHAKE_MS);
		update_reading(c);
	} else {
		mark_resumed(c); /* on_ready from there */
	}
	return c;
}

struct conn *conn_connect(struct conn_table *t, const char *addr, struct tls_client *tls,
                          const struct conn_ops *ops, void *arg, struct err *e)
{
	struct sockaddr_storage ss;
	struct addr a;
	socklen_t len;
	struct conn *c;
	int fd;
	int rc;

	if (addr_parse(&a, addr, e) < 0 || addr_resolve(&a, false, &ss, &len, e) < 0)
		return NULL;
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		err_set(e, errno, "socket: %s", strerror(errno));
		return NULL;
	}
	c = conn_new(t, fd, CONN_CONNECTING, ops, arg);
	set_peer(c, (struct sockaddr *)&ss);
	c->tls_client = tls;
	c->host = xstrdup(a.host[0] ? a.host : "localhost");
	set_deadline(c, CONNECT_MS);
	rc = connect(fd, (struct sockaddr *)&ss, len);
	if (rc < 0 && errno != EINPROGRESS)
		conn_fail(c, strerror(errno));
	else
		set_writing(c, true);
	return c;
}

void conn_set_ops(struct conn *c, const struct conn_ops *ops, void *arg)
{
	c->ops = ops;
	c->arg = arg;
}

struct conn_table *conn_table_new(struct loop *l)
{
	struct conn_table *t = xcalloc(1, sizeof *t);

	t->loop = l;
	t->io = wire_io_new();
	t->slots_cap = 64;
	t->slots_used = 1;
	t->slots = xcalloc(t->slots_cap, sizeof *t->slots);
	TAILQ_INIT(&t->dirty);
	TAILQ_INIT(&t->resumed);
	TAILQ_INIT(&t->closed);
	t->sweep = loop_every(l, SWEEP_MS, on_sweep, t);
	loop_on_turn_last(l, on_turn_last, t);
	return t;
}

void conn_table_free(struct conn_table *t)
{
	struct conn *c;
	size_t at = 0;

	if (!t)
		return;
	while ((c = conn_next(t, &at)))
		conn_close(c, "shutdown");
	reap(t);
	loop_hook_del(t->loop, on_turn_last, t);
	loop_timer_free(t->sweep);
	wire_io_free(t->io);
	free(t->slots);
	free(t);
}

/* ---- about it */

uint64_t conn_id(const struct conn *c)
{
	return c->id;
}

enum conn_state conn_state(const struct conn *c)
{
	return c->state;
}

void *conn_arg(const struct conn *c)
{
	return c->arg;
}

struct slice conn_peer_ip(const struct conn *c)
{
	return slice(c->ip, c->ip_len);
}

const char *conn_peer(const struct conn *c, char out[CONN_PEER_TEXT])
{
	char ip[INET6_ADDRSTRLEN] = "?";

	if (c->ip_len)
		inet_ntop(c->ip_len == 4 ? AF_INET : AF_INET6, c->ip, ip, sizeof ip);
	snprintf(out, CONN_PEER_TEXT, c->ip_len == 16 ? "[%s]:%u" : "%s:%u", ip, c->port);
	return out;
}

const char *conn_tls_version(const struct conn *c)
{
	return c->wire.ssl ? SSL_get_version(c->wire.ssl) : "";
}

const char *conn_tls_cipher(const struct conn *c)
{
	return c->wire.ssl ? SSL_get_cipher_name(c->wire.ssl) : "";
}

const char *conn_tls_sni(const struct conn *c)
{
	const char *name =
	        c->wire.ssl ? SSL_get_servername(c->wire.ssl, TLSEXT_NAMETYPE_host_name) : NULL;

	return name ? name : "";
}

const char *conn_tls_alpn(const struct conn *c, char out[32])
{
	const unsigned char *name = NULL;
	unsigned n = 0;

	if (c->wire.ssl)
		SSL_get0_alpn_selected(c->wire.ssl, &name, &n);
	snprintf(out, 32, "%.*s", (int)n, name ? (const char *)name : "");
	return out;
}
