/* session_sql: this node's session: opened when the pool comes up, renewed every sixth of the TTL,
 * and the looks at the others that end those which stand still. One job at a time, on its own lane.
 */
#include "cluster/bus_sql_impl.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OTHERS_MAX = 4096, REPLACED = 2 /* a node_session.state */ };

/* Another live session, as our looks saw it. */
struct other {
	struct id128 id;
	uint64_t renewals;
	uint32_t still; /* looks in a row that found the same counter */
	bool seen;      /* in the latest look */
};

/* What a look found, made by the worker. */
struct sighting {
	struct id128 id;
	uint64_t renewals;
	char peer[BUS_ADDR_MAX + 1];
};

struct session_job {
	struct bus_sql *owner; /* loop thread only */
	struct id128 me;
	struct id128 target;        /* end: whom */
	uint64_t renewals;          /* end: the counter that stood still */
	char *name;                 /* open */
	char *peer;                 /* open */
	uint32_t max_subscriptions; /* open */
	uint64_t submitted_ms;
	uint64_t state; /* renew: node_session.state when it did not match */
	uint64_t taken; /* renew: our counter of subscriptions that others took */
	size_t n;
	struct sighting *seen;
};

static struct session_job *job_new(struct bus_sql *b)
{
	struct session_job *job = xcalloc(1, sizeof *job);

	job->owner = b;
	job->me = b->bus.session_id;
	job->submitted_ms = clock_now_ms();
	return job;
}

static void job_free(struct session_job *job)
{
	free(job->name);
	free(job->peer);
	free(job->seen);
	free(job);
}

static void set_state(struct bus_sql *b, enum bus_state state, const char *why)
{
	if (b->bus.state == state)
		return;
	b->bus.state = state;
	if (state == BUS_DOWN)
		b->bus.generation++;
	log_info("session", "state=%s generation=%" PRIu64 " %s",
	         state == BUS_UP     ? "up"
	         : state == BUS_DOWN ? "down"
	                             : "ended",
	         b->bus.generation, why);
	if (b->bus.events.on_state)
		b->bus.events.on_state(b->bus.events.arg, state);
}

static void forget_others(struct bus_sql *b)
{
	struct other *o;
	size_t at = 0;

	while ((o = map_next(&b->others, &at)))
		free(o);
	map_release(&b->others);
}

static void go_down(struct bus_sql *b, const char *why)
{
	forget_others(b);
	if (b->bus.state == BUS_UP)
		set_state(b, BUS_DOWN, why);
}

/* ---- ending (worker thread) ---------------------------------------------------------------------
 */

/* Writers first (the lock order), so that what they have in flight is over. `end` is the statement
 * that ends the session; nothing happens when it does not match. */
static enum sql_outcome end_session(struct sql_conn *c, const struct id128 *id, enum sql_stmt end,
                                    const struct sql_param *params, unsigned n)
{
	struct sql_param key = param_session(id);
	enum sql_outcome o = sql_exec(c, STMT_WRITER_END, &key, 1);

	if (o == SQL_OK)
		o = sql_exec(c, end, params, n);
	if (o == SQL_OK && sql_affected(c) == 0)
		o = SQL_LOST;
	return o;
}

static enum sql_outcome work_end_other(struct sql_conn *c, void *arg)
{
	struct session_job *job = arg;
	struct sql_param params[2] = {param_session(&job->target), sql_u64(job->renewals)};
	enum sql_outcome o = end_session(c, &job->target, STMT_SESSION_END, params, 2);

	return o == SQL_OK ? sql_commit(c) : o;
}

static enum sql_outcome work_end_own(struct sql_conn *c, void *arg)
{
	struct session_job *job = arg;
	struct sql_param param = param_session(&job->me);
	enum sql_outcome o = end_session(c, &job->me, STMT_SESSION_END_OWN, &param, 1);

	return o == SQL_OK ? sql_commit(c) : o;
}

static void done_end_other(void *arg, enum sql_outcome outcome)
{
	struct session_job *job = arg;
	char hex[ID128_HEX];

	id128_hex(&job->target, hex);
	log_info("session", "ended=%s outcome=%s stood still", hex, sql_outcome_name(outcome));
	job_free(job);
}

/* ---- looking at the others ----------------------------------------------------------------------
 */

static int on_sighting(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct session_job *job = arg;
	struct sighting *s;

	if (n < 5 || cells[0].bytes.n != sizeof job->me.b || job->n == OTHERS_MAX)
		return 0;
	if (memcmp(cells[0].bytes.p, job->me.b, sizeof job->me.b) == 0) {
		job->taken = cells[3].u;
		return 0;
	}
	job->seen = xrealloc(job->seen, (job->n + 1) * sizeof *job->seen);
	s = &job->seen[job->n++];
	memcpy(s->id.b, cells[0].bytes.p, sizeof s->id.b);
	s->renewals = cells[1].u;
	snprintf(s->peer, sizeof s->peer, "%.*s", (int)cells[4].bytes.n,
	         cells[4].bytes.n ? cells[4].bytes.p : "");
	return 0;
}

static void end_other(struct bus_sql *b, struct other *o)
{
	struct session_job *job = job_new(b);

	job->target = o->id;
	job->renewals = o->renewals;
	o->still = 0;
	if (sql_submit(b->sql, SQL_LANE_ADMIN, work_end_other, done_end_other, job))
		job_free(job); /* after six more looks, then */
}

static void note_sighting(struct bus_sql *b, const struct sighting *s)
{
	struct other *o = map_get(&b->others, &s->id, sizeof s->id);

	if (!o) {
		o = xcalloc(1, sizeof *o);
		o->id = s->id;
		o->renewals = s->renewals;
		map_put(&b->others, &o->id, sizeof o->id, o);
	} else if (o->renewals != s->renewals) {
		o->renewals = s->renewals;
		o->still = 0;
	} else {
		o->still++;
	}
	o->seen = true;
	if (o->still >= BUS_SQL_LOOKS || (o->still > 0 && BUG("end-at-first-look")))
		end_other(b, o);
}

static void note_sightings(struct bus_sql *b, const struct session_job *job)
{
	struct other *o;
	size_t at = 0;

	for (size_t i = 0; i < job->n; i++)
		note_sighting(b, &job->seen[i]);
	while ((o = map_next(&b->others, &at))) {
		if (!o->seen) {
			map_del(&b->others, &o->id, sizeof o->id);
			free(o);
		} else {
			o->seen = false;
		}
	}
}

/* A renewal that a suspicion brought forward is no look: six looks must take a whole TTL, or a
 * session could be ended whose holder does not yet know that it must stop. */
static void note_look(struct bus_sql *b, const struct session_job *job)
{
	if (b->looked_ms && job->submitted_ms - b->looked_ms < b->settings.ttl_ms / 6 &&
	    !BUG("end-at-first-look"))
		return;
	b->looked_ms = clock_now_ms();
	note_sightings(b, job);
}

/* ---- who is there, for links --------------------------------------------------------------------
 */

static int peer_order(const void *a, const void *b)
{
	const struct bus_peer *x = a;
	const struct bus_peer *y = b;

	return memcmp(x->session_id.b, y->session_id.b, sizeof x->session_id.b);
}

static struct bus_peer *peers_of(const struct session_job *job)
{
	struct bus_peer *peers = xcalloc(job->n + 1, sizeof *peers);

	for (size_t i = 0; i < job->n; i++) {
		peers[i].session_id = job->seen[i].id;
		snprintf(peers[i].addr, sizeof peers[i].addr, "%s", job->seen[i].peer);
	}
	qsort(peers, job->n, sizeof *peers, peer_order);
	return peers;
}

/* Tell the owner, if it is not what it was told last. */
static void note_peers(struct bus_sql *b, const struct session_job *job)
{
	struct bus_peer *peers = peers_of(job);
	bool same = b->told_peers && job->n == b->n_peers &&
	            (!job->n || memcmp(peers, b->peers, job->n * sizeof *peers) == 0);

	free(b->peers);
	b->peers = peers;
	b->n_peers = job->n;
	b->told_peers = b->bus.events.on_peers != NULL;
	if (!same && b->told_peers)
		b->bus.events.on_peers(b->bus.events.arg, peers, job->n);
}

/* ---- opening ------------------------------------------------------------------------------------
 */

struct name_search {
	struct session_job *job;
	size_t n;
	struct id128
	        ids[8]; /* more of one name at once do not happen: each ended its predecessors */
};

/* The others are seen by this: nobody who starts has to wait for its first look. */
static int on_live(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct name_search *search = arg;

	if (n < 3 || cells[0].bytes.n != sizeof search->ids[0].b)
		return 0;
	if (!slice_eq(cells[2].bytes, slice_str(search->job->name)))
		return on_sighting(search->job, cells, n);
	if (search->n < sizeof search->ids / sizeof *search->ids)
		memcpy(search->ids[search->n++].b, cells[0].bytes.p, sizeof search->ids[0].b);
	return 0;
}

/* The predecessors of our name: nobody waits for their TTL. */
static enum sql_outcome replace_same_name(struct sql_conn *c, struct session_job *job)
{
	struct name_search search = {.job = job};
	enum sql_outcome o = sql_query(c, STMT_SESSION_LOOK, NULL, 0, on_live, &search);

	for (size_t i = 0; o == SQL_OK && i < search.n; i++) {
		struct sql_param param = param_session(&search.ids[i]);

		o = end_session(c, &search.ids[i], STMT_SESSION_REPLACE, &param, 1);
		if (o == SQL_LOST) /* ended by someone else just now */
			o = SQL_OK;
	}
	return o;
}

static enum sql_outcome work_open(struct sql_conn *c, void *arg)
{
	struct session_job *job = arg;
	struct sql_param params[4] = {
	        param_session(&job->me), sql_bytes(job->name, strlen(job->name)),
	        sql_bytes(job->peer, strlen(job->peer)), sql_u64(job->max_subscriptions)};
	enum sql_outcome o = replace_same_name(c, job);

	for (uint32_t no = 0; o == SQL_OK && no <= WRITER_NO_INBOX; no++) {
		struct sql_param writer[2] = {params[0], sql_u64(no)};

		o = sql_exec(c, STMT_WRITER_CREATE, writer, 2);
	}
	if (o == SQL_OK)
		o = sql_exec(c, STMT_SESSION_BEGIN, params, 4);
	if (o == SQL_DUP) /* one of our name opened since we looked: look again */
		o = SQL_RETRY;
	return o == SQL_OK ? sql_commit(c) : o;
}

static void done_open(void *arg, enum sql_outcome outcome)
{
	struct session_job *job = arg;
	struct bus_sql *b = job->owner;

	b->busy = false;
	if (outcome == SQL_OK && b->sql_up) {
		b->open = true;
		b->bus.session_id = job->me;
		memset(b->bus.writers, 0, sizeof b->bus.writers);
		b->taken = 0;
		b->told_peers = false;
		b->renewed_ms = job->submitted_ms;
		b->due_ms = clock_now_ms() + b->settings.ttl_ms / 6;
		set_state(b, BUS_UP, "session opened");
		note_peers(b, job);
	} else if (outcome != SQL_OK) {
		log_warn("session", "not opened: outcome=%s", sql_outcome_name(outcome));
		b->due_ms = clock_now_ms() + b->settings.ttl_ms / 6;
	}
	job_free(job);
}

/* A new random id each time: whether an earlier one was stored does not matter then. */
static void session_open(struct bus_sql *b)
{
	struct session_job *job = job_new(b);

	job->me = id128_random();
	job->name = xstrdup(b->settings.name);
	job->peer = xstrdup(b->settings.peer);
	job->max_subscriptions = b->settings.max_subscriptions;
	b->busy = true;
	if (sql_submit(b->sql, SQL_LANE_SESSION, work_open, done_open, job)) {
		b->busy = false;
		job_free(job);
	}
}

/* ---- renewing -----------------------------------------------------------------------------------
 */

static int on_state_row(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct session_job *job = arg;

	job->state = n ? cells[0].u : 0;
	return 1;
}

static enum sql_outcome work_renew(struct sql_conn *c, void *arg)
{
	struct session_job *job = arg;
	struct sql_param me = param_session(&job->me);
	enum sql_outcome o = sql_exec(c, STMT_SESSION_RENEW, &me, 1);

	if (o != SQL_OK)
		return o;
	if (sql_affected(c) == 0) {
		o = sql_query(c, STMT_SESSION_STATE, &me, 1, on_state_row, job);
		return o == SQL_OK ? SQL_LOST : o;
	}
	o = sql_commit(c);
	if (o == SQL_OK)
		o = sql_query(c, STMT_SESSION_LOOK, NULL, 0, on_sighting, job);
	return o;
}

static void on_lost_session(struct bus_sql *b, uint64_t state)
{
	b->open = false;
	forget_others(b);
	if (state == REPLACED) {
		b->ended = true;
		log_error("session", "name=%s another node of this name has started",
		          log_quote_str(b->settings.name));
		set_state(b, BUS_ENDED, "replaced");
		return;
	}
	go_down(b, "the session was ended by another node");
	b->due_ms = 0;
}

static void note_taken(struct bus_sql *b, uint64_t taken)
{
	if (taken == b->taken)
		return;
	b->taken = taken;
	if (b->bus.events.on_taken)
		b->bus.events.on_taken(b->bus.events.arg);
}

static void done_renew(void *arg, enum sql_outcome outcome)
{
	struct session_job *job = arg;
	struct bus_sql *b = job->owner;

	b->busy = false;
	b->due_ms = b->suspected ? 0 : clock_now_ms() + b->settings.ttl_ms / 6;
	b->suspected = false;
	if (outcome == SQL_LOST) {
		on_lost_session(b, job->state);
	} else if (outcome == SQL_OK) {
		b->renewed_ms = job->submitted_ms;
		note_look(b, job);
		if (b->sql_up)
			set_state(b, BUS_UP, "session renewed");
		note_peers(b, job);
		note_taken(b, job->taken);
	} else if (outcome == SQL_FATAL) { /* the others the pool has logged */
		log_error("session", "not renewed: the database refuses it; see leat doctor");
	}
	job_free(job);
}

static void session_renew(struct bus_sql *b)
{
	struct session_job *job = job_new(b);

	b->busy = true;
	if (sql_submit(b->sql, SQL_LANE_SESSION, work_renew, done_renew, job)) {
		b->busy = false;
		job_free(job);
	}
}

/* ---- steps --------------------------------------------------------------------------------------
 */

static void session_step(struct bus_sql *b)
{
	if (b->busy || b->ended || b->stopping || !b->sql_up || clock_now_ms() < b->due_ms)
		return;
	if (b->open)
		session_renew(b);
	else
		session_open(b);
}

void session_sql_generation(struct bus_sql *b, bool up)
{
	b->sql_up = up;
	if (!up) {
		go_down(b, "database connection lost");
		return;
	}
	b->due_ms = 0;
	session_step(b);
}

/* Our own TTL ran out without a renewal: others may have ended us, so stop until one matches. */
void session_sql_tick(struct bus_sql *b)
{
	if (b->bus.state == BUS_UP && clock_now_ms() - b->renewed_ms > b->settings.ttl_ms &&
	    !BUG("no-self-fencing"))
		go_down(b, "not renewed in time");
	session_step(b);
}

void session_sql_suspect(struct bus_sql *b)
{
	b->due_ms = 0;
	b->suspected = b->busy; /* the renewal under way may have looked already */
}

void session_sql_look(struct bus *bus)
{
	session_sql_suspect(bus_sql_self(bus));
}

static void finish_stop(void *arg)
{
	struct bus_sql *b = arg;

	b->on_stopped(b->stopped_arg);
}

static void done_stop(void *arg, enum sql_outcome outcome)
{
	struct session_job *job = arg;
	struct bus_sql *b = job->owner;

	log_info("session", "closed outcome=%s", sql_outcome_name(outcome));
	job_free(job);
	finish_stop(b);
}

void session_sql_stop(struct bus *bus, void (*on_stopped)(void *arg), void *arg)
{
	struct bus_sql *b = bus_sql_self(bus);
	struct session_job *job = job_new(b);

	b->stopping = true;
	b->on_stopped = on_stopped;
	b->stopped_arg = arg;
	if (b->open && sql_submit(b->sql, SQL_LANE_SESSION, work_end_own, done_stop, job) == 0)
		return;
	job_free(job);
	b->settings.defer(b->settings.loop, finish_stop, b);
}

void session_sql_end(struct bus_sql *b)
{
	b->stopping = true;
	b->sql_up = false;
	go_down(b, "this node ends");
}

void session_sql_release(struct bus_sql *b)
{
	forget_others(b);
	free(b->peers);
}
