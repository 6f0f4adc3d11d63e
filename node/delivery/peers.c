/* What other nodes say about shares, and whether they can be reached. */
#include "node/delivery/delivery.h"

#include "base/clock.h"
#include "base/mem.h"
#include "node/delivery/queue.h"
#include "node/mqtt/mqtt_reason.h"

#include <stdlib.h>
#include <string.h>

/* ---- sending -----------------------------------------------------------------------------------
 */

bool peer_send(struct dispatch *d, const struct id128 *to, const struct peer_message *m)
{
	return d->port && !d->freeing && d->port->send(d->port->self, to, m);
}

void peer_send_all(struct dispatch *d, const struct peer_message *m)
{
	if (d->port && !d->freeing)
		d->port->send_all(d->port->self, m);
}

bool peer_is_up(const struct dispatch *d, const struct id128 *peer)
{
	for (size_t i = 0; i < d->n_peers; i++) {
		if (id128_eq(&d->peers[i], peer))
			return true;
	}
	return false;
}

struct peer_message share_message(const struct subscription *s, enum peer_type type)
{
	return (struct peer_message){
	        .type = type,
	        .tenant_id = s->space->tenant_id,
	        .kind = s->kind,
	        .name = slice_str(s->name),
	        .subscription_id = s->id,
	        .epoch = s->epoch,
	};
}

struct peer_message session_message(const struct session *s, uint64_t now_ms)
{
	return (struct peer_message){
	        .type = PEER_OPENED,
	        .tenant_id = s->space->tenant_id,
	        .kind = BUS_SUB_SESSION,
	        .name = slice(s->key, s->key_len),
	        .age_ms = now_ms - s->opened_ms,
	};
}

struct peer_delivery peer_delivery_of(const struct place *pl, uint64_t seq, uint64_t stamp)
{
	struct peer_delivery pd = {.seq = seq, .stamp = stamp, .attempt = 1};

	if (queue_is_retry(pl)) {
		pd.timer_id = seq;
		pd.attempt = (uint32_t)stamp;
	} else {
		pd.partition_id = pl->partition->id;
	}
	return pd;
}

/* ---- up and down -------------------------------------------------------------------------------
 */

void dispatch_set_port(struct dispatch *d, const struct peer_port *port)
{
	d->port = port;
}

struct live {
	const struct bus_peer *peers;
	size_t n;
};

static void on_live(struct subscription *s, const void *arg)
{
	const struct live *live = arg;

	for (size_t i = 0; i < live->n; i++) {
		if (away_is_from(s, &live->peers[i].session_id))
			return;
	}
	if (s->state == SUBSCRIPTION_AWAY)
		share_claim(s);
}

void dispatch_on_peers(struct dispatch *d, const struct bus_peer *peers, size_t n)
{
	share_each(d, on_live, &(struct live){peers, n});
}

static void on_up(struct subscription *s, const void *peer)
{
	if (away_is_from(s, peer))
		away_attach(s);
}

/* Who is connected here may have been there meanwhile. */
static void tell_sessions(struct dispatch *d, const struct id128 *peer)
{
	uint64_t now = clock_now_ms();
	struct space *sp;
	size_t at = 0;

	while ((sp = map_next(&d->spaces, &at))) {
		const struct session *s;
		size_t session_at = 0;

		while ((s = map_next(&sp->sessions, &session_at))) {
			struct peer_message m = session_message(s, now);

			if (s->conn_id && !s->opening)
				peer_send(d, peer, &m);
		}
	}
}

void dispatch_on_peer_up(struct dispatch *d, const struct id128 *peer)
{
	if (peer_is_up(d, peer))
		return;
	d->peers = xrealloc(d->peers, (d->n_peers + 1) * sizeof *d->peers);
	d->peers[d->n_peers++] = *peer;
	share_each(d, on_up, peer);
	tell_sessions(d, peer);
}

static void on_down(struct subscription *s, const void *peer)
{
	struct remote *r = remote_find(s, peer);

	if (away_is_from(s, peer))
		away_lost(s);
	if (r)
		remote_free(r);
	share_end_if_unused(s, true);
}

void dispatch_on_peer_down(struct dispatch *d, const struct id128 *peer)
{
	struct id128 gone = *peer;

	for (size_t i = 0; i < d->n_peers; i++) {
		if (id128_eq(&d->peers[i], &gone))
			d->peers[i] = d->peers[--d->n_peers];
	}
	share_each(d, on_down, &gone);
}

static void on_room(struct subscription *s, const void *peer)
{
	struct remote *r = remote_find(s, peer);

	if (away_is_from(s, peer))
		away_room(s);
	if (r && r->blocked) {
		r->blocked = false;
		subscription_wake(s);
	}
	if (r)
		handover_ask_again(r);
}

void dispatch_on_peer_room(struct dispatch *d, const struct id128 *peer)
{
	share_each(d, on_room, peer);
}

/* ---- messages ----------------------------------------------------------------------------------
 */

/* Somebody owns it now, and wants to know what is in flight here. Where that is not what we know,
 * the database is asked first, and the answer comes when we attach. */
static void on_owner(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
{
	struct subscription *s = share_find(d, m->tenant_id, m->kind, m->name);
	bool stale = s && s->state == SUBSCRIPTION_ACTIVE && s->epoch >= m->epoch;

	if (!s || stale) {
		handover_tell(d, peer, m, NULL);
		return;
	}
	if (s->state == SUBSCRIPTION_ACTIVE) {
		others_check(s);
		return;
	}
	if (away_attached(s) && !away_is_from(s, peer)) {
		away_doubt(s);
		return;
	}
	if (s->away)
		away_detach(s);
	away_begin(s, peer); /* tells what is held */
	share_end_if_unused(s, true);
}

static void on_released(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
{
	struct subscription *s = share_find(d, m->tenant_id, m->kind, m->name);

	if (s && away_is_from(s, peer))
		away_lost(s);
	else if (s)
		share_claim(s);
}

static void on_held(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
{
	struct subscription *s = share_find(d, m->tenant_id, m->kind, m->name);

	if (s)
		remote_on_held(s, peer, m);
}

/* [MQTT-3.1.4-3] holds for the cluster: the client that came last stays. (Two that come in the same
 * instant let each other go, and come again. Of a session that has a row its claim tells.) */
static void on_opened(struct dispatch *d, const struct id128 *peer, const struct peer_message *m)
{
	struct space *sp = map_get(&d->spaces, &m->tenant_id, sizeof m->tenant_id);
	struct session *s = sp ? map_get(&sp->sessions, m->name.p, m->name.n) : NULL;

	(void)peer;
	if (s && s->conn_id && !s->opening && !s->sub->durable &&
	    clock_now_ms() - s->opened_ms >= m->age_ms)
		session_kill(s, MQTT_REASON_SESSION_TAKEN_OVER,
		             "another client connected with this client id");
}

void dispatch_on_peer_message(struct dispatch *d, const struct id128 *peer,
                              const struct peer_message *m)
{
	static void (*const handlers[])(struct dispatch *, const struct id128 *,
	                                const struct peer_message *) = {
	        [PEER_OWNER] = on_owner,           [PEER_HELD] = on_held,
	        [PEER_RELEASED] = on_released,     [PEER_ATTACH] = remote_on_message,
	        [PEER_ATTACHED] = away_on_message, [PEER_REFUSED] = away_on_message,
	        [PEER_CREDIT] = remote_on_message, [PEER_DELIVER] = away_on_message,
	        [PEER_SETTLE] = remote_on_message, [PEER_DETACH] = remote_on_message,
	        [PEER_OPENED] = on_opened,
	};

	if (!peer_is_up(d, peer) || d->freeing)
		return;
	if ((size_t)m->type < sizeof handlers / sizeof handlers[0] && handlers[m->type])
		handlers[m->type](d, peer, m);
}
