#include "cluster/bus_memory.h"

#include "base/mem.h"
#include "cluster/store.h"

#include <stdlib.h>

struct bus_memory {
	struct bus bus; /* first */
	struct bus_memory_settings settings;
	struct store *store;
	void (*on_stopped)(void *arg);
	void *stopped_arg;
	bool ended;
};

static struct bus_memory *self(struct bus *bus)
{
	return (struct bus_memory *)bus;
}

static void defer(struct bus *bus, void (*fn)(void *), void *arg)
{
	self(bus)->settings.defer(self(bus)->settings.loop, fn, arg);
}

/* Each request is applied at once and answered through the loop. */
#define REQUEST(verb, apply)                                               \
	static void finish_##verb(void *arg)                               \
	{                                                                  \
		struct bus_##verb *req = arg;                              \
                                                                           \
		req->done(req);                                            \
	}                                                                  \
                                                                           \
	static void memory_##verb(struct bus *bus, struct bus_##verb *req) \
	{                                                                  \
		req->outcome = apply;                                      \
		defer(bus, finish_##verb, req);                            \
	}

REQUEST(append, store_append(self(bus)->store, &bus->session_id, req))
REQUEST(resolve, store_resolve(self(bus)->store, req))
REQUEST(read, store_read(self(bus)->store, req))
REQUEST(locate, store_locate(self(bus)->store, req))
REQUEST(heads, store_heads(self(bus)->store, req))
REQUEST(layouts, store_layouts(self(bus)->store, req))
REQUEST(claim, store_claim(self(bus)->store, &bus->session_id, req))
REQUEST(change, store_change(self(bus)->store, &bus->session_id, req))
REQUEST(commit, store_commit(self(bus)->store, &bus->session_id, req))
REQUEST(owned, store_owned(self(bus)->store, &bus->session_id, req))
REQUEST(expire, store_expire(self(bus)->store, req))
REQUEST(settle, store_settle(self(bus)->store, &bus->session_id, req))
REQUEST(retries, store_retries(self(bus)->store, req))
REQUEST(role_claim, store_role_claim(self(bus)->store, &bus->session_id, req))
REQUEST(fire, store_fire(self(bus)->store, &bus->session_id, req))
REQUEST(collect, store_collect(self(bus)->store, &bus->session_id, req))
REQUEST(retain, store_retain(self(bus)->store, &bus->session_id, req))
REQUEST(report, SQL_OK) /* there is nobody to tell */
REQUEST(stock, store_stock(self(bus)->store, req))
REQUEST(note, SQL_OK) /* nor to read it */

static void memory_claim_release(struct bus *bus, struct bus_claim *req)
{
	(void)bus;
	store_claim_release(req);
}

static void memory_look(struct bus *bus)
{
	(void)bus; /* there is nobody else */
}

static void memory_hinted(struct bus *bus, const struct id128 *session_id, uint32_t writer_no,
                          uint64_t flush_no)
{
	(void)bus;
	(void)session_id;
	(void)writer_no;
	(void)flush_no;
}

static void finish_stop(void *arg)
{
	struct bus_memory *m = arg;

	m->on_stopped(m->stopped_arg);
}

static void memory_stop(struct bus *bus, void (*on_stopped)(void *arg), void *arg)
{
	struct bus_memory *m = self(bus);

	m->on_stopped = on_stopped;
	m->stopped_arg = arg;
	store_session_end(m->store, &bus->session_id);
	defer(bus, finish_stop, m);
}

static void memory_free(struct bus *bus)
{
	store_free(self(bus)->store);
	free(bus);
}

void bus_memory_publish(struct bus *bus, const struct batch *one)
{
	store_publish(self(bus)->store, one);
}

static const struct bus_ops memory_ops = {
        .append = memory_append,
        .resolve = memory_resolve,
        .read = memory_read,
        .locate = memory_locate,
        .heads = memory_heads,
        .layouts = memory_layouts,
        .claim = memory_claim,
        .claim_release = memory_claim_release,
        .change = memory_change,
        .commit = memory_commit,
        .owned = memory_owned,
        .expire = memory_expire,
        .settle = memory_settle,
        .retries = memory_retries,
        .retain = memory_retain,
        .report = memory_report,
        .stock = memory_stock,
        .note = memory_note,
        .look = memory_look,
        .hinted = memory_hinted,
        .role_claim = memory_role_claim,
        .fire = memory_fire,
        .collect = memory_collect,
        .stop = memory_stop,
        .free = memory_free,
};

static void come_up(void *arg)
{
	struct bus *bus = arg;

	if (self(bus)->ended)
		return;
	bus->state = BUS_UP;
	if (bus->events.on_state)
		bus->events.on_state(bus->events.arg, BUS_UP);
}

void bus_memory_end(struct bus *bus)
{
	self(bus)->ended = true;
	if (bus->state != BUS_UP)
		return;
	bus->state = BUS_DOWN;
	bus->generation++;
	if (bus->events.on_state)
		bus->events.on_state(bus->events.arg, BUS_DOWN);
}

struct bus *bus_memory_new(const struct bus_memory_settings *settings)
{
	struct bus_memory *m = xcalloc(1, sizeof *m);

	m->settings = *settings;
	m->store = store_new(settings->retention_bytes);
	m->bus.ops = &memory_ops;
	m->bus.state = BUS_DOWN;
	m->bus.generation = 1;
	m->bus.session_id = id128_random();
	store_session_open(m->store, &m->bus.session_id, "memory");
	defer(&m->bus, come_up, &m->bus);
	return &m->bus;
}
