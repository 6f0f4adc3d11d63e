/* SUBSCRIBE and UNSUBSCRIBE of a session, one after the other: the filters change in memory first,
 * so that events match from that moment, then in the session's row; only then comes the answer. */
#include "node/delivery/delivery.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/queue.h"
#include "node/mqtt/mqtt_reason.h"

#include <stdio.h>
#include <stdlib.h>

enum {
	OP_PAUSE_MS = 50,
	JOIN_PATIENCE_MS = 10000, /* longer than it takes to find a share's owner dead */
};

static bool wanted(const struct session_filter *f)
{
	return f->reason < 0x80;
}

/* ---- life --------------------------------------------------------------------------------------
 */

static struct op *op_new(struct session *s, bool subscribe, size_t n, uint16_t packet_id)
{
	struct op *op = xcalloc(1, sizeof *op);

	op->session = s;
	op->subscribe = subscribe;
	op->stage = subscribe ? OP_UNTIL : OP_APPLY;
	op->filters = xcalloc(n, sizeof *op->filters);
	op->n = n;
	op->packet_id = packet_id;
	s->requests++;
	return op;
}

static void op_free(struct op *op)
{
	struct session *s = op->session;

	TAILQ_REMOVE(&s->pending, op, link);
	if (op->waiting)
		TAILQ_REMOVE(&op->waiting->waiting, op, waits_link);
	dispatch_forget(s->space->dispatch, op);
	for (size_t i = 0; i < op->n; i++)
		free((char *)op->filters[i].filter.p);
	free(op->filters);
	free(op->starts);
	free(op->cursors);
	free(op->until);
	buf_release(&op->json);
	free(op->own_text);
	free(op);
	session_unref(s);
}

static void op_start(struct op *op)
{
	struct session *s = op->session;
	bool first = TAILQ_EMPTY(&s->pending);

	TAILQ_INSERT_TAIL(&s->pending, op, link);
	if (first)
		dispatch_after(s->space->dispatch, 0, (void (*)(void *))op_step, op);
}

void op_silence(struct session *s)
{
	struct op *op;

	TAILQ_FOREACH (op, &s->pending, link)
		op->silent = true;
}

void op_drop_all(struct session *s)
{
	struct op *op;
	struct op *next;

	for (op = TAILQ_FIRST(&s->pending); op; op = next) {
		next = TAILQ_NEXT(op, link);
		op->silent = true;
		if (!op->busy)
			op_free(op);
	}
}

static void op_retry(struct op *op)
{
	dispatch_after(op->session->space->dispatch, OP_PAUSE_MS, (void (*)(void *))op_step, op);
}

/* ---- stages ------------------------------------------------------------------------------------
 */

static void on_until(void *arg, const struct positions *until)
{
	struct op *op = arg;

	op->busy = false;
	if (op->session->dead) {
		op_free(op);
		return;
	}
	if (!until) {
		op_retry(op);
		return;
	}
	op->until = positions_copy(until);
	op->stage = OP_STARTS;
	op_step(op);
}

/* Every stage returns true when it has to wait; then something calls op_step again. */
static bool stage_until(struct op *op)
{
	if (!op->bounded) {
		op->stage = OP_STARTS;
		return false;
	}
	op->busy = true;
	starts_find(op->session->space, op->until_at, op->until_value, on_until, op);
	return true;
}

static void on_starts(void *arg, const struct positions *starts)
{
	struct op *op = arg;

	op->busy = false;
	if (op->session->dead) {
		op_free(op);
		return;
	}
	if (!starts) {
		op_retry(op);
		return;
	}
	op->starts = positions_copy(starts);
	op->cursors = starts_cursors(starts);
	op->stage = OP_APPLY;
	op_step(op);
}

static bool has_plain(const struct op *op)
{
	for (size_t i = 0; i < op->n; i++) {
		if (wanted(&op->filters[i]) && !filter_is_share(op->filters[i].filter))
			return true;
	}
	return false;
}

static bool stage_starts(struct op *op)
{
	struct session *s = op->session;

	if (!has_plain(op)) {
		op->stage = OP_APPLY;
		return false;
	}
	op->begins = !s->sub->n_places;
	op->busy = true;
	starts_find(s->space, op->begins ? op->start : SESSION_START_NEW, op->start_value,
	            on_starts, op);
	return true;
}

static void set_options(struct filter *f, const struct session_filter *want)
{
	f->qos = want->qos;
	f->no_local = want->no_local;
	f->retain_as_published = want->retain_as_published;
	f->retain_handling = want->retain_handling;
	f->subscription_id = want->subscription_id;
}

static size_t most_filters(const struct session *s)
{
	uint32_t max = s->space->tenant->limits.max_filters;

	return max && max < SESSION_FILTERS_MAX ? max : SESSION_FILTERS_MAX;
}

static void refuse_filter(struct op *op, struct session_filter *want)
{
	const struct session *s = op->session;
	struct dispatch *d = s->space->dispatch;
	char text[80];

	want->reason = MQTT_REASON_QUOTA_EXCEEDED;
	snprintf(text, sizeof text, "too many filters: a session of this tenant may have %zu",
	         most_filters(s));
	free(op->own_text);
	op->text = op->own_text = xstrdup(text);
	if (d->settings.on_limit)
		d->settings.on_limit(d->settings.arg, s->space->tenant, DISPATCH_LIMIT_FILTERS,
		                     most_filters(s), 1);
}

static void apply_one(struct op *op, struct session_filter *want)
{
	struct session *s = op->session;
	struct filter *f = filter_find(s->sub, want->filter);
	bool fresh = !f;

	if (fresh && filter_count(s->sub) >= most_filters(s)) {
		refuse_filter(op, want);
		return;
	}
	if (fresh)
		f = filter_add(s->sub, want->filter);
	set_options(f, want);
	want->reason = want->qos;
	if (!fresh)
		return;
	if (op->begins || filter_is_share(want->filter))
		filter_set_until(f, op->until);
	if (filter_is_queue(want->filter)) { /* a consumer when it is known whether it may be */
		f->share = queue_get(s->space, f, op->start, op->start_value, &op->policy);
		return;
	}
	if (!filter_is_share(want->filter)) {
		if (!op->begins)
			f->since = positions_copy(op->starts);
		filter_plant(s->sub, f);
		return;
	}
	f->share = share_get(s->space, f, s->expiry_s, op->start, op->start_value);
	if (session_consumes(s)) {
		rota_add(&f->share->rota, &s->consumer);
		subscription_wake(f->share);
	}
}

static void begin_places(const struct op *op)
{
	struct session *s = op->session;

	subscription_begin(s->sub, op->starts);
	subscription_wake(s->sub);
}

static void remove_filter(struct session *s, struct filter *f)
{
	struct subscription *share = f->share;

	filter_remove(s->sub, f);
	if (share)
		share_leave(share, s);
}

static void remove_one(struct session *s, struct session_filter *want)
{
	struct filter *f = filter_find(s->sub, want->filter);

	want->reason = f ? MQTT_REASON_SUCCESS : MQTT_REASON_NO_SUBSCRIPTION_EXISTED;
	if (f)
		remove_filter(s, f);
}

static bool stage_apply(struct op *op)
{
	struct session *s = op->session;

	op->stage = op->subscribe ? OP_JOIN : OP_PERSIST;
	for (size_t i = 0; i < op->n; i++) {
		if (!wanted(&op->filters[i]))
			continue;
		if (op->subscribe)
			apply_one(op, &op->filters[i]);
		else
			remove_one(s, &op->filters[i]);
	}
	if (op->subscribe && op->begins && op->cursors)
		begin_places(op);
	return false;
}

static void refuse(struct op *op, struct session_filter *want, uint8_t reason, const char *text)
{
	free(op->own_text);
	op->text = op->own_text = xstrdup(text);
	remove_one(op->session, want);
	want->reason = reason;
}

void op_refuse(struct op *op, uint8_t reason, const char *text)
{
	TAILQ_REMOVE(&op->waiting->waiting, op, waits_link);
	op->waiting = NULL;
	refuse(op, &op->filters[op->joined - 1], reason, text);
	op_step(op);
}

/* It is nobody's here, and has not been had elsewhere for as long. */
static const char *why_not_joined(const struct subscription *share)
{
	if (!share->space->dispatch->up)
		return "the database does not answer: try again later";
	return share->queue ? "another node serves this queue and cannot be reached from this one: "
	                      "connect there, or try again later"
	                    : "another node serves this shared subscription and cannot be reached "
	                      "from this one: connect there, or try again later";
}

static void join_gave_up(void *arg)
{
	struct op *op = arg;
	const struct subscription *share = op->waiting;
	struct session_filter *want = &op->filters[op->joined - 1];

	if (!share)
		return;
	op->text = why_not_joined(share);
	log_warn("subscribe", "tenant=%u name=%s consumer refused why=%s", share->space->tenant_id,
	         log_quote_str(share->name), log_quote_str(op->text));
	TAILQ_REMOVE(&op->waiting->waiting, op, waits_link);
	op->waiting = NULL;
	remove_one(op->session, want);
	want->reason = MQTT_REASON_IMPLEMENTATION_ERROR;
	op_step(op);
}

static void join_queue(struct op *op, struct session_filter *want, struct subscription *queue)
{
	uint8_t reason;
	const char *objection = queue_join(queue, op->session, &reason);

	if (objection)
		refuse(op, want, reason, objection);
}

static bool stage_join(struct op *op)
{
	if (op->rejoins) /* what it waited for is known now: may it? */
		op->joined--;
	op->rejoins = false;
	while (op->joined < op->n) {
		struct session_filter *want = &op->filters[op->joined++];
		struct filter *f;

		if (!wanted(want) || !filter_is_share(want->filter))
			continue;
		f = filter_find(op->session->sub, want->filter);
		if (f && f->share && share_wait(f->share, op)) {
			dispatch_after(op->session->space->dispatch, JOIN_PATIENCE_MS, join_gave_up,
			               op);
			op->rejoins = f->share->queue != NULL;
			return true;
		}
		if (f && f->share && f->share->queue)
			join_queue(op, want, f->share);
	}
	op->stage = OP_PERSIST;
	return false;
}

static void on_persisted(struct bus_change *req)
{
	struct op *op = req->arg;
	struct session *s = op->session;

	op->busy = false;
	if (s->dead) {
		op_free(op);
		return;
	}
	switch (req->outcome) {
	case SQL_OK:
	case SQL_DUP:
		if (op->begins)
			subscription_stored(s->sub);
		op->stage = OP_ANSWER;
		op_step(op);
		return;
	case SQL_RETRY:
	case SQL_UNKNOWN: /* the same text again does no harm */
		op_retry(op);
		return;
	case SQL_LOST:
	case SQL_FATAL:
		break;
	}
	if (s->sub->epoch != req->epoch) { /* lost with a generation, and claimed anew since */
		op_retry(op);
		return;
	}
	subscription_lost(s->sub);
}

/* Not those of a layout that it has left since, in a claim between two attempts. */
static bool lacks_cursors(const struct op *op)
{
	const struct subscription *sub = op->session->sub;

	return op->begins && op->cursors && sub->n_places && !sub->places[0]->has_row;
}

static bool stage_persist(struct op *op)
{
	struct session *s = op->session;
	struct dispatch *d = s->space->dispatch;

	if (!s->sub->durable) {
		op->stage = OP_ANSWER;
		return false;
	}
	if (s->sub->state != SUBSCRIPTION_ACTIVE) { /* a new generation: wait for the claim */
		op_retry(op);
		return true;
	}
	buf_clear(&op->json);
	filters_encode(s->sub, &op->json);
	op->change = (struct bus_change){
	        .done = on_persisted,
	        .arg = op,
	        .verb = BUS_CHANGE_FILTERS,
	        .tenant_id = s->space->tenant_id,
	        .subscription_id = s->sub->id,
	        .epoch = s->sub->epoch,
	        .expiry_s = s->expiry_s,
	        .filters = buf_slice(&op->json),
	        .n_starts = lacks_cursors(op) ? op->starts->layout.n : 0,
	        .starts = op->cursors,
	};
	op->busy = true;
	d->bus->ops->change(d->bus, &op->change);
	return true;
}

static void answer(struct op *op)
{
	struct session *s = op->session;
	void *conn = op->silent || !s->conn_id ? NULL : s->conn;
	uint8_t *reasons = xmalloc(op->n + 1);
	struct op was = *op;
	char *own_text = op->own_text;
	struct op *next = TAILQ_NEXT(op, link);

	for (size_t i = 0; i < op->n; i++)
		reasons[i] = op->filters[i].reason;
	if (next)
		dispatch_after(s->space->dispatch, 0, (void (*)(void *))op_step, next);
	op->own_text = NULL;
	op_free(op); /* the connection may end the session when it hears */
	if (conn && was.done)
		was.done(conn, was.packet_id, reasons, was.n, was.text);
	free(reasons);
	free(own_text);
}

void op_step(struct op *op)
{
	static bool (*const stages[])(struct op *) = {
	        [OP_UNTIL] = stage_until, [OP_STARTS] = stage_starts,   [OP_APPLY] = stage_apply,
	        [OP_JOIN] = stage_join,   [OP_PERSIST] = stage_persist,
	};

	if (op->session->dead) {
		op_free(op);
		return;
	}
	dispatch_forget(op->session->space->dispatch, op); /* it goes on: nothing is waited for */
	while (op->stage != OP_ANSWER) {
		if (stages[op->stage](op))
			return;
	}
	answer(op);
}

/* ---- requests ----------------------------------------------------------------------------------
 */

void session_subscribe(struct session *s, const struct session_subscribe *req)
{
	struct op *op = op_new(s, true, req->n, req->packet_id);

	for (size_t i = 0; i < req->n; i++) {
		op->filters[i] = req->filters[i];
		op->filters[i].filter =
		        slice(xstrndup(req->filters[i].filter.p, req->filters[i].filter.n),
		              req->filters[i].filter.n);
	}
	op->start = req->start;
	op->start_value = req->start_value;
	op->bounded = req->bounded;
	op->until_at = req->until;
	op->until_value = req->until_value;
	op->policy = req->policy;
	op->done = req->done;
	op_start(op);
}

/* Filters that wait to be added were allowed by a token, too. */
static void check_pending(struct session *s, bool (*fn)(void *arg, struct slice filter), void *arg)
{
	struct op *op;

	TAILQ_FOREACH (op, &s->pending, link) {
		if (!op->subscribe || op->stage > OP_APPLY)
			continue;
		for (size_t i = 0; i < op->n; i++) {
			struct session_filter *f = &op->filters[i];

			if (wanted(f) && !fn(arg, f->filter))
				f->reason = MQTT_REASON_NOT_AUTHORIZED;
		}
	}
}

/* A queue is judged by its own filters, as far as they are known; else when they are. */
static bool filter_allowed(const struct filter *f, bool (*fn)(void *arg, struct slice filter),
                           void *arg)
{
	const struct subscription *share = f->share;

	for (size_t i = 0; share && share->queue && i < share->n_filters; i++) {
		if (share->filters[i].text && !fn(arg, share->filters[i].match))
			return false;
	}
	return (share && share->queue) || fn(arg, slice_str(f->text));
}

void session_drop_share(struct session *s, struct subscription *share)
{
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		if (s->sub->filters[i].text && s->sub->filters[i].share == share) {
			remove_filter(s, &s->sub->filters[i]);
			session_store(s);
			return;
		}
	}
}

void session_filters_check(struct session *s, bool (*fn)(void *arg, struct slice filter), void *arg)
{
	bool any = false;

	check_pending(s, fn, arg);
	for (size_t i = 0; i < s->sub->n_filters; i++) {
		struct filter *f = &s->sub->filters[i];

		if (!f->text || filter_allowed(f, fn, arg))
			continue;
		remove_filter(s, f); /* at once: nothing more may be delivered for it */
		any = true;
	}
	if (any)
		session_store(s);
}

void session_store(struct session *s)
{
	static const struct session_unsubscribe nothing;

	session_unsubscribe(s, &nothing);
}

void session_unsubscribe(struct session *s, const struct session_unsubscribe *req)
{
	struct op *op = op_new(s, false, req->n, req->packet_id);

	for (size_t i = 0; i < req->n; i++)
		op->filters[i].filter =
		        slice(xstrndup(req->filters[i].p, req->filters[i].n), req->filters[i].n);
	op->done = req->done;
	op_start(op);
}
