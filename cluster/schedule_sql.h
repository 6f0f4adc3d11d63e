/* schedule_sql: cron schedules that are due, inside the leader's transaction: each tick becomes an
 * event, and the schedule's next time is moved on. Worker threads; whoever calls it fences first,
 * appends what was gathered and commits.
 *
 * A tick that the tenant's limits forbid is left out. Ticks that were missed while nobody led, or
 * while the tenant was suspended, become one tick. A schedule that cannot be understood is put into
 * state 3, with a row in `audit`. */
#ifndef LEAT_CLUSTER_SCHEDULE_SQL_H
#define LEAT_CLUSTER_SCHEDULE_SQL_H

#include "cluster/bus.h"
#include "cluster/gather.h"
#include "sql/conn.h"

#include <stddef.h>
#include <stdint.h>

/* Until the next one is due: 0 = now, or one's next time is to be computed; UINT64_MAX = none. */
enum sql_outcome schedule_sql_next(struct sql_conn *c, uint64_t *in_ms);

struct schedule_tick {
	uint64_t schedule_id;
	uint32_t tenant_id;
	uint64_t late_ms;
	uint64_t bytes;             /* of its payload */
	enum bus_left_out left_out; /* REASONS: it is not */
};

struct schedule_ticks {
	uint32_t limit;
	const struct bus_fire *req;                                   /* what it says of limits */
	struct gather *gather;                                        /* the events go there */
	void (*on_tick)(void *arg, const struct schedule_tick *tick); /* for each */
	void *arg;
};

enum sql_outcome schedule_sql_tick(struct sql_conn *c, const struct schedule_ticks *t);
/* One that is not to tick any more, because of what it says or what the database says to it. */
enum sql_outcome schedule_sql_stop(struct sql_conn *c, uint64_t schedule_id, const char *why);

#endif
