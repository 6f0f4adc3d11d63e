/* schedule_sql: cron schedules that are due, inside the leader's transaction: each tick becomes an
 * event, and the schedule's next time is moved on. Worker threads; whoever calls it fences first,
 * appends what was gathered and commits.
 *
 * Ticks that were missed while nobody led, or while the tenant was suspended, become one tick. A
 * schedule that cannot be understood is put into state 3, with a row in `audit`. */
#ifndef LEAT_CLUSTER_SCHEDULE_SQL_H
#define LEAT_CLUSTER_SCHEDULE_SQL_H

#include "cluster/gather.h"
#include "sql/conn.h"

#include <stddef.h>
#include <stdint.h>

/* Until the next one is due: 0 = now, or one's next time is to be computed; UINT64_MAX = none. */
enum sql_outcome schedule_sql_next(struct sql_conn *c, uint64_t *in_ms);

struct schedule_ticks {
	uint32_t limit;
	struct gather *gather;                        /* the events go there */
	void (*on_tick)(void *arg, uint64_t late_ms); /* for each */
	void *arg;
};

enum sql_outcome schedule_sql_tick(struct sql_conn *c, const struct schedule_ticks *t);

#endif
