#include "node/node.h"

#include "base/log.h"
#include "node/admin.h"
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
#include "node/net/authorities.h"
#include "node/net/conn.h"
#include "node/net/listener.h"
#include "node/net/loop.h"
#include "node/net/timeshare.h"
#include "node/net/tls.h"
#include "node/node_impl.h"
#include "node/peer/links.h"

#include <signal.h>
#include <unistd.h>

enum { RELEASE_LIMIT_S = 2 }; /* after the drain: see bound_release() */

void node_fail(struct node *n, const char *text)
{
	log_error("node", "%s", text);
	n->status = 1;
	loop_stop(n->loop);
}

/* ---- listeners ----------------------------------------------------------------------------- */

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

void node_serve(struct node *n)
{
	const struct node_config *c = n->config;
	struct node_ports ports = {0};
	struct err e;

	if (n->tls &&
	    !(n->listener = listen_on(n, "mqtt", &c->mqtt, c->shared.mqtt_fd, n->tls, NULL, &e))) {
		node_fail(n, e.text);
		return;
	}
	if (addr_is_set(&c->insecure) &&
	    !(n->insecure = listen_on(n, "insecure-mqtt", &c->insecure, c->shared.insecure_fd, NULL,
	                              c->insecure_tenant, &e))) {
		node_fail(n, e.text);
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

void node_stop_listening(struct node *n)
{
	if (n->listener)
		listener_stop(n->listener);
	if (n->insecure)
		listener_stop(n->insecure);
}

/* ---- time ---------------------------------------------------------------------------------- */

/* Microseconds of a turn, for each of the three. While more tenants than one are active it is
 * short: a quiet one's event waits for the end of a turn several times on its way through this
 * node. */
enum { TURN_US = 2000, SHARED_US = 500 };

static uint32_t weight_of(void *arg, uint32_t tenant_id)
{
	const struct node *n = arg;
	const struct tenant *t = registry_tenant(n->registry, tenant_id);

	return t ? t->weight : 1;
}

static void open_timeshares(struct node *n)
{
	struct timeshare_settings s = {
	        .turn_us = TURN_US, .shared_us = SHARED_US, .weight = weight_of, .arg = n};

	s.bug = "unfair-sockets";
	n->reading = timeshare_new(n->loop, &s);
	s.bug = "unfair-dispatch";
	n->delivering = timeshare_new(n->loop, &s);
	n->writing = timeshare_new(n->loop, &s);
}

/* ---- the map ------------------------------------------------------------------------------- */

static void on_backend_failed(void *arg, const char *text)
{
	node_fail(arg, text);
}

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
	if (addr_is_set(&c->peer.listen) && !c->peer.cluster_key &&
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
	struct tls_server_options tls = {.cert_file = c->cert_file,
	                                 .key_file = c->key_file,
	                                 .client_ca_file = c->client_ca_file,
	                                 .client_may_have_none = true,
	                                 .alpn = "mqtt"};
	struct admin_events admin = {
	        .write_ready = node_write_ready, .write_metrics = node_write_metrics, .arg = n};
	struct backend_events backend = {
	        .on_open = node_on_backend_open, .on_failed = on_backend_failed, .arg = n};

	if (node_check(c, e) < 0)
		return -1;
	n->loop = loop_new();
	n->conns = conn_table_new(n->loop);
	n->registry = registry_new(node_on_registry_change, n);
	open_timeshares(n);
	registry_set_defaults(n->registry, &c->limits);
	if (addr_is_set(&c->mqtt) && !(n->tls = tls_server_new(&tls, e)))
		return -1;
	if (c->issuer_ca_file && node_open_issuer_cas(n, e) < 0)
		return -1;
	if (node_open_links(n, e) < 0)
		return -1;
	n->backend = backend_new(n->loop, c, n->links ? links_addr(n->links) : NULL, n->registry,
	                         &backend, e);
	if (!n->backend)
		return -1;
	if (addr_is_set(&c->admin) && !(n->admin = admin_new(n->loop, &c->admin, &admin, e)))
		return -1;
	loop_on_signal(n->loop, SIGTERM, node_on_stop_signal, n);
	loop_on_signal(n->loop, SIGINT, node_on_stop_signal, n);
	loop_on_signal(n->loop, SIGHUP, node_on_reload_signal, n);
	return 0;
}

/* First all that makes work ends: who comes from outside, then the backend, which answers what is
 * under way, then the clients, whose leaving is the last that is asked for. From there on nothing
 * runs by itself, and the rest goes in reverse, so that whoever is freed could still call those it
 * was made with: the bus answers RETRY, links take what they never send. */
static void node_release(struct node *n)
{
	if (!n->loop)
		return;
	n->state = NODE_DRAINING; /* what is heard now changes nothing */
	loop_timer_free(n->drain_timer);
	admin_free(n->admin);
	listener_free(n->insecure);
	listener_free(n->listener);
	backend_stop(n->backend);
	conn_close_all(n->conns, "shutdown");
	loop_settle(n->loop);

	mqtt_free(n->mqtt);
	issuers_free(n->issuers);
	inbox_free(n->inbox);
	retention_free(n->retention);
	timers_free(n->timers);
	appender_free(n->appender);
	dispatch_free(n->dispatch);
	limits_free(n->limits); /* it knows nobody; those above ask it */
	usage_free(n->usage);
	backend_free(n->backend);
	links_free(n->links);
	timeshare_free(n->reading);
	timeshare_free(n->delivering);
	timeshare_free(n->writing);
	authorities_free(n->issuer_cas);
	registry_free(n->registry);
	tls_server_free(n->tls);
	conn_table_free(n->conns);
	loop_free(n->loop);
}

/* ---- its end ------------------------------------------------------------------------------- */

static volatile sig_atomic_t exit_status;

static void on_release_late(int number)
{
	(void)number;
	_exit(exit_status);
}

/* All that a shutdown promises is done or given up by now. What is left may be a worker that waits
 * for a database which does not answer, and that can take longer than those who wait for our end
 * allow; a second signal is the loop's no more, and there is nothing to reload. */
static void bound_release(const struct node *n)
{
	struct sigaction late = {.sa_handler = on_release_late};
	sigset_t all;
	sigset_t before;

	exit_status = n->status;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before); /* none comes while it is nobody's */
	loop_drop_signals(n->loop);
	sigaction(SIGALRM, &late, NULL);
	sigaction(SIGTERM, &late, NULL);
	sigaction(SIGINT, &late, NULL);
	signal(SIGHUP, SIG_IGN);
	sigprocmask(SIG_SETMASK, &before, NULL);
	alarm(RELEASE_LIMIT_S);
}

int node_run(const struct node_config *config)
{
	struct node n = {.config = config};
	struct err e;

	signal(SIGHUP, SIG_IGN); /* until the loop has it: what it is about is being read */
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
