/* mqtt: the server side of MQTT 5 and 3.1.1 on connections of one table. It turns packets into
 * calls of appender (publishes) and session (subscriptions, deliveries), and their answers into
 * packets. One per node; loop thread only.
 *
 * Files, by noun: mqtt.c the connection's life and the table of packet types, mqtt_connect.c
 * CONNECT and CONNACK, mqtt_auth.c tokens, mqtt_publish.c PUBLISH in and PUBACK out,
 * mqtt_subscribe.c, mqtt_deliver.c PUBLISH out. They share node/mqtt/mqtt_client.h, which nobody
 * else includes. */
#ifndef LEAT_NODE_MQTT_H
#define LEAT_NODE_MQTT_H

#include "cluster/batch.h"
#include "node/delivery/appender.h"
#include "node/delivery/dispatch.h"
#include "node/delivery/usage.h"
#include "node/limits/limits.h"
#include "node/net/conn.h"
#include "node/net/loop.h"
#include "tenancy/registry.h"
#include "tenancy/token.h"

#include <stddef.h>
#include <stdint.h>

struct timeshare;
struct mqtt;

struct mqtt_settings {
	struct loop *loop; /* all borrowed, and outlive the server */
	struct conn_table *conns;
	struct registry *registry;
	struct dispatch *dispatch;
	struct appender *appender;
	struct limits *limits;
	struct usage *usage; /* where tenants' connections and events are counted; NULL = nowhere */
	struct timeshare *reading;   /* the time that reading their sockets may take; NULL = any */
	struct timeshare *writing;   /* and writing to them */
	struct token_settings token; /* what a token must say */
	uint32_t max_packet;         /* bytes of a packet we take; 0 = 1 MiB */
	uint32_t session_expiry_max_s; /* 0 = 7 days */
	uint16_t keep_alive_max_s;     /* 0 = 1 hour; only MQTT 5 clients can be told */
	uint32_t opening_ms;           /* from CONNECT to CONNACK, then it is refused; 0 = 10 s */
};

enum { MQTT_LATENCY_BUCKETS = 16 };

/* Counters for /metrics; index by MQTT 5 reason code where there are 256. */
struct mqtt_stats {
	uint64_t connects;             /* CONNECTs accepted */
	uint64_t connect_refused[256]; /* by CONNACK reason */
	uint64_t token_refused[TOKEN_REFUSAL_COUNT];
	uint64_t disconnects[256]; /* connections we ended, by reason, whether it could be sent or
	                              not */
	uint64_t publishes[2];     /* taken in, by QoS */
	uint64_t publish_bytes;    /* their payloads */
	uint64_t publish_refused[256]; /* by PUBACK reason */
	uint64_t acknowledged;         /* PUBACKs with success */
	uint64_t delivered;            /* PUBLISH packets sent */
	uint64_t delivered_bytes;      /* their payloads */
	uint64_t too_large;         /* deliveries above a client's Maximum Packet Size: not sent */
	uint64_t log_lines_dropped; /* complaints about clients beyond the log's rate */
	/* PUBLISH read to PUBACK written; bucket i counts <= mqtt_latency_bound_us(i), the last all
	 */
	uint64_t latency[MQTT_LATENCY_BUCKETS];
	uint64_t latency_sum_us;
	size_t clients; /* now connected: CONNACK sent */
};

struct mqtt *mqtt_new(const struct mqtt_settings *settings);
void mqtt_free(struct mqtt *m); /* after its connections; NULL does nothing */

/* What a listener is given. tenant NULL = clients show a token; else every client is let in as that
 * tenant, with all rights: for loopback only. The argument lives as long as m. */
const struct conn_ops *mqtt_conn_ops(void);
void *mqtt_listener_arg(struct mqtt *m, const char *tenant);

/* What the appender reports. arg is the struct mqtt. */
void mqtt_on_answer(void *arg, struct publisher to, enum append_result result, const char *reason);
void mqtt_on_room(void *arg, uint64_t conn_id);
/* What limits report, likewise: a publish of it may be tried again; what its tenant uses. */
void mqtt_on_rate_room(void *arg, uint64_t conn_id);
void mqtt_on_usage(void *arg, uint64_t conn_id, struct slice json);
/* This node has a new session: clients with a will are lost, since with the old one the others have
 * published their wills. */
void mqtt_on_session(struct mqtt *m);

/* The registry's on_change: clients whose token, key or tenant is no longer good are disconnected.
 */
void mqtt_on_registry_change(void *arg, const struct tenant *t, enum registry_change what,
                             uint64_t key_id);

/* Shutdown: take in no more publishes and let nobody in (acknowledgements are still read); then,
 * when what was queued is answered, send every client DISCONNECT 0x8B and close. */
void mqtt_stop_publishing(struct mqtt *m);
void mqtt_disconnect_all(struct mqtt *m);

const struct mqtt_stats *mqtt_get_stats(const struct mqtt *m);
uint64_t mqtt_latency_bound_us(unsigned bucket); /* upper bound; UINT64_MAX for the last */

#endif
