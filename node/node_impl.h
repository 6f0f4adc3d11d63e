/* node_impl: the inside of struct node, shared by node.c (the map: made, run, freed), node_wiring.c
 * (what its parts tell each other), node_links.c (the other nodes), node_drain.c (the end),
 * node_reload.c (SIGHUP) and node_status.c (the admin listener). Nobody else includes it. Loop
 * thread only. */
#ifndef LEAT_NODE_NODE_IMPL_H
#define LEAT_NODE_NODE_IMPL_H

#include "base/buf.h"
#include "base/err.h"
#include "base/id128.h"
#include "cluster/bus.h"
#include "node/node.h"
#include "tenancy/registry.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum node_state {
	NODE_STARTING, /* waits for the database, its schema and tenants, the node session */
	NODE_SERVING,
	NODE_DRAINING,
};

struct node {
	const struct node_config *config;
	enum node_state state;
	int status; /* the exit status */

	struct loop *loop;
	struct admin *admin; /* NULL = not asked for */
	struct tls_server *tls;
	struct authorities *issuer_cas; /* NULL = the system's */
	struct conn_table *conns;
	struct timeshare *reading;    /* time for what connections say, */
	struct timeshare *delivering; /* for what they are to be told, */
	struct timeshare *writing;    /* and for encrypting and sending it */
	struct registry *registry;
	struct links *links; /* NULL = none */
	struct backend *backend;

	struct id128 session_id; /* as it was last seen; zero = none yet */
	struct bus *bus;         /* this and the next eight: NULL until the backend is open */
	struct usage *usage;
	struct dispatch *dispatch;
	struct appender *appender;
	struct timers *timers;
	struct retention *retention;
	struct limits *limits;
	struct inbox *inbox;
	struct issuers *issuers; /* NULL: events are in memory */
	struct mqtt *mqtt;

	struct listener *listener;
	struct listener *insecure;

	struct loop_timer *drain_timer;
	size_t drain_step;
	uint64_t drain_deadline_ms;
	bool shares_left;
	bool sessions_drained;
	bool bus_stopped;
};

/* ---- node.c */

void node_fail(struct node *n, const char *text); /* ends it with 1 */
void node_serve(struct node *n);                  /* clients may come */
void node_stop_listening(struct node *n);

/* ---- node_wiring.c */

void node_on_backend_open(void *arg, struct bus *bus); /* makes what works on it */
void node_on_registry_change(void *arg, const struct tenant *t, enum registry_change what,
                             uint64_t key_id);

/* ---- node_links.c */

int node_open_links(struct node *n, struct err *e); /* if they are asked for */

/* ---- node_drain.c */

enum { /* where to begin */
       NODE_DRAIN_ALL = 0,
       NODE_DRAIN_SESSIONS = 2,
};

void node_drain(struct node *n, size_t first_step);
void node_on_stop_signal(void *arg);
/* Whoever ended our session owns what was ours: nothing can be stored any more, and the clients had
 * better go there. */
void node_give_up(struct node *n);

/* ---- node_reload.c */

void node_on_reload_signal(void *arg);
int node_open_issuer_cas(struct node *n, struct err *e); /* in place of those there are */

/* ---- node_status.c */

/* "ok" or why not; in further lines what costs its clients time. Whether this node can serve. */
bool node_write_ready(void *arg, struct buf *out);
void node_write_metrics(void *arg, struct buf *out);

#endif
