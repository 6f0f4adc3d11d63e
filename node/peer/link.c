#include "node/peer/link.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/net/conn.h"
#include "node/net/tls.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- writing --------------------------------------------------------------------------------- */

static void write_frame(struct link *k)
{
	struct link_owner *o = k->owner;

	conn_write(k->conn, o->frame.data, o->frame.len);
	k->written += o->frame.len;
	o->traffic.bytes_out += o->frame.len;
	buf_clear(&o->frame);
}

void link_send(struct link *k, const struct peer_message *m)
{
	k->owner->traffic.messages_out[m->type]++;
	peer_encode(&k->owner->frame, m);
	write_frame(k);
}

static void send_hello(struct link *k)
{
	peer_hello_encode(&k->owner->frame, &k->owner->hello);
	write_frame(k);
}

static void send_ping(struct link *k)
{
	k->pinged_ms = clock_now_ms();
	peer_ping_encode(&k->owner->frame);
	write_frame(k);
}

size_t link_queued(const struct link *k)
{
	return conn_output_bytes(k->conn);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* It does not keep to the protocol: nothing it says later can be understood. */
static void refuse(struct link *k, const char *why)
{
	snprintf(k->error, sizeof k->error, "%s", why);
	link_close(k, "bad frame");
}

static void on_hello(struct link *k, const struct peer_frame *f)
{
	struct peer_hello hello;
	struct err e;

	if (f->type != PEER_FRAME_HELLO) {
		refuse(k, "its first frame is no hello");
		return;
	}
	if (peer_hello_decode(f->payload, &hello, &e) < 0) {
		refuse(k, e.text);
		return;
	}
	if (hello.version != PEER_VERSION) {
		snprintf(k->error, sizeof k->error, "it speaks version %u, this node %u",
		         hello.version, (unsigned)PEER_VERSION);
		link_close(k, "another version");
		return;
	}
	k->session_id = hello.session_id;
	snprintf(k->addr, sizeof k->addr, "%.*s", (int)hello.addr.n,
	         hello.addr.n ? hello.addr.p : "");
	k->state = LINK_HELD;
	conn_pause_read(k->conn, CONN_PAUSE_SESSION);
	k->owner->on_hello(k->owner->arg, k);
}

static void on_frame(struct link *k, const struct peer_frame *f)
{
	struct link_owner *o = k->owner;
	struct peer_message m;
	struct err e;

	if (k->state == LINK_GREETING) {
		on_hello(k, f);
	} else if (f->type == PEER_FRAME_PING) {
		return;
	} else if (peer_decode(&o->decoder, f, &m, &e) < 0) {
		refuse(k, e.text);
	} else {
		o->traffic.messages_in[m.type]++;
		o->on_message(o->arg, k, &m);
	}
}

/* Nothing is read between a HELLO and what the owner thinks of it. */
static bool takes_frames(const struct link *k)
{
	return k->state == LINK_GREETING || k->state == LINK_UP;
}

static size_t on_data(struct conn *c, void *arg, const char *p, size_t n)
{
	struct link *k = arg;
	size_t used = 0;

	(void)c;
	k->heard_ms = clock_now_ms();
	while (takes_frames(k)) {
		size_t max = k->state == LINK_GREETING ? PEER_HELLO_MAX : PEER_FRAME_MAX;
		struct peer_frame f;
		enum peer_cut cut = peer_frame_cut(slice(p + used, n - used), max, &f);

		if (cut == PEER_CUT_MORE)
			break;
		if (cut == PEER_CUT_BAD) {
			refuse(k, "a frame of an impossible length");
			break;
		}
		used += f.size;
		on_frame(k, &f);
	}
	k->owner->traffic.bytes_in += used;
	return used;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void on_ready(struct conn *c, void *arg)
{
	struct link *k = arg;

	k->state = LINK_GREETING;
	conn_set_max_pending(c, PEER_FRAME_HEAD + PEER_FRAME_MAX);
	conn_set_deadline(c, k->owner->silent_ms, 0);
	if (k->dialled)
		send_hello(k);
}

static void on_timeout(struct conn *c, void *arg, int kind)
{
	struct link *k = arg;

	(void)c;
	(void)kind;
	link_close(k, k->state == LINK_HELD ? "its session is not known" : "no hello");
}

static void on_error(struct conn *c, void *arg, const char *text)
{
	struct link *k = arg;

	(void)c;
	snprintf(k->error, sizeof k->error, "%s", text);
}

static void on_closed(struct conn *c, void *arg, const char *reason)
{
	struct link *k = arg;

	(void)c;
	k->state = LINK_CLOSED;
	k->owner->on_closed(k->owner->arg, k, reason);
	free(k);
}

static const struct conn_ops ops = {
        .on_ready = on_ready,
        .on_data = on_data,
        .on_timeout = on_timeout,
        .on_error = on_error,
        .on_closed = on_closed,
};

static struct link *link_new(struct link_owner *o)
{
	struct link *k = xcalloc(1, sizeof *k);

	k->owner = o;
	k->state = LINK_CONNECTING;
	return k;
}

struct link *link_dial(struct link_owner *o, struct conn_table *t, const struct bus_peer *to,
                       const char *addr, struct tls_client *tls, struct err *e)
{
	struct link *k = link_new(o);

	k->dialled = true;
	k->target = to->session_id;
	snprintf(k->addr, sizeof k->addr, "%s", to->addr);
	k->conn = conn_connect(t, addr, tls, &ops, k, e);
	if (k->conn)
		return k;
	free(k);
	return NULL;
}

struct link *link_accepted(struct link_owner *o, struct conn *ready)
{
	struct link *k = link_new(o);

	k->conn = ready;
	conn_set_ops(ready, &ops, k);
	on_ready(ready, k);
	return k;
}

void link_begin(struct link *k)
{
	k->state = LINK_UP;
	k->begun = true;
	k->heard_ms = k->pinged_ms = k->drained_ms = clock_now_ms();
	if (!k->dialled)
		send_hello(k);
	conn_set_deadline(k->conn, 0, 0);
	conn_resume_read(k->conn, CONN_PAUSE_SESSION);
}

void link_close(struct link *k, const char *reason)
{
	if (k->state == LINK_CLOSED)
		return;
	k->state = LINK_CLOSED;
	conn_close(k->conn, reason);
}

/* It takes what we send, or there is nothing to take. */
static void note_drained(struct link *k)
{
	uint64_t drained = k->written - link_queued(k);

	if (drained == k->drained && link_queued(k))
		return;
	k->drained = drained;
	k->drained_ms = clock_now_ms();
}

void link_tick(struct link *k)
{
	uint64_t now_ms = clock_now_ms();
	uint64_t silent_ms = k->owner->silent_ms;

	if (k->state != LINK_UP)
		return;
	note_drained(k);
	if (now_ms - k->heard_ms > silent_ms)
		link_close(k, "silent");
	else if (now_ms - k->drained_ms > silent_ms)
		link_close(k, "takes nothing");
	else if (now_ms - k->pinged_ms >= silent_ms / 5)
		send_ping(k);
}
