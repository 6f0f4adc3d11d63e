#include "node/delivery/session.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/delivery.h"
#include "node/delivery/queue.h"
#include "node/mqtt/mqtt_reason.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	CLAIM_PAUSE_MS = 100,
	FIRST_SLOTS = 16,
};

/* ---- about it ----------------------------------------------------------------------------------
 */

struct slice session_subject(const struct session *s)
{
	return slice(s->key, s->subject_len);
}

struct slice session_client_id(const struct session *s)
{
	return slice(s->key + s->subject_len + 1, s->key_len - s->subject_len - 1);
}

uint32_t session_expiry(const struct session *s)
{
	return s->expiry_s;
}

bool session_consumes(const struct session *s)
{
	return s->started;
}

const struct filter *session_share_filter(const struct session *s, const struct subscription *share)
{
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		if (s->sub->filters[i].share == share)
			return &s->sub->filters[i];
	}
	fatal("a consumer without its filter");
}

/* ---- packet ids --------------------------------------------------------------------------------
 */

bool session_can_take(const struct session *s)
{
	return s->started && s->in_flight < s->receive_max && s->ops->can_send(s->conn) &&
	       !s->space->dispatch->draining;
}

bool session_can_begin(const struct session *s)
{
	return s->n_used < UINT16_MAX && session_can_take(s);
}

static void grow_slots(struct session *s)
{
	uint32_t n = s->n_slots ? s->n_slots * 2u : FIRST_SLOTS;

	if (n > UINT16_MAX)
		n = UINT16_MAX;
	s->slots = xrealloc(s->slots, n * sizeof *s->slots);
	memset(s->slots + s->n_slots, 0, (n - s->n_slots) * sizeof *s->slots);
	s->next_slot = s->n_slots;
	s->n_slots = (uint16_t)n;
}

uint16_t session_take_packet_id(struct session *s, struct place *pl, uint64_t seq)
{
	for (uint32_t tries = 0;; tries++) {
		struct slot *slot;

		if (tries >= s->n_slots) {
			grow_slots(s);
			tries = 0;
		}
		if (s->next_slot >= s->n_slots)
			s->next_slot = 0;
		slot = &s->slots[s->next_slot++];
		if (slot->used)
			continue;
		*slot = (struct slot){.place = pl, .seq = seq, .used = true};
		s->n_used++;
		return s->next_slot;
	}
}

void session_free_packet_id(struct session *s, uint16_t packet_id)
{
	s->slots[packet_id - 1] = (struct slot){0};
	s->n_used--;
}

void session_void_packet_id(struct session *s, uint16_t packet_id)
{
	s->slots[packet_id - 1].place = NULL;
	s->slots[packet_id - 1].due_ms = 0;
}

void session_void_subscription(struct session *s, const struct subscription *sub)
{
	for (uint32_t i = 0; i < s->n_slots; i++) {
		if (s->slots[i].place && s->slots[i].place->sub == sub)
			s->slots[i].place = NULL;
	}
}

/* The connection is gone, and nobody will acknowledge those whose events went away before it. */
static void free_void_packet_ids(struct session *s)
{
	for (uint32_t i = 0; i < s->n_slots; i++) {
		if (s->slots[i].used && !s->slots[i].place)
			session_free_packet_id(s, (uint16_t)(i + 1));
	}
}

void session_send(struct session *s, const struct outgoing *out)
{
	if (out->packet_id)
		s->in_flight++;
	s->ops->send(s->conn, out);
}

static void session_pump(struct session *s)
{
	subscription_pump(s->sub);
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		if (s->sub->filters[i].share)
			subscription_pump(s->sub->filters[i].share);
	}
}

bool session_puback(struct session *s, uint16_t packet_id, uint8_t reason)
{
	return session_answer(s, packet_id, reason, slice_str(""));
}

static enum peer_result result_of(uint8_t reason)
{
	if (reason < 0x80)
		return PEER_ACKED;
	return reason == MQTT_REASON_PAYLOAD_FORMAT_INVALID ? PEER_DEAD : PEER_NACKED;
}

bool session_answer(struct session *s, uint16_t packet_id, uint8_t reason, struct slice text)
{
	struct slot slot;
	char code[sizeof "PUBACK 0x00"] = "";

	if (!packet_id || packet_id > s->n_slots || !s->slots[packet_id - 1].used)
		return false;
	slot = s->slots[packet_id - 1];
	session_free_packet_id(s, packet_id);
	if (s->in_flight)
		s->in_flight--;
	if (slot.place) {
		s->space->dispatch->stats.settled++;
		if (reason >= 0x80 && !text.n) /* nearly all are 0, and need no words */
			snprintf(code, sizeof code, "PUBACK 0x%02x", reason);
		place_result(slot.place, slot.seq, result_of(reason),
		             text.n ? text : slice_str(code));
	}
	session_pump(s);
	return true;
}

void session_writable(struct session *s)
{
	if (s->started)
		session_pump(s);
}

/* ---- life --------------------------------------------------------------------------------------
 */

static struct session *session_new(struct space *sp, const struct session_open *req)
{
	struct session *s = xcalloc(1, sizeof *s);

	s->space = sp;
	s->subject_len = req->subject.n;
	s->key_len = req->subject.n + 1 + req->client_id.n;
	s->key = xmalloc(s->key_len);
	memcpy(s->key, req->subject.p, req->subject.n);
	s->key[req->subject.n] = '\0';
	memcpy(s->key + req->subject.n + 1, req->client_id.p, req->client_id.n);
	s->clean_start = req->clean_start;
	s->expiry_s = req->expiry_s;
	s->requests = 1; /* until session_end */
	TAILQ_INIT(&s->pending);
	sp->requests++;
	map_put(&sp->sessions, s->key, s->key_len, s);
	sp->dispatch->stats.sessions++;
	return s;
}

void session_unref(struct session *s)
{
	struct space *sp = s->space;

	if (--s->requests)
		return;
	assert(s->dead);
	dispatch_forget(sp->dispatch, s);
	free(s->slots);
	free(s->key);
	free(s);
	sp->requests--;
	space_free_if_unused(sp);
}

static void leave_shares(struct session *s)
{
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		struct subscription *share = s->sub->filters[i].share;

		if (share) {
			s->sub->filters[i].share = NULL;
			share_leave(share, s);
			/* it was never in the trie under this subscription */
			filter_clear(&s->sub->filters[i]);
		}
	}
}

static void forget_conn(struct session *s)
{
	if (s->opening)
		map_del(&s->space->dispatch->opens, &s->conn_id, sizeof s->conn_id);
	s->opening = false;
	s->started = false;
	s->conn_id = 0;
	s->conn = NULL;
	s->in_flight = 0;
}

enum ending {
	END_ROW_DELETED,  /* the session is over */
	END_ROW_RELEASED, /* it goes on, elsewhere or later */
	END_ROW_LEFT,     /* the row is not ours to touch */
};

/* How much of its expiry has run while it lingered here. */
static uint32_t idle_seconds(const struct session *s)
{
	uint64_t idle = s->idle_since_ms ? (clock_now_ms() - s->idle_since_ms) / 1000 : 0;

	return idle < s->expiry_s ? (uint32_t)idle : s->expiry_s;
}

/* It leaves memory; the connection, if there is one, has been told. */
static void session_end(struct session *s, enum ending how)
{
	struct dispatch *d = s->space->dispatch;
	struct subscription *sub = s->sub;

	assert(!s->dead);
	forget_conn(s);
	ack_timeout_forget(s);
	s->dead = true;
	dispatch_forget(d, s);
	if (map_get(&s->space->sessions, s->key, s->key_len) == s)
		map_del(&s->space->sessions, s->key, s->key_len);
	d->stats.sessions--;
	op_drop_all(s);
	if (sub) {
		leave_shares(s);
		subscription_park(sub, &s->consumer);
		if (how != END_ROW_LEFT)
			closing_start(sub, how == END_ROW_DELETED, s->expiry_s, idle_seconds(s));
		subscription_kill(sub); /* it holds a request of ours until it is freed */
		s->sub = NULL;
	}
	session_unref(s);
}

static void kick(struct session *s, uint8_t reason, const char *text)
{
	const struct session_conn_ops *ops = s->ops;
	void *conn = s->conn;
	bool opening = s->opening;
	void (*done)(void *, struct session *, bool, uint8_t, const char *) = s->open_done;

	if (!s->conn_id)
		return;
	forget_conn(s);
	if (opening)
		done(conn, NULL, false, reason, text);
	else
		ops->kick(conn, reason, text);
}

void session_kill(struct session *s, uint8_t reason, const char *text)
{
	kick(s, reason, text);
	session_end(s, END_ROW_LEFT);
}

void session_let_go(struct session *s)
{
	kick(s, MQTT_REASON_SESSION_TAKEN_OVER,
	     "the session was held by another node meanwhile: connect again");
	session_end(s, END_ROW_RELEASED);
}

static void make_subscription(struct session *s)
{
	s->sub = subscription_new(s->space, BUS_SUB_SESSION, NULL);
	s->sub->session = s;
	s->requests++; /* given back by subscription_free */
}

/* ---- without a connection ----------------------------------------------------------------------
 */

static void session_park(struct session *s)
{
	if (!s->sub)
		return;
	subscription_park(s->sub, &s->consumer);
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		struct subscription *share = s->sub->filters[i].share;

		if (share) {
			subscription_park(share, &s->consumer);
			session_void_subscription(s, share);
		}
	}
	free_void_packet_ids(s);
	op_silence(s);
}

/* Are all its cursors written? */
static bool session_settled(const struct session *s)
{
	for (uint32_t i = 0; s->sub->places && i < s->space->n_partitions; i++) {
		if (s->sub->places[i].feed.dirty || s->sub->places[i].feed.committing)
			return false;
	}
	return TAILQ_EMPTY(&s->pending);
}

void session_release(struct session *s)
{
	bool over = s->expiry_s == 0 || !s->sub || !s->sub->durable;

	kick(s, MQTT_REASON_SERVER_SHUTTING_DOWN, "the node is shutting down");
	session_end(s, over ? END_ROW_DELETED : END_ROW_RELEASED);
}

static void linger_end(void *arg)
{
	struct session *s = arg;
	struct dispatch *d = s->space->dispatch;

	if (s->expiry_s <= d->settings.linger_ms / 1000)
		session_end(s, END_ROW_DELETED);
	else if (session_settled(s) && s->sub->state == SUBSCRIPTION_ACTIVE)
		session_end(s, END_ROW_RELEASED);
	else
		dispatch_after(d, CLAIM_PAUSE_MS, linger_end, s);
}

/* Nobody is connected: it ends, or stays a while for a client that comes right back. */
static void session_idle(struct session *s)
{
	struct dispatch *d = s->space->dispatch;
	uint64_t ms = (uint64_t)s->expiry_s * 1000;

	if (!s->expiry_s || !s->sub->durable) {
		session_end(s, END_ROW_DELETED);
		return;
	}
	s->idle_since_ms = clock_now_ms();
	dispatch_after(d, ms < d->settings.linger_ms ? (uint32_t)ms : d->settings.linger_ms,
	               linger_end, s);
}

void session_detach(struct session *s, uint32_t expiry_s)
{
	assert(s->conn_id && !s->dead);
	forget_conn(s);
	s->expiry_s = expiry_s;
	session_park(s);
	session_idle(s);
}

void session_cut(struct session *s, uint8_t reason, const char *text)
{
	kick(s, reason, text);
	session_park(s);
	session_idle(s);
}

void session_open_cancel(struct dispatch *d, uint64_t conn_id)
{
	struct session *s = map_get_u64(&d->opens, conn_id);

	if (!s)
		return;
	forget_conn(s);
	if (s->sub) /* it was here already and only waited to be told */
		session_idle(s);
}

/* If its filter is not known yet, it is asked again when that is. */
static void join_queue(struct session *s, struct subscription *queue)
{
	uint8_t reason;
	const char *objection = queue_join(queue, s, &reason);

	if (!objection)
		return;
	log_info("session", "tenant=%u sub=%" PRIu64 " consumer refused why=%s",
	         s->space->tenant_id, queue->id, log_quote_str(objection));
	session_drop_share(s, queue);
}

void session_start(struct session *s)
{
	if (s->dead || !s->conn_id)
		return;
	s->started = true;
	subscription_add_consumer(s->sub, &s->consumer);
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		struct subscription *share = s->sub->filters[i].share;

		if (share && !share->queue)
			subscription_add_consumer(share, &s->consumer);
		else if (share)
			join_queue(s, share);
	}
	subscription_wake(s->sub);
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		if (s->sub->filters[i].share)
			subscription_wake(s->sub->filters[i].share);
	}
}

/* ---- opening -----------------------------------------------------------------------------------
 */

struct opening {
	struct bus_claim req;
	struct session *session;
	uint64_t generation;
};

static void open_claim(struct session *s);

static void open_claim_again(void *arg)
{
	open_claim(arg);
}

static void opened(struct session *s, bool present)
{
	void *conn = s->conn;
	uint64_t conn_id = s->conn_id;

	if (!s->opening) { /* the connection did not wait */
		session_idle(s);
		return;
	}
	map_del(&s->space->dispatch->opens, &conn_id, sizeof conn_id);
	s->opening = false;
	s->open_done(conn, s, present, MQTT_REASON_SUCCESS, NULL);
}

static struct subscription *join_again(struct session *s, const struct filter *f)
{
	if (filter_is_queue(slice_str(f->text)))
		return queue_get(s->space, f, SESSION_START_NEW, 0, NULL);
	return share_get(s->space, f, s->expiry_s, SESSION_START_NEW, 0);
}

/* A stored session comes back: its filters go into the trie, its shares are joined. */
static void restore_filters(struct session *s, struct slice stored)
{
	if (filters_decode(s->sub, stored) != 0)
		log_error("session", "tenant=%u sub=%" PRIu64 " stored filters cannot be read",
		          s->space->tenant_id, s->sub->id);
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		struct filter *f = &s->sub->filters[i];

		if (!f->text)
			continue;
		if (filter_is_share(slice_str(f->text)))
			f->share = join_again(s, f);
		else
			filter_plant(s->sub, f);
	}
}

/* A claim that was repeated may have made the row itself, unheard: nothing is stored then. (One of
 * a session with shared subscriptions alone has no cursors either, but filters.) */
static bool is_fresh(const struct session *s, const struct bus_claim *req)
{
	bool bare = !req->n_cursors && slice_eq(req->stored_filters, slice_str("[]"));

	return s->clean_start || req->created || (s->asked_again && bare);
}

static void open_taken(struct session *s, struct bus_claim *req)
{
	bool fresh = is_fresh(s, req);

	make_subscription(s);
	subscription_claimed(s->sub, req);
	if (s->clean_start && !s->expiry_s) { /* an old durable session gives way to a clean one */
		struct subscription *old = s->sub;

		s->sub = NULL;
		closing_start(old, true, 0, 0);
		subscription_kill(old);
		make_subscription(s);
	} else if (!fresh) {
		restore_filters(s, req->stored_filters);
		if (req->stored_expiry_s != s->expiry_s)
			session_store(s);
	}
	opened(s, !fresh);
}

static void on_open_claim(struct bus_claim *req)
{
	struct opening *o = (struct opening *)req;
	struct session *s = o->session;
	struct dispatch *d = s->space->dispatch;
	bool current = o->generation == d->bus->generation;

	if (!s->dead && req->outcome == SQL_OK && current) {
		open_taken(s, req);
	} else if (!s->dead && req->outcome == SQL_FATAL && !req->create) {
		make_subscription(s); /* no stored session: it lives in memory */
		opened(s, false);
	} else if (!s->dead && req->outcome == SQL_FATAL) {
		kick(s, MQTT_REASON_UNSPECIFIED, "the session could not be stored");
		session_end(s, END_ROW_LEFT);
	} else if (!s->dead && !s->opening) {
		session_end(s, END_ROW_LEFT);
	} else if (!s->dead) {
		/* away for a moment, or held by a node that is about to be found dead */
		s->asked_again = s->asked_again || req->outcome != SQL_LOST;
		dispatch_after(d, CLAIM_PAUSE_MS, open_claim_again, s);
	}
	d->bus->ops->claim_release(d->bus, req);
	free(o);
	session_unref(s);
}

static void open_claim(struct session *s)
{
	struct dispatch *d = s->space->dispatch;
	struct opening *o = xcalloc(1, sizeof *o);

	o->session = s;
	o->generation = d->bus->generation;
	o->req.done = on_open_claim;
	o->req.tenant_id = s->space->tenant_id;
	o->req.kind = BUS_SUB_SESSION;
	o->req.subject = session_subject(s);
	o->req.name = session_client_id(s);
	o->req.create = s->expiry_s != 0;
	o->req.force = true; /* the client is here: whoever had its session lets it go */
	o->req.fresh = s->clean_start;
	o->req.expiry_s = s->expiry_s;
	o->req.filters = slice_str("[]");
	s->requests++;
	d->bus->ops->claim(d->bus, &o->req);
}

static void bind_conn(struct session *s, const struct session_open *req)
{
	uint16_t max = req->receive_max;

	s->conn_id = req->conn_id;
	s->ops = req->ops;
	s->conn = req->conn;
	s->open_done = req->done;
	s->receive_max = max && max < SESSION_RECEIVE_MAX ? max : SESSION_RECEIVE_MAX;
	s->in_flight = 0;
	s->started = false;
	s->opening = true;
	map_put(&s->space->dispatch->opens, &s->conn_id, sizeof s->conn_id, s);
}

/* The client is back while its session is still here. */
static void reopened(void *arg)
{
	struct session *s = arg;

	if (s->opening)
		opened(s, true);
}

static void reopen(struct session *s, const struct session_open *req)
{
	struct dispatch *d = s->space->dispatch;

	dispatch_forget(d, s); /* it does not linger any more */
	s->idle_since_ms = 0;
	if (s->expiry_s != req->expiry_s) {
		s->expiry_s = req->expiry_s;
		session_store(s);
	}
	bind_conn(s, req);
	dispatch_after(d, 0, reopened, s); /* answered later, as everything is */
}

void session_open(struct dispatch *d, const struct session_open *req)
{
	struct space *sp = dispatch_space(d, req->tenant);
	struct session *s;
	struct buf key = {0};

	buf_append_slice(&key, req->subject);
	buf_u8(&key, '\0');
	buf_append_slice(&key, req->client_id);
	sp->requests++; /* it may lose its only session before it has the new one */
	s = map_get(&sp->sessions, key.data, key.len);
	buf_release(&key);
	if (s) {
		bool resumable = s->sub && s->sub->durable && !s->opening && !req->clean_start;

		kick(s, MQTT_REASON_SESSION_TAKEN_OVER,
		     "another client connected with this client id");
		if (resumable) {
			session_park(s);
			reopen(s, req);
			sp->requests--;
			return;
		}
		/* what it stored is dropped, or taken, by the claim that follows */
		session_end(s, END_ROW_LEFT);
	}
	s = session_new(sp, req);
	sp->requests--;
	bind_conn(s, req);
	open_claim(s);
}
