/* sim_history: what a simulated run did, and whether it kept Leat's promises. Whoever drives the
 * simulator tells it what was published, acknowledged, delivered and committed; the first broken
 * promise is kept as text. Events are numbered 1, 2, … in publishing order, and say so in their
 * payload: a letter and the number. A topic has one publisher. Partitions
 * of a later layout have higher numbers. */
#ifndef LEAT_TESTS_SIM_HISTORY_H
#define LEAT_TESTS_SIM_HISTORY_H

#include "base/slice.h"
#include "cluster/store.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	HISTORY_TENANTS = 4,     /* 0 .. 3 */
	HISTORY_PARTITIONS = 32, /* of all layouts */
	HISTORY_TOPICS = 16,     /* of a tenant */
	HISTORY_SUBS = 8,
};

struct history;

struct history *history_new(void);
void history_free(struct history *h);

uint32_t history_published(struct history *h, uint32_t tenant, uint32_t topic); /* its number */
/* The same, scheduled: when it is published is not known, so it has no order. */
uint32_t history_scheduled(struct history *h, uint32_t tenant);
void history_acked(struct history *h, uint32_t id);
void history_refused(struct history *h, uint32_t id);

/* A subscription, by an index of its own, has events of one tenant. */
void history_delivered(struct history *h, uint32_t sub, uint32_t tenant, uint32_t partition,
                       uint64_t seq, struct slice payload);
/* The same to one of several consumers, who see no order between them. */
void history_shared(struct history *h, uint32_t sub, uint32_t tenant, uint32_t partition,
                    uint64_t seq, struct slice payload);
void history_committed(struct history *h, uint32_t sub, uint32_t partition, uint64_t acked_through);
void history_claimed(struct history *h, uint32_t sub, uint32_t partition, uint64_t acked_through);

uint32_t history_unanswered(const struct history *h);
/* Acknowledged events of the tenant that the subscription has not got yet. */
uint32_t history_owed(const struct history *h, uint32_t sub, uint32_t tenant);

/* At the end: compare with the journal. NULL, or what was broken. */
const char *history_check(struct history *h, const struct store *store);
const char *history_problem(const struct history *h);

#endif
