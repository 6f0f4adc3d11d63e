/* wire: the socket under a connection and what is done to its bytes on the way: nothing, or TLS.
 * conn.c's lower half; loop thread only. No callbacks, no policy.
 *
 * OpenSSL never sees the socket. It reads from and writes to the process's two shared buffers
 * (struct wire_io) through a BIO of ours: one recv feeds many records, many records leave with one
 * send, SSL_write never blocks and so never has to be repeated, and an idle connection holds no
 * buffer. Everything that was received is decrypted at once, so nothing lies hidden in OpenSSL
 * while the socket is silent. */
#ifndef LEAT_NODE_WIRE_H
#define LEAT_NODE_WIRE_H

#include "base/buf.h"
#include "base/err.h"
#include "node/net/tls.h"

#include <stdbool.h>
#include <stddef.h>

enum {
	WIRE_RECV = 64 * 1024,   /* bytes taken from a socket in one turn */
	WIRE_RECORD = 16 * 1024, /* the largest TLS record's payload */
	/* more than WIRE_RECV bytes and the rest of an earlier record can decrypt to */
	WIRE_PLAIN = WIRE_RECV + 2 * WIRE_RECORD,
};

struct outq;
struct wire_io; /* the shared buffers, one for all wires of a loop */

/* How a step ended. */
enum wire_result {
	WIRE_OK,    /* done, or some bytes */
	WIRE_AGAIN, /* the socket has (takes) no more for now */
	WIRE_EOF,   /* the peer closed its direction */
	WIRE_FAIL,  /* struct err says how */
};

struct wire {
	int fd;   /* -1 = closed */
	SSL *ssl; /* NULL = plain */
	struct wire_io *io;
	struct buf left; /* encrypted, waiting for the socket to take it */
};

struct wire_io *wire_io_new(void);
void wire_io_free(struct wire_io *io);

void wire_init(struct wire *w, struct wire_io *io, int fd);
void wire_set_tls(struct wire *w, SSL *ssl); /* takes ssl */
void wire_close(struct wire *w);             /* the fd, now; w's memory stays */
void wire_release(struct wire *w);

/* One recv into the shared buffer. Plain: OK = *n bytes at wire_io_plain. TLS: OK = call
 * wire_handshake or wire_decrypt with it at once. */
enum wire_result wire_recv(struct wire *w, size_t *n, struct err *e);
enum wire_result wire_handshake(struct wire *w, struct err *e);
/* Everything received so far as plaintext at wire_io_plain, at most WIRE_PLAIN bytes. EOF = these
 * are the last. */
enum wire_result wire_decrypt(struct wire *w, size_t *n, struct err *e);
char *wire_io_plain(struct wire_io *io);

/* Send what the socket takes. OK = all gone; AGAIN = wait until it is writable. */
enum wire_result wire_send(struct wire *w, struct outq *q, struct err *e);
/* Say goodbye (close_notify); OK = sent along with FIN, AGAIN = as above, call again. */
enum wire_result wire_bye(struct wire *w, struct err *e);

#endif
