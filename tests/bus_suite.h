/* bus_suite: what every backend of cluster/bus.h must do, as cmocka tests. The program that runs it
 * provides a struct bus_env as the group's state and opens the backend in it. */
#ifndef LEAT_TESTS_BUS_SUITE_H
#define LEAT_TESTS_BUS_SUITE_H

#include "cluster/bus.h"

#include <stdbool.h>
#include <stdint.h>

struct bus_env {
	struct bus *bus;   /* a node, up */
	struct bus *other; /* a second node of the same database; NULL = this backend has none */
	void (*pump)(struct bus_env *env); /* let pending requests make progress */
	/* An application publishes in SQL, and commits: this event, alone in a batch. */
	void (*publish)(struct bus_env *env, const struct batch *one);
	void *arg; /* the program's */
	/* As an admin: the tenant has so many partitions from now on; 4 before. */
	void (*set_partitions)(struct bus_env *env, uint32_t n);
	bool allows_all;    /* bus_collect.allow is not asked */
	uint32_t tenant_id; /* an empty tenant with partitions 0 .. 3; new for each test */
	struct bus_writer_state writers[2][BUS_WRITERS]; /* of bus and other; kept by the suite */
};

/* Requests made and waited for; for further tests of one backend. */
enum sql_outcome suite_append(struct bus_env *env, struct bus *bus, uint32_t writer_no,
                              struct batch **batches, size_t n);
enum sql_outcome suite_resolve(struct bus_env *env, struct bus *bus, struct bus_resolve *req);
enum sql_outcome suite_read(struct bus_env *env, struct bus *bus, struct bus_read *req);
enum sql_outcome suite_claim(struct bus_env *env, struct bus *bus, struct bus_claim *req);
enum sql_outcome suite_change(struct bus_env *env, struct bus *bus, struct bus_change *req);
enum sql_outcome suite_commit(struct bus_env *env, struct bus *bus, struct bus_commit *req);
uint64_t suite_take_role(struct bus_env *env, struct bus *bus); /* timers; its epoch */
enum sql_outcome suite_release_role(struct bus_env *env, struct bus *bus, uint64_t epoch);
enum sql_outcome suite_fire(struct bus_env *env, struct bus *bus, struct bus_fire *req);
void suite_fire_done(struct bus_fire *req); /* drop the results */
/* The same of the inbox. */
uint64_t suite_take_inbox(struct bus_env *env, struct bus *bus);
void suite_release_inbox(struct bus_env *env, struct bus *bus, uint64_t epoch);
enum sql_outcome suite_collect(struct bus_env *env, struct bus *bus, struct bus_collect *req);
void suite_collect_done(struct bus_collect *req);
enum sql_outcome suite_report(struct bus_env *env, struct bus *bus, const struct bus_usage *rows,
                              size_t n);
void suite_read_done(struct bus_read *req);             /* drop the batches */
void suite_wait(struct bus_env *env, const bool *done); /* pump until it is true, or fail */
/* A sealed batch of n events on one head whose payloads are `first`, `first` + 1, … in decimal. */
struct batch *suite_batch(uint32_t tenant_id, uint32_t partition_id, unsigned first, unsigned n);
/* Read a partition from seq; fails unless its payloads are first, first + 1, … (n of them). */
void suite_expect(struct bus_env *env, struct bus *bus, uint32_t partition_id, uint64_t from_seq,
                  unsigned first, unsigned n);

/* Runs every test with group state `env`; `begin` (may be NULL) before each sets a fresh tenant. */
int bus_suite_run(struct bus_env *env, int (*begin)(void **state));

/* tests/bus_suite_leader.c: roles and timers; run by bus_suite_run(). */
int bus_suite_leader_run(struct bus_env *env, int (*begin)(void **state));
int bus_suite_inbox_run(struct bus_env *env, int (*begin)(void **state));
int bus_suite_retention_run(struct bus_env *env, int (*begin)(void **state));
int bus_suite_layouts_run(struct bus_env *env, int (*begin)(void **state));

#endif
