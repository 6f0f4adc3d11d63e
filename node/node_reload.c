#include "node/node_impl.h"

#include "base/log.h"
#include "node/leader/issuers.h"
#include "node/net/authorities.h"
#include "node/net/tls.h"
#include "node/peer/cluster_key.h"
#include "node/peer/links.h"

#include <inttypes.h>

static void reload_clients(struct node *n)
{
	struct err e;

	if (tls_server_reload(n->tls, &e) < 0)
		log_error("node", "certificates not reloaded, the old ones stay: %s", e.text);
	else
		log_info("node", "expires_s=%" PRId64 " certificates reloaded",
		         tls_server_expires(n->tls));
}

static void reload_peers(struct node *n)
{
	const struct node_peering *p = &n->config->peer;
	struct tls_psks psks = {0};
	struct err e;

	if ((p->cluster_key &&
	     cluster_key_read(p->cluster_key, p->cluster_key_also, &psks, &e) < 0) ||
	    links_reload(n->links, p->cluster_key ? &psks : NULL, &e) < 0)
		log_error("node", "peers' credentials not reloaded, the old ones stay: %s", e.text);
	else
		log_info("node", "cluster_keys=%zu peers' credentials reloaded", psks.n);
	tls_psks_wipe(&psks);
}

int node_open_issuer_cas(struct node *n, struct err *e)
{
	struct authorities *a = authorities_read(n->config->issuer_ca_file, e);

	if (!a)
		return -1;
	authorities_free(n->issuer_cas);
	n->issuer_cas = a;
	issuers_trust(n->issuers, a);
	return 0;
}

static void reload_issuer_cas(struct node *n)
{
	struct err e;

	if (node_open_issuer_cas(n, &e) < 0)
		log_error("node", "--issuer-ca not reloaded, the old ones stay: %s", e.text);
	else
		log_info("node", "certificates=%zu --issuer-ca reloaded",
		         authorities_count(n->issuer_cas));
}

void node_on_reload_signal(void *arg)
{
	struct node *n = arg;

	if (n->tls)
		reload_clients(n);
	if (n->issuer_cas)
		reload_issuer_cas(n);
	if (n->links)
		reload_peers(n);
}
