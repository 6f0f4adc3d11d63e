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

enum { LINGER_PAUSE_MS = 100 }; /* its cursors are being written */

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

/* ---- its connection ----------------------------------------------------------------------------
 */

static uint32_t most_in_flight(const struct session *s)
{
	uint32_t max = s->space->tenant->limits.max_in_flight;

	return max && max < s->receive_max ? max : s->receive_max;
}

/* It has as many as its tenant may, though its client would take more. */
static void tell_in_flight(const struct session *s)
{
	const struct dispatch_settings *set = &s->space->dispatch->settings;
	uint32_t max = s->space->tenant->limits.max_in_flight;

	if (max && s->in_flight == max && max < s->receive_max && set->on_limit)
		set->on_limit(set->arg, s->space->tenant, DISPATCH_LIMIT_IN_FLIGHT, max, 1);
}

bool session_can_take(const struct session *s)
{
	return s->started && s->in_flight < most_in_flight(s) && s->ops->can_send(s->conn) &&
	       !s->space->dispatch->draining;
}

bool session_can_begin(const struct session *s)
{
	return packet_ids_left(&s->ids) && session_can_take(s);
}

void session_send(struct session *s, const struct outgoing *out)
{
	if (out->packet_id) {
		s->in_flight++;
		tell_in_flight(s);
	}
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
	const struct packet_id *slot = packet_ids_find(&s->ids, packet_id);
	struct packet_id was;
	char code[sizeof "PUBACK 0x00"] = "";

	if (!slot)
		return false;
	was = *slot;
	packet_ids_free(&s->ids, packet_id);
	if (s->in_flight)
		s->in_flight--;
	if (was.place) {
		s->space->dispatch->stats.settled++;
		if (reason >= 0x80 && !text.n) /* nearly all are 0, and need no words */
			snprintf(code, sizeof code, "PUBACK 0x%02x", reason);
		place_result(was.place, was.seq, result_of(reason),
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

struct session *session_new(struct space *sp, const struct session_open *req)
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
	packet_ids_release(&s->ids);
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

void session_forget_conn(struct session *s)
{
	if (s->opening)
		map_del(&s->space->dispatch->opens, &s->conn_id, sizeof s->conn_id);
	s->opening = false;
	s->started = false;
	s->conn_id = 0;
	s->conn = NULL;
	s->in_flight = 0;
}

/* How much of its expiry has run while it lingered here. */
static uint32_t idle_seconds(const struct session *s)
{
	uint64_t idle = s->idle_since_ms ? (clock_now_ms() - s->idle_since_ms) / 1000 : 0;

	return idle < s->expiry_s ? (uint32_t)idle : s->expiry_s;
}

void session_end(struct session *s, enum ending how)
{
	struct dispatch *d = s->space->dispatch;
	struct subscription *sub = s->sub;

	assert(!s->dead);
	session_forget_conn(s);
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

void session_kick(struct session *s, uint8_t reason, const char *text)
{
	const struct session_conn_ops *ops = s->ops;
	void *conn = s->conn;
	bool opening = s->opening;
	void (*done)(void *, struct session *, bool, uint8_t, const char *) = s->open_done;

	if (!s->conn_id)
		return;
	session_forget_conn(s);
	if (opening)
		done(conn, NULL, false, reason, text);
	else
		ops->kick(conn, reason, text);
}

void session_kill(struct session *s, uint8_t reason, const char *text)
{
	session_kick(s, reason, text);
	session_end(s, END_ROW_LEFT);
}

void session_let_go(struct session *s)
{
	session_kick(s, MQTT_REASON_SESSION_TAKEN_OVER,
	             "the session was held by another node meanwhile: connect again");
	session_end(s, END_ROW_RELEASED);
}

void session_make_subscription(struct session *s)
{
	s->sub = subscription_new(s->space, BUS_SUB_SESSION, NULL);
	s->sub->session = s;
	s->requests++; /* given back by subscription_free */
}

/* ---- without a connection ----------------------------------------------------------------------
 */

void session_park(struct session *s)
{
	if (!s->sub)
		return;
	subscription_park(s->sub, &s->consumer);
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		struct subscription *share = s->sub->filters[i].share;

		if (share) {
			subscription_park(share, &s->consumer);
			packet_ids_void_of(&s->ids, share);
		}
	}
	packet_ids_free_void(&s->ids);
	op_silence(s);
}

/* Are all its cursors written? */
static bool session_settled(const struct session *s)
{
	for (uint32_t i = 0; i < s->sub->n_places; i++) {
		if (s->sub->places[i]->feed.dirty || s->sub->places[i]->feed.committing)
			return false;
	}
	return TAILQ_EMPTY(&s->pending);
}

void session_release(struct session *s)
{
	bool over = s->expiry_s == 0 || !s->sub || !s->sub->durable;

	session_kick(s, MQTT_REASON_SERVER_SHUTTING_DOWN, "the node is shutting down");
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
		dispatch_after(d, LINGER_PAUSE_MS, linger_end, s);
}

void session_idle(struct session *s)
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
	session_forget_conn(s);
	s->expiry_s = expiry_s;
	session_park(s);
	session_idle(s);
}

void session_cut(struct session *s, uint8_t reason, const char *text)
{
	session_kick(s, reason, text);
	session_park(s);
	session_idle(s);
}
