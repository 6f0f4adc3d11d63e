#include "node/node_impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "node/delivery/appender.h"
#include "node/delivery/dispatch.h"
#include "node/leader/inbox.h"
#include "node/leader/issuers.h"
#include "node/leader/retention.h"
#include "node/leader/timers.h"
#include "node/mqtt/mqtt.h"
#include "node/net/conn.h"
#include "node/net/loop.h"

#include <inttypes.h>
#include <unistd.h>

enum { DRAIN_TICK_MS = 5 };

/* ---- the steps: each has its time, so the whole has one too -------------------------------- */

static void on_shares_left(void *arg)
{
	struct node *n = arg;

	n->shares_left = true;
}

static void enter_shares(struct node *n)
{
	node_stop_listening(n);
	dispatch_leave(n->dispatch, on_shares_left, n);
}

static bool done_shares(const struct node *n)
{
	return n->shares_left;
}

static void enter_publishes(struct node *n)
{
	mqtt_stop_publishing(n->mqtt);
}

static bool done_publishes(const struct node *n)
{
	return appender_pending(n->appender) == 0;
}

static void on_sessions_drained(void *arg)
{
	struct node *n = arg;

	n->sessions_drained = true;
}

/* Clients are told to go, and need not have gone before others may have their sessions. */
static void enter_sessions(struct node *n)
{
	mqtt_disconnect_all(n->mqtt);
	dispatch_drain(n->dispatch, on_sessions_drained, n);
}

static bool done_sessions(const struct node *n)
{
	return n->sessions_drained;
}

static void enter_connections(struct node *n)
{
	(void)n;
}

static bool done_connections(const struct node *n)
{
	return conn_count(n->conns) == 0;
}

static void on_bus_stopped(void *arg)
{
	struct node *n = arg;

	n->bus_stopped = true;
}

static void enter_session(struct node *n)
{
	n->bus->ops->stop(n->bus, on_bus_stopped, n);
}

static bool done_session(const struct node *n)
{
	return n->bus_stopped;
}

static const struct drain_step {
	const char *name;
	uint64_t limit_ms;
	void (*enter)(struct node *n);
	bool (*done)(const struct node *n);
} drain_steps[] = {
        {"shares", 500, enter_shares, done_shares},            /* others go on with them */
        {"publishes", 10000, enter_publishes, done_publishes}, /* what was taken in is answered */
        {"sessions", 3000, enter_sessions, done_sessions},     /* others may take over at once */
        {"connections", 3000, enter_connections, done_connections}, /* DISCONNECT has left */
        {"session", 3000, enter_session, done_session},
};

enum { DRAIN_STEPS = sizeof drain_steps / sizeof drain_steps[0] };

/* ---- one after the other ------------------------------------------------------------------- */

static void drain_enter(struct node *n)
{
	const struct drain_step *step = &drain_steps[n->drain_step];

	log_info("node", "drain=%s limit_ms=%" PRIu64, step->name, step->limit_ms);
	n->drain_deadline_ms = clock_now_ms() + step->limit_ms;
	step->enter(n);
}

static void on_drain_tick(void *arg)
{
	struct node *n = arg;
	const struct drain_step *step = &drain_steps[n->drain_step];
	bool late = clock_now_ms() >= n->drain_deadline_ms;

	if (!step->done(n) && !late)
		return;
	if (!step->done(n))
		log_warn("node", "drain=%s not done within %" PRIu64 " ms", step->name,
		         step->limit_ms);
	if (++n->drain_step < DRAIN_STEPS)
		drain_enter(n);
	else
		loop_stop(n->loop);
}

void node_drain(struct node *n, size_t first_step)
{
	n->state = NODE_DRAINING;
	n->drain_step = first_step;
	if (!n->bus) {
		loop_stop(n->loop);
		return;
	}
	timers_stop(n->timers); /* another node goes on while we drain */
	retention_stop(n->retention);
	inbox_stop(n->inbox);
	issuers_stop(n->issuers);
	drain_enter(n);
	n->drain_timer = loop_every(n->loop, DRAIN_TICK_MS, on_drain_tick, n);
}

void node_give_up(struct node *n)
{
	log_error("node",
	          "the node session was ended by another node, perhaps one of the same --name: "
	          "this one must not go on; start it again");
	n->status = 1;
	node_stop_listening(n);
	node_drain(n, NODE_DRAIN_SESSIONS);
}

void node_on_stop_signal(void *arg)
{
	struct node *n = arg;

	if (n->state == NODE_DRAINING) {
		/* a terminal or a service manager signals every process, and so does the parent */
		if (n->config->shared.spread)
			return;
		log_warn("node", "a second signal: ending at once");
		_exit(1);
	}
	log_info("node", "signal received, shutting down");
	node_drain(n, NODE_DRAIN_ALL);
}
