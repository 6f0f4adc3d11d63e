#include "node/backend.h"

#include "base/log.h"
#include "base/mem.h"
#include "cluster/bus_memory.h"
#include "cluster/bus_sql.h"
#include "sql/migrate.h"
#include "sql/sql.h"
#include "tenancy/tenant_store.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	GATE_RETRY_MS = 1000, /* look again whether the database is there */
	GATE_CONNECT_S = 2,   /* the loop stands still so long at most: nothing is served yet */
	BUS_TICK_MS = 100,
	GALERA_TTL_MS = 15000, /* one dead member stalls writes for 6 s */
};

struct backend {
	struct loop *loop;
	const struct node_config *config;
	const char *peer;
	struct registry *registry;
	struct backend_events events;
	struct bus *bus; /* NULL until open; on SQL it exists while the tenants are loaded */
	bool open;       /* on_open was called */
	bool stopped;    /* it is not to be any more */
	char waits_for[320];

	/* SQL only */
	struct dsn dsn;
	unsigned attempts;
	struct loop_timer *gate;
	struct sql *sql;
	struct tenant_store *tenants;
	struct loop_timer *tick;
};

static void defer(void *loop, void (*fn)(void *arg), void *arg)
{
	loop_defer(loop, fn, arg);
}

static void set_open(struct backend *b)
{
	b->open = true;
	b->events.on_open(b->events.arg, b->bus);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void open_memory(void *arg)
{
	struct backend *b = arg;
	const struct node_config *c = b->config;
	struct bus_memory_settings settings = {
	        .retention_bytes = c->memory_bytes, .defer = defer, .loop = b->loop};

	if (b->stopped)
		return;
	registry_apply(b->registry, c->tenants, c->tenant_count, c->keys, c->key_count);
	b->bus = bus_memory_new(&settings);
	set_open(b);
}

/* ---- SQL: the pool, the bus, the tenants ----------------------------------------------------- */

static void on_generation(void *arg, uint64_t generation, bool up)
{
	struct backend *b = arg;

	if (b->bus)
		bus_sql_on_generation(b->bus, generation, up);
}

static void on_tick(void *arg)
{
	struct backend *b = arg;

	bus_sql_tick(b->bus);
}

static void on_tenants(void *arg)
{
	set_open(arg);
}

static int open_sql(struct backend *b, uint32_t ttl_ms, struct err *e)
{
	struct sql_settings pool = SQL_SETTINGS_DEFAULT;
	struct bus_sql_settings bus = {.name = b->config->name,
	                               .peer = b->peer,
	                               .max_subscriptions = b->config->limits.max_subscriptions,
	                               .ttl_ms = ttl_ms,
	                               .defer = defer,
	                               .loop = b->loop};

	/* a paused node's transactions must end with its session, not hours later */
	pool.limits.wait_timeout_s = ttl_ms / 1000;
	pool.accept_data_loss = b->config->accept_data_loss;
	pool.on_generation = on_generation;
	pool.arg = b;
	b->sql = sql_new(loop_base(b->loop), &b->dsn, &pool, e);
	if (!b->sql)
		return -1;
	b->bus = bus_sql_new(b->sql, &bus, e);
	if (!b->bus)
		return -1;
	b->tick = loop_every(b->loop, BUS_TICK_MS, on_tick, b);
	b->tenants = tenant_store_new(loop_base(b->loop), b->sql, b->registry, on_tenants, b);
	snprintf(b->waits_for, sizeof b->waits_for, "reading the tenants");
	return 0;
}

/* ---- the gate: nothing of ours starts before the database is there and as it must be
 * ------------- */

static void gate_wait(struct backend *b, const char *what, const char *why)
{
	snprintf(b->waits_for, sizeof b->waits_for, "%s: %s", what, why);
	if ((b->attempts & (b->attempts - 1)) == 0) /* the 1st, 2nd, 3rd, 5th, 9th … */
		log_warn("node", "attempts=%u waiting, %s", b->attempts + 1, b->waits_for);
	b->attempts++;
	loop_timer_set(b->gate, GATE_RETRY_MS);
}

static void gate_pass(struct backend *b, const struct sql_server *server)
{
	uint32_t ttl_ms = server->galera ? GALERA_TTL_MS : BUS_SQL_TTL_MS;
	struct err e;

	log_info("node", "server=%s galera=%d database is ready", log_quote_str(server->version),
	         server->galera);
	if (b->config->ttl_ms)
		ttl_ms = b->config->ttl_ms;
	if (open_sql(b, ttl_ms, &e) < 0)
		b->events.on_failed(b->events.arg, e.text);
}

static void gate_look(void *arg)
{
	struct backend *b = arg;
	struct sql_limits limits = SQL_LIMITS_DEFAULT;
	struct sql_conn *c;
	struct err e;

	limits.connect_timeout_s = GATE_CONNECT_S;
	c = sql_conn_new(&b->dsn, &limits);
	if (sql_conn_open(c, &e) < 0)
		gate_wait(b, "the database does not answer", e.text);
	else if (sql_check_durable(sql_conn_server(c), b->config->accept_data_loss, &e) < 0)
		b->events.on_failed(b->events.arg, e.text);
	else if (sql_schema_check(c, &e) < 0)
		gate_wait(b, "the schema is not this version's", e.text);
	else
		gate_pass(b, sql_conn_server(c));
	sql_conn_free(c);
}

static int gate_begin(struct backend *b, struct err *e)
{
	if (dsn_load(&b->dsn, b->config->db, e) < 0)
		return -1;
	sql_library_init();
	snprintf(b->waits_for, sizeof b->waits_for, "connecting to the database");
	b->gate = loop_after(b->loop, 1, gate_look, b);
	return 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

struct backend *backend_new(struct loop *loop, const struct node_config *config, const char *peer,
                            struct registry *registry, const struct backend_events *events,
                            struct err *e)
{
	struct backend *b = xcalloc(1, sizeof *b);

	b->loop = loop;
	b->config = config;
	b->peer = peer;
	b->registry = registry;
	b->events = *events;
	snprintf(b->waits_for, sizeof b->waits_for, "starting");
	if (!config->db) {
		loop_defer(loop, open_memory, b);
	} else if (gate_begin(b, e) < 0) {
		free(b);
		return NULL;
	}
	return b;
}

static void end_bus(struct backend *b)
{
	if (b->config->db)
		bus_sql_end(b->bus);
	else
		bus_memory_end(b->bus);
}

void backend_stop(struct backend *b)
{
	if (!b)
		return;
	b->stopped = true;
	loop_timer_free(b->gate);
	loop_timer_free(b->tick);
	tenant_store_free(b->tenants);
	if (b->bus)
		end_bus(b);
	sql_free(b->sql);
}

void backend_free(struct backend *b)
{
	if (!b)
		return;
	assert(b->stopped);
	if (b->bus)
		b->bus->ops->free(b->bus);
	if (b->config->db) {
		sql_library_end();
		dsn_release(&b->dsn);
	}
	free(b);
}

const char *backend_waits_for(const struct backend *b)
{
	return b->open ? NULL : b->waits_for;
}

struct sql *backend_sql(const struct backend *b)
{
	return b->sql;
}
