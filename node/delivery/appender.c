#include "node/delivery/appender.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "cluster/writer.h"
#include "node/delivery/positions.h"
#include "node/net/later.h"
#include "tenancy/share.h"

#include <assert.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/queue.h>

/* While some publish much and some little, where each goes. */
enum { MUCH_WRITER = 0, LITTLE_WRITER = 1 };

enum {
	BULK_BYTES = 64 * 1024,    /* queued by one tenant: it has much, and flushes alone */
	LATELY_MS = 2000,          /* who published little within this time is expected again */
	SHARE_QUANTUM = 64 * 1024, /* bytes per tenant of weight 1 and round */
	FLUSH_MAX_BATCHES = 512,
	EVENT_OVERHEAD = 192, /* bytes: attributes' names, index */
};

/* One batch that is being filled or waits for a flush. */
struct queued {
	TAILQ_ENTRY(queued) link;
	struct batch *batch;
	size_t bytes; /* what its events cost */
};

TAILQ_HEAD(queued_list, queued);

/* What is queued for one partition; on its lane's list while that is anything. */
struct head_queue {
	TAILQ_ENTRY(head_queue) link;
	uint32_t partition_id;
	struct lane *lane; /* stays as it is while anything is queued or in flight */
	struct queued_list batches;
	size_t in_flight; /* events that a writer has */
	bool listed;
	struct queued_list returned; /* it was sealed: earlier than what is queued */
};

/* A tenant's part of one writer's work. */
struct lane {
	struct share_entry entry;
	struct tenant_queue *of;
	TAILQ_HEAD(, head_queue) heads;
	size_t bytes; /* queued */
};

struct tenant_queue {
	struct appender *appender;
	uint32_t tenant_id;
	struct layout layout;
	struct layout next; /* n not 0: it moves there when nothing is in flight any more */
	struct lane lanes[BUS_WRITERS];
	struct head_queue *heads;               /* [layout.n] */
	struct head_queue scheduled;            /* what is stored for later */
	size_t bytes;                           /* queued or in flight */
	TAILQ_ENTRY(tenant_queue) waiting_link; /* on appender.waiting while anybody is told to */
	uint64_t *waiting;                      /* connections that were told to pause */
	size_t n_waiting;
	size_t cap_waiting;
};

TAILQ_HEAD(tenant_list, tenant_queue);

struct little {
	uint32_t tenant_id;
	uint64_t until_ms;
};

struct appender {
	struct loop *loop;
	struct bus *bus;
	struct appender_events events;
	struct map tenants;         /* tenant_id -> tenant_queue */
	struct tenant_list waiting; /* those with connections that wait for room */
	struct share shares[BUS_WRITERS];
	struct writer *writers[BUS_WRITERS];
	size_t load[BUS_WRITERS]; /* bytes queued for it or in flight */
	struct little little[2];  /* the last tenants that published little, the latest first */
	struct laters laters;
	size_t bytes; /* all tenants' */
	bool full;    /* the bound of all tenants was reached, and connections wait for it */
};

/* What an event counts against the bounds: everything a publisher decides the size of. It adds up
 * over events, so that a batch that the writer had to bisect gives back exactly what it took. */
static size_t cost(const struct event *ev)
{
	return ev->payload.n + ev->props.n + ev->topic.n + ev->key.n + ev->name.n + EVENT_OVERHEAD;
}

static size_t cost_of_batch(const struct batch *b)
{
	struct event ev;
	size_t bytes = 0;

	for (uint32_t i = 0; i < batch_count(b); i++) {
		batch_event(b, i, &ev);
		bytes += cost(&ev);
	}
	return bytes;
}

/* ---- queues ------------------------------------------------------------------------------------
 */

static void head_init(struct tenant_queue *q, struct head_queue *h, uint32_t partition_id)
{
	h->partition_id = partition_id;
	h->lane = &q->lanes[(q->tenant_id + partition_id) % BUS_WRITERS];
	TAILQ_INIT(&h->batches);
	TAILQ_INIT(&h->returned);
}

static void set_layout(struct tenant_queue *q, struct layout l)
{
	q->layout = l;
	q->heads = xcalloc(l.n, sizeof *q->heads);
	for (uint32_t i = 0; i < l.n; i++)
		head_init(q, &q->heads[i], l.first + i);
}

static struct tenant_queue *queue_new(struct appender *a, const struct tenant *t)
{
	struct tenant_queue *q = xcalloc(1, sizeof *q);

	q->appender = a;
	q->tenant_id = t->id;
	for (int w = 0; w < BUS_WRITERS; w++) {
		share_entry_init(&q->lanes[w].entry, t->weight);
		q->lanes[w].of = q;
		TAILQ_INIT(&q->lanes[w].heads);
	}
	set_layout(q, layout_of(t));
	head_init(q, &q->scheduled, BATCH_SCHEDULED);
	map_put(&a->tenants, &q->tenant_id, sizeof q->tenant_id, q);
	return q;
}

static void queue_free(struct tenant_queue *q)
{
	map_del(&q->appender->tenants, &q->tenant_id, sizeof q->tenant_id);
	free(q->waiting);
	free(q->heads);
	free(q);
}

static struct head_queue *head_of(struct tenant_queue *q, uint32_t partition_id)
{
	if (partition_id == BATCH_SCHEDULED)
		return &q->scheduled;
	assert(layout_has(q->layout, partition_id));
	return &q->heads[partition_id - q->layout.first];
}

static void note_little(struct appender *a, uint32_t tenant_id)
{
	if (a->little[0].tenant_id != tenant_id)
		a->little[1] = a->little[0];
	a->little[0] = (struct little){tenant_id, clock_now_ms() + LATELY_MS};
}

static void forget_little(struct appender *a, uint32_t tenant_id)
{
	for (size_t i = 0; i < 2; i++) {
		if (a->little[i].tenant_id == tenant_id)
			a->little[i].until_ms = 0;
	}
}

/* Other tenants than q lately. */
static bool others_have_little(const struct appender *a, const struct tenant_queue *q)
{
	if (BUG("unfair-flushes"))
		return false;
	for (size_t i = 0; i < 2; i++) {
		const struct little *l = &a->little[i];

		if (l->tenant_id != q->tenant_id && clock_now_ms() < l->until_ms)
			return true;
	}
	return false;
}

/* A head that has nothing under way may change its writer: all it published before is stored, so
 * that its order holds. The one with less to do, so that nobody stands behind a flood needlessly.
 */
static void pick_lane(struct tenant_queue *q, struct head_queue *h)
{
	const struct appender *a = q->appender;
	size_t best = (size_t)(h->lane - q->lanes);

	if (q->bytes > BULK_BYTES && others_have_little(a, q)) {
		h->lane = &q->lanes[MUCH_WRITER];
		return;
	}
	for (size_t w = 0; w < BUS_WRITERS; w++) {
		if (a->load[w] < a->load[best])
			best = w;
	}
	h->lane = &q->lanes[best];
}

static size_t lane_writer(const struct tenant_queue *q, const struct lane *lane)
{
	return (size_t)(lane - q->lanes);
}

static struct queued *open_batch(struct tenant_queue *q, struct head_queue *h)
{
	struct queued *e = xcalloc(1, sizeof *e);

	e->batch = batch_new(q->tenant_id, h->partition_id);
	if (BUG("newest-first"))
		TAILQ_INSERT_HEAD(&h->batches, e, link);
	else
		TAILQ_INSERT_TAIL(&h->batches, e, link);
	return e;
}

static void list(struct tenant_queue *q, struct head_queue *h)
{
	if (q->bytes <= BULK_BYTES)
		note_little(q->appender, q->tenant_id);
	h->listed = true;
	TAILQ_INSERT_TAIL(&h->lane->heads, h, link);
	share_push_active(&q->appender->shares[lane_writer(q, h->lane)], &h->lane->entry);
}

static void queue_event(struct tenant_queue *q, struct head_queue *h, const struct event *ev,
                        struct publisher from)
{
	struct queued *e = BUG("newest-first") ? NULL : TAILQ_LAST(&h->batches, queued_list);
	size_t bytes = cost(ev);

	if (!h->listed && !h->in_flight)
		pick_lane(q, h);
	if (!e || batch_append(e->batch, ev, from) != 0) {
		e = open_batch(q, h);
		if (batch_append(e->batch, ev, from) != 0)
			fatal("an empty batch refused an event");
	}
	e->bytes += bytes;
	h->lane->bytes += bytes;
	q->bytes += bytes;
	q->appender->bytes += bytes;
	q->appender->load[lane_writer(q, h->lane)] += bytes;
	if (!h->listed && !(q->next.n && h != &q->scheduled))
		list(q, h);
}

static void unlist(struct tenant_queue *q, struct head_queue *h)
{
	struct lane *lane = h->lane;

	if (!h->listed)
		return;
	h->listed = false;
	TAILQ_REMOVE(&lane->heads, h, link);
	if (TAILQ_EMPTY(&lane->heads))
		share_deactivate(&q->appender->shares[lane_writer(q, lane)], &lane->entry);
}

static void wait_for_room(struct tenant_queue *q, uint64_t conn_id)
{
	if (!q->n_waiting)
		TAILQ_INSERT_TAIL(&q->appender->waiting, q, waiting_link);
	if (q->n_waiting == q->cap_waiting) {
		q->cap_waiting = q->cap_waiting ? q->cap_waiting * 2 : 4;
		q->waiting = xrealloc(q->waiting, q->cap_waiting * sizeof *q->waiting);
	}
	q->waiting[q->n_waiting++] = conn_id;
}

/* ---- a new layout ------------------------------------------------------------------------------
 *
 * A topic may get another partition, and so another writer: what is in flight has to be stored, or
 * returned by a sealed head, before what was queued after it may leave. What is queued meanwhile
 * waits in the queues of the old layout; then all of it is placed anew, in its order. */

static bool in_flight(const struct tenant_queue *q)
{
	for (uint32_t i = 0; i < q->layout.n; i++) {
		if (q->heads[i].in_flight)
			return true;
	}
	return false;
}

static void place_batch(struct tenant_queue *q, const struct batch *b)
{
	struct event ev;

	for (uint32_t i = 0; i < batch_count(b); i++) {
		batch_event(b, i, &ev);
		queue_event(q, head_of(q, layout_partition(q->layout, &ev)), &ev,
		            batch_publisher(b, i));
	}
}

static void place_list(struct tenant_queue *q, const struct head_queue *h,
                       struct queued_list *batches)
{
	struct queued *e;

	while ((e = TAILQ_FIRST(batches))) {
		TAILQ_REMOVE(batches, e, link);
		if (batches == &h->batches)
			h->lane->bytes -= e->bytes;
		q->appender->load[lane_writer(q, h->lane)] -= e->bytes;
		q->bytes -= e->bytes;
		q->appender->bytes -= e->bytes;
		place_batch(q, e->batch);
		batch_unref(e->batch);
		free(e);
	}
}

static void move_now(struct tenant_queue *q)
{
	struct head_queue *old = q->heads;
	uint32_t n = q->layout.n;

	set_layout(q, q->next);
	q->next.n = 0;
	for (uint32_t i = 0; i < n; i++) {
		place_list(q, &old[i], &old[i].returned);
		place_list(q, &old[i], &old[i].batches);
	}
	free(old);
}

/* It has been given another layout, if that is newer than what is known. */
static void move_to(struct tenant_queue *q, struct layout l)
{
	if (l.first <= (q->next.n ? q->next : q->layout).first)
		return;
	for (uint32_t i = 0; i < q->layout.n; i++)
		unlist(q, &q->heads[i]);
	q->next = l;
	if (!in_flight(q))
		move_now(q);
}

static void queue_scheduled(struct tenant_queue *q, const struct event *ev, struct publisher from)
{
	struct event placed = *ev;

	placed.partition_id = layout_partition(q->layout, ev);
	queue_event(q, head_of(q, BATCH_SCHEDULED), &placed, from);
}

bool appender_publish(struct appender *a, const struct tenant *t, const struct event *ev,
                      struct publisher from)
{
	struct tenant_queue *q = map_get(&a->tenants, &t->id, sizeof t->id);

	if (!q)
		q = queue_new(a, t);
	move_to(q, layout_of(t));
	if (ev->when)
		queue_scheduled(q, ev, from);
	else
		queue_event(q, head_of(q, layout_partition(q->layout, ev)), ev, from);
	if (q->bytes < APPENDER_TENANT_MAX && a->bytes < APPENDER_NODE_MAX)
		return false;
	a->full = a->full || a->bytes >= APPENDER_NODE_MAX;
	wait_for_room(q, from.conn_id);
	return true;
}

/* ---- flushes -----------------------------------------------------------------------------------
 */

struct flush {
	struct batch *batches[FLUSH_MAX_BATCHES];
	size_t n;
	size_t heads;
	size_t bytes;
};

static bool flush_takes(const struct flush *f, const struct batch *b)
{
	return f->n < FLUSH_MAX_BATCHES &&
	       (f->n == 0 || f->bytes + batch_bytes(b) <= BUS_FLUSH_MAX_BYTES);
}

/* Move a head's batches into the flush, at most about `most` bytes; false = the flush is full. */
static bool take_from_head(struct flush *f, struct head_queue *h, int64_t most, uint64_t *taken)
{
	struct queued *e;
	bool any = false;

	while ((e = TAILQ_FIRST(&h->batches))) {
		if (any && (int64_t)*taken >= most)
			return true;
		if (!flush_takes(f, e->batch))
			return false;
		TAILQ_REMOVE(&h->batches, e, link);
		batch_seal(e->batch);
		f->batches[f->n++] = e->batch;
		f->bytes += batch_bytes(e->batch);
		*taken += batch_bytes(e->batch);
		h->in_flight += batch_count(e->batch);
		h->lane->bytes -= e->bytes;
		f->heads += !any;
		any = true;
		free(e);
	}
	h->listed = false;
	TAILQ_REMOVE(&h->lane->heads, h, link);
	return true;
}

static bool take_from_lane(struct flush *f, struct share *s, struct lane *lane)
{
	int64_t most = BUG("unfair-flushes") ? INT64_MAX : share_quantum(&lane->entry);
	uint64_t taken = 0;
	bool room = true;
	struct head_queue *h;

	while (room && (h = TAILQ_FIRST(&lane->heads)) && (taken == 0 || (int64_t)taken < most)) {
		if (f->heads >= BUS_FLUSH_MAX_HEADS) {
			room = false;
			break;
		}
		room = take_from_head(f, h, most, &taken);
		if (h->listed) { /* its siblings are next */
			TAILQ_REMOVE(&lane->heads, h, link);
			TAILQ_INSERT_TAIL(&lane->heads, h, link);
		}
	}
	share_charge(s, &lane->entry, BUG("unfair-flushes") ? 0 : taken);
	if (TAILQ_EMPTY(&lane->heads))
		share_deactivate(s, &lane->entry);
	return room;
}

static int batch_order(const void *a, const void *b)
{
	const struct batch *x = *(struct batch *const *)a;
	const struct batch *y = *(struct batch *const *)b;

	if (batch_tenant(x) != batch_tenant(y))
		return batch_tenant(x) < batch_tenant(y) ? -1 : 1;
	return (batch_partition(x) > batch_partition(y)) -
	       (batch_partition(x) < batch_partition(y));
}

/* By head; the batches of one head keep their order. */
static void sort_batches(struct flush *f)
{
	for (size_t i = 1; i < f->n; i++) {
		struct batch *b = f->batches[i];
		size_t at = i;

		while (at && batch_order(&f->batches[at - 1], &b) > 0) {
			f->batches[at] = f->batches[at - 1];
			at--;
		}
		f->batches[at] = b;
	}
}

/* ---- much and little ---------------------------------------------------------------------------
 *
 * Much of one tenant and a little of others do not share a flush: the little would wait for the
 * much to be written. Nor does the little wait for a flush of the much that is under way: where
 * others published little lately, those with much share one writer, and the other is left to those
 * with little. */

static struct lane *lane_of(struct share_entry *e)
{
	return (struct lane *)((char *)e - offsetof(struct lane, entry));
}

static bool has_much(const struct lane *lane)
{
	return lane->bytes > BULK_BYTES;
}

/* It has much, and others have little. */
static bool keeps_apart(struct appender *a, const struct lane *lane)
{
	if (!has_much(lane))
		return false;
	forget_little(a, lane->of->tenant_id);
	return others_have_little(a, lane->of);
}

/* A head of which nothing is in flight; its order holds, as all that is queued goes with it. */
static void head_move(struct head_queue *h, struct lane *to)
{
	struct tenant_queue *q = to->of;
	struct appender *a = q->appender;
	struct queued *e;
	size_t bytes = 0;

	TAILQ_FOREACH (e, &h->batches, link)
		bytes += e->bytes;
	assert(h->listed && !h->in_flight && TAILQ_EMPTY(&h->returned));
	unlist(q, h);
	h->lane->bytes -= bytes;
	a->load[lane_writer(q, h->lane)] -= bytes;
	h->lane = to;
	to->bytes += bytes;
	a->load[lane_writer(q, to)] += bytes;
	list(q, h);
}

/* Those of its heads that may. */
static void lane_move(struct lane *lane, size_t writer)
{
	struct head_queue *next;

	for (struct head_queue *h = TAILQ_FIRST(&lane->heads); h; h = next) {
		next = TAILQ_NEXT(h, link);
		if (!h->in_flight)
			head_move(h, &lane->of->lanes[writer]);
	}
}

/* Whose turn it is, if it is not better off with the other writer. */
static struct lane *next_lane(struct appender *a, uint32_t w)
{
	struct share_entry *e;

	while ((e = share_next(&a->shares[w]))) {
		struct lane *lane = lane_of(e);

		if (w != LITTLE_WRITER || !keeps_apart(a, lane))
			return lane;
		lane_move(lane, MUCH_WRITER);
	}
	return NULL;
}

/* A writer with nothing to do takes what waits for the other, and is better off here. */
static void take_over(struct appender *a, uint32_t w)
{
	struct share_entry *next;

	for (struct share_entry *e = TAILQ_FIRST(&a->shares[!w].active); e; e = next) {
		struct lane *lane = lane_of(e);

		next = TAILQ_NEXT(e, link);
		if (a->load[w] > BULK_BYTES)
			break;
		if (w != LITTLE_WRITER || !keeps_apart(a, lane))
			lane_move(lane, w);
	}
}

/* Who has much to store flushes alone, in turn with the others. */
static void flush_writer(struct appender *a, uint32_t w)
{
	struct flush f = {0};
	struct lane *first = NULL;
	struct lane *lane;
	bool bulk = false;

	while (!writer_busy(a->writers[w]) && (lane = next_lane(a, w))) {
		if (first && first != lane && (bulk || has_much(lane)))
			break;
		if (!first) {
			first = lane;
			bulk = has_much(lane);
		}
		if (!take_from_lane(&f, &a->shares[w], lane))
			break;
	}
	if (!f.n)
		return;
	sort_batches(&f);
	writer_flush(a->writers[w], f.batches, f.n);
}

static void on_turn_end(void *arg)
{
	struct appender *a = arg;

	if (a->bus->state != BUS_UP)
		return;
	flush_writer(a, LITTLE_WRITER); /* first: it leaves what is much to the other */
	flush_writer(a, MUCH_WRITER);
	for (uint32_t w = 0; w < BUS_WRITERS; w++) {
		if (writer_busy(a->writers[w]))
			continue;
		take_over(a, w);
		flush_writer(a, w);
	}
}

/* ---- answers -----------------------------------------------------------------------------------
 */

static void answer_all(struct appender *a, const struct batch *b, enum append_result result,
                       const char *reason)
{
	for (uint32_t i = 0; i < batch_count(b); i++) {
		struct publisher to = batch_publisher(b, i);

		if (to.conn_id)
			a->events.on_answer(a->events.arg, to, result, reason);
	}
}

/* Of a batch of what is scheduled, that of clients: neither wills, nor words about others. */
static void tell_settled(struct appender *a, const struct batch *b, bool stored)
{
	struct event ev;
	uint32_t n = 0;

	for (uint32_t i = 0; i < batch_count(b); i++) {
		batch_event(b, i, &ev);
		n += ev.when == EVENT_AT || ev.when == EVENT_AFTER;
	}
	if (n && a->events.on_settled)
		a->events.on_settled(a->events.arg, batch_tenant(b), n, stored);
}

static uint64_t due_in(const struct event *ev, uint64_t now_ms)
{
	if (ev->when == EVENT_AFTER || ev->when == EVENT_WILL_LOST)
		return ev->when_ms;
	if (ev->when == EVENT_AT)
		return ev->when_ms > now_ms ? ev->when_ms - now_ms : 0;
	return UINT64_MAX;
}

static void answer_scheduled(struct appender *a, const struct batch *b)
{
	uint64_t now_ms = clock_wall_ms();
	uint64_t soonest = UINT64_MAX;

	for (uint32_t i = 0; i < batch_count(b); i++) {
		struct publisher to = batch_publisher(b, i);
		struct event ev;

		batch_event(b, i, &ev);
		if (due_in(&ev, now_ms) < soonest)
			soonest = due_in(&ev, now_ms);
		if (to.conn_id)
			a->events.on_answer(a->events.arg, to,
			                    batch_missing(b, i) ? APPEND_MISSING : APPEND_STORED,
			                    NULL);
	}
	if (soonest != UINT64_MAX && a->events.on_scheduled)
		a->events.on_scheduled(a->events.arg, soonest);
}

static void make_room(struct tenant_queue *q)
{
	struct appender *a = q->appender;
	uint64_t *waiting = q->waiting;
	size_t n = q->n_waiting;

	if (!n || q->bytes > APPENDER_TENANT_MAX / 2 || a->bytes >= APPENDER_NODE_MAX)
		return;
	TAILQ_REMOVE(&a->waiting, q, waiting_link);
	q->waiting = NULL;
	q->n_waiting = q->cap_waiting = 0;
	for (size_t i = 0; i < n; i++)
		a->events.on_room(a->events.arg, waiting[i]);
	free(waiting);
}

/* Nothing is left of it, and nobody waits. */
static void free_if_idle(struct tenant_queue *q)
{
	if (!q->bytes && !q->n_waiting)
		queue_free(q);
}

/* The node has room again: also for tenants that have nothing under way any more, whom nothing else
 * would remind. */
static void make_room_for_all(struct appender *a)
{
	struct tenant_queue *q;
	struct tenant_queue *next;

	if (!a->full || a->bytes > APPENDER_NODE_MAX / 4 * 3)
		return;
	a->full = false;
	for (q = TAILQ_FIRST(&a->waiting); q; q = next) {
		next = TAILQ_NEXT(q, waiting_link);
		make_room(q);
		free_if_idle(q);
	}
}

static void batch_over(struct appender *a, struct batch *b)
{
	uint32_t tenant_id = batch_tenant(b);
	struct tenant_queue *q = map_get(&a->tenants, &tenant_id, sizeof tenant_id);
	size_t bytes = cost_of_batch(b);
	struct head_queue *h;

	assert(q && q->bytes >= bytes);
	h = head_of(q, batch_partition(b));
	h->in_flight -= batch_count(b);
	a->load[lane_writer(q, h->lane)] -= bytes;
	q->bytes -= bytes;
	a->bytes -= bytes;
	batch_unref(b);
	if (q->next.n && !in_flight(q))
		move_now(q);
	make_room(q);
	free_if_idle(q);
	make_room_for_all(a);
}

static void on_stored(void *arg, struct batch *b)
{
	struct appender *a = arg;

	if (batch_partition(b) == BATCH_SCHEDULED) {
		tell_settled(a, b, true);
		answer_scheduled(a, b);
	} else {
		answer_all(a, b, APPEND_STORED, NULL);
		a->events.on_stored(a->events.arg, b);
	}
	batch_over(a, b);
}

static void on_flushed(void *arg, uint32_t writer_no, uint64_t flush_no,
                       struct batch *const *batches, size_t n)
{
	struct appender *a = arg;

	if (a->events.on_flushed)
		a->events.on_flushed(a->events.arg, writer_no, flush_no, batches, n);
}

static void on_refused(void *arg, struct batch *b, const char *reason)
{
	struct appender *a = arg;

	if (batch_partition(b) == BATCH_SCHEDULED)
		tell_settled(a, b, false);
	answer_all(a, b, APPEND_REFUSED, reason);
	batch_over(a, b);
}

static void on_sealed(void *arg, struct batch *b, struct layout layout)
{
	struct appender *a = arg;
	uint32_t tenant_id = batch_tenant(b);
	struct tenant_queue *q = map_get(&a->tenants, &tenant_id, sizeof tenant_id);
	struct head_queue *h = head_of(q, batch_partition(b));
	struct queued *e = xcalloc(1, sizeof *e);

	e->batch = b;
	e->bytes = cost_of_batch(b);
	TAILQ_INSERT_TAIL(&h->returned, e, link);
	h->in_flight -= batch_count(b);
	move_to(q, layout);
	if (q->next.n && !in_flight(q))
		move_now(q);
}

static void on_idle(void *arg, uint32_t writer_no)
{
	(void)arg;
	(void)writer_no; /* what is queued leaves at the end of this turn, with what else arrives in
	                    it */
}

static void after(void *arg, uint32_t delay_ms, void (*fn)(void *), void *fn_arg)
{
	struct appender *a = arg;

	later_call(&a->laters, delay_ms, fn, fn_arg);
}

void appender_on_state(struct appender *a, enum bus_state state)
{
	for (int w = 0; w < BUS_WRITERS; w++)
		writer_on_state(a->writers[w], state);
}

size_t appender_pending(const struct appender *a)
{
	return a->bytes;
}

/* ---- life --------------------------------------------------------------------------------------
 */

struct appender *appender_new(struct loop *loop, struct bus *bus,
                              const struct appender_events *events)
{
	struct appender *a = xcalloc(1, sizeof *a);
	struct writer_events we = {
	        .on_stored = on_stored,
	        .on_flushed = on_flushed,
	        .on_refused = on_refused,
	        .on_sealed = on_sealed,
	        .on_idle = on_idle,
	        .after = after,
	        .arg = a,
	};

	a->loop = loop;
	a->bus = bus;
	a->events = *events;
	laters_init(&a->laters, loop);
	TAILQ_INIT(&a->waiting);
	for (uint32_t w = 0; w < BUS_WRITERS; w++) {
		share_init(&a->shares[w], SHARE_QUANTUM);
		a->writers[w] = writer_new(bus, w, &we);
	}
	loop_on_turn_end(loop, on_turn_end, a);
	return a;
}

static void drop_list(struct queued_list *batches)
{
	struct queued *e;

	while ((e = TAILQ_FIRST(batches))) {
		TAILQ_REMOVE(batches, e, link);
		batch_unref(e->batch);
		free(e);
	}
}

static void drop_queued(struct tenant_queue *q)
{
	drop_list(&q->scheduled.batches);
	for (uint32_t i = 0; i < q->layout.n; i++) {
		drop_list(&q->heads[i].returned);
		drop_list(&q->heads[i].batches);
	}
}

void appender_free(struct appender *a)
{
	struct tenant_queue *q;
	size_t at = 0;

	if (!a)
		return;
	loop_hook_del(a->loop, on_turn_end, a);
	for (int w = 0; w < BUS_WRITERS; w++)
		writer_free(a->writers[w]);
	laters_finish(&a->laters); /* a writer goes when its pause is over */
	laters_release(&a->laters);
	while ((q = map_next(&a->tenants, &at))) {
		drop_queued(q);
		queue_free(q);
	}
	map_release(&a->tenants);
	free(a);
}
