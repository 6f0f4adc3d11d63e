#include "node/node_impl.h"

#include "node/delivery/dispatch.h"
#include "node/leader/timers.h"
#include "node/limits/limits.h"
#include "node/peer/cluster_key.h"
#include "node/peer/hint.h"
#include "node/peer/links.h"

static void on_link_up(void *arg, const struct id128 *peer)
{
	struct node *n = arg;

	dispatch_on_peer_up(n->dispatch, peer);
	limits_on_peer_up(n->limits, peer);
}

static void on_link_down(void *arg, const struct id128 *peer)
{
	struct node *n = arg;

	dispatch_on_peer_down(n->dispatch, peer);
	limits_on_peer_down(n->limits, peer);
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
	else if (m->type == PEER_USE)
		limits_on_peer_message(n->limits, peer, m);
	else
		dispatch_on_peer_message(n->dispatch, peer, m);
}

static void on_stranger(void *arg)
{
	struct node *n = arg;

	if (n->bus)
		n->bus->ops->look(n->bus);
}

int node_open_links(struct node *n, struct err *e)
{
	const struct node_peering *p = &n->config->peer;
	struct links_settings settings = {
	        .loop = n->loop,
	        .listen = p->listen,
	        .advertise = p->advertise,
	        .cert_file = p->cert_file,
	        .key_file = p->key_file,
	        .ca_file = p->ca_file,
	        .events = {on_link_up, on_link_down, on_link_room, on_link_message, n},
	        .look = on_stranger,
	        .arg = n,
	};
	struct tls_psks psks = {0};

	if (!addr_is_set(&p->listen))
		return 0;
	if (p->cluster_key)
		settings.psks = &psks;
	if (!p->cluster_key || cluster_key_read(p->cluster_key, p->cluster_key_also, &psks, e) == 0)
		n->links = links_new(&settings, e);
	tls_psks_wipe(&psks);
	return n->links ? 0 : -1;
}
