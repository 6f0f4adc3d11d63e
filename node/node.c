#include "node/node.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/admin.h"
#include "node/backend.h"
#include "node/delivery/appender.h"
#include "node/delivery/dispatch.h"
#include "node/leader/retention.h"
#include "node/leader/timers.h"
#include "node/metrics.h"
#include "node/mqtt/mqtt.h"
#include "node/net/conn.h"
#include "node/net/listener.h"
#include "node/net/loop.h"
#include "node/net/tls.h"
#include "node/peer/hint.h"
#include "node/peer/links.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum {
	DRAIN_TICK_MS = 5,
	RELEASE_LIMIT_S = 2, /* after the drain: see bound_release() */
};

enum node_state {
	NODE_STARTING, /* waits for the database, its schema and tenants, the node session */
	NODE_SERVING,
	NODE_DRAINING,
};

struct node {
	const struct node_config *config;
	enum node_state state;
	int status; /* the exit status */

	struct loop *loop;
	struct admin *admin; /* NULL = not asked for */
	struct tls_server *tls;
	struct conn_table *conns;
	struct registry *registry;
	struct links *links; /* NULL = none */
	struct backend *backend;

	struct id128 session_id; /* as it was last seen; zero = none yet */
	struct bus *bus;         /* this and the next five: NULL until the backend is open */
	struct dispatch *dispatch;
	struct appender *appender;
	struct timers *timers;
	struct retention *retention;
	struct mqtt *mqtt;

	struct listener *listener;
	struct listener *insecure;

	struct loop_timer *drain_timer;
	size_t drain_step;
	uint64_t drain_deadline_ms;
	bool shares_left;
	bool cursors_drained;
	bool bus_stopped;
};

static void fail(struct node *n, const char *text)
{
	log_error("node", "%s", text);
	n->status = 1;
	loop_stop(n->loop);
}

/* ---- listeners ------------------------------------------------------------------------------- */

static struct listener *listen_on(struct node *n, const char *name, const struct addr *addr, int fd,
                                  struct tls_server *tls, const char *tenant, struct err *e)
{
	char text[ADDR_TEXT];
	struct listener_options o = {
	        .name = name,
	        .addr = addr_text(addr, text),
	        .fd = fd,
	        .spread = n->config->shared.spread,
	        .slot = n->config->shared.slot,
	        .tls = tls,
	        .ops = mqtt_conn_ops(),
	        .arg = mqtt_listener_arg(n->mqtt, tenant),
	};

	return listener_new(n->loop, n->conns, &o, e);
}

static void serve(struct node *n)
{
	const struct node_config *c = n->config;
	struct node_ports ports = {0};
	struct err e;

	if (n->tls &&
	    !(n->listener = listen_on(n, "mqtt", &c->mqtt, c->shared.mqtt_fd, n->tls, NULL, &e))) {
		fail(n, e.text);
		return;
	}
	if (addr_is_set(&c->insecure) &&
	    !(n->insecure = listen_on(n, "insecure-mqtt", &c->insecure, c->shared.insecure_fd, NULL,
	                              c->insecure_tenant, &e))) {
		fail(n, e.text);
		return;
	}
	n->state = NODE_SERVING;
	ports.mqtt = n->listener ? listener_port(n->listener) : 0;
	ports.insecure = n->insecure ? listener_port(n->insecure) : 0;
	ports.admin = n->admin ? admin_port(n->admin) : 0;
	log_info("node",
	         "name=%s backend=%s mqtt_port=%u insecure_port=%u admin_port=%u tenants=%zu "
	         "serving",
	         c->name, c->db ? "sql" : "memory", ports.mqtt, ports.insecure, ports.admin,
	         registry_count(n->registry));
	if (c->on_serving)
		c->on_serving(c->arg, &ports);
}

/* ---- draining: each step has its time, so the whole has one too ------------------------------ */

static void stop_listening(struct node *n)
{
	if (n->listener)
		listener_stop(n->listener);
	if (n->insecure)
		listener_stop(n->insecure);
}

static void on_shares_left(void *arg)
{
	struct node *n = arg;

	n->shares_left = true;
}

static void enter_shares(struct node *n)
{
	stop_listening(n);
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

static void enter_clients(struct node *n)
{
	mqtt_disconnect_all(n->mqtt);
}

static bool done_clients(const struct node *n)
{
	return conn_count(n->conns) == 0;
}

static void on_cursors_drained(void *arg)
{
	struct node *n = arg;

	n->cursors_drained = true;
}

static void enter_cursors(struct node *n)
{
	dispatch_drain(n->dispatch, on_cursors_drained, n);
}

static bool done_cursors(const struct node *n)
{
	return n->cursors_drained;
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
        {"clients", 3000, enter_clients, done_clients},        /* DISCONNECT has left */
        {"cursors", 3000, enter_cursors, done_cursors},        /* others may take over at once */
        {"session", 3000, enter_session, done_session},
};

enum {
	DRAIN_STEPS = sizeof drain_steps / sizeof drain_steps[0],
	DRAIN_ALL = 0, /* where to begin */
	DRAIN_CLIENTS = 2,
};

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

static void drain_begin(struct node *n, size_t first_step)
{
	n->state = NODE_DRAINING;
	n->drain_step = first_step;
	if (!n->bus) {
		loop_stop(n->loop);
		return;
	}
	timers_stop(n->timers); /* another node goes on while we drain */
	retention_stop(n->retention);
	drain_enter(n);
	n->drain_timer = loop_every(n->loop, DRAIN_TICK_MS, on_drain_tick, n);
}

/* Whoever ended our session owns what was ours: nothing can be stored any more, and the clients had
 * better go there. */
static void give_up(struct node *n)
{
	log_error("node",
	          "the node session was ended by another node, perhaps one of the same --name: "
	          "this one must not go on; start it again");
	n->status = 1;
	stop_listening(n);
	drain_begin(n, DRAIN_CLIENTS);
}

static void on_stop_signal(void *arg)
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
	drain_begin(n, DRAIN_ALL);
}

static void on_reload_signal(void *arg)
{
	struct node *n = arg;
	struct err e;

	if (!n->tls)
		return;
	if (tls_server_reload(n->tls, &e) < 0)
		log_error("node", "certificates not reloaded, the old ones stay: %s", e.text);
	else
		log_info("node", "expires_s=%" PRId64 " certificates reloaded",
		         tls_server_expires(n->tls));
}

/* ---- the bus --------------------------------------------------------------------------------- */

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
	retention_on_state(n->retention, state);
	if (state == BUS_ENDED && n->state != NODE_DRAINING)
		give_up(n);
	else if (state == BUS_UP && n->state == NODE_STARTING)
		serve(n);
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
	timers_on_peers(n->timers, peers, n_peers);
	retention_on_peers(n->retention, peers, n_peers);
}

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

static void on_backend_open(void *arg, struct bus *bus)
{
	struct node *n = arg;
	const struct node_config *c = n->config;
	struct appender_events events = {.on_answer = on_answer,
	                                 .on_room = on_room,
	                                 .on_flushed = on_flushed,
	                                 .on_stored = on_stored,
	                                 .on_scheduled = on_scheduled,
	                                 .arg = n};
	struct timers_events timers = {
	        .on_flushed = on_flushed, .on_stored = on_stored, .tell = tell_leader, .arg = n};
	struct dispatch_settings dispatch = {.cache_bytes = c->cache_bytes};
	struct retention_settings retention = {.retention_s = c->retention_s,
	                                       .max_stored_bytes = c->max_stored_bytes};
	struct mqtt_settings mqtt = {
	        .loop = n->loop,
	        .conns = n->conns,
	        .registry = n->registry,
	        .token = TOKEN_SETTINGS_DEFAULT,
	        .max_packet = c->max_packet,
	        .session_expiry_max_s = c->session_expiry_max_s,
	};

	n->bus = bus;
	bus->events = (struct bus_events){.on_state = on_bus_state,
	                                  .on_others_stored = on_others_stored,
	                                  .on_taken = on_taken,
	                                  .on_peers = on_peers,
	                                  .arg = n};
	n->dispatch = dispatch_new(n->loop, bus, &dispatch);
	if (n->links)
		dispatch_set_port(n->dispatch, links_port(n->links));
	n->appender = appender_new(n->loop, bus, &events);
	n->timers = timers_new(n->loop, bus, &timers);
	n->retention = retention_new(n->loop, bus, &retention);
	if (c->audience)
		mqtt.token.audience = c->audience;
	mqtt.dispatch = n->dispatch;
	mqtt.appender = n->appender;
	n->mqtt = mqtt_new(&mqtt);
	if (bus->state != BUS_DOWN) { /* told before we listened, as who the others are was */
		on_bus_state(n, bus->state);
		bus->ops->look(bus);
	}
}

/* ---- the other nodes ------------------------------------------------------------------------- */

static void on_link_up(void *arg, const struct id128 *peer)
{
	struct node *n = arg;

	dispatch_on_peer_up(n->dispatch, peer);
}

static void on_link_down(void *arg, const struct id128 *peer)
{
	struct node *n = arg;

	dispatch_on_peer_down(n->dispatch, peer);
}

static void on_link_room(void *arg, const struct id128 *peer)
{
	struct node *n = arg;

	dispatch_on_peer_room(n->dispatch, peer);
}

/* Who is not ready for it hears of it by a look. */
static void on_hint(struct node *n, const struct id128 *peer, const struct peer_message *m)
{
	if (!id128_eq(peer, &m->session_id)) /* nobody speaks for others */
		return;
	if (dispatch_hinted(n->dispatch, m->heads, m->n_heads) && m->writer_no != HINT_NO_WRITER)
		n->bus->ops->hinted(n->bus, peer, m->writer_no, m->flush_no);
}

static void on_link_message(void *arg, const struct id128 *peer, const struct peer_message *m)
{
	struct node *n = arg;

	if (m->type == PEER_STORED)
		on_hint(n, peer, m);
	else if (m->type == PEER_DUE)
		timers_hinted(n->timers, m->due_in_ms);
	else
		dispatch_on_peer_message(n->dispatch, peer, m);
}

static void on_stranger(void *arg)
{
	struct node *n = arg;

	if (n->bus)
		n->bus->ops->look(n->bus);
}

static int open_links(struct node *n, struct err *e)
{
	const struct node_peering *p = &n->config->peer;
	struct links_settings settings = {
	        .loop = n->loop,
	        .listen = p->listen,
	        .advertise = p->advertise,
	        .secret = p->cluster_key,
	        .cert_file = p->cert_file,
	        .key_file = p->key_file,
	        .ca_file = p->ca_file,
	        .events = {on_link_up, on_link_down, on_link_room, on_link_message, n},
	        .look = on_stranger,
	        .arg = n,
	};

	if (!addr_is_set(&p->listen))
		return 0;
	n->links = links_new(&settings, e);
	return n->links ? 0 : -1;
}

static void on_backend_failed(void *arg, const char *text)
{
	fail(arg, text);
}

static void on_registry_change(void *arg, const struct tenant *t, enum registry_change what,
                               uint64_t key_id)
{
	struct node *n = arg;

	if (n->mqtt)
		mqtt_on_registry_change(n->mqtt, t, what, key_id);
}

/* ---- the admin listener ---------------------------------------------------------------------- */

static const char *why_not_ready(void *arg)
{
	const struct node *n = arg;

	if (n->state == NODE_DRAINING)
		return "shutting down";
	if (!n->bus)
		return backend_waits_for(n->backend);
	if (n->bus->state != BUS_UP)
		return "waiting for the database";
	return n->state == NODE_SERVING ? NULL : "starting";
}

static void write_metrics(void *arg, struct buf *out)
{
	static const struct mqtt_stats none;
	struct node *n = arg;
	struct metrics_source s = {
	        .ready = !why_not_ready(n),
	        .tenants = registry_count(n->registry),
	        .connections = conn_count(n->conns),
	        .handshakes = conn_handshakes(n->conns),
	        .certificate_expires_s = n->tls ? tls_server_expires(n->tls) : 0,
	        .mqtt = &none,
	};

	if (n->links)
		links_get_stats(n->links, &s.links);
	if (n->bus) {
		s.generation = n->bus->generation;
		s.session_id = n->bus->session_id;
		s.append_pending = appender_pending(n->appender);
		s.mqtt = mqtt_get_stats(n->mqtt);
		dispatch_get_stats(n->dispatch, &s.dispatch);
		timers_get_stats(n->timers, &s.timers);
		retention_get_stats(n->retention, &s.retention);
	}
	metrics_write(&s, out);
}

/* ---- the map --------------------------------------------------------------------------------- */

int node_check(const struct node_config *c, struct err *e)
{
	if (addr_is_set(&c->insecure) && !addr_is_loopback(&c->insecure))
		return err_set(e, 0,
		               "--insecure-mqtt is for loopback addresses only (127.0.0.1:PORT): "
		               "it knows no TLS and no tokens");
	if (addr_is_set(&c->insecure) && !c->insecure_tenant)
		return err_set(e, 0, "--insecure-mqtt needs --insecure-tenant NAME");
	if (addr_is_set(&c->mqtt) && !(c->cert_file && c->key_file))
		return err_set(e, 0, "--mqtt needs --cert FILE and --key FILE");
	if (addr_is_set(&c->peer.listen) && !c->db)
		return err_set(e, 0,
		               "--peer is for --db: what is in one process's memory, "
		               "another cannot serve");
	if (addr_is_set(&c->peer.listen) && !c->peer.cluster_key.n &&
	    !(c->peer.cert_file && c->peer.key_file && c->peer.ca_file))
		return err_set(e, 0,
		               "--peer needs --cluster-key FILE, or --peer-cert, --peer-key and "
		               "--peer-ca");
	if (!addr_is_set(&c->mqtt) && !addr_is_set(&c->insecure))
		return err_set(e, 0, "nothing to listen on: --mqtt ADDR");
	return 0;
}

static int node_init(struct node *n, struct err *e)
{
	const struct node_config *c = n->config;
	struct tls_server_options tls = {
	        .cert_file = c->cert_file, .key_file = c->key_file, .alpn = "mqtt"};
	struct admin_events admin = {
	        .why_not_ready = why_not_ready, .write_metrics = write_metrics, .arg = n};
	struct backend_events backend = {
	        .on_open = on_backend_open, .on_failed = on_backend_failed, .arg = n};

	if (node_check(c, e) < 0)
		return -1;
	n->loop = loop_new();
	n->conns = conn_table_new(n->loop);
	n->registry = registry_new(on_registry_change, n);
	if (addr_is_set(&c->mqtt) && !(n->tls = tls_server_new(&tls, e)))
		return -1;
	if (open_links(n, e) < 0)
		return -1;
	n->backend = backend_new(n->loop, c, n->links ? links_addr(n->links) : NULL, n->registry,
	                         &backend, e);
	if (!n->backend)
		return -1;
	if (addr_is_set(&c->admin) && !(n->admin = admin_new(n->loop, &c->admin, &admin, e)))
		return -1;
	loop_on_signal(n->loop, SIGTERM, on_stop_signal, n);
	loop_on_signal(n->loop, SIGINT, on_stop_signal, n);
	loop_on_signal(n->loop, SIGHUP, on_reload_signal, n);
	return 0;
}

/* In reverse, but for the backend: freeing it answers what is under way, so dispatch and appender
 * must still be there. */
static void node_release(struct node *n)
{
	if (!n->loop)
		return;
	loop_timer_free(n->drain_timer);
	admin_free(n->admin);
	listener_free(n->insecure);
	listener_free(n->listener);
	conn_table_free(n->conns);
	if (n->dispatch)
		dispatch_set_port(n->dispatch, NULL);
	links_free(n->links);
	n->links = NULL; /* the backend's last answers must find none */
	backend_free(n->backend);
	mqtt_free(n->mqtt);
	retention_free(n->retention);
	timers_free(n->timers);
	appender_free(n->appender);
	dispatch_free(n->dispatch);
	registry_free(n->registry);
	tls_server_free(n->tls);
	loop_free(n->loop);
}

static volatile sig_atomic_t exit_status;

static void on_release_late(int number)
{
	(void)number;
	_exit(exit_status);
}

/* All that a shutdown promises is done or given up by now. What is left may be a worker that waits
 * for a database which does not answer, and that can take longer than those who wait for our end
 * allow; a second signal is the loop's no more. */
static void bound_release(const struct node *n)
{
	struct sigaction late = {.sa_handler = on_release_late};

	exit_status = n->status;
	sigaction(SIGALRM, &late, NULL);
	sigaction(SIGTERM, &late, NULL);
	sigaction(SIGINT, &late, NULL);
	alarm(RELEASE_LIMIT_S);
}

int node_run(const struct node_config *config)
{
	struct node n = {.config = config};
	struct err e;

	if (node_init(&n, &e) < 0) {
		log_error("node", "%s", e.text);
		n.status = 1;
	} else {
		loop_run(n.loop);
		log_info("node", "status=%d stopped", n.status);
		bound_release(&n);
	}
	node_release(&n);
	alarm(0);
	return n.status;
}
