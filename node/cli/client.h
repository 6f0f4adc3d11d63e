/* client: one MQTT connection to a server, ours or any other: what `leat pub`, `sub` and `bench`
 * stand on. MQTT 5 and 3.1.1, TLS or plain, QoS 0 to 2 both ways. Loop thread only.
 *
 *     client_new → client_connect → on_up … on_down → (client_connect again) → client_free
 *
 * on_down is the end of every connection that client_connect began, told once: refused, failed,
 * closed by the server or by client_disconnect. What was not acknowledged by then is forgotten; its
 * owner still has it. No callback is made from inside a client_* call. */
#ifndef LEAT_NODE_CLIENT_H
#define LEAT_NODE_CLIENT_H

#include "base/err.h"
#include "base/slice.h"
#include "node/mqtt/mqtt_codec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct conn_table;
struct tls_client;

enum {
	CLIENT_PACKET_MAX = 64 * 1024 * 1024, /* bytes of a packet we take */
	CLIENT_WINDOW_MAX = 60000,            /* the packet ids above it are for SUBSCRIBE */
};

/* Borrowed for as long as the client lives. */
struct client_config {
	const char *addr;       /* host:port */
	struct tls_client *tls; /* NULL = plain */
	uint8_t version;        /* MQTT_V311 or MQTT_V5 */
	bool clean_start;
	bool drop_session;         /* client_disconnect ends the session as well (MQTT 5) */
	bool hold_acks;            /* messages are acknowledged when client_send_acks() is called */
	uint16_t keep_alive_s;     /* 0 = off */
	uint16_t receive_max;      /* messages the server may have unacknowledged; 0 = 65,535 */
	uint16_t window;           /* our unacknowledged publishes; the server may allow fewer */
	uint32_t session_expiry_s; /* MQTT 5 */
	struct slice client_id;    /* empty = the server names us */
	struct slice username;     /* p NULL = none */
	struct slice password;     /* p NULL = none */
};

/* Any of these may be NULL, and any may call any client_* function but client_free. */
struct client_ops {
	void (*on_up)(struct client *c, void *arg, const struct mqtt_packet *connack);
	void (*on_suback)(struct client *c, void *arg, const struct mqtt_packet *suback);
	/* A message; false = it is not acknowledged (and comes again in another connection). */
	bool (*on_message)(struct client *c, void *arg, const struct mqtt_packet *publish);
	/* What client_publish() gave `tag` to is settled: reason ≥ 0x80 = refused; text may be
	 * empty. Not called at QoS 0. */
	void (*on_acked)(struct client *c, void *arg, uint64_t tag, uint8_t reason,
	                 struct slice text);
	/* client_can_publish() had said no and may now say yes. */
	void (*on_room)(struct client *c, void *arg);
	/* text: for a person. reason: the server's, else 0. */
	void (*on_down)(struct client *c, void *arg, uint8_t reason, const char *text);
};

struct client *client_new(struct conn_table *t, const struct client_config *config,
                          const struct client_ops *ops, void *arg);
void client_free(struct client *c); /* drops the connection, without on_down */

int client_connect(struct client *c, struct err *e); /* -1 = the address is no good */
void client_disconnect(struct client *c);            /* what was written is sent first */
bool client_is_up(const struct client *c);
uint32_t client_inflight(const struct client *c); /* publishes not yet settled */

struct client_message {
	struct slice topic;
	struct slice payload;
	struct slice props; /* wire form (mqtt_put_*), sent in MQTT 5 only */
	int64_t expiry_s;   /* < 0 = none */
	uint8_t qos;
	bool retain;
};

/* Within the window, and the output drains? */
bool client_can_publish(struct client *c, uint8_t qos);
void client_publish(struct client *c, const struct client_message *m, uint64_t tag);
/* Bytes of the PUBLISH packet; the server takes up to client_max_packet(). */
size_t client_message_size(const struct client *c, const struct client_message *m);
uint32_t client_max_packet(const struct client *c);
uint8_t client_max_qos(const struct client *c);

void client_subscribe(struct client *c, const struct mqtt_filter *filters, size_t n,
                      const struct mqtt_props *props);
void client_send_acks(struct client *c); /* hold_acks: acknowledge all messages taken so far */
void client_pause(struct client *c);     /* take no more input; */
void client_resume(struct client *c);    /* keep-alive goes on meanwhile */

/* mqtt://[USER@]HOST[:PORT] or mqtts://…: host:port (1883, 8883 by default) into addr. */
enum { CLIENT_ADDR = 272, CLIENT_USER = 128 };
struct client_url {
	char addr[CLIENT_ADDR];
	char user[CLIENT_USER]; /* "" = none */
	bool tls;
};
int client_url_parse(struct client_url *out, const char *text, struct err *e);

#endif
