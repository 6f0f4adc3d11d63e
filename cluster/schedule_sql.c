#include "cluster/schedule_sql.h"

#include "base/buf.h"
#include "base/bug.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "cluster/bus.h"
#include "cluster/cron.h"
#include "cluster/event_props.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { TOPIC_MAX = 1024, COLUMNS = 14 };

/* A row that is due. */
struct due {
	uint64_t schedule_id;
	uint32_t tenant_id;
	struct layout layout; /* its tenant's */
	bool computed;        /* next_at is set: this is a tick */
	uint64_t next_ms;     /* next_at, since 1970 */
	uint64_t now_ms;      /* the database's clock */
	uint64_t max_bytes;   /* of its tenant's events; 0 = as the nodes say */
	bool full;            /* its tenant's storage is */
	struct buf text;      /* name, cron, zone, topic, content type, payload, end to end */
	size_t ends[6];
};

enum { NAME, CRON, ZONE, TOPIC, TYPE, PAYLOAD };

struct dues {
	struct due *rows;
	size_t n;
};

static struct slice column(const struct due *d, int i)
{
	size_t from = i ? d->ends[i - 1] : 0;

	return slice(d->text.data + from, d->ends[i] - from);
}

static int on_due(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct dues *l = arg;
	struct due *d;

	if (n < COLUMNS)
		return 1;
	l->rows = xrealloc(l->rows, (l->n + 1) * sizeof *l->rows);
	d = &l->rows[l->n++];
	*d = (struct due){
	        .schedule_id = cells[0].u,
	        .tenant_id = (uint32_t)cells[1].u,
	        .layout = {(uint32_t)cells[11].u, (uint32_t)cells[2].u},
	        .computed = !cells[3].null,
	        .next_ms = cells[3].u,
	        .now_ms = cells[4].u,
	        .max_bytes = cells[12].u,
	        .full = cells[13].u != 0,
	};
	buf_grow(&d->text, 1);
	for (unsigned i = 0; i < 6; i++) {
		buf_append_slice(&d->text, cells[5 + i].bytes);
		d->ends[i] = d->text.len;
	}
	return 0;
}

/* ---- the event ---------------------------------------------------------------------------------
 */

static void time_text(uint64_t ms, char out[40])
{
	time_t s = (time_t)(ms / 1000);
	struct tm tm;
	size_t n;

	gmtime_r(&s, &tm);
	n = strftime(out, 40, "%Y-%m-%dT%H:%M:%S", &tm);
	if (ms % 1000)
		snprintf(out + n, 40 - n, ".%03uZ", (unsigned)(ms % 1000));
	else
		snprintf(out + n, 40 - n, "Z");
}

static int check_row(const struct due *d, struct err *e)
{
	struct slice topic = column(d, TOPIC);

	if (!topic.n || topic.n > TOPIC_MAX || topic.p[0] == '$' || !utf8_valid_text(topic) ||
	    memchr(topic.p, '+', topic.n) || memchr(topic.p, '#', topic.n))
		return err_set(e, 0, "%s is no topic", log_quote(topic.p, topic.n));
	if (!utf8_valid_text(column(d, NAME)) || !utf8_valid_text(column(d, TYPE)))
		return err_set(e, 0, "its name or content type is not UTF-8");
	return 0;
}

/* A tick comes to its subscribers as any CloudEvent does, its attributes being properties too: by
 * its id they know one that comes again. */
static void put_props(struct buf *props, const struct event *tick, struct slice type)
{
	if (type.n)
		event_props_content_type(props, type);
	event_props_user(props, "specversion", slice_str("1.0"));
	event_props_user(props, "id", tick->id);
	event_props_user(props, "source", tick->source);
	event_props_user(props, "type", tick->type);
	event_props_user(props, "subject", tick->subject);
	event_props_user(props, "time", tick->time);
}

/* One tick has one id, whoever publishes it. */
static void gather_tick(const struct due *d, struct gather *g)
{
	struct batch *one = batch_new(d->tenant_id, 0);
	struct buf props = {0};
	struct buf id = {0};
	char time[40];
	struct event ev = {.topic = column(d, TOPIC),
	                   .payload = column(d, PAYLOAD),
	                   .source = slice_str("leat:schedule"),
	                   .type = slice_str("leat.tick"),
	                   .subject = column(d, NAME),
	                   .qos = 1};

	time_text(d->next_ms, time);
	buf_append_slice(&id, column(d, NAME));
	buf_printf(&id, "@%s", time);
	ev.id = buf_slice(&id);
	ev.time = slice_str(time);
	put_props(&props, &ev, column(d, TYPE));
	ev.props = buf_slice(&props);
	batch_append(one, &ev, (struct publisher){0});
	batch_seal(one);
	gather_add(g, d->tenant_id, layout_partition(d->layout, &ev), one, 0, SIZE_MAX);
	batch_unref(one);
	buf_release(&props);
	buf_release(&id);
}

/* ---- one row -----------------------------------------------------------------------------------
 */

/* The next tick after now. @every keeps its beat. */
static int next_tick(const struct due *d, uint64_t *next_ms, struct err *e)
{
	struct zone *z;
	struct cron cron;

	if (cron_parse(column(d, CRON), &cron, e) < 0 || check_row(d, e) < 0)
		return -1;
	z = zone_open(column(d, ZONE), e);
	if (!z)
		return -1;
	*next_ms = cron_next(&cron, z, d->now_ms);
	if (cron.every_ms && d->computed)
		*next_ms =
		        d->next_ms + ((d->now_ms - d->next_ms) / cron.every_ms + 1) * cron.every_ms;
	if (BUG("tick-again") && d->computed && d->now_ms >= d->next_ms + 1000 &&
	    d->now_ms < d->next_ms + 3000)
		*next_ms = d->next_ms;
	zone_free(z);
	return *next_ms == UINT64_MAX ? err_set(e, 0, "it never ticks") : 0;
}

enum sql_outcome schedule_sql_stop(struct sql_conn *c, uint64_t schedule_id, const char *why)
{
	struct sql_param id = sql_u64(schedule_id);
	struct buf detail = {0};
	enum sql_outcome o = sql_exec(c, STMT_SCHEDULE_FAIL, &id, 1);

	log_error("schedule", "schedule=%" PRIu64 " stopped: %s", schedule_id, log_quote_str(why));
	buf_append_str(&detail, "{\"error\":");
	buf_json_string(&detail, slice_str(why));
	buf_u8(&detail, '}');
	if (o == SQL_OK) {
		struct sql_param params[] = {sql_bytes("leat", 4),
		                             sql_utf8(detail.data, detail.len), id};

		o = sql_exec(c, STMT_SCHEDULE_AUDIT, params, 3);
	}
	buf_release(&detail);
	return o;
}

static bool is_over(const struct bus_fire *req, uint32_t tenant_id)
{
	for (size_t i = 0; i < req->n_over; i++) {
		if (req->over[i] == tenant_id)
			return true;
	}
	return false;
}

static enum bus_left_out judge(const struct bus_fire *req, const struct due *d)
{
	uint64_t max = d->max_bytes ? d->max_bytes : req->max_event_bytes;

	if (max && column(d, PAYLOAD).n > max)
		return BUS_LEFT_OUT_LARGE;
	if (d->full)
		return BUS_LEFT_OUT_FULL;
	return is_over(req, d->tenant_id) ? BUS_LEFT_OUT_RATE : BUS_LEFT_OUT_REASONS;
}

static enum sql_outcome tick(struct sql_conn *c, const struct schedule_ticks *t,
                             const struct due *d)
{
	struct schedule_tick done = {.schedule_id = d->schedule_id,
	                             .tenant_id = d->tenant_id,
	                             .late_ms = d->now_ms - d->next_ms,
	                             .bytes = column(d, PAYLOAD).n,
	                             .left_out = judge(t->req, d)};
	bool goes = done.left_out == BUS_LEFT_OUT_REASONS;
	uint64_t next_ms;
	struct err e;
	enum sql_outcome o;

	if (next_tick(d, &next_ms, &e) < 0)
		return schedule_sql_stop(c, d->schedule_id, e.text);
	if (d->computed) {
		struct sql_param params[] = {sql_u64(goes), sql_u64(next_ms * 1000),
		                             sql_u64(d->schedule_id), sql_u64(d->next_ms * 1000)};

		o = sql_exec(c, STMT_SCHEDULE_TICK, params, 4);
	} else {
		struct sql_param params[] = {sql_u64(next_ms * 1000), sql_u64(d->schedule_id)};

		o = sql_exec(c, STMT_SCHEDULE_BEGIN, params, 2);
	}
	if (o != SQL_OK || !d->computed || sql_affected(c) == 0) /* changed meanwhile: later */
		return o;
	if (goes)
		gather_tick(d, t->gather);
	t->on_tick(t->arg, &done);
	return SQL_OK;
}

enum sql_outcome schedule_sql_tick(struct sql_conn *c, const struct schedule_ticks *t)
{
	struct sql_param limit = sql_u64(t->limit);
	struct dues l = {0};
	enum sql_outcome o = sql_query(c, STMT_SCHEDULE_DUE, &limit, 1, on_due, &l);

	for (size_t i = 0; i < l.n; i++) {
		if (o == SQL_OK)
			o = tick(c, t, &l.rows[i]);
		buf_release(&l.rows[i].text);
	}
	free(l.rows);
	return o;
}

/* ---- when --------------------------------------------------------------------------------------
 */

static int on_next(void *arg, const struct sql_cell *cells, unsigned n)
{
	uint64_t *in_ms = arg;

	if (n)
		*in_ms = cells[0].null || (int64_t)cells[0].u <= 0 ? 0 : cells[0].u + 1;
	return 1;
}

enum sql_outcome schedule_sql_next(struct sql_conn *c, uint64_t *in_ms)
{
	*in_ms = UINT64_MAX;
	return sql_query(c, STMT_SCHEDULE_NEXT, NULL, 0, on_next, in_ms);
}
