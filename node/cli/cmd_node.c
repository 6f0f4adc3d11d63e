/* leat node: serve events, on a database or in memory. */
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/cli/command.h"
#include "node/cli/key_file.h"
#include "node/cli/options.h"
#include "node/node.h"
#include "node/peer/cluster_key.h"
#include "node/workers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = NODE_NAME_MAX + 8 };

struct node_options {
	const char *db;
	bool accept_data_loss;
	uint64_t ttl_ms;
	bool memory;
	const char *memory_tenant;
	struct option_list memory_keys;
	uint64_t memory_bytes;
	const char *name;
	uint64_t workers;
	const char *cert;
	const char *key;
	struct addr mqtt;
	struct addr admin;
	struct addr insecure;
	const char *insecure_tenant;
	struct addr peer;
	struct addr peer_advertise;
	const char *cluster_key;
	const char *cluster_key_also;
	const char *peer_cert;
	const char *peer_key;
	const char *peer_ca;
	const char *audience;
	const char *issuer_ca;
	const char *client_ca;
	uint64_t max_packet;
	uint64_t session_expiry_ms;
	uint64_t cache_bytes;
	uint64_t retention_ms;
	uint64_t max_stored_bytes;
	uint64_t set_aside_ms;
	uint64_t max_set_aside;
	uint64_t max_connections;
	uint64_t max_events_per_s;
	uint64_t max_bytes_per_s;
	uint64_t max_event_bytes;
	uint64_t max_subscriptions;
	uint64_t max_filters;
	uint64_t max_in_flight;
	uint64_t max_backlog_events;
	uint64_t max_backlog_ms;
	uint64_t max_scheduled;
	uint64_t max_dead_letters;
	int log_level;
};

#define AT(field) offsetof(struct node_options, field)
static const struct option rows[] = {
        {"db", 0, OPTION_TEXT, AT(db), .arg = "DSN", .flags = OPTION_SECRET,
         .help = "the database: mysql://user:password@host:port/schema?…"},
        {"accept-data-loss", 0, OPTION_FLAG, AT(accept_data_loss),
         .help = "run on a database server that does not sync its commits to disk"},
        {"ttl", 0, OPTION_DURATION, AT(ttl_ms), .arg = "TIME",
         .help = "a node that does not renew its session so long is given up by the others; the "
                 "same for all nodes; default 6s, on Galera 15s",
         .min = 2000, .max = 120000},
        {"memory", 0, OPTION_FLAG, AT(memory),
         .help = "no database: events live in this process and end with it"},
        {"memory-tenant", 0, OPTION_TEXT, AT(memory_tenant), .arg = "NAME", .fallback = "dev",
         .help = "--memory: the one tenant there is"},
        {"memory-key", 0, OPTION_LIST, AT(memory_keys), .arg = "KID:ALG:FILE..",
         .help = "--memory: its keys; the issuer of their tokens is the tenant's name"},
        {"memory-bytes", 0, OPTION_SIZE, AT(memory_bytes), .arg = "SIZE", .fallback = "256MiB",
         .help = "--memory: events kept for those who come later", .min = 1 << 20},
        {"name", 0, OPTION_TEXT, AT(name), .arg = "NAME",
         .help = "what people call this node; unique; default: host name and port"},
        {"workers", 0, OPTION_NUMBER, AT(workers), .arg = "N", .fallback = "1",
         .help = "nodes to run behind the same client listeners, one a core; see operators.md",
         .min = 1, .max = WORKERS_MAX},
        {"cert", 0, OPTION_TEXT, AT(cert), .arg = "FILE",
         .help = "PEM: the server's certificate and its chain; read again on SIGHUP"},
        {"key", 0, OPTION_TEXT, AT(key), .arg = "FILE", .help = "PEM: its private key"},
        {"mqtt", 0, OPTION_ADDRESS, AT(mqtt), .arg = "ADDR",
         .help = "MQTT over TLS, for example :8883"},
        {"admin", 0, OPTION_ADDRESS, AT(admin), .arg = "ADDR",
         .help = "plain HTTP: /livez, /readyz, /metrics; for example 127.0.0.1:9090"},
        {"insecure-mqtt", 0, OPTION_ADDRESS, AT(insecure), .arg = "ADDR",
         .help = "MQTT without TLS and without tokens, on loopback only"},
        {"insecure-tenant", 0, OPTION_TEXT, AT(insecure_tenant), .arg = "NAME",
         .help = "the tenant of its clients"},
        {"peer", 0, OPTION_ADDRESS, AT(peer), .arg = "ADDR",
         .help = "links to the other nodes of the database, over TLS; for example :7883"},
        {"peer-advertise", 0, OPTION_ADDRESS, AT(peer_advertise), .arg = "ADDR",
         .help = "where they reach it; default: what --peer says, or this machine's name"},
        {"cluster-key", 0, OPTION_TEXT, AT(cluster_key), .arg = "FILE",
         .help = "the secret that all nodes share, at least 32 bytes; proves who is one; read "
                 "again on SIGHUP, as the next four"},
        {"cluster-key-also", 0, OPTION_TEXT, AT(cluster_key_also), .arg = "FILE",
         .help = "while it is changed: another that lets in who calls; none where there is no "
                 "such file"},
        {"peer-cert", 0, OPTION_TEXT, AT(peer_cert), .arg = "FILE",
         .help = "instead of --cluster-key: PEM, this node's certificate"},
        {"peer-key", 0, OPTION_TEXT, AT(peer_key), .arg = "FILE", .help = "PEM: its private key"},
        {"peer-ca", 0, OPTION_TEXT, AT(peer_ca), .arg = "FILE",
         .help = "PEM: the CA of all nodes' certificates, and of nothing else's"},
        {"client-ca", 0, OPTION_TEXT, AT(client_ca), .arg = "FILE",
         .help = "PEM: who vouches for clients' certificates, which then count in place of tokens; "
                 "read again on SIGHUP; default: tokens only"},
        {"issuer-ca", 0, OPTION_TEXT, AT(issuer_ca), .arg = "FILE",
         .help = "PEM: certificates that alone vouch for identity providers' servers; read again "
                 "on "
                 "SIGHUP; default: the system's"},
        {"audience", 0, OPTION_TEXT, AT(audience), .arg = "NAME", .fallback = "leat",
         .help = "what the aud claim of tokens must contain"},
        {"max-packet", 0, OPTION_SIZE, AT(max_packet), .arg = "SIZE", .fallback = "1MiB",
         .help = "largest MQTT packet, and so event, taken", .min = 16 << 10, .max = 8 << 20},
        {"session-expiry-max", 0, OPTION_DURATION, AT(session_expiry_ms), .arg = "TIME",
         .fallback = "7d", .help = "longest life of a session whose client is away", .min = 1000,
         .max = UINT64_C(4294967294000)},
        {"cache", 0, OPTION_SIZE, AT(cache_bytes), .arg = "SIZE", .fallback = "64MiB",
         .help = "recent events kept in memory for delivery", .min = 1 << 20},
        {"retention", 0, OPTION_DURATION, AT(retention_ms), .arg = "TIME", .fallback = "7d",
         .help = "events older than this go, where a tenant has no retention_s; 0s = never",
         .max = UINT64_C(4294967294000)},
        {"max-stored", 0, OPTION_SIZE, AT(max_stored_bytes), .arg = "SIZE",
         .help = "bytes of events kept where a tenant has no max_stored_bytes; 0 = any number"},
        {"set-aside-retention", 0, OPTION_DURATION, AT(set_aside_ms), .arg = "TIME",
         .fallback = "30d",
         .help = "what was set aside of publish() in SQL, and nobody acted on for longer, goes; 0s "
                 "= never",
         .max = UINT64_C(4294967294000)},
        {"max-set-aside", 0, OPTION_NUMBER, AT(max_set_aside), .arg = "N", .fallback = "10000",
         .help = "of one tenant; more than these, the oldest go; 0 = any number",
         .max = UINT32_MAX},
        {"max-connections", 0, OPTION_NUMBER, AT(max_connections), .arg = "N", .fallback = "100000",
         .help = "this and below: for tenants without the limit of that name in `tenant`; 0 = no "
                 "limit. Connections of one tenant",
         .max = UINT32_MAX},
        {"max-events-per-s", 0, OPTION_NUMBER, AT(max_events_per_s), .arg = "N",
         .help = "events it may publish a second", .max = UINT32_MAX},
        {"max-bytes-per-s", 0, OPTION_SIZE, AT(max_bytes_per_s), .arg = "SIZE",
         .help = "payload bytes it may publish a second"},
        {"max-event-bytes", 0, OPTION_SIZE, AT(max_event_bytes), .arg = "SIZE",
         .help = "payload of one event; 0 = what --max-packet lets in", .max = UINT32_MAX},
        {"max-subscriptions", 0, OPTION_NUMBER, AT(max_subscriptions), .arg = "N",
         .fallback = "100000", .help = "its subscriptions", .max = UINT32_MAX},
        {"max-filters", 0, OPTION_NUMBER, AT(max_filters), .arg = "N", .fallback = "100",
         .help = "topic filters of one session", .max = 100},
        {"max-in-flight", 0, OPTION_NUMBER, AT(max_in_flight), .arg = "N", .fallback = "1024",
         .help = "deliveries to one connection that are not acknowledged yet", .max = 1024},
        {"max-backlog-events", 0, OPTION_NUMBER, AT(max_backlog_events), .arg = "N",
         .help = "events a subscription may be behind; the oldest are given up"},
        {"max-backlog-age", 0, OPTION_DURATION, AT(max_backlog_ms), .arg = "TIME",
         .help = "age of the events it may be behind (max_backlog_s)",
         .max = UINT64_C(4294967294000)},
        {"max-scheduled", 0, OPTION_NUMBER, AT(max_scheduled), .arg = "N", .fallback = "1000000",
         .help = "its events that wait for their time", .max = UINT32_MAX},
        {"max-dead-letters", 0, OPTION_NUMBER, AT(max_dead_letters), .arg = "N",
         .fallback = "100000", .help = "its dead letters, of all queues", .max = UINT32_MAX},
        {"log-level", 0, OPTION_CHOICE, AT(log_level), .arg = "LEVEL", .fallback = "info",
         .choices = "debug|info|warn|error", .help = "debug, info, warn or error"},
};
static const struct options spec = {"node", "serve events over MQTT", OPTIONS_ROWS(rows)};

/* ---- --memory-key KID:ALG:FILE --------------------------------------------------------------- */

struct memory_keys {
	struct registry_key_row *rows;
	struct buf *material; /* one a row */
	size_t n;
};

static void keys_release(struct memory_keys *k)
{
	for (size_t i = 0; i < k->n; i++)
		key_file_release(&k->material[i]);
	free(k->material);
	free(k->rows);
}

static int take_key(const struct tenant *t, const char *text, struct registry_key_row *row,
                    struct buf *material, struct err *e)
{
	const char *alg = strchr(text, ':');
	const char *file = alg ? strchr(alg + 1, ':') : NULL;

	if (!file)
		return err_set(e, 0, "--memory-key %s: KID:ALG:FILE is expected", text);
	row->tenant_id = t->id;
	row->issuer = slice_str(t->name);
	row->kid = slice(text, (size_t)(alg - text));
	if (jws_alg_parse(slice(alg + 1, (size_t)(file - alg - 1)), &row->alg) < 0)
		return err_set(e, 0, "--memory-key %s: ALG is one of %s", text, jws_alg_list);
	if (key_file_read(file + 1, material, e) < 0)
		return -1;
	row->material = buf_slice(material);
	return registry_key_check(row, e);
}

static int take_keys(const struct option_list *list, const struct tenant *t, struct memory_keys *k,
                     struct err *e)
{
	k->rows = xcalloc(list->n + 1, sizeof *k->rows);
	k->material = xcalloc(list->n + 1, sizeof *k->material);
	for (size_t i = 0; i < list->n; i++) {
		k->n = i + 1;
		if (take_key(t, list->v[i], &k->rows[i], &k->material[i], e) < 0)
			return -1;
	}
	return 0;
}

/* ---- --cluster-key FILE ---------------------------------------------------------------------- */

/* Said at once, where with workers it would be by each of them. */
static int check_cluster_key(const struct node_options *o, struct err *e)
{
	struct tls_psks psks;
	int rc;

	if (!o->cluster_key)
		return 0;
	rc = cluster_key_read(o->cluster_key, o->cluster_key_also, &psks, e);
	tls_psks_wipe(&psks);
	return rc;
}

/* ---- running --------------------------------------------------------------------------------- */

static int check(const struct node_options *o, struct err *e)
{
	if (o->memory == (o->db != NULL))
		return err_set(e, 0, "either --db DSN or --memory, not %s",
		               o->memory ? "both" : "neither");
	if (!o->memory && o->memory_keys.n)
		return err_set(e, 0,
		               "--memory-key is for --memory; on a database, use leat tenant");
	if (o->memory && o->workers > 1)
		return err_set(e, 0,
		               "--workers is for --db: what is in one process's memory, "
		               "another cannot serve");
	return 0;
}

static void take_tenant(const char *name, struct tenant *t)
{
	*t = (struct tenant){.id = 1, .weight = 1, .partitions = 1, .state = TENANT_ACTIVE};
	snprintf(t->name, sizeof t->name, "%s", name);
}

/* Unique among the nodes of a database, and the same after a restart: a node that starts ends the
 * session of its name at once, where another's would have to be waited for. */
static void take_name(const struct node_options *o, char name[NAME_MAX_BYTES])
{
	char host[NAME_MAX_BYTES / 2] = "node";

	gethostname(host, sizeof host - 1);
	if (o->name)
		snprintf(name, NAME_MAX_BYTES, "%s", o->name);
	else
		snprintf(name, NAME_MAX_BYTES, "%s:%u", host, o->mqtt.port);
}

static struct tenant_limits take_limits(const struct node_options *o)
{
	return (struct tenant_limits){
	        .max_connections = (uint32_t)o->max_connections,
	        .max_events_per_s = (uint32_t)o->max_events_per_s,
	        .max_bytes_per_s = o->max_bytes_per_s,
	        .max_event_bytes = (uint32_t)o->max_event_bytes,
	        .max_subscriptions = (uint32_t)o->max_subscriptions,
	        .max_stored_bytes = o->max_stored_bytes,
	        .max_backlog_events = o->max_backlog_events,
	        .retention_s = (uint32_t)((o->retention_ms + 999) / 1000),
	        .max_filters = (uint32_t)o->max_filters,
	        .max_in_flight = (uint32_t)o->max_in_flight,
	        .max_backlog_s = (uint32_t)((o->max_backlog_ms + 999) / 1000),
	        .max_scheduled = (uint32_t)o->max_scheduled,
	        .max_dead_letters = (uint32_t)o->max_dead_letters,
	};
}

static int run(const struct node_options *o, struct err *e)
{
	struct memory_keys keys = {0};
	struct tenant tenant;
	char name[NAME_MAX_BYTES];
	struct node_config c = {
	        .name = name,
	        .db = o->db,
	        .accept_data_loss = o->accept_data_loss,
	        .ttl_ms = (uint32_t)o->ttl_ms,
	        .tenants = &tenant,
	        .tenant_count = 1,
	        .memory_bytes = o->memory_bytes,
	        .cert_file = o->cert,
	        .key_file = o->key,
	        .mqtt = o->mqtt,
	        .admin = o->admin,
	        .insecure = o->insecure,
	        .insecure_tenant = o->insecure_tenant,
	        .audience = o->audience,
	        .issuer_ca_file = o->issuer_ca,
	        .client_ca_file = o->client_ca,
	        .max_packet = (uint32_t)o->max_packet,
	        .session_expiry_max_s = (uint32_t)(o->session_expiry_ms / 1000),
	        .cache_bytes = o->cache_bytes,
	        .set_aside_s = (uint32_t)((o->set_aside_ms + 999) / 1000),
	        .max_set_aside = (uint32_t)o->max_set_aside,
	        .limits = take_limits(o),
	        .peer = {.listen = o->peer,
	                 .advertise = o->peer_advertise,
	                 .cluster_key = o->cluster_key,
	                 .cluster_key_also = o->cluster_key_also,
	                 .cert_file = o->peer_cert,
	                 .key_file = o->peer_key,
	                 .ca_file = o->peer_ca},
	};
	int rc = -1;

	log_set_level((enum log_level)o->log_level);
	take_name(o, name);
	if (check(o, e) == 0 && tenant_name_check(slice_str(o->memory_tenant), e) == 0) {
		take_tenant(o->memory_tenant, &tenant);
		rc = take_keys(&o->memory_keys, &tenant, &keys, e);
	}
	if (rc == 0)
		rc = check_cluster_key(o, e);
	c.keys = keys.rows;
	c.key_count = keys.n;
	if (rc == 0)
		rc = o->workers > 1 ? workers_run(&c, (unsigned)o->workers) : node_run(&c);
	keys_release(&keys);
	return rc;
}

int cmd_node(int argc, char **argv)
{
	struct node_options o = {0};
	struct err e;
	int rc;

	if (!options_take(&spec, argc, argv, &o, &rc))
		return rc;
	rc = run(&o, &e);
	if (rc < 0) {
		fprintf(stderr, "leat node: %s\n", e.text);
		rc = OPTIONS_EXIT_USAGE;
	}
	options_release(&spec, &o);
	return rc;
}
