/* conn_impl: the inside of a connection, shared by conn.c (life: states, making one, the end),
 * conn_input.c (what comes from the peer), conn_output.c (what goes there) and conn_table.c (all of
 * them together: ids, deadlines, whose turn it is). The table owns its connections. Everybody else
 * has conn.h. Loop thread only. */
#ifndef LEAT_NODE_CONN_IMPL_H
#define LEAT_NODE_CONN_IMPL_H

#include "base/buf.h"
#include "node/net/conn.h"
#include "node/net/outq.h"
#include "node/net/wire.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

enum {
	CONN_SMALL_PENDING = 4096, /* up to this, kept input is copied in front of new; bytes */
	CONN_PLAIN_ROOM = WIRE_PLAIN + CONN_SMALL_PENDING,
};

/* The lists a connection can be on; see struct conn_table. */
enum conn_list {
	CONN_LIST_DIRTY = 1 << 0,
	CONN_LIST_RESUMED = 1 << 1,
	CONN_LIST_WAITING = 1 << 2,
};

struct conn {
	struct wire wire;
	struct event readable;
	struct event writable;
	struct conn_table *table;
	uint64_t id;
	const struct conn_ops *ops;
	void *arg;
	enum conn_state state;
	uint8_t lists;  /* enum conn_list */
	uint8_t paused; /* enum conn_pause */
	bool reading;   /* `readable` is added */
	bool watched;   /* paused for a while: `hangup` tells if its peer goes */
	bool writing;   /* `writable` is added: the socket is full */
	bool above;     /* output went above high water and not yet below low */
	bool eof;       /* the peer closed its direction */
	bool eof_told;  /* … and on_eof was called */
	bool said_bye;  /* close_notify and FIN are out */
	uint8_t ip_len; /* 4, 16, or 0 */
	uint8_t ip[16];
	uint16_t port;
	int deadline_kind;
	/* input */
	struct timeshare_account *read_time; /* NULL = nobody's */
	uint64_t read_round;                 /* see timeshare_turn */
	uint64_t read_began_us;              /* see timeshare_go_on */
	bool yielded;                        /* the rest of what it has is for another turn */
	struct buf pending;                  /* not yet consumed by on_data */
	size_t max_pending;
	/* output */
	struct timeshare_account *write_time;
	uint64_t write_round;
	struct outq out;
	/* a TLS connection before its SSL is made: on the first bytes, so that clients which
	 * connect and say nothing cost next to nothing */
	struct tls_server *tls_server;
	struct tls_client *tls_client;
	char *host; /* to verify; outgoing only */
	/* the end */
	const char *reason;
	char *error; /* for on_error, or NULL */
	TAILQ_ENTRY(conn) dirty;
	TAILQ_ENTRY(conn) resumed;
	TAILQ_ENTRY(conn) waiting;
	TAILQ_ENTRY(conn) closed;
};

TAILQ_HEAD(conn_queue, conn);

/* Deadlines sit together here, so that a sweep over ten thousand idle connections reads a few
 * hundred kilobytes in a row and wakes nobody. */
struct conn_slot {
	struct conn *conn;    /* NULL = free */
	uint64_t deadline_ms; /* 0 = none */
	uint32_t generation;  /* of the id; raised when the slot is freed */
	uint32_t next_free;
};

struct conn_table {
	struct loop *loop;
	struct wire_io *io;
	struct loop_timer *sweep;
	struct hangup *hangup;
	struct conn_slot *slots; /* slot 0 is never used */
	uint32_t slots_used;
	uint32_t slots_cap;
	uint32_t free_slot; /* 0 = none */
	size_t count;
	size_t handshakes;
	uint64_t handshake_us; /* spent in this turn */
	bool delivering;       /* conn_show_resumed is deferred */
	size_t dirty_count;
	size_t resumed_count;
	struct conn_queue dirty;   /* output to flush at the end of the turn */
	struct conn_queue resumed; /* kept input to present again, or on_ready due */
	struct conn_queue waiting; /* paused, and not watched yet: most do not wait for long */
	struct conn_queue closed;  /* on_closed due */
	/* kept input in front of new input, for on_data; see present() in conn_input.c */
	char input[CONN_PLAIN_ROOM];
};

/* ---- conn.c */

void conn_set_state(struct conn *c, enum conn_state to, const char *why); /* alone writes it */
void conn_update_reading(struct conn *c); /* after what decides whether it reads has changed */
void conn_set_writing(struct conn *c, bool want);
void conn_start_tls(struct conn *c);
void conn_handshake(struct conn *c); /* one step of it, with what was received */
void conn_become_ready(struct conn *c);
void conn_connected(struct conn *c);              /* or not: the socket knows */
void conn_expired(struct conn *c);                /* its deadline passed */
void conn_fail(struct conn *c, const char *text); /* closes it; on_error and on_closed come later */
void conn_free(struct conn *c);

/* ---- conn_input.c */

void conn_on_readable(evutil_socket_t fd, short what, void *arg);
void conn_show_resumed(void *arg); /* deferred: what was kept while they did not read */
void conn_left(struct conn *c);    /* its peer has gone while it does not read */

/* ---- conn_output.c */

void conn_on_writable(evutil_socket_t fd, short what, void *arg);
/* Once round the list as it is now; callbacks may add to it and take from it. Whose tenant has no
 * time left goes to its end, behind those that waited longer. Returns how many. */
size_t conn_flush_dirty(struct conn_table *t);

/* ---- conn_table.c */

void conn_slot_take(struct conn_table *t, struct conn *c); /* gives it its id */
void conn_slot_give(struct conn *c);
void conn_deadline_in(struct conn *c, uint64_t ms); /* 0 = none */
void conn_mark_dirty(struct conn *c);
void conn_mark_resumed(struct conn *c);
/* Whether it is to be told of if its peer goes has perhaps changed. */
void conn_update_watch(struct conn *c);
void conn_unlist(struct conn *c, enum conn_list list);

#endif
