#include "cluster/bus_sql.h"

#include "base/mem.h"
#include "cluster/bus_sql_impl.h"

#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 128 };

static void fail_job(void *arg)
{
	struct bus_job *job = arg;

	job->done(job, SQL_RETRY);
}

void bus_sql_submit(struct bus_sql *b, enum sql_lane lane, sql_work_fn work, sql_done_fn done,
                    void *req, void *more)
{
	struct bus_job *job = xcalloc(1, sizeof *job);

	*job = (struct bus_job){b, b->bus.session_id, done, req, more};
	if (b->bus.state != BUS_UP || sql_submit(b->sql, lane, work, done, job))
		b->settings.defer(b->settings.loop, fail_job, job);
}

void bus_sql_on_generation(struct bus *bus, uint64_t generation, bool up)
{
	(void)generation; /* the bus counts its own: a session can be lost without a connection */
	session_sql_generation(bus_sql_self(bus), up);
}

void bus_sql_tick(struct bus *bus)
{
	session_sql_tick(bus_sql_self(bus));
	watch_sql_tick(bus_sql_self(bus));
}

void bus_sql_end(struct bus *bus)
{
	session_sql_end(bus_sql_self(bus));
}

static void bus_sql_free(struct bus *bus)
{
	struct bus_sql *b = bus_sql_self(bus);

	session_sql_release(b);
	watch_sql_release(b);
	together_release(&b->together);
	free(b->inbox.held);
	free((char *)b->settings.name);
	free((char *)b->settings.peer);
	free(b);
}

static const struct bus_ops sql_ops = {
        .append = journal_sql_append,
        .resolve = journal_sql_resolve,
        .read = journal_sql_read,
        .locate = journal_sql_locate,
        .heads = watch_sql_heads,
        .layouts = journal_sql_layouts,
        .claim = claim_sql_claim,
        .claim_release = claim_sql_release,
        .change = subscription_sql_change,
        .commit = cursor_sql_commit,
        .owned = subscription_sql_owned,
        .expire = subscription_sql_expire,
        .settle = settle_sql_settle,
        .retries = settle_sql_retries,
        .look = session_sql_look,
        .retain = retention_sql_retain,
        .report = report_sql_report,
        .stock = stock_sql_stock,
        .note = note_sql_note,
        .hinted = watch_sql_hinted,
        .role_claim = role_sql_claim,
        .fire = fire_sql_fire,
        .collect = inbox_sql_collect,
        .stop = session_sql_stop,
        .free = bus_sql_free,
};

struct bus *bus_sql_new(struct sql *sql, const struct bus_sql_settings *settings, struct err *e)
{
	struct bus_sql *b;

	if (!settings->name || !settings->name[0] || strlen(settings->name) > NAME_MAX_BYTES) {
		err_set(e, 0, "a node's name has 1 to %d bytes", NAME_MAX_BYTES);
		return NULL;
	}
	if (settings->peer && strlen(settings->peer) > BUS_ADDR_MAX) {
		err_set(e, 0, "a node's peer address has at most %d bytes", BUS_ADDR_MAX);
		return NULL;
	}
	b = xcalloc(1, sizeof *b);
	b->sql = sql;
	b->settings = *settings;
	b->settings.name = xstrdup(settings->name);
	b->settings.peer = xstrdup(settings->peer ? settings->peer : "");
	if (!b->settings.ttl_ms)
		b->settings.ttl_ms = BUS_SQL_TTL_MS;
	b->bus.ops = &sql_ops;
	b->bus.state = BUS_DOWN;
	session_sql_generation(b, sql_is_up(sql));
	return &b->bus;
}
