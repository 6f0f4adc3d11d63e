/* sim: a database that fails, for tests: any number of nodes' buses over one store
 * (cluster/store.h), in virtual time. A seed decides how long everything takes and what goes wrong,
 * so that any run can be repeated. It knows, besides plain outcomes:
 *
 *  - RETRY (a deadlock), FATAL (an event the database refuses),
 *  - UNKNOWN in its three forms: stored; never stored; stored later, perhaps after the caller has
 *    asked (a ghost commit). The bus goes down and comes up again with it,
 *  - a crash of the server: what was visible and not yet durable is gone, and its numbers are given
 *    to other events,
 *  - a session ended by other nodes, and the LOST that its requests get until it notices,
 *  - time that jumps.
 *
 * Of what is published in SQL it moves all, at whatever rate (bus_collect.allow).
 *
 * Base/clock.h shows the virtual time. One thread; nothing here blocks. */
#ifndef LEAT_CLUSTER_SIM_H
#define LEAT_CLUSTER_SIM_H

#include "cluster/bus.h"
#include "cluster/store.h"

#include <stdbool.h>
#include <stdint.h>

struct sim;

/* Chances of 1,000, per request unless said otherwise. */
struct sim_faults {
	uint32_t retry;
	uint32_t unknown;
	uint32_t crash;       /* of the server, after a disk that stopped syncing */
	uint32_t end_session; /* of the requesting node's session, by the others */
	uint32_t jump;        /* time leaps ahead by up to 20 s */
};

#define SIM_FAULTS_HARSH \
	((struct sim_faults){.retry = 30, .unknown = 40, .crash = 8, .end_session = 4, .jump = 2})

struct sim *sim_new(uint64_t seed, const struct sim_faults *faults);
void sim_free(struct sim *s); /* after its buses */

void sim_set_faults(struct sim *s, const struct sim_faults *faults);
void sim_set_trace(struct sim *s, bool on); /* every request and fault, on stdout */
void sim_set_poison(struct sim *s,
                    char letter); /* payloads that begin with it are refused; 0 = none */

/* A node, up after a while. A new one of the same name ends the session of the old. */
struct bus *sim_bus_new(struct sim *s, const char *name);

/* The process dies: what it asked for may still happen, or not. For the sake of its memory all that
 * is pending is called now: requests with RETRY, calls of sim_bus_after(). Frees the bus. */
void sim_bus_kill(struct bus *bus);

/* Call fn(arg) in delay_ms of virtual time, while the node lives. */
void sim_bus_after(struct bus *bus, uint32_t delay_ms, void (*fn)(void *arg), void *arg);
void sim_after(struct sim *s, uint32_t delay_ms, void (*fn)(void *arg), void *arg);

/* Run what is due next; false when nothing is left. */
bool sim_step(struct sim *s);
void sim_run_for(struct sim *s, uint64_t ms);

/* An application publishes this event in SQL (see store_publish()), and has its COMMIT. */
void sim_publish(struct sim *s, const struct batch *one);

void sim_crash(struct sim *s); /* the server, now */
void sim_set_partitions(struct sim *s, uint32_t tenant_id, uint32_t before, uint32_t n);
uint64_t sim_random(struct sim *s, uint64_t below);
uint64_t sim_now_ms(const struct sim *s);
const struct store *sim_store(const struct sim *s); /* what a reader sees now */

#endif
