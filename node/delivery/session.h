/* session: what MQTT keeps for one client id of one (tenant, subject), with or without a
 * connection: its subscriptions, its in-flight deliveries and their packet ids. Protocol code
 * (node/mqtt/mqtt.c) attaches a connection to it; dispatch delivers through it. A clean session
 * lives in memory and ends with its connection; a session with an expiry is a durable subscription
 * in the database that this node owns while the client is here. Loop thread only.
 *
 * Everything that may need the database answers through a callback, never before the call returned;
 * the callback names the connection by id, as it may be gone (then it is not called at all). */
#ifndef LEAT_NODE_SESSION_H
#define LEAT_NODE_SESSION_H

#include "base/slice.h"
#include "cluster/batch.h"
#include "cluster/bus.h"
#include "cluster/event.h"
#include "node/delivery/gaps.h"
#include "tenancy/tenant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct session;
struct dispatch; /* node/delivery/dispatch.h: owns the sessions */

enum {
	SESSION_RECEIVE_MAX =
	        1024,              /* most deliveries in flight to one client, whatever it allows */
	SESSION_FILTERS_MAX = 100, /* filters of one session */
	SESSION_FOREVER = UINT32_MAX, /* expiry: never */
};

/* ---- the connection's side ----------------------------------------------------------------------
 */

/* One PUBLISH to send. Everything is borrowed for the call; keep `owner` with batch_ref() if the
 * payload is to be referenced instead of copied. */
struct outgoing {
	const struct event *ev;
	struct batch *owner;
	uint16_t packet_id; /* 0 at QoS 0 */
	uint8_t qos;        /* 0 or 1 */
	bool dup;           /* sent before in this session under the same packet id */
	bool retain;        /* Retain As Published kept it (later); else false */
	const uint32_t *subscription_ids;
	size_t n_subscription_ids;
	uint32_t expiry_s; /* remaining lifetime in seconds, rounded up; 0 = none */
	struct gap gap;    /* of its subscription, went undelivered before it; to 0 = none */
	uint32_t gap_partition;
	uint32_t attempt; /* of a queue's event, from 1; 0 = it is not of a queue */
};

/* What a session asks of the connection it is attached to. `conn` is the attach argument. */
struct session_conn_ops {
	bool (*can_send)(void *conn);                         /* output below high water? */
	void (*send)(void *conn, const struct outgoing *out); /* queue one PUBLISH */
	/* The session was taken over by a newer connection, or lost to another node, or its
	 * tenant's data went away: send DISCONNECT with this MQTT 5 reason code and close. The
	 * session has already let go of the connection. */
	void (*kick)(void *conn, uint8_t reason, const char *text);
	/* May its client subscribe to this filter? NULL = to any. */
	bool (*may_subscribe)(void *conn, struct slice filter);
};

/* ---- opening ------------------------------------------------------------------------------------
 */

struct session_open {
	const struct tenant *tenant;
	struct slice subject;   /* of the verified token */
	struct slice client_id; /* not empty; bytes as the client sent them */
	bool clean_start;
	uint32_t expiry_s;    /* 0: ends with the connection */
	uint16_t receive_max; /* the client's Receive Maximum */
	uint64_t conn_id;
	const struct session_conn_ops *ops;
	void *conn;
	/* s != NULL: attached; `present` for CONNACK; the session's deliveries begin after the
	 * callback returned and session_start() was called (i.e. after CONNACK was written).
	 * s == NULL: refused; reason is an MQTT 5 CONNACK code, text says why. */
	void (*done)(void *conn, struct session *s, bool present, uint8_t reason, const char *text);
};

void session_open(struct dispatch *d, const struct session_open *req);
void session_start(struct session *s);

/* The connection is gone or going. Expiry may be changed by DISCONNECT (keep = the one in force).
 * After this the session never touches the connection again. */
void session_detach(struct session *s, uint32_t expiry_s);
/* A connection that died while session_open was under way: done will not be called. */
void session_open_cancel(struct dispatch *d, uint64_t conn_id);

struct slice session_client_id(const struct session *s);
uint32_t session_expiry(const struct session *s);

/* ---- subscribing --------------------------------------------------------------------------------
 */

enum session_start_at {
	SESSION_START_NEW,      /* what is published after the SUBSCRIBE */
	SESSION_START_EARLIEST, /* everything retention has left */
	SESSION_START_SEQ,      /* sequence number `start_value` of every partition */
	SESSION_START_TIME,     /* milliseconds since 1970 in `start_value` */
	SESSION_START_HEAD,     /* `until` alone: what is stored by the time it is asked */
};

struct session_filter {
	struct slice filter; /* as the client sent it; authorised already, but for $queue/NAME,
	                      * which is by may_subscribe() when the queue's own filter is known */
	uint8_t qos;         /* granted: 0 or 1 */
	bool no_local;
	bool retain_as_published;
	uint8_t retain_handling;
	uint32_t subscription_id; /* 0 = none */
	uint8_t reason;           /* out: SUBACK code (granted QoS or >= 0x80) */
};

struct session_subscribe {
	struct session_filter
	        *filters; /* copied; entries whose reason is already >= 0x80 are skipped */
	size_t n;
	enum session_start_at start; /* only where it creates the position: a session's first
	                              * SUBSCRIBE, a shared subscription that is new */
	uint64_t start_value;
	bool bounded; /* where it creates the position: nothing from `until` on is delivered */
	enum session_start_at until; /* HEAD, SEQ or TIME */
	uint64_t until_value;
	struct bus_policy policy; /* of the queue that it makes */
	uint16_t packet_id;
	/* reasons[n] in request order; text NULL or why something failed. */
	void (*done)(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
	             const char *text);
};

void session_subscribe(struct session *s, const struct session_subscribe *req);

struct session_unsubscribe {
	const struct slice *filters;
	size_t n;
	uint16_t packet_id;
	/* reasons: 0x00 done, 0x11 no subscription existed, >= 0x80 failed */
	void (*done)(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
	             const char *text);
};

void session_unsubscribe(struct session *s, const struct session_unsubscribe *req);

/* Walk the stored filters (CONNECT authorises them again); fn returns false to drop one. */
void session_filters_check(struct session *s, bool (*fn)(void *arg, struct slice filter),
                           void *arg);

/* ---- delivering ---------------------------------------------------------------------------------
 */

/* PUBACK from the client. False when no such packet id is in flight (answer nothing, it is legal
 * after a generation change; MQTT asks for no error). reason >= 0x80 counts as done for plain and
 * shared subscriptions ([MQTT-4.8.2-6]). */
bool session_puback(struct session *s, uint16_t packet_id, uint8_t reason);
/* The same with what the client says about it: of a queue's event, reason >= 0x80 is a failed
 * attempt, 0x99 the last one, and text (or the code) says why. */
bool session_answer(struct session *s, uint16_t packet_id, uint8_t reason, struct slice text);
/* The connection's output fell below low water: deliver on. */
void session_writable(struct session *s);

#endif
