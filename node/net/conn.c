/* Why no bufferevents: a bufferevent_openssl keeps a filter, two evbuffers, their locks and
 * callbacks for every connection, moves each byte through an evbuffer on its way in and out, and
 * makes a TLS record of each piece it is given. Here an idle connection is struct conn, OpenSSL's
 * state and nothing else; input is decrypted into one shared buffer and shown to the protocol in
 * place; output of a whole turn is packed into full records and sent with one call. wire.c does
 * that; this file is the connection's life, and conn_impl.h says where the rest is. */
#include "node/net/conn.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/net/addr.h"
#include "node/net/conn_impl.h"
#include "node/net/loop.h"
#include "node/net/outq.h"
#include "node/net/timeshare.h"
#include "node/net/tls.h"
#include "node/net/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
	CONNECT_MS = 5000,
	HANDSHAKE_MS = 5000,
	MAX_PENDING = 64 * 1024, /* default; bytes */
};

/* ---- state and interest */

static const char *const state_names[] = {"connecting", "handshake", "ready", "finishing",
                                          "closed"};

void conn_set_state(struct conn *c, enum conn_state to, const char *why)
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
		return !c->eof && !c->paused && !(c->lists & CONN_LIST_RESUMED);
	case CONN_FINISHING: /* to see the peer's FIN */
		return !c->eof;
	case CONN_CONNECTING:
	case CONN_CLOSED:
		break;
	}
	return false;
}

void conn_update_reading(struct conn *c)
{
	bool want = wants_input(c);

	conn_update_watch(c);
	if (want == c->reading)
		return;
	c->reading = want;
	if (want)
		event_add(&c->readable, NULL);
	else
		event_del(&c->readable);
}

void conn_set_writing(struct conn *c, bool want)
{
	if (want == c->writing)
		return;
	c->writing = want;
	if (want)
		event_add(&c->writable, NULL);
	else
		event_del(&c->writable);
}

/* ---- the end */

void conn_close(struct conn *c, const char *reason)
{
	if (c->state == CONN_CLOSED)
		return;
	conn_set_state(c, CONN_CLOSED, reason);
	c->reason = reason;
	conn_deadline_in(c, 0);
	conn_update_reading(c);
	conn_set_writing(c, false);
	conn_unlist(c, CONN_LIST_DIRTY);
	conn_unlist(c, CONN_LIST_RESUMED);
	wire_close(&c->wire);
	outq_release(&c->out);
	c->table->count--;
	TAILQ_INSERT_TAIL(&c->table->closed, c, closed);
	loop_wake(c->table->loop);
}

/* on_error and on_closed both come at the end of the turn. */
void conn_fail(struct conn *c, const char *text)
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

void conn_finish(struct conn *c, const char *reason, uint64_t linger_ms)
{
	if (c->state == CONN_CLOSED || c->state == CONN_FINISHING)
		return;
	if (c->state != CONN_READY) {
		conn_close(c, reason);
		return;
	}
	conn_set_state(c, CONN_FINISHING, reason);
	c->reason = reason;
	conn_deadline_in(c, linger_ms ? linger_ms : 1);
	conn_update_reading(c);
	conn_mark_dirty(c);
}

void conn_free(struct conn *c)
{
	wire_release(&c->wire);
	buf_release(&c->pending);
	outq_release(&c->out);
	timeshare_release(c->read_time);
	timeshare_release(c->write_time);
	conn_slot_give(c);
	free(c->host);
	free(c->error);
	free(c);
}

/* ---- the beginning */

void conn_become_ready(struct conn *c)
{
	conn_set_state(c, CONN_READY, "ready");
	conn_deadline_in(c, 0);
	free(c->host);
	c->host = NULL;
	if (c->out.bytes)
		conn_mark_dirty(c);
	conn_update_reading(c);
	if (c->ops->on_ready)
		c->ops->on_ready(c, c->arg);
}

void conn_start_tls(struct conn *c)
{
	SSL *ssl = c->tls_server ? tls_server_ssl(c->tls_server)
	                         : tls_client_ssl(c->tls_client, c->host);

	wire_set_tls(&c->wire, ssl);
}

void conn_handshake(struct conn *c)
{
	uint64_t began_us = clock_us();
	struct err e;
	enum wire_result r = wire_handshake(&c->wire, &e);

	c->table->handshake_us += clock_us() - began_us;
	if (r == WIRE_FAIL)
		conn_fail(c, e.text);
	else if (r == WIRE_OK)
		conn_become_ready(c);
	if (c->wire.left.len && c->state != CONN_CLOSED)
		conn_set_writing(c, true);
}

void conn_connected(struct conn *c)
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
		conn_become_ready(c);
		return;
	}
	conn_set_state(c, CONN_HANDSHAKE, "connected");
	conn_deadline_in(c, HANDSHAKE_MS);
	conn_update_reading(c);
	conn_start_tls(c);
	conn_handshake(c);
}

/* ---- time */

void conn_set_deadline(struct conn *c, uint64_t ms, int kind)
{
	if (c->state != CONN_READY)
		return;
	c->deadline_kind = kind;
	conn_deadline_in(c, ms);
}

void conn_expired(struct conn *c)
{
	conn_deadline_in(c, 0);
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
	conn_slot_take(t, c);
	t->count++;
	if (state == CONN_HANDSHAKE)
		t->handshakes++;
	event_assign(&c->readable, base, fd, EV_READ | EV_PERSIST, conn_on_readable, c);
	event_assign(&c->writable, base, fd, EV_WRITE | EV_PERSIST, conn_on_writable, c);
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
		conn_deadline_in(c, HANDSHAKE_MS);
		conn_update_reading(c);
	} else {
		conn_mark_resumed(c); /* on_ready from there */
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
	conn_deadline_in(c, CONNECT_MS);
	rc = connect(fd, (struct sockaddr *)&ss, len);
	if (rc < 0 && errno != EINPROGRESS)
		conn_fail(c, strerror(errno));
	else
		conn_set_writing(c, true);
	return c;
}

void conn_set_ops(struct conn *c, const struct conn_ops *ops, void *arg)
{
	c->ops = ops;
	c->arg = arg;
}

void conn_set_accounts(struct conn *c, struct timeshare_account *reading,
                       struct timeshare_account *writing)
{
	timeshare_release(c->read_time);
	timeshare_release(c->write_time);
	c->read_time = reading;
	c->write_time = writing;
	c->read_round = c->write_round = 0;
	c->read_began_us = timeshare_begin(reading);
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

bool conn_tls_shown(const struct conn *c, struct tls_shown *out)
{
	return c->wire.ssl && tls_shown(c->wire.ssl, out);
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
