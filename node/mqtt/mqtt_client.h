/* mqtt_client: one MQTT connection, shared by the mqtt_*.c files and by nobody else. Made when the
 * TLS handshake is done, freed when the connection is. Loop thread only.
 *
 *     AWAIT_CONNECT → OPENING → CONNECTED → CLOSING
 *
 * OPENING: CONNECT was accepted and the session is being opened, reading is paused; not for longer
 * than settings.opening_ms. CLOSING: the last packet is written, the session let go.
 * mqtt_client_set_state alone moves it. */
#ifndef LEAT_NODE_MQTT_CLIENT_H
#define LEAT_NODE_MQTT_CLIENT_H

#include "base/buf.h"
#include "node/delivery/session.h"
#include "node/mqtt/mqtt.h"
#include "node/mqtt/mqtt_auth.h"
#include "node/mqtt/mqtt_codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

enum {
	MQTT_CONNECT_MS = 5000,           /* from the handshake to a whole CONNECT */
	MQTT_CONNECT_MAX = 16 * 1024,     /* bytes of a packet before authentication */
	MQTT_RECEIVE_MAX = 1024,          /* publishes of a client not yet answered */
	MQTT_SUBSCRIBE_MAX = 1000,        /* filters in one packet */
	MQTT_LINGER_MS = 2000,            /* to get the last packet out */
	MQTT_REF_BYTES = 4096,            /* from here on a payload is referenced, not copied */
	MQTT_DEADLINE_MAX_MS = 60 * 1000, /* wall clocks jump: look again at the latest then */
};

enum mqtt_state {
	MQTT_AWAIT_CONNECT,
	MQTT_OPENING,
	MQTT_CONNECTED,
	MQTT_CLOSING,
};

/* A QoS 1 publish that waits for its PUBACK; answers leave in the order of arrival
 * [MQTT-4.6.0-2], however the commits finish. */
struct mqtt_inbound {
	uint16_t packet_id;
	uint8_t reason; /* of the PUBACK, once answered */
	bool answered;
	uint32_t at_us; /* clock_us() when it was read, low bits */
	char *text;     /* reason string, owned; NULL = none */
};

struct mqtt_ring {
	struct mqtt_inbound *v;
	uint32_t cap;   /* a power of two, or 0 */
	uint32_t first; /* number of the oldest; v[number & (cap - 1)] */
	uint32_t n;
};

struct mqtt_client {
	LIST_ENTRY(mqtt_client) link;
	struct mqtt *mqtt;
	struct conn *conn;
	uint64_t conn_id;
	const char *insecure_tenant; /* NULL = a token is needed */
	enum mqtt_state state;

	/* as CONNECT said, and what became of it */
	uint8_t version;   /* enum mqtt_version */
	bool problem_info; /* reason strings on answers are welcome */
	bool auth_method;  /* MQTT 5 enhanced authentication: OAUTH2-JWT */
	bool assigned_id;
	bool clean_start;
	uint16_t keep_alive_s; /* 0 = off */
	uint32_t max_packet;   /* the client's, bytes; 0 = any */
	uint32_t session_expiry_s;
	bool session_expiry_capped;
	bool keep_alive_capped;
	char *client_id;
	struct claims who;           /* zeroed before authentication */
	struct usage_row *usage;     /* its tenant's; NULL before authentication */
	struct session *session;     /* set while CONNECTED */
	struct limits_guest guest;   /* from CONNECT to the end */
	bool present;                /* OPENING: what CONNACK is to say of it */
	struct mqtt_kept_will *will; /* NULL = none */
	bool will_stored;            /* it was handed to the appender */
	bool took_leave;             /* DISCONNECT 0x00 */

	uint64_t heard_ms; /* clock_now_ms() of its last packet */
	size_t unread;     /* bytes of output at the last look, while it waited for those */
	uint64_t read_us;  /* clock_us() of the input being handled */
	struct mqtt_ring inbound;
	bool ring_paused;     /* 3.1.1: too many unanswered, reading is paused */
	char *subscribe_text; /* why filters of the SUBSCRIBE under way were refused; NULL = none */
};

LIST_HEAD(mqtt_client_list, mqtt_client);

struct mqtt_listener_slot {
	struct mqtt *mqtt;
	char *tenant; /* NULL = tokens */
	struct mqtt_listener_slot *next;
};

/* A delivery above the client's Maximum Packet Size, to be settled at the turn's end. */
struct mqtt_too_large {
	uint64_t conn_id;
	uint16_t packet_id;
};

struct mqtt {
	struct mqtt_settings set;
	struct mqtt_stats stats;
	struct mqtt_listener_slot *slots;
	struct mqtt_client_list clients;
	bool stopping; /* mqtt_stop_publishing was called */

	struct buf out;     /* the packet being encoded; cleared by its user */
	struct buf props;   /* properties being collected for an event */
	struct buf more;    /* our own properties of a delivery */
	uint64_t answer_us; /* clock_us() of this turn's answers; 0 = not read yet */

	struct mqtt_too_large *too_large;
	size_t n_too_large;
	size_t cap_too_large;
	bool too_large_deferred;

	uint64_t log_second; /* the log's rate limit: clock second, lines in it */
	unsigned log_lines;
	unsigned log_dropped;
};

/* ---- mqtt.c */

void mqtt_client_set_state(struct mqtt_client *c, enum mqtt_state to);
/* Tell an MQTT 5 client why (DISCONNECT), close the connection, detach the session. */
void mqtt_client_fail(struct mqtt_client *c, uint8_t reason, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
/* Let go of the session, keeping it expiry_s, and close once what was written has left. */
void mqtt_client_end(struct mqtt_client *c, uint32_t expiry_s, const char *why);
void mqtt_client_arm(struct mqtt_client *c); /* set the deadline: keep-alive, token expiry */
/* Send what was encoded in m->out. */
void mqtt_client_send(struct mqtt_client *c);
/* A complaint about a client, at most 20 lines a second for all: false = say nothing now. */
bool mqtt_may_log(struct mqtt *m);
/* "conn=… tenant=… client=…" for log lines; good until the next call. */
const char *mqtt_client_name(const struct mqtt_client *c);

/* ---- packets, by file */

void mqtt_on_connect(struct mqtt_client *c, const struct mqtt_packet *p);
void mqtt_connect_refuse(struct mqtt_client *c, uint8_t version, uint8_t reason, const char *text);
void mqtt_on_auth(struct mqtt_client *c, const struct mqtt_packet *p);

void mqtt_connect_finish(struct mqtt_client *c); /* the session is open, the will stored */

enum { MQTT_ANSWER_WILL = 1 }; /* publisher.packet_id of a will that CONNACK waits for */
/* Keep the will, if there is one. -1: it cannot be, with the CONNACK code in e. */
int mqtt_will_take(struct mqtt_client *c, const struct mqtt_will *will, struct err *e);
/* Store it. True: mqtt_on_answer will be called for it, and CONNACK waits. */
bool mqtt_will_store(struct mqtt_client *c, bool present);
/* Publish it, or not; after its delay, or when the session is over: it is kept so long. */
void mqtt_will_end(struct mqtt_client *c, bool lost, uint32_t expiry_s);

/* behind: bytes of what the client sent after it and is here. False: its tenant's rate does not let
 * it pass yet; it is to stay where it is, and reading is paused. */
bool mqtt_on_publish(struct mqtt_client *c, const struct mqtt_packet *p, size_t behind);
void mqtt_ring_release(struct mqtt_ring *r);

void mqtt_on_subscribe(struct mqtt_client *c, const struct mqtt_packet *p);
void mqtt_on_unsubscribe(struct mqtt_client *c, const struct mqtt_packet *p);
/* Its filters are others: does it count as a subscription, and is it to be told of usage? */
void mqtt_filters_changed(struct mqtt_client *c);

void mqtt_on_puback(struct mqtt_client *c, const struct mqtt_packet *p);
extern const struct session_conn_ops mqtt_session_ops;

#endif
