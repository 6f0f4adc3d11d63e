/* node: one process of the bus: everything put together and run on one event loop until a signal or
 * the end of its node session. `leat node` and `leat dev` are this with different settings. node.c
 * is the map: made top-down, run, freed in reverse; node_impl.h says where the rest is.
 *
 * SIGTERM, SIGINT: drain (see node_drain.c) and end with 0; a second one ends at once, but for a
 * worker, whose parent decides that. SIGHUP: certificates and keys are read again. */
#ifndef LEAT_NODE_NODE_H
#define LEAT_NODE_NODE_H

#include "base/slice.h"
#include "node/net/addr.h"
#include "tenancy/registry.h"
#include "tenancy/tenant.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NODE_NAME_MAX = 120 }; /* bytes of a name, before a worker's "/NUMBER" */

struct spread;

struct node_ports {
	uint16_t mqtt;     /* 0 = not served */
	uint16_t insecure; /* likewise */
	uint16_t admin;
};

/* Links to the other nodes (node/peer/links.h). Nothing to listen on = none. */
struct node_peering {
	struct addr listen;
	struct addr advertise;        /* where others reach it; port 0 = the bound one */
	const char *cluster_key;      /* file; or the three files below */
	const char *cluster_key_also; /* while it is changed, or NULL */
	const char *cert_file;
	const char *key_file;
	const char *ca_file;
};

/* What a worker of `leat node --workers` shares with the others; see node/workers.h. */
struct node_shared {
	struct spread *spread; /* NULL = this node is alone */
	unsigned slot;
	int mqtt_fd; /* bound by the parent; 0 = none */
	int insecure_fd;
};

/* Borrowed for the life of the node. An address with host "" and port 0 is not listened on. */
struct node_config {
	const char *name; /* for people, of the node session */

	/* the backend: a database, or memory with these tenants and keys */
	const char *db; /* DSN; NULL = memory */
	bool accept_data_loss;
	uint32_t ttl_ms; /* silent so long, a node is given up by the others; 0 = as the server
	                    needs */
	const struct tenant *tenants;
	size_t tenant_count;
	const struct registry_key_row *keys;
	size_t key_count;
	size_t memory_bytes; /* retention of the memory backend, per partition */

	const char *cert_file; /* of the TLS listener; PEM */
	const char *key_file;
	const char *client_ca_file; /* clients may show a certificate of it; NULL = tokens only */
	struct addr mqtt;
	struct addr admin;
	struct addr insecure;        /* plaintext without tokens: loopback only */
	const char *insecure_tenant; /* whom its clients are */

	const char *audience;          /* what tokens must be made for */
	const char *issuer_ca_file;    /* who vouches for identity providers; NULL = the system's */
	uint32_t max_packet;           /* bytes of an MQTT packet */
	uint32_t session_expiry_max_s; /* longest life of an offline session */
	size_t cache_bytes;            /* batches kept for delivery */
	uint32_t set_aside_s;          /* what was set aside of the inbox is kept; 0 = for ever */
	uint32_t max_set_aside;        /* rows of a tenant; 0 = any number */
	struct tenant_limits limits;   /* of tenants without a setting of their own */

	struct node_peering peer;
	struct node_shared shared;

	void (*on_serving)(void *arg, const struct node_ports *ports); /* once; may be NULL */
	void *arg;
};

int node_check(const struct node_config *config, struct err *e); /* can it be served at all? */
int node_run(const struct node_config *config); /* the exit status; what was wrong is logged */

#endif
