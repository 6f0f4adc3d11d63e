#include "node/node_impl.h"

#include "node/backend.h"
#include "node/delivery/appender.h"
#include "node/delivery/dispatch.h"
#include "node/leader/inbox.h"
#include "node/leader/retention.h"
#include "node/leader/timers.h"
#include "node/limits/limits.h"
#include "node/metrics.h"
#include "node/mqtt/mqtt.h"
#include "node/net/conn.h"
#include "node/net/tls.h"
#include "node/peer/links.h"

/* NULL = it is */
static const char *why_not_ready(const struct node *n)
{
	if (n->state == NODE_DRAINING)
		return "shutting down";
	if (!n->bus)
		return backend_waits_for(n->backend);
	if (n->bus->state != BUS_UP)
		return "waiting for the database";
	return n->state == NODE_SERVING ? NULL : "starting";
}

bool node_write_ready(void *arg, struct buf *out)
{
	const struct node *n = arg;
	const char *why = why_not_ready(n);
	struct links_stats links = {0};

	buf_printf(out, "%s\n", why ? why : "ok");
	if (n->links)
		links_get_stats(n->links, &links);
	if (!why && links.known > links.up)
		buf_printf(
		        out,
		        "no link to %zu of %zu other nodes: what one stores the other finds later; "
		        "have they --peer, this node's --cluster-key or --peer-ca, and a "
		        "--peer-advertise that leads to them?\n",
		        links.known - links.up, links.known);
	return !why;
}

void node_write_metrics(void *arg, struct buf *out)
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
		limits_get_stats(n->limits, &s.limits);
		timers_get_stats(n->timers, &s.timers);
		retention_get_stats(n->retention, &s.retention);
		inbox_get_stats(n->inbox, &s.inbox);
	}
	metrics_write(&s, out);
}
