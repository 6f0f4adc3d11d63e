/* link: one connection between two nodes, dialled or accepted. Who dialled says HELLO; the other
 * one's owner judges that, and only then answers with its own: so the link is up for the dialler
 * when it is for both. Then it carries messages (node/peer/peer_codec.h); it pings, and cuts a peer
 * that is silent, takes nothing or talks nonsense. Owned by links.c; loop thread only. Calls are
 * made to the owner from the loop, never from inside a link_* call. */
#ifndef LEAT_NODE_PEER_LINK_H
#define LEAT_NODE_PEER_LINK_H

#include "base/err.h"
#include "base/id128.h"
#include "node/peer/peer_codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct conn;
struct conn_table;
struct tls_client;

/* A peer that says nothing for so long, or takes nothing, is cut; one that is not let in by then,
 * too. A ping is sent every fifth of it. */
enum { LINK_SILENT_MS = 5000 };

enum link_state {
	LINK_CONNECTING, /* TCP and TLS under way */
	LINK_GREETING,   /* their HELLO is not in */
	LINK_HELD,       /* theirs is in, the owner judges; nothing more is read */
	LINK_UP,
	LINK_CLOSED, /* on_closed is due */
};

struct link;

struct link_traffic { /* of all links of an owner */
	uint64_t messages_in[PEER_TYPES];
	uint64_t messages_out[PEER_TYPES];
	uint64_t bytes_in; /* before encryption; pings included, as below */
	uint64_t bytes_out;
};

/* What all links of an owner share: lives longer than they. */
struct link_owner {
	struct peer_hello hello; /* what we say */
	uint32_t silent_ms;
	struct peer_decoder decoder;
	struct buf frame; /* scratch */
	struct link_traffic traffic;
	void (*on_hello)(void *arg, struct link *k); /* now judge: link_begin or link_close */
	void (*on_message)(void *arg, struct link *k, const struct peer_message *m);
	/* The last call: k goes after it. */
	void (*on_closed)(void *arg, struct link *k, const char *reason);
	void *arg;
};

struct link {
	TAILQ_ENTRY(link) entry; /* the owner's */
	struct link_owner *owner;
	struct conn *conn;
	enum link_state state;
	bool begun;                  /* it was up */
	bool dialled;                /* by us */
	struct id128 target;         /* dialled: whom we want to reach; zero = accepted */
	struct id128 session_id;     /* who it is, since its HELLO */
	char addr[BUS_ADDR_MAX + 1]; /* where it is reached, as its HELLO says */
	uint64_t heard_ms;           /* clock_now_ms() when something last came */
	uint64_t pinged_ms;
	uint64_t written;    /* bytes, ever */
	uint64_t drained;    /* of those, with the kernel when last looked */
	uint64_t drained_ms; /* when that last changed, or nothing waited */
	char error[256];     /* for the log; "" = none */
};

TAILQ_HEAD(link_list, link);

/* addr: of that peer, in numbers: looking names up would block. */
struct link *link_dial(struct link_owner *o, struct conn_table *t, const struct bus_peer *to,
                       const char *addr, struct tls_client *tls, struct err *e);
struct link *link_accepted(struct link_owner *o, struct conn *ready);

void link_begin(struct link *k);                     /* LINK_HELD -> LINK_UP */
void link_close(struct link *k, const char *reason); /* a literal */

void link_send(struct link *k, const struct peer_message *m);
size_t link_queued(const struct link *k); /* bytes */

void link_tick(struct link *k); /* a few times a second */

#endif
