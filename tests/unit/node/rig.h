/* rig: a node's delivery side over the memory backend, with connections of the test's own, for
 * test_dispatch.c and test_sessions.c. */
#ifndef LEAT_TESTS_UNIT_NODE_RIG_H
#define LEAT_TESTS_UNIT_NODE_RIG_H

#include "base/buf.h"
#include "base/mem.h"
#include "cluster/bus_memory.h"
#include "node/delivery/appender.h"
#include "node/delivery/dispatch.h"
#include "node/delivery/session.h"
#include "node/net/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { MAX_GOT = 40000, PATIENCE_TURNS = 20000 };

struct got {
	unsigned n; /* the number in the payload */
	uint16_t packet_id;
	uint8_t qos;
	bool dup;
	uint64_t gap;     /* events that it told of as gone */
	uint32_t attempt; /* of a queue\'s event */
};

struct client {
	struct node *node;
	uint64_t id;
	struct session *session;
	bool opened;
	bool present;
	bool answered;
	uint8_t reason;
	uint8_t kicked; /* reason code */
	bool deaf;      /* can_send says no */
	bool auto_ack;
	bool never_ack;                /* this and below stay through connect_as */
	uint8_t (*answer)(unsigned n); /* its PUBACK code for an event; NULL = success */
	const char *denied;            /* a filter its token does not allow */
	char text[400];                /* why its last SUBSCRIBE failed */
	struct got *got;
	size_t n_got;
	size_t unacked_from;
};

struct node {
	struct loop *loop;
	struct bus *bus;
	struct appender *appender;
	struct dispatch *dispatch;
	struct tenant tenant;
	struct loop_timer *tick;
	struct timeshare *time; /* node_share_time's, or NULL */
	size_t stored;
	bool drained;
	uint64_t next_conn;
	struct bus_policy policy; /* of queues that clients make; max_attempts 0 = the default */
	bool few_graves;          /* its tenant may have so many dead letters more: */
	int graves;
	int denied_graves;
	enum dispatch_room room; /* for subscriptions of its tenant; 0 = for any number */
	unsigned asked_room;
	unsigned told_made; /* on_made was called, which follows each ROOM */
};

#define until(n, condition)                                              \
	do {                                                             \
		for (int turns_ = 0; !(condition); turns_++) {           \
			if (turns_ == PATIENCE_TURNS)                    \
				fail_msg("never happened: " #condition); \
			loop_turn((n)->loop);                            \
		}                                                        \
	} while (0)

void node_init_with(struct node *n, size_t cache_bytes, uint32_t linger_ms);
void node_init_keeping(struct node *n, size_t cache_bytes, uint32_t linger_ms,
                       size_t retention_bytes);
/* Before anybody connects: a tenant's deliveries get so much of a turn, by this clock. */
void node_share_time(struct node *n, uint32_t turn_us, uint64_t (*now_us)(void));
void on_drained(void *arg);
void node_release(struct node *n);
void publish(struct node *n, const char *topic, unsigned number);
void publish_many(struct node *n, const char *topic, unsigned from, unsigned to);
void connect_as(struct node *n, struct client *c, const char *id, bool clean, uint32_t expiry,
                uint16_t receive_max);
void on_answered(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
                 const char *text);
uint8_t subscribe_from(struct client *c, const char *filter, uint8_t qos, enum session_start_at at,
                       uint64_t value);
uint8_t subscribe(struct client *c, const char *filter, uint8_t qos);
void disconnect(struct client *c, uint32_t expiry);
void assert_got(const struct client *c, unsigned from, unsigned to);

#endif
