/* bus_sql: the durable backend of cluster/bus.h on MySQL or MariaDB, over the worker lanes of
 * sql/sql.h. It keeps this node's session alive, ends sessions that stand still, and turns requests
 * into fenced transactions. Loop thread only.
 *
 * The owner passes the pool's on_generation on to bus_sql_on_generation() and calls bus_sql_tick()
 * from a timer, every 100 ms or so. At shutdown: bus->ops->stop(), then bus_sql_end(), sql_free(),
 * whatever was deferred, those who use the bus, and bus->ops->free(). */
#ifndef LEAT_CLUSTER_BUS_SQL_H
#define LEAT_CLUSTER_BUS_SQL_H

#include "base/err.h"
#include "cluster/bus.h"
#include "sql/sql.h"

#include <stdbool.h>
#include <stdint.h>

enum { BUS_SQL_TTL_MS = 6000, BUS_SQL_LOOKS = 6 };

struct bus_sql_settings {
	const char
	        *name; /* of this node, unique among them: a new session ends the old of its name */
	const char *peer;           /* HOST:PORT where other nodes reach it; NULL or "" = nowhere */
	uint32_t max_subscriptions; /* of tenants without a limit: for procedures; 0 = none */
	uint32_t ttl_ms;            /* a session renews every sixth of it; 0 = BUS_SQL_TTL_MS */

	/* Call fn(arg) once, later, on the loop. */
	void (*defer)(void *loop, void (*fn)(void *arg), void *arg);
	void *loop;
};

/* Says BUS_UP when the pool is up and a session was opened. NULL with e set when the name is no
 * good. */
struct bus *bus_sql_new(struct sql *sql, const struct bus_sql_settings *settings, struct err *e);

void bus_sql_on_generation(struct bus *bus, uint64_t generation, bool up);
void bus_sql_tick(struct bus *bus);
/* The pool is about to end: down for good, which the owner is told. What is under way is answered
 * by sql_free(), all later requests with SQL_RETRY, through defer; the pool is not used any more.
 */
void bus_sql_end(struct bus *bus);

#endif
