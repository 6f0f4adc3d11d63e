/* store: the database of the memory backend and of the fault simulator: node sessions, writers,
 * heads, journal, subscriptions, cursors, timers and dead letters in the memory of one process,
 * with the fences of the SQL tables. Each call is one transaction: it happens wholly and at once,
 * or not. Results go into the request; its done() is not called. Time is base/clock.h. One thread
 * at a time.
 *
 * Memory is bounded by retention_bytes per partition; the oldest batches go first. */
#ifndef LEAT_CLUSTER_STORE_H
#define LEAT_CLUSTER_STORE_H

#include "base/id128.h"
#include "cluster/bus.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;

struct store *store_new(size_t retention_bytes); /* per partition, as batch_memory() counts */
void store_free(struct store *s);

/* A node's life begins (its writers at flush 0, fence 0); earlier ones of its name are ended. */
void store_session_open(struct store *s, const struct id128 *me, const char *name);
void store_session_end(struct store *s, const struct id128 *id);
bool store_session_live(const struct store *s, const struct id128 *id);

/* OK or LOST. Keeps a reference to each batch, whose base_seq and stamp it sets. */
enum sql_outcome store_append(struct store *s, const struct id128 *me, struct bus_append *req);
enum sql_outcome store_role_claim(struct store *s, const struct id128 *me,
                                  struct bus_role_claim *req);
enum sql_outcome store_fire(struct store *s, const struct id128 *me, struct bus_fire *req);
enum sql_outcome store_collect(struct store *s, const struct id128 *me, struct bus_collect *req);
enum sql_outcome store_resolve(struct store *s, struct bus_resolve *req);
enum sql_outcome store_read(const struct store *s, struct bus_read *req);
enum sql_outcome store_locate(const struct store *s, struct bus_locate *req);
enum sql_outcome store_stock(const struct store *s, struct bus_stock *req);
enum sql_outcome store_heads(const struct store *s, struct bus_heads *req);
enum sql_outcome store_layouts(const struct store *s, struct bus_layouts *req);
enum sql_outcome store_owned(const struct store *s, const struct id128 *me, struct bus_owned *req);

/* As CALL tenant_set_partitions. before: how many it had, should it be the first change. */
void store_set_partitions(struct store *s, uint32_t tenant_id, uint32_t before, uint32_t n);
struct layout store_layout(const struct store *s, uint32_t tenant_id); /* n 0 = never changed */

enum sql_outcome store_claim(struct store *s, const struct id128 *me, struct bus_claim *req);
void store_claim_release(struct bus_claim *req);
enum sql_outcome store_change(struct store *s, const struct id128 *me, struct bus_change *req);
enum sql_outcome store_commit(struct store *s, const struct id128 *me, struct bus_commit *req);
enum sql_outcome store_expire(struct store *s, struct bus_expire *req);
enum sql_outcome store_retain(struct store *s, const struct id128 *me, struct bus_retain *req);
enum sql_outcome store_settle(struct store *s, const struct id128 *me, struct bus_settle *req);
enum sql_outcome store_retries(const struct store *s, struct bus_retries *req);

/* For tests: what publish() in SQL does in a transaction that commits at once: an event of a batch
 * of its partition, or of BATCH_SCHEDULED. The store's copy. */
void store_publish(struct store *s, const struct batch *one);

/* For tests: what a subscription has in the timer and dead_letter tables; see store_timers.h. */
void store_each_failure(const struct store *s, uint64_t subscription_id,
                        void (*fn)(void *arg, const struct bus_failure *row), void *arg);

#endif
