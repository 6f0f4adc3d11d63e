/* How far behind a subscription may be, in events and in their age: what is beyond is given up from
 * the oldest on, as if retention had taken it; a pinned queue waits for everything. Who reads on is
 * looked at before it reads, who waits for room with every sweep. */
#include "node/delivery/delivery.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/queue.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	AGE_MS = 5000,    /* the database is asked so often what is too old */
	NOTE_MS = 60000,  /* a place leaves a row in the audit so often at most */
	DETAIL_MAX = 160, /* bytes */
};

/* ---- age ---------------------------------------------------------------------------------------
 */

static void limit_space(struct space *sp);

static void on_old(void *arg, const struct positions *seqs)
{
	struct space *sp = arg;
	struct backlog *b = &sp->backlog;

	b->asking = false;
	if (!seqs)
		return; /* asked again by the next sweep, or the next who reads on */
	free(b->old);
	b->old = positions_copy(seqs);
	b->at_ms = clock_now_ms();
	limit_space(sp);
	for (uint32_t i = 0; i < sp->n_partitions; i++) {
		if (sp->partitions[i])
			partition_schedule(sp->partitions[i]);
	}
}

bool backlog_known(struct space *sp)
{
	uint64_t age_s = sp->tenant->limits.max_backlog_s;
	struct backlog *b = &sp->backlog;
	uint64_t now = clock_wall_ms();

	if (!age_s || (b->old && clock_now_ms() - b->at_ms < AGE_MS))
		return true;
	if (!b->asking && sp->dispatch->up) {
		b->asking = true;
		starts_find(sp, SESSION_START_TIME, now > age_s * 1000 ? now - age_s * 1000 : 0,
		            on_old, sp);
	}
	return b->old != NULL; /* what was known a moment ago will do meanwhile */
}

/* ---- giving up ---------------------------------------------------------------------------------
 */

struct noting {
	struct bus_note req;
	struct buf target;
	char detail[DETAIL_MAX];
};

static void on_noted(struct bus_note *req)
{
	struct noting *n = (struct noting *)req;

	if (req->outcome != SQL_OK)
		log_warn("backlog", "tenant=%u outcome=%s a gap is not in the audit",
		         req->tenant_id, sql_outcome_name(req->outcome));
	buf_release(&n->target);
	free(n);
}

static void put_target(const struct subscription *s, struct buf *out)
{
	if (s->kind == BUS_SUB_SESSION) {
		buf_append_str(out, "session ");
		buf_append_slice(out, session_subject(s->session));
		buf_u8(out, ' ');
		buf_append_slice(out, session_client_id(s->session));
		return;
	}
	buf_append_str(out, s->kind == BUS_SUB_SHARE ? "share " : "queue ");
	buf_append_str(out, s->name);
}

static void note(struct place *pl)
{
	const struct subscription *s = pl->sub;
	struct dispatch *d = s->space->dispatch;
	uint64_t now = clock_now_ms();
	struct gap gap = gaps_open(&pl->gaps);
	struct noting *n;

	if (!s->durable || (pl->noted_ms && now - pl->noted_ms < NOTE_MS))
		return;
	pl->noted_ms = now;
	n = xcalloc(1, sizeof *n);
	put_target(s, &n->target);
	snprintf(n->detail, sizeof n->detail,
	         "{\"subscription\":%" PRIu64 ",\"partition\":%u,\"from\":%" PRIu64
	         ",\"to\":%" PRIu64 "}",
	         s->id, pl->partition->id, gap.from, gap.to - 1);
	n->req = (struct bus_note){.done = on_noted,
	                           .tenant_id = s->space->tenant_id,
	                           .action = slice_str("backlog.gap"),
	                           .target = buf_slice(&n->target),
	                           .detail = slice_str(n->detail)};
	d->bus->ops->note(d->bus, &n->req);
}

static void give_up(struct place *pl, uint64_t to, enum dispatch_limit which)
{
	const struct dispatch_settings *set = &pl->sub->space->dispatch->settings;
	uint64_t behind = pl->partition->next_seq - place_matched_through(pl) - 1;
	uint64_t n = place_give_up(pl, to);

	if (!n)
		return;
	log_info("backlog",
	         "tenant=%u sub=%" PRIu64 " partition=%u given_up=%" PRIu64 " to=%" PRIu64,
	         pl->sub->space->tenant_id, pl->sub->id, pl->partition->id, n, to);
	note(pl);
	if (set->on_limit)
		set->on_limit(set->arg, pl->sub->space->tenant, which, behind > n ? behind : n, n);
}

/* Where what is not too old begins in its partition. */
static uint64_t young_from(const struct place *pl)
{
	const struct positions *old = pl->sub->space->backlog.old;
	uint32_t partition = pl->partition->id;

	if (layout_has(old->layout, partition))
		return old->seqs[partition - old->layout.first];
	return partition < old->layout.first ? pl->partition->next_seq : 0;
}

void backlog_limit(struct place *pl)
{
	const struct space *sp = pl->sub->space;
	const struct tenant_limits *l = &sp->tenant->limits;
	uint64_t head = pl->partition->next_seq;
	uint64_t part = l->max_backlog_events / pl->sub->n_places;
	uint64_t most = part ? part : 1;

	if (!head || (pl->sub->queue && pl->sub->queue->policy.pin))
		return;
	if (l->max_backlog_events && head - 1 > most)
		give_up(pl, head - most, DISPATCH_LIMIT_BACKLOG_EVENTS);
	if (l->max_backlog_s && sp->backlog.old)
		give_up(pl, young_from(pl), DISPATCH_LIMIT_BACKLOG_AGE);
}

/* ---- all of them -------------------------------------------------------------------------------
 */

static void limit_subscription(struct subscription *s)
{
	if (!s || s->state != SUBSCRIPTION_ACTIVE || !s->places)
		return;
	for (uint32_t i = 0; i < s->n_places; i++)
		backlog_limit(s->places[i]);
}

static void limit_space(struct space *sp)
{
	struct subscription *share;
	struct session *s;
	size_t at = 0;

	while ((s = map_next(&sp->sessions, &at)))
		limit_subscription(s->sub);
	for (at = 0; (share = map_next(&sp->shares, &at));)
		limit_subscription(share);
}

void backlog_sweep(struct dispatch *d)
{
	struct space *sp;
	size_t at = 0;

	while ((sp = map_next(&d->spaces, &at))) {
		const struct tenant_limits *l = &sp->tenant->limits;

		if (l->max_backlog_events || (l->max_backlog_s && backlog_known(sp)))
			limit_space(sp);
	}
}
