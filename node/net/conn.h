/* conn: one TCP connection, TLS or plain, accepted or outgoing. Loop thread only.
 *
 * A connection tells its protocol eight things (struct conn_ops) and takes bytes. Output written
 * during a turn leaves at the end of the turn in as few TLS records and system calls as possible.
 * No callback is ever made from inside a conn_* call: conn_close only marks, on_closed comes at the
 * end of the turn, and the memory goes right after it. Until then the pointer stays valid.
 * Whoever stores a connection across turns stores its id and uses conn_find. */
#ifndef LEAT_NODE_CONN_H
#define LEAT_NODE_CONN_H

#include "base/err.h"
#include "base/slice.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct timeshare_account;
struct conn;
struct conn_table;
struct loop;
struct tls_client;
struct tls_server;

enum { CONN_PEER_TEXT = 56 }; /* bytes for "[address]:port" and its NUL */

enum conn_state {
	CONN_CONNECTING, /* TCP connect under way */
	CONN_HANDSHAKE,  /* TLS handshake under way */
	CONN_READY,      /* bytes flow */
	CONN_FINISHING,  /* conn_finish: output drains, input is discarded */
	CONN_CLOSED,     /* on_closed is due at the end of this turn */
};

/* Who has paused reading; a connection reads when no bit is set. */
enum conn_pause {
	CONN_PAUSE_RATE = 1 << 0,    /* the tenant's rate quota */
	CONN_PAUSE_OUTPUT = 1 << 1,  /* our answers do not drain */
	CONN_PAUSE_JOURNAL = 1 << 2, /* too many publishes wait for a commit */
	CONN_PAUSE_SESSION = 1 << 3, /* the session is being opened or taken over */
	CONN_PAUSE_USER = 1 << 4,    /* anything else the protocol wants */
};

/* Any of these may be NULL and any of them may close any connection. */
struct conn_ops {
	/* Bytes may flow: the handshake (TLS) or the connect (plain, outgoing) is done. */
	void (*on_ready)(struct conn *c, void *arg);
	/* n bytes of input; returns how many were consumed. The rest comes again, in front of
	 * what arrives next, or when reading is resumed. NULL discards input. */
	size_t (*on_data)(struct conn *c, void *arg, const char *p, size_t n);
	/* Output had been above high water and is now below low water. */
	void (*on_lowat)(struct conn *c, void *arg);
	/* The peer will send no more; writing still works. NULL = conn_close(c, "eof"). While
	 * paused it is told of within 0.1 s, unless it sent something before, which comes first. */
	void (*on_eof)(struct conn *c, void *arg);
	/* It will send no more, and the last n bytes wait as reading is paused. True: they do not
	 * matter, and on_eof comes now. NULL = they do. */
	bool (*on_left)(struct conn *c, void *arg, const char *p, size_t n);
	/* The protocol's deadline passed; it is unset now. NULL = conn_close(c, "timeout"). */
	void (*on_timeout)(struct conn *c, void *arg, int kind);
	/* The connection failed (text says how); it is closed after this returns. */
	void (*on_error)(struct conn *c, void *arg, const char *text);
	/* The last call. reason is what conn_close or conn_finish was given, or ours. */
	void (*on_closed)(struct conn *c, void *arg, const char *reason);
};

/* ---- the table: all connections of the process */

struct conn_table *conn_table_new(struct loop *l);
void conn_table_free(struct conn_table *t); /* closes what is left, with on_closed */
void conn_close_all(struct conn_table *t, const char *reason); /* likewise; between turns */
struct conn *conn_find(struct conn_table *t, uint64_t id);     /* NULL when gone or closed */
size_t conn_count(const struct conn_table *t);                 /* not yet closed */
size_t conn_handshakes(const struct conn_table *t); /* of those, still in the handshake */
/* Walk the open connections: size_t at = 0; while ((c = conn_next(t, &at))) … */
struct conn *conn_next(struct conn_table *t, size_t *at);

/* ---- making one */

/* Take over an accepted, non-blocking fd; tls NULL = plain. on_ready comes later, never from
 * here. ops and arg are borrowed until on_closed; see conn_set_ops. */
struct conn *conn_accept(struct conn_table *t, int fd, struct tls_server *tls,
                         const struct conn_ops *ops, void *arg);

/* Begin to connect to addr ("host:port"); tls NULL = plain, else the certificate must name host.
 * A host *name* is looked up here and now, which blocks: nodes use numeric addresses. -1 = the
 * address is bad; a refused connection is reported by on_error like any other failure. */
struct conn *conn_connect(struct conn_table *t, const char *addr, struct tls_client *tls,
                          const struct conn_ops *ops, void *arg, struct err *e);

/* Hand the connection to another protocol object, usually in on_ready: connections that never get
 * that far then need none. */
void conn_set_ops(struct conn *c, const struct conn_ops *ops, void *arg);

/* Whose time it takes to read from it and to handle what was read, and to encrypt and send: taken
 * with the references that the caller has. NULL, as in the beginning: nobody's, it is done whenever
 * there is something. */
void conn_set_accounts(struct conn *c, struct timeshare_account *reading,
                       struct timeshare_account *writing);
/* In on_data, now and then: true = its tenant's time in this turn is over, return what was
 * consumed; the rest comes again in a later turn. */
bool conn_yield(struct conn *c);

/* ---- about it */

uint64_t conn_id(const struct conn *c); /* never 0, never used again */
enum conn_state conn_state(const struct conn *c);
void *conn_arg(const struct conn *c);
const char *conn_peer(const struct conn *c, char out[CONN_PEER_TEXT]); /* returns out */
struct slice conn_peer_ip(const struct conn *c);                       /* 4 or 16 raw bytes */
const char *conn_tls_version(const struct conn *c);                    /* "" when plain */
const char *conn_tls_cipher(const struct conn *c);                     /* "" when plain */
/* The good certificate that it showed, where it was asked for one; false: none. */
struct tls_shown;
bool conn_tls_shown(const struct conn *c, struct tls_shown *out);
const char *conn_tls_sni(const struct conn *c);                /* "" when none */
const char *conn_tls_alpn(const struct conn *c, char out[32]); /* "" when none */

/* ---- input */

void conn_pause_read(struct conn *c, enum conn_pause who);
void conn_resume_read(struct conn *c, enum conn_pause who); /* kept input comes in the next turn */
bool conn_paused(const struct conn *c, enum conn_pause who);
/* The longest unfinished packet kept while not paused, bytes (default 64 KiB); above it the
 * connection fails. While paused up to 64 KiB more are kept. */
void conn_set_max_pending(struct conn *c, size_t bytes);

/* ---- output. Writing to a connection that is closing or closed does nothing. */

void conn_write(struct conn *c, const void *p, size_t n); /* copies */
/* References p until it is sent or the connection goes, then calls release(owner) once. Worth it
 * from about 4 KiB; below that it copies and releases at once. release must not call conn_*. */
void conn_write_ref(struct conn *c, const void *p, size_t n, void *owner, void (*release)(void *));
size_t conn_output_bytes(const struct conn *c); /* written but not yet taken by the kernel */
bool conn_above_high(const struct conn *c);     /* 256 KiB: stop producing until on_lowat, at 64 */
void conn_flush(struct conn *c);                /* now instead of at the end of the turn */

/* ---- time. One deadline, from on_ready on (before that and in conn_finish it is ours), kept by a
 * sweep: late by up to 100 ms. Setting replaces. */

void conn_set_deadline(struct conn *c, uint64_t ms, int kind); /* from now; 0 = none */

/* ---- the end */

void conn_close(struct conn *c, const char *reason); /* drop now; reason: a literal, logged */
/* Send what is queued, say goodbye (close_notify, FIN) and close when the peer has too, at the
 * latest after linger_ms. No on_data any more. */
void conn_finish(struct conn *c, const char *reason, uint64_t linger_ms);

#endif
