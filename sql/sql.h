/* sql: the database behind the event loop: worker threads with one connection each, in lanes. All
 * functions are for the loop thread, except where a line says otherwise.
 *
 * A job is two functions and a pointer. work() runs on a worker thread with that thread's
 * connection and only copied arguments; done() runs later on the loop with work's outcome: exactly
 * once, never before sql_submit() returned, also at shutdown. The job belongs to the pool from a
 * successful sql_submit() until done() is called, and carries ids, not pointers into loop data. A
 * transaction left open by work() is rolled back.
 *
 * Members: of several hosts in the DSN the whole pool uses one. When a connection to it cannot be
 * made, all lanes go on to the next; the last is followed by the first.
 *
 * Generations: losing any connection, noticed on any thread, starts a new generation. Every lane
 * then opens a fresh connection before its next job, and a job submitted in an older generation
 * does not run: it completes with SQL_RETRY. While a lane is down, submitted jobs complete with
 * SQL_RETRY on the next turn of the loop instead of waiting; retry on on_generation(…, true). Jobs
 * submitted with SQL_ANY_GENERATION (renewals, resolving an UNKNOWN flush) are exempt from both:
 * they wait for the lane to be up. */
#ifndef LEAT_SQL_SQL_H
#define LEAT_SQL_SQL_H

#include "base/err.h"
#include "sql/conn.h"
#include "sql/dsn.h"
#include "sql/outcome.h"

#include <stdbool.h>
#include <stdint.h>

struct event_base;
struct sql;

enum sql_lane {
	SQL_LANE_WRITER0, /* journal flushes, heads split by hash between the two writers */
	SQL_LANE_WRITER1,
	SQL_LANE_CURSOR,  /* cursor commits and settlements */
	SQL_LANE_READ,    /* journal reads; two threads, so no order between its jobs */
	SQL_LANE_SESSION, /* renewals only: nothing may stand in front of them */
	SQL_LANE_LEADER,  /* what is done in a role: nobody's request stands behind it */
	SQL_LANE_ADMIN,   /* tenant loads, claims, everything rare */
	SQL_LANE_COUNT,
};

enum { SQL_CONNECTIONS = SQL_LANE_COUNT + 1 }; /* of a node: one a lane, and the second of READ */

enum sql_job_flags {
	SQL_THIS_GENERATION = 0, /* completes with SQL_RETRY once the generation has changed */
	SQL_ANY_GENERATION = 1,  /* runs whenever the lane is up again, however often it was lost */
};

struct sql_settings {
	struct sql_limits limits;
	unsigned queue_max;    /* jobs waiting per lane before sql_submit() refuses */
	bool accept_data_loss; /* --accept-data-loss: see sql_check_durable() */

	/* Loop thread, may be NULL. up=false: connections were lost, `generation` is the new one;
	 * drop tails and delivery state. up=true: every lane is connected in `generation`. Of one
	 * wake-up, the loss is told before its completions and the return after them. */
	void (*on_generation)(void *arg, uint64_t generation, bool up);
	void *arg;
};

#define SQL_SETTINGS_DEFAULT ((struct sql_settings){.limits = SQL_LIMITS_DEFAULT, .queue_max = 256})

/* Start the threads; they connect on their own and on_generation(…, true) tells when all are. -1:
 * a thread or descriptor could not be made. */
struct sql *sql_new(struct event_base *base, const struct dsn *dsn,
                    const struct sql_settings *settings, struct err *e);

/* Lets running jobs end (bounded by the io time-out), completes the waiting ones with SQL_RETRY
 * unrun, calls every outstanding done(), joins the threads. Not from inside done(). NULL does
 * nothing. */
void sql_free(struct sql *s);

typedef enum sql_outcome (*sql_work_fn)(struct sql_conn *c, void *job); /* worker thread */
typedef void (*sql_done_fn)(void *job, enum sql_outcome outcome);       /* loop thread */

/* 0, or -1 when the lane's queue is full (or the pool is shutting down): done() will not be called
 * and the job is still the caller's. Never blocks. */
int sql_submit(struct sql *s, enum sql_lane lane, sql_work_fn work, sql_done_fn done, void *job);
int sql_submit_flags(struct sql *s, enum sql_lane lane, sql_work_fn work, sql_done_fn done,
                     void *job, enum sql_job_flags flags);

uint64_t sql_generation(const struct sql *s); /* any thread; starts at 1, only grows */
bool sql_is_up(const struct sql *s); /* any thread; every lane connected in this generation */
unsigned sql_queued(struct sql *s,
                    enum sql_lane lane);      /* jobs waiting, for back-pressure and metrics */
uint64_t sql_max_packet(const struct sql *s); /* any thread; bytes; 0 before the first connection */

#endif
