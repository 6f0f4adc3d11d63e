#include "node/node_impl.h"

#include "base/log.h"
#include "node/backend.h"
#include "node/delivery/appender.h"
#include "node/delivery/dispatch.h"
#include "node/delivery/usage.h"
#include "node/leader/inbox.h"
#include "node/leader/issuers.h"
#include "node/leader/retention.h"
#include "node/leader/timers.h"
#include "node/limits/limits.h"
#include "node/mqtt/mqtt.h"
#include "node/peer/hint.h"
#include "node/peer/links.h"

#include <inttypes.h>

/* ---- the bus ------------------------------------------------------------------------------- */

/* What is bound to a node session and not to a generation. */
static void note_session(struct node *n, enum bus_state state)
{
	if (state != BUS_UP || id128_eq(&n->session_id, &n->bus->session_id))
		return;
	n->session_id = n->bus->session_id;
	mqtt_on_session(n->mqtt);
}

static void on_bus_state(void *arg, enum bus_state state)
{
	static const char *const names[] = {"down", "up", "ended"};
	struct node *n = arg;

	log_info("node", "bus=%s generation=%" PRIu64, names[state], n->bus->generation);
	if (n->links && state == BUS_UP)
		links_on_session(n->links, &n->bus->session_id);
	dispatch_on_state(n->dispatch, state);
	appender_on_state(n->appender, state);
	timers_on_state(n->timers, state);
	note_session(n, state);
	usage_on_state(n->usage, state);
	retention_on_state(n->retention, state);
	inbox_on_state(n->inbox, state);
	issuers_on_state(n->issuers, state);
	if (state == BUS_ENDED && n->state != NODE_DRAINING)
		node_give_up(n);
	else if (state == BUS_UP && n->state == NODE_STARTING)
		node_serve(n);
}

static void on_others_stored(void *arg)
{
	struct node *n = arg;

	dispatch_on_others_stored(n->dispatch);
}

static void on_taken(void *arg)
{
	struct node *n = arg;

	dispatch_on_taken(n->dispatch);
}

static void on_peers(void *arg, const struct bus_peer *peers, size_t n_peers)
{
	struct node *n = arg;

	if (n->links)
		links_on_peers(n->links, peers, n_peers);
	dispatch_on_peers(n->dispatch, peers, n_peers);
	limits_on_peers(n->limits, n_peers);
	timers_on_peers(n->timers, peers, n_peers);
	retention_on_peers(n->retention, peers, n_peers);
	inbox_on_peers(n->inbox, peers, n_peers);
	issuers_on_peers(n->issuers, peers, n_peers);
}

/* ---- what is stored, by whomever ----------------------------------------------------------- */

static void on_stored(void *arg, struct batch *b)
{
	struct node *n = arg;

	dispatch_stored(n->dispatch, b);
}

static void on_flushed(void *arg, uint32_t writer_no, uint64_t flush_no,
                       struct batch *const *batches, size_t n_batches)
{
	struct node *n = arg;

	if (n->links)
		hint_send(links_port(n->links), &n->bus->session_id, writer_no, flush_no, batches,
		          n_batches);
}

static void on_scheduled(void *arg, uint64_t due_in_ms)
{
	struct node *n = arg;

	timers_stored(n->timers, due_in_ms);
}

static void on_settled(void *arg, uint32_t tenant_id, uint32_t n_events, bool stored)
{
	struct node *n = arg;

	limits_settled(n->limits, tenant_id, LIMIT_SCHEDULED, n_events, stored);
}

static void tell_leader(void *arg, const struct id128 *leader, uint64_t due_in_ms)
{
	struct node *n = arg;
	struct peer_message m = {.type = PEER_DUE, .due_in_ms = due_in_ms};
	struct peer_port *port = n->links ? links_port(n->links) : NULL;

	if (port && id128_is_zero(leader))
		port->send_all(port->self, &m);
	else if (port)
		port->send(port->self, leader, &m);
}

/* ---- publishers ---------------------------------------------------------------------------- */

static void on_answer(void *arg, struct publisher to, enum append_result result, const char *reason)
{
	struct node *n = arg;

	mqtt_on_answer(n->mqtt, to, result, reason);
}

static void on_room(void *arg, uint64_t conn_id)
{
	struct node *n = arg;

	mqtt_on_room(n->mqtt, conn_id);
}

static void on_rate_room(void *arg, uint64_t conn_id)
{
	struct node *n = arg;

	mqtt_on_rate_room(n->mqtt, conn_id);
}

static void on_usage(void *arg, uint64_t conn_id, struct slice json)
{
	struct node *n = arg;

	mqtt_on_usage(n->mqtt, conn_id, json);
}

/* ---- limits -------------------------------------------------------------------------------- */

static void on_limit(void *arg, const struct tenant *t, enum dispatch_limit which, uint64_t used,
                     uint64_t times)
{
	static const enum limit limits[] = {
	        [DISPATCH_LIMIT_FILTERS] = LIMIT_FILTERS,
	        [DISPATCH_LIMIT_BACKLOG_EVENTS] = LIMIT_BACKLOG_EVENTS,
	        [DISPATCH_LIMIT_BACKLOG_AGE] = LIMIT_BACKLOG_S,
	};
	struct node *n = arg;

	if (which == DISPATCH_LIMIT_SUBSCRIPTIONS)
		limits_full(n->limits, t, LIMIT_SUBSCRIPTIONS);
	else if (which == DISPATCH_LIMIT_IN_FLIGHT)
		limits_slowed(n->limits, t, LIMIT_IN_FLIGHT, used);
	else
		limits_reached(n->limits, t, limits[which], used, times);
}

static enum dispatch_room may_make(void *arg, const struct tenant *t)
{
	static const enum dispatch_room rooms[] = {
	        [LIMITS_PASS] = DISPATCH_ROOM,
	        [LIMITS_WAIT] = DISPATCH_ROOM_LATER,
	        [LIMITS_REFUSE] = DISPATCH_FULL,
	};
	struct node *n = arg;

	return rooms[limits_reserve(n->limits, t, LIMIT_SUBSCRIPTIONS)];
}

static void on_made(void *arg, const struct tenant *t, bool made)
{
	struct node *n = arg;

	limits_settled(n->limits, t->id, LIMIT_SUBSCRIPTIONS, 1, made);
}

static bool may_bury(void *arg, const struct tenant *t)
{
	struct node *n = arg;

	return limits_bury(n->limits, t);
}

static void on_buried(void *arg, const struct tenant *t, bool buried)
{
	struct node *n = arg;

	limits_settled(n->limits, t->id, LIMIT_DEAD_LETTERS, 1, buried);
}

static void allow(void *arg, uint32_t tenant_id, bool later, struct bus_allowance *out)
{
	struct node *n = arg;

	limits_may_move(n->limits, tenant_id, later, out);
}

static void on_moved(void *arg, const struct bus_collected *of)
{
	struct node *n = arg;
	struct usage_row *row = usage_of(n->usage, of->tenant_id);

	usage_in(row, of->events, of->bytes);
	usage_refused(row, (uint64_t)of->refused + of->too_large);
	limits_moved(n->limits, of);
}

static size_t over(void *arg, uint32_t **tenants)
{
	struct node *n = arg;

	return limits_over(n->limits, tenants);
}

static void on_ticked(void *arg, const struct bus_ticked *of)
{
	struct node *n = arg;
	struct usage_row *row = usage_of(n->usage, of->tenant_id);

	usage_in(row, of->ticks, of->bytes);
	for (int i = 0; i < BUS_LEFT_OUT_REASONS; i++)
		usage_refused(row, of->left_out[i]);
	limits_ticked(n->limits, of);
}

/* An event of the tenant's own that nobody published: it comes to its subscribers as any other, and
 * goes with its retention. */
static void on_limit_event(void *arg, const struct tenant *t, const char *topic, struct slice json)
{
	static const char props[] = "\x03\x00\x10"
	                            "application/json"; /* the content type */
	struct node *n = arg;
	struct event ev = {.topic = slice_str(topic),
	                   .payload = json,
	                   .props = slice(props, sizeof props - 1),
	                   .type = slice_str("leat.limit"),
	                   .qos = 1};

	appender_publish(n->appender, t, &ev, (struct publisher){0});
}

void node_on_registry_change(void *arg, const struct tenant *t, enum registry_change what,
                             uint64_t key_id)
{
	struct node *n = arg;

	if (n->mqtt)
		mqtt_on_registry_change(n->mqtt, t, what, key_id);
	if (n->limits && what == REGISTRY_TENANT_CHANGED)
		limits_on_tenant(n->limits, t);
	if (n->dispatch && what == REGISTRY_TENANT_CHANGED)
		dispatch_tenant_changed(n->dispatch, t);
}

/* ---- making them --------------------------------------------------------------------------- */

static void open_mqtt(struct node *n)
{
	const struct node_config *c = n->config;
	struct mqtt_settings mqtt = {
	        .loop = n->loop,
	        .conns = n->conns,
	        .registry = n->registry,
	        .dispatch = n->dispatch,
	        .appender = n->appender,
	        .usage = n->usage,
	        .limits = n->limits,
	        .reading = n->reading,
	        .writing = n->writing,
	        .token = TOKEN_SETTINGS_DEFAULT,
	        .max_packet = c->max_packet,
	        .session_expiry_max_s = c->session_expiry_max_s,
	};

	if (c->audience)
		mqtt.token.audience = c->audience;
	n->mqtt = mqtt_new(&mqtt);
}

static void open_limits(struct node *n, struct bus *bus)
{
	struct limits_settings limits = {.loop = n->loop,
	                                 .registry = n->registry,
	                                 .bus = bus,
	                                 .node = n->config->name,
	                                 .on_room = on_rate_room,
	                                 .publish = on_limit_event,
	                                 .on_usage = on_usage,
	                                 .arg = n};

	n->limits = limits_new(&limits);
	if (n->links)
		limits_set_port(n->limits, links_port(n->links));
}

void node_on_backend_open(void *arg, struct bus *bus)
{
	struct node *n = arg;
	const struct node_config *c = n->config;
	struct appender_events events = {.on_answer = on_answer,
	                                 .on_room = on_room,
	                                 .on_flushed = on_flushed,
	                                 .on_stored = on_stored,
	                                 .on_scheduled = on_scheduled,
	                                 .on_settled = on_settled,
	                                 .arg = n};
	struct timers_events timers = {.on_flushed = on_flushed,
	                               .on_stored = on_stored,
	                               .tell = tell_leader,
	                               .over = over,
	                               .on_ticked = on_ticked,
	                               .max_event_bytes = c->limits.max_event_bytes,
	                               .arg = n};
	struct inbox_events inbox = {.on_flushed = on_flushed,
	                             .on_stored = on_stored,
	                             .on_scheduled = on_scheduled,
	                             .allow = allow,
	                             .on_moved = on_moved,
	                             .arg = n};
	struct dispatch_settings dispatch = {.cache_bytes = c->cache_bytes,
	                                     .on_limit = on_limit,
	                                     .may_make = may_make,
	                                     .on_made = on_made,
	                                     .may_bury = may_bury,
	                                     .on_buried = on_buried,
	                                     .arg = n};
	struct retention_settings retention = {.retention_s = c->limits.retention_s,
	                                       .max_stored_bytes = c->limits.max_stored_bytes,
	                                       .aside_s = c->set_aside_s,
	                                       .max_aside = c->max_set_aside};

	n->bus = bus;
	bus->events = (struct bus_events){.on_state = on_bus_state,
	                                  .on_others_stored = on_others_stored,
	                                  .on_taken = on_taken,
	                                  .on_peers = on_peers,
	                                  .arg = n};
	n->usage = usage_new(n->loop, bus, 0);
	dispatch.usage = n->usage;
	dispatch.time = n->delivering;
	n->dispatch = dispatch_new(n->loop, bus, &dispatch);
	if (n->links)
		dispatch_set_port(n->dispatch, links_port(n->links));
	n->appender = appender_new(n->loop, bus, &events);
	n->timers = timers_new(n->loop, bus, &timers);
	n->retention = retention_new(n->loop, bus, &retention);
	n->inbox = inbox_new(n->loop, bus, &inbox);
	if (backend_sql(n->backend))
		n->issuers = issuers_new(n->loop, bus, backend_sql(n->backend));
	issuers_trust(n->issuers, n->issuer_cas);
	open_limits(n, bus);
	open_mqtt(n);
	if (bus->state != BUS_DOWN) { /* told before we listened, as who the others are was */
		on_bus_state(n, bus->state);
		bus->ops->look(bus);
	}
}
