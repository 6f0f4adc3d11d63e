/* links: this node's links to all the others: who there is (said by the backend's looks at the
 * session table), whom to dial, which of two links with one peer stays, who may send how much. One
 * per node; loop thread only.
 *
 * Links are mutual TLS 1.3: by a cluster key that all nodes have, or by certificates of one CA,
 * both verified. Which session a peer says it is counts for nothing until a look at the database
 * has shown that session live.
 *
 * One link per pair: of two, the one dialled by the lower session id stays. A link that goes is
 * dialled again, with growing pauses, while the peer's session lives. */
#ifndef LEAT_NODE_PEER_LINKS_H
#define LEAT_NODE_PEER_LINKS_H

#include "base/err.h"
#include "base/id128.h"
#include "node/net/addr.h"
#include "node/peer/peer.h"
#include "node/peer/peer_codec.h"

#include <stddef.h>
#include <stdint.h>

struct links;
struct loop;
struct tls_psks;

enum {
	LINKS_QUEUE_MAX = 8 << 20, /* bytes for one peer; above it send() refuses … */
	LINKS_QUEUE_ROOM = LINKS_QUEUE_MAX / 2, /* … and below it on_room is called */
	/* What is not refused comes to this where nothing is taken: then the link is given up. */
	LINKS_QUEUE_LIMIT = 2 * LINKS_QUEUE_MAX,
};

struct links_settings {
	struct loop *loop;
	struct addr listen; /* port 0 = a free one */
	/* Where others reach us. Host "" = the one listened on, or the machine's name; port 0 = the
	 * bound one. */
	struct addr advertise;

	const struct tls_psks *psks; /* the cluster key; NULL = the three files. Copied */
	const char *cert_file;
	const char *key_file;
	const char *ca_file;

	uint32_t silent_ms; /* a peer that is silent so long is cut; 0 = 5 s */

	struct peer_events events; /* to whom everything is told */
	void (*look)(void *arg);   /* somebody unknown said HELLO: look at the sessions now */
	void *arg;
};

struct links_stats {
	size_t up;
	size_t known;      /* other nodes with a live session */
	uint64_t refused;  /* connections that did not prove they belong here */
	uint64_t lost;     /* links that were up and went */
	uint64_t dropped;  /* hints to peers whose queue was full */
	uint64_t bytes_in; /* before encryption */
	uint64_t bytes_out;
	uint64_t messages_in[PEER_TYPES]; /* by enum peer_type */
	uint64_t messages_out[PEER_TYPES];
};

struct links *links_new(const struct links_settings *settings, struct err *e);
void links_free(struct links *l); /* on_down is not called any more */

/* What new links are made with from now on: this key, or the three files as they are now. Links
 * that are up stay. -1: nothing has changed. */
int links_reload(struct links *l, const struct tls_psks *psks, struct err *e);

const char *links_addr(const struct links *l); /* for our session's row; HOST:PORT */
struct peer_port *links_port(struct links *l);
void links_get_stats(const struct links *l, struct links_stats *out);

/* Our session, or a new one: what was linked before goes. */
void links_on_session(struct links *l, const struct id128 *me);
/* bus_events.on_peers */
void links_on_peers(struct links *l, const struct bus_peer *peers, size_t n);

#endif
