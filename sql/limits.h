/* limits: the columns of `tenant` that limit it, in the order of the table: X(column, type).
 * Whoever has a list of them makes it of this one. 0 in any of them is the node's default. */
#ifndef LEAT_SQL_LIMITS_H
#define LEAT_SQL_LIMITS_H

#define TENANT_LIMITS(X)                                                     \
	X(max_connections, uint32_t)                                         \
	X(max_events_per_s, uint32_t)                                        \
	X(max_bytes_per_s, uint64_t)                                         \
	X(max_event_bytes, uint32_t)                                         \
	X(max_subscriptions, uint32_t)                                       \
	X(max_stored_bytes, uint64_t)                                        \
	X(max_backlog_events, uint64_t)                                      \
	X(retention_s, uint32_t)                                             \
	X(max_filters, uint32_t)   /* of one session */                      \
	X(max_in_flight, uint32_t) /* of one connection, not acknowledged */ \
	X(max_backlog_s, uint32_t) /* of one subscription */                 \
	X(max_scheduled, uint32_t) /* events that wait for their time */     \
	X(max_dead_letters, uint32_t)

#define TENANT_LIMIT_COLUMN(column, type) #column ","
#define TENANT_LIMIT_COLUMNS TENANT_LIMITS(TENANT_LIMIT_COLUMN) /* each with its comma */

#endif
