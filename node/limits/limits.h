/* limits: what each tenant uses on this node of what it may use on all of them together, and the
 * answer when somebody wants more. One per node; loop thread only.
 *
 * A limit is the tenant's (struct tenant_limits, with the node's default filled in) or, narrower, a
 * token's (struct token_limits). That one is for the token's subject, all its connections together,
 * as the token says that it came with last; but event_bytes, which is for the connection. Both
 * hold. What holds is read from the tenant at each use, so that a change applies at once.
 *
 * Nodes tell each other ten times a second what changed (PEER_USE): connections and subscriptions
 * are counted over all; a rate is shared by where the traffic is (tenancy/budget.h). What a node
 * knows of others is as old as that: so many more connections than allowed may get in. Nodes that
 * live and have no link take an equal part each. */
#ifndef LEAT_NODE_LIMITS_H
#define LEAT_NODE_LIMITS_H

#include "base/buf.h"
#include "base/err.h"
#include "node/net/loop.h"
#include "node/peer/peer.h"
#include "tenancy/registry.h"
#include "tenancy/token.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

enum limit {
#define LIMIT(NAME, name, column, narrowed, advice) LIMIT_##NAME,
#include "node/limits/limits.def"
#undef LIMIT
	LIMIT_COUNT,
};

const char *limit_name(enum limit which); /* "connections" */

enum {
	/* A publish that stood at the front so long, or behind what takes so long at the tenant's
	 * rate, is refused where the client can be told. */
	LIMITS_PATIENCE_MS = 5000,
	LIMITS_TELL_MS = 10000, /* a tenant is told of each limit so often at most */
};

struct account; /* what a tenant, or one of its subjects, uses */
struct limits;

struct limits_settings {
	struct loop *loop; /* borrowed, as the rest */
	struct registry *registry;
	struct bus *bus;  /* NULL = what is in the database is not known */
	const char *node; /* its name, for those who are told */
	/* A publish of this connection that had to wait may be tried again. */
	void (*on_room)(void *arg, uint64_t conn_id);
	/* Publish an event of the tenant's own, at a topic in $leat/. */
	void (*publish)(void *arg, const struct tenant *t, const char *topic, struct slice json);
	/* What a connection that watches is to be sent of its tenant's usage. */
	void (*on_usage)(void *arg, uint64_t conn_id, struct slice json);
	void *arg;
};

struct limits_stats {
	uint64_t refused[LIMIT_COUNT]; /* what was not let in because of it; backlog: skipped events
	                                */
	uint64_t slowed[LIMIT_COUNT];  /* times a connection, or what was published in SQL, had to
	                                  wait */
	uint64_t told;                 /* events at $leat/limits */
	uint64_t waiting;              /* connections that wait now */
};

struct limits *limits_new(const struct limits_settings *settings);
void limits_free(struct limits *l); /* after its guests; NULL does nothing */
void limits_get_stats(const struct limits *l, struct limits_stats *out);

/* ---- guests: connections that were let in; the struct is theirs, zeroed before --------------- */

struct limits_guest {
	struct account *tenant;  /* NULL = it is not in */
	struct account *subject; /* its token narrows something; or NULL */
	uint64_t conn_id;
	uint64_t event_bytes; /* as its token narrows them; 0 = it does not */
	bool subscribed;      /* it counts as a subscription */
	bool watching;
	bool untold;              /* it watches, and what the database has is being asked for it */
	bool resumed;             /* it waited, and has not had its turn since */
	bool may_refuse;          /* as its last publish said */
	bool waits_for_stock;     /* not for a rate */
	uint16_t refusals;        /* since it last waited */
	uint64_t waits_since_ms;  /* 0 = its last publish did not have to */
	struct account *waits_at; /* NULL = it does not wait */
	TAILQ_ENTRY(limits_guest) wait_link;
	TAILQ_ENTRY(limits_guest) watch_link;
};

bool limits_has_room(const struct limits *l,
                     const struct claims *who); /* for one more connection */
/* Let a connection in: -1 and e says which limit forbids it. replaces: another of its client goes
 * in its stead, so that it may come at the limit. */
int limits_enter(struct limits *l, struct limits_guest *g, uint64_t conn_id,
                 const struct claims *who, bool replaces, struct err *e);
void limits_renew(struct limits *l, struct limits_guest *g, const struct claims *who);
void limits_leave(struct limits *l, struct limits_guest *g); /* also one that is not in */

enum limits_verdict {
	LIMITS_PASS,   /* and it is counted */
	LIMITS_WAIT,   /* stop reading; on_room tells when to try again */
	LIMITS_REFUSE, /* e says why */
};

struct limits_publish {
	size_t bytes;  /* of the payload */
	size_t packet; /* of the whole packet */
	size_t behind; /* what the client sent after it and is here already, bytes */
	bool may_refuse;
};

enum limits_verdict limits_publish(struct limits *l, struct limits_guest *g,
                                   const struct limits_publish *p, struct err *e);

/* May an event have so many bytes? 0, or -1 and e. */
int limits_event(struct limits *l, const struct limits_guest *g, size_t bytes, struct err *e);
/* May a will be published, whose client was lost? There is nobody to answer to: beyond a rate it is
 * put off for as long as a publish would wait, and what would have to wait longer, or finds the
 * storage full, is not published. false: it was counted, and the tenant told. */
bool limits_will(struct limits *l, const struct limits_guest *g, size_t bytes,
                 uint64_t *put_off_ms);
/* May an event be scheduled? 0, and it is counted until limits_settled says what became of it; or
 * -1 and e. Not before limits_knows. */
int limits_schedule(struct limits *l, const struct limits_guest *g, struct err *e);
/* How many are scheduled is known. If not, the connection waits as at a rate: on_room tells. */
bool limits_knows(struct limits *l, struct limits_guest *g);
/* May the session become a subscription that ends with it? 0, or -1 and e. */
int limits_subscribe(struct limits *l, const struct limits_guest *g, struct err *e);
void limits_subscribed(struct limits *l, struct limits_guest *g, bool yes); /* it is, or is not */

/* ---- what is in the database -------------------------------------------------------------------
 *
 * Subscriptions with a row and scheduled events are counted there, once a second at most; what is
 * added here is counted from the moment that it is let in, whatever the answer has seen of it. So
 * this node never lets in more than there is room for. What others add is known with the next
 * answer; what is removed, too. */

/* Room for one more of them, which is counted until limits_settled. WAIT: whether there is any is
 * not known yet; ask again in a moment. REFUSE is not told to the tenant: see limits_full. */
enum limits_verdict limits_reserve(struct limits *l, const struct tenant *t, enum limit which);
/* May an event become a dead letter? If so it is counted until limits_settled. Before the first
 * answer it may. */
bool limits_bury(struct limits *l, const struct tenant *t);
/* So many that were let in are stored; or will not be. */
void limits_settled(struct limits *l, uint32_t tenant_id, enum limit which, uint64_t n,
                    bool stored);
/* Something was refused because of it: count it and tell the tenant. */
void limits_full(struct limits *l, const struct tenant *t, enum limit which);

/* Of what was published in SQL, of this node as the one that moves it: how much of the tenant's may
 * be moved now (later: `scheduled` is asked for, too); and what became of it. It has a part of the
 * tenant's rates like one connection that publishes, and what is beyond them waits. */
void limits_may_move(struct limits *l, uint32_t tenant_id, bool later, struct bus_allowance *out);
void limits_moved(struct limits *l, const struct bus_collected *of);

/* Of schedules and what is due, of this node as the one that moves it: whose ticks are to be left
 * out, since those before are not made good at its rate (how many; an array to free()); and what
 * became of them. */
size_t limits_over(struct limits *l, uint32_t **tenants);
void limits_ticked(struct limits *l, const struct bus_ticked *of);

/* Somebody else found a limit reached: count it and tell the tenant. */
void limits_reached(struct limits *l, const struct tenant *t, enum limit which, uint64_t used,
                    uint64_t times);

/* Something has to wait because of it: likewise. */
void limits_slowed(struct limits *l, const struct tenant *t, enum limit which, uint64_t used);

/* ---- usage ----------------------------------------------------------------------------------- */

/* From now on the connection is sent its tenant's usage, at once and every ten seconds; or not. */
void limits_watch(struct limits *l, struct limits_guest *g, bool yes);

/* ---- what changes ---------------------------------------------------------------------------- */

void limits_on_tenant(struct limits *l, const struct tenant *t); /* its limits may be others */

/* Links to the other nodes; NULL = none. live: other nodes with a session. */
void limits_set_port(struct limits *l, const struct peer_port *port);
void limits_on_peers(struct limits *l, size_t live);
void limits_on_peer_up(struct limits *l, const struct id128 *peer);
void limits_on_peer_down(struct limits *l, const struct id128 *peer);
void limits_on_peer_message(struct limits *l, const struct id128 *peer,
                            const struct peer_message *m);

#endif
