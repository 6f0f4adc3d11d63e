/* listener: accepts TCP connections on one address and turns them into conns. Loop thread only.
 *
 * It stops by itself for a while when the process is out of descriptors, when max_conns are open
 * or when max_handshakes are unfinished; waiting clients then queue in the kernel. conn.c bounds
 * the processor time that handshakes take in a turn. */
#ifndef LEAT_NODE_LISTENER_H
#define LEAT_NODE_LISTENER_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct addr;
struct conn_ops;
struct conn_table;
struct listener;
struct loop;
struct spread;
struct tls_server;

struct listener_options {
	const char *name;           /* "mqtt": for the log */
	const char *addr;           /* "host:port"; port 0 = a free one */
	int fd;                     /* an inherited, bound socket instead of addr; 0 = none */
	struct spread *spread;      /* of the processes that share it; NULL = nobody does */
	unsigned slot;              /* this process's in it */
	struct tls_server *tls;     /* borrowed; NULL = plain */
	const struct conn_ops *ops; /* for every accepted connection, with arg */
	void *arg;
	size_t max_conns;      /* open connections of the table; 0 = 100,000 */
	size_t max_handshakes; /* unfinished handshakes of the table; 0 = 4,096 */
};

struct listener *listener_new(struct loop *l, struct conn_table *t,
                              const struct listener_options *o, struct err *e);
void listener_free(struct listener *l); /* its connections stay */
void listener_stop(struct listener *l); /* accept no more: the socket is closed. For draining */

uint16_t listener_port(const struct listener *l); /* the bound one */
void listener_addr(const struct listener *l, struct addr *out);

/* A socket without a listener, -1 = no. Bound but not listening, for processes forked to share it:
 * clients are refused until the first of them has a listener. Open: it listens. */
int listener_bind(const char *addr, struct err *e);
int listener_open(const char *addr, struct err *e);

#endif
