/* sim_op: one request inside the simulator: a deep copy, because the database may carry it out when
 * the node that asked has long forgotten it, and again when the server recovers from its log.
 * Used by cluster/sim.c alone. */
#ifndef LEAT_CLUSTER_SIM_OP_H
#define LEAT_CLUSTER_SIM_OP_H

#include "cluster/bus.h"
#include "cluster/store.h"

#include <stdbool.h>
#include <stdint.h>

/* The requests of cluster/bus.h; `writes` are those that the log keeps. */
#define SIM_REQUESTS(R)  \
	R(append, 1)     \
	R(resolve, 1)    \
	R(read, 0)       \
	R(locate, 0)     \
	R(heads, 0)      \
	R(layouts, 0)    \
	R(claim, 1)      \
	R(change, 1)     \
	R(commit, 1)     \
	R(owned, 0)      \
	R(expire, 1)     \
	R(settle, 1)     \
	R(retries, 0)    \
	R(role_claim, 1) \
	R(fire, 1)       \
	R(collect, 1)    \
	R(retain, 1)     \
	R(report, 0)     \
	R(stock, 0)      \
	R(note, 0)

enum sim_kind {
#define SIM_KIND(verb, writes) SIM_##verb,
	SIM_REQUESTS(SIM_KIND)
#undef SIM_KIND
	        SIM_open_session, /* these two are the nodes' own */
	SIM_end_session,
	SIM_publish,        /* an application's, in SQL */
	SIM_set_partitions, /* this one is an admin's */
};

union sim_request {
#define SIM_MEMBER(verb, writes) struct bus_##verb verb;
	SIM_REQUESTS(SIM_MEMBER)
#undef SIM_MEMBER
};

struct sim_op {
	enum sim_kind kind;
	uint32_t refs;
	struct id128 me;
	char name[32];     /* open_session */
	struct batch *one; /* publish: the event */
	struct {
		uint32_t tenant_id;
		uint32_t before;
		uint32_t n;
	} partitions;        /* set_partitions */
	union sim_request r; /* our copy, with the results of the latest sim_op_apply() */
	void *blocks[8];     /* what the copy points to */
	uint32_t n_blocks;
};

struct sim_op *sim_op_new(enum sim_kind kind, const struct id128 *me, const void *request);
struct sim_op *sim_op_ref(struct sim_op *op);
void sim_op_unref(struct sim_op *op);

bool sim_op_writes(const struct sim_op *op);
const char *sim_op_name(const struct sim_op *op);
bool sim_op_poisoned(struct sim_op *op, char letter); /* sets the culprit */

enum sql_outcome sim_op_apply(struct sim_op *op, struct store *store);
void sim_op_drop_results(struct sim_op *op);
/* Move the results into the caller's request and call its done(). */
void sim_op_answer(struct sim_op *op, void *request, enum sql_outcome outcome);

#endif
