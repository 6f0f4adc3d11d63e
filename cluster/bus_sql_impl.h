/* bus_sql_impl: the inside of struct bus_sql, shared by bus_sql.c (life, submitting),
 * session_sql.c, journal_sql.c, claim_sql.c, release_sql.c, subscription_sql.c, cursor_sql.c and
 * settle_sql.c. Nobody else includes it. */
#ifndef LEAT_CLUSTER_BUS_SQL_IMPL_H
#define LEAT_CLUSTER_BUS_SQL_IMPL_H

#include "base/id128.h"
#include "base/map.h"
#include "cluster/bus_sql.h"
#include "cluster/crowd.h"
#include "cluster/stint.h"
#include "cluster/sweep.h"
#include "cluster/together_sql.h"
#include "sql/sql.h"

#include <stdbool.h>
#include <stdint.h>

/* How far the leader of timers has looked (fire_sql.c), in one epoch of the role. */
struct fire_state {
	uint64_t epoch;
	uint64_t from_ms;   /* nothing before it is due; since 1970, the database's clock */
	uint64_t full_ms;   /* our clock: when a look is to begin at the beginning again */
	bool crowded;       /* more was due than one transaction took */
	struct stint stint; /* of the rows moved */
	struct crowd crowd; /* crowded: whose */

	/* after a transaction was refused, until all is well again */
	uint32_t careful; /* rows in one transaction; 0 = as many as there are */
	bool ticks_turn;  /* careful: rows and ticks go by turns */
	struct {
		uint64_t timer_id; /* one of these is not 0: it was refused alone, and is to be */
		uint64_t schedule_id; /* set aside */
		char why[160];
	} culprit;
};

/* A tenant of whom there is more than it may move. */
struct inbox_held {
	uint32_t tenant_id;
	bool over; /* not any more */
	struct bus_allowance may;
};

/* What the leader of the inbox knows of it (inbox_sql.c), in one epoch of the role. */
struct inbox_state {
	uint64_t epoch;
	struct sweep sweep;
	uint64_t waiting;               /* rows left, as last counted, before count_ms */
	uint64_t count_ms;              /* when they are to be counted again */
	uint64_t blamed;                /* the row that the journal refuses; 0 = none */
	char blame[BUS_REASON_MAX + 1]; /* and why */
	uint32_t most; /* rows to move at once, to find the one to blame; 0 = no bound */
	bool crowded;  /* there was more than one transaction took */
	struct stint stint;

	/* crowded */
	struct crowd crowd;
	uint64_t top; /* the highest id when they were listed, or lower */

	struct inbox_held *held; /* [n_held], by tenant_id */
	size_t n_held;
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

	struct fire_state fire;   /* fire_sql.c */
	struct inbox_state inbox; /* inbox_sql.c */

	struct together together; /* claim_sql.c, release_sql.c, subscription_sql.c */
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
void session_sql_end(struct bus_sql *b); /* the pool is not used any more */
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
void journal_sql_layouts(struct bus *bus, struct bus_layouts *req);
void claim_sql_claim(struct bus *bus, struct bus_claim *req);
void claim_sql_release(struct bus *bus, struct bus_claim *req);
void release_sql_release(struct bus *bus, struct bus_change *req);
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
/* Of a step of retention, in transactions of its own; `who` is for the audit. */
enum sql_outcome aside_sql_shorten(struct sql_conn *c, const struct id128 *me, const char *who,
                                   struct bus_retain *req);
void report_sql_report(struct bus *bus, struct bus_report *req);
void stock_sql_stock(struct bus *bus, struct bus_stock *req);
void note_sql_note(struct bus *bus, struct bus_note *req);
void cursor_sql_commit(struct bus *bus, struct bus_commit *req);
enum sql_outcome cursor_sql_commit_one(struct sql_conn *c, const struct id128 *me,
                                       struct bus_cursor_row *row);
void role_sql_claim(struct bus *bus, struct bus_role_claim *req);
/* First in a transaction made in a role; SQL_LOST: it is not ours any more. */
enum sql_outcome role_sql_fence(struct sql_conn *c, const struct id128 *me, enum bus_role role,
                                uint64_t epoch);
void fire_sql_fire(struct bus *bus, struct bus_fire *req);
void inbox_sql_collect(struct bus *bus, struct bus_collect *req);
void settle_sql_settle(struct bus *bus, struct bus_settle *req);
void settle_sql_retries(struct bus *bus, struct bus_retries *req);

#endif
