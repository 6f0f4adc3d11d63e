/* From CONNECT to a session: the one that is here, or its row, claimed by force, as the client is
 * here whoever had it last. */
#include "node/delivery/delivery.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/queue.h"
#include "node/mqtt/mqtt_reason.h"

#include <inttypes.h>
#include <stdlib.h>

enum {
	CLAIM_PAUSE_MS = 100,
	ROOM_PAUSE_MS = 5, /* whether the tenant may have one more is being found out */
};

/* ---- from its row ------------------------------------------------------------------------------
 */

struct opening {
	struct bus_claim req;
	struct session *session;
	uint64_t generation;
	enum dispatch_room room; /* for a row, if there is none */
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
	struct peer_message m;

	if (!s->opening) { /* the connection did not wait */
		session_idle(s);
		return;
	}
	map_del(&s->space->dispatch->opens, &conn_id, sizeof conn_id);
	s->opening = false;
	s->opened_ms = clock_now_ms();
	m = session_message(s, s->opened_ms);
	peer_send_all(s->space->dispatch, &m);
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

	session_make_subscription(s);
	subscription_claimed(s->sub, req);
	if (s->clean_start && !s->expiry_s) { /* an old durable session gives way to a clean one */
		struct subscription *old = s->sub;

		s->sub = NULL;
		closing_start(old, true, 0, 0);
		subscription_kill(old);
		session_make_subscription(s);
	} else if (!fresh) {
		restore_filters(s, req->stored_filters);
		if (req->stored_expiry_s != s->expiry_s)
			session_store(s);
	}
	opened(s, !fresh);
}

/* It ends before it began, and its client is told why. */
static void open_refused(struct session *s, uint8_t reason, const char *text)
{
	session_kick(s, reason, text);
	session_end(s, END_ROW_LEFT);
}

/* There is no row of it, and none was made. */
static void open_absent(struct session *s, enum dispatch_room room)
{
	if (room == DISPATCH_ROOM_LATER) {
		dispatch_after(s->space->dispatch, ROOM_PAUSE_MS, open_claim_again, s);
	} else if (s->expiry_s) {
		space_full(s->space);
		open_refused(s, MQTT_REASON_QUOTA_EXCEEDED,
		             "the tenant has as many subscriptions as it may have "
		             "(max_subscriptions), and a session that is kept is one");
	} else {
		session_make_subscription(s); /* no stored session: it lives in memory */
		opened(s, false);
	}
}

static void open_answered(struct session *s, struct opening *o)
{
	struct dispatch *d = s->space->dispatch;
	struct bus_claim *req = &o->req;

	if (req->outcome == SQL_OK && o->generation == d->bus->generation) {
		open_taken(s, req);
	} else if (req->absent) {
		open_absent(s, o->room);
	} else if (req->outcome == SQL_FATAL) {
		dispatch_claim_refused(d, req);
		open_refused(s, MQTT_REASON_UNSPECIFIED,
		             "the database did not take the session: connect again later; the "
		             "node's log says why");
	} else if (!s->opening) {
		session_end(s, END_ROW_LEFT);
	} else {
		/* away for a moment, or held by a node that is about to be found dead */
		s->asked_again = s->asked_again || req->outcome != SQL_LOST;
		dispatch_after(d, CLAIM_PAUSE_MS, open_claim_again, s);
	}
}

static void on_open_claim(struct bus_claim *req)
{
	struct opening *o = (struct opening *)req;
	struct session *s = o->session;
	struct dispatch *d = s->space->dispatch;

	if (req->create)
		space_made(s->space, req);
	if (!s->dead)
		open_answered(s, o);
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
	o->room = s->expiry_s ? space_may_make(s->space) : DISPATCH_FULL;
	o->req.create = o->room == DISPATCH_ROOM;
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

/* ---- a session that is still here ---------------------------------------------------------------
 *
 * Its client may have been at another node meanwhile, which took the row, and settled there what is
 * in flight here: so the database is asked before anything is sent again. */

struct recheck {
	struct bus_owned req;
	struct bus_owned_row row;
	struct session *session; /* one of its requests */
	uint64_t conn_id;        /* which waits for the answer */
};

static void recheck(void *arg);

/* The connection goes on with a session made anew, from the row. */
static void start_over(struct session *old)
{
	struct space *sp = old->space;
	struct session_open req = {.subject = session_subject(old),
	                           .client_id = session_client_id(old),
	                           .expiry_s = old->expiry_s,
	                           .receive_max = old->receive_max,
	                           .conn_id = old->conn_id,
	                           .ops = old->ops,
	                           .conn = old->conn,
	                           .done = old->open_done};
	struct session *s;

	sp->requests++; /* it may lose its only session before it has the new one */
	old->requests++;
	session_end(old, END_ROW_LEFT);
	s = session_new(sp, &req);
	session_unref(old);
	sp->requests--;
	bind_conn(s, &req);
	open_claim(s);
}

static void on_rechecked(struct bus_owned *req)
{
	struct recheck *r = (struct recheck *)req;
	struct session *s = r->session;

	if (s->dead || !s->opening || s->conn_id != r->conn_id)
		; /* whoever waited is gone */
	else if (req->outcome != SQL_OK)
		dispatch_after(s->space->dispatch, CLAIM_PAUSE_MS, recheck, s);
	else if (r->row.lost)
		start_over(s);
	else
		opened(s, true);
	free(r);
	session_unref(s);
}

static void recheck(void *arg)
{
	struct session *s = arg;
	struct dispatch *d = s->space->dispatch;
	struct recheck *r;

	if (!s->opening)
		return;
	if (s->sub->state == SUBSCRIPTION_UNCLAIMED) {
		opened(s, true); /* nothing is sent before it is claimed, which tells the same */
		return;
	}
	if (s->sub->state != SUBSCRIPTION_ACTIVE) { /* that claim may have been before its time */
		dispatch_after(d, CLAIM_PAUSE_MS, recheck, s);
		return;
	}
	r = xcalloc(1, sizeof *r);
	r->session = s;
	r->conn_id = s->conn_id;
	r->row = (struct bus_owned_row){.tenant_id = s->space->tenant_id,
	                                .subscription_id = s->sub->id,
	                                .epoch = s->sub->epoch};
	r->req.done = on_rechecked;
	r->req.n = 1;
	r->req.rows = &r->row;
	s->requests++;
	d->bus->ops->owned(d->bus, &r->req);
}

void session_lost(struct session *s)
{
	if (s->opening)
		start_over(s);
	else
		session_kill(s, MQTT_REASON_SESSION_TAKEN_OVER,
		             "another node has the session now, or an admin changed it: connect "
		             "again");
}

static void reopen(struct session *s, const struct session_open *req)
{
	dispatch_forget(s->space->dispatch, s); /* it does not linger any more */
	s->idle_since_ms = 0;
	if (s->expiry_s != req->expiry_s) {
		s->expiry_s = req->expiry_s;
		session_store(s);
	}
	bind_conn(s, req);
	dispatch_after(s->space->dispatch, 0, recheck, s);
}

/* ---- opening -----------------------------------------------------------------------------------
 */

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

		session_kick(s, MQTT_REASON_SESSION_TAKEN_OVER,
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

void session_open_cancel(struct dispatch *d, uint64_t conn_id)
{
	struct session *s = map_get_u64(&d->opens, conn_id);

	if (!s)
		return;
	session_forget_conn(s);
	if (s->sub) /* it was here already and only waited to be told */
		session_idle(s);
}

/* ---- its deliveries begin ----------------------------------------------------------------------
 */

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
	rota_add(&s->sub->rota, &s->consumer);
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		struct subscription *share = s->sub->filters[i].share;

		if (share && !share->queue)
			rota_add(&share->rota, &s->consumer);
		else if (share)
			join_queue(s, share);
	}
	subscription_wake(s->sub);
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		if (s->sub->filters[i].share)
			subscription_wake(s->sub->filters[i].share);
	}
}
