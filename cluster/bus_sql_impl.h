/* bus_sql_impl: the inside of struct bus_sql, shared by bus_sql.c (life, submitting),
 * session_sql.c, journal_sql.c, claim_sql.c, subscription_sql.c, cursor_sql.c and settle_sql.c.
 * Nobody else includes it. */
#ifndef LEAT_CLUSTER_BUS_SQL_IMPL_H
#define LEAT_CLUSTER_BUS_SQL_IMPL_H

#include "base/id128.h"
#include "base/map.h"
#include "cluster/bus_sql.h"
#include "sql/sql.h"

#include <stdbool.h>
#include <stdint.h>

/* How far the leader of timers has looked (fire_sql.c), in one epoch of the role. */
struct fire_state {
	uint64_t epoch;
	uint64_t from_ms;      /* nothing before it is due; since 1970, the database's clock */
	uint64_t looked_ms;    /* our clock: when a look last began at the beginning; 0 = never */
	uint32_t after_tenant; /* crowded: who had the last share */
	bool crowded;          /* more was due than one transaction took */
};

struct bus_sql {
	struct bus bus; /* first */
	struct sql *sql;
	struct bus_sql_settings settings; /* name and peer are ours */

	/* session_sql.c */
	bool sql_up;            /* the pool is connected */
	bool open;              /* bus.session_id was opened and not yet seen ended */
	bool ended;             /* replaced by a node of our name: never open another */
	bool busy;              /* a session job is out */
	bool suspected;         /* look again as soon as that job is done */
	bool stopping;          /* stop() was called */
	uint64_t due_ms;        /* next renewal */
	uint64_t renewed_ms;    /* when the last renewal that matched was submitted */
	uint64_t looked_ms;     /* when the last look that counts had ended */
	struct map others;      /* id -> struct other: sessions seen live */
	struct bus_peer *peers; /* the owner's on_peers was told of, in the order of their ids */
	size_t n_peers;
	bool told_peers; /* in this session */
	void (*on_stopped)(void *arg);
	void *stopped_arg;
	uint64_t taken; /* node_session.taken as last seen */

	/* watch_sql.c */
	struct map flushes; /* session and writer number -> struct flushes of others */
	bool watching;      /* a look is out */

	struct fire_state fire; /* fire_sql.c */

	/* claim_sql.c: those that wait for the transaction that is out */
	struct claim_waiting {
		struct bus_claim *req;
		uint64_t generation; /* it was made in */
	} * claims;
	size_t n_claims;
	size_t claims_cap;
	bool claiming; /* a transaction of them is out */
};

/* One request on its way through a lane. */
struct bus_job {
	struct bus_sql *owner; /* loop thread only */
	struct id128 me;       /* the session it was made in */
	sql_done_fn done;
	void *req;  /* the request, which is the bus's until it is answered */
	void *more; /* of the noun */
};

/* Hand a request to a lane; `done` gets the job, once, later. While the bus is down or the lane's
 * queue is full it gets SQL_RETRY. */
void bus_sql_submit(struct bus_sql *b, enum sql_lane lane, sql_work_fn work, sql_done_fn done,
                    void *req, void *more);

static inline struct bus_sql *bus_sql_self(struct bus *bus)
{
	return (struct bus_sql *)bus;
}

/* A session's id as a parameter; borrowed. */
static inline struct sql_param param_session(const struct id128 *id)
{
	return sql_bytes(id->b, sizeof id->b);
}

/* The usual done(): the outcome into the request, the job away, the caller told. */
#define BUS_JOB_DONE(verb)                                           \
	static void verb##_done(void *arg, enum sql_outcome outcome) \
	{                                                            \
		struct bus_job *job = arg;                           \
		struct bus_##verb *req = job->req;                   \
                                                                     \
		free(job);                                           \
		req->outcome = outcome;                              \
		req->done(req);                                      \
	}

/* session_sql.c */
void session_sql_generation(struct bus_sql *b, bool up);
void session_sql_tick(struct bus_sql *b);
void session_sql_suspect(struct bus_sql *b); /* a fence did not match: look now */
void session_sql_look(struct bus *bus);
void session_sql_stop(struct bus *bus, void (*on_stopped)(void *arg), void *arg);
void session_sql_release(struct bus_sql *b);

/* watch_sql.c */
void watch_sql_tick(struct bus_sql *b);
void watch_sql_release(struct bus_sql *b);
void watch_sql_heads(struct bus *bus, struct bus_heads *req);
void watch_sql_hinted(struct bus *bus, const struct id128 *session_id, uint32_t writer_no,
                      uint64_t flush_no);

/* the requests; see struct bus_ops */
void journal_sql_append(struct bus *bus, struct bus_append *req);
void journal_sql_resolve(struct bus *bus, struct bus_resolve *req);
void journal_sql_read(struct bus *bus, struct bus_read *req);
void journal_sql_locate(struct bus *bus, struct bus_locate *req);
void claim_sql_claim(struct bus *bus, struct bus_claim *req);
void claim_sql_release(struct bus *bus, struct bus_claim *req);
void subscription_sql_change(struct bus *bus, struct bus_change *req);
void subscription_sql_owned(struct bus *bus, struct bus_owned *req);
void subscription_sql_expire(struct bus *bus, struct bus_expire *req);
enum sql_outcome subscription_sql_cursors(struct sql_conn *c, const struct id128 *me,
                                          uint32_t tenant_id, uint64_t subscription_id,
                                          uint64_t epoch, const struct bus_cursor *starts,
                                          uint32_t n);
enum sql_outcome subscription_sql_filters(struct sql_conn *c, const struct id128 *me,
                                          uint32_t tenant_id, uint64_t subscription_id,
                                          uint64_t epoch, struct slice filters, uint32_t expiry_s);
void retention_sql_retain(struct bus *bus, struct bus_retain *req);
void cursor_sql_commit(struct bus *bus, struct bus_commit *req);
enum sql_outcome cursor_sql_commit_one(struct sql_conn *c, const struct id128 *me,
                                       struct bus_cursor_row *row);
void role_sql_claim(struct bus *bus, struct bus_role_claim *req);
void fire_sql_fire(struct bus *bus, struct bus_fire *req);
void settle_sql_settle(struct bus *bus, struct bus_settle *req);
void settle_sql_retries(struct bus *bus, struct bus_retries *req);

#endif
