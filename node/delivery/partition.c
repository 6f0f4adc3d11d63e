/* A partition's tail and its readers. Batches that this node stored, or read, are dispatched to the
 * feeds that are live (they matched everything so far) the moment they arrive; feeds that lag are
 * brought on together: one walk from the lowest of them through the cache, or the journal where the
 * cache has let go, each batch once through the trie for all of them. */
#include "node/delivery/delivery.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/net/loop.h"
#include "node/net/timeshare.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

enum {
	READ_BYTES = 1 << 20, /* per journal read */
	BATCHES_PER_TURN = 8, /* catch-up dispatch, then others get their turn */
	PAUSE_AFTER_ERROR_MS = 50,
	PAUSE_AFTER_MISS_MS = 5,
	MISSES_MAX = 2000, /* 10 s */
	LOOK_EVERY = 32,   /* deliveries: is there time for more of them? */
};

/* ---- cache ------------------------------------------------------------------------------------
 */

static uint64_t cached_base(const struct cached *e)
{
	return batch_base_seq(e->batch);
}

static uint64_t cached_end(const struct cached *e)
{
	return cached_base(e) + batch_count(e->batch);
}

/* The index of the first cached batch that ends after seq. */
static size_t cache_index(const struct partition *p, uint64_t seq)
{
	size_t lo = 0;
	size_t hi = p->n_cache;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (cached_end(p->cache[mid]) <= seq)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

void cache_drop(struct cache *c, struct cached *e)
{
	struct partition *p = e->partition;
	size_t i = cache_index(p, cached_base(e));

	assert(p->cache[i] == e);
	memmove(&p->cache[i], &p->cache[i + 1], (p->n_cache - i - 1) * sizeof(struct cached *));
	p->n_cache--;
	TAILQ_REMOVE(&c->lru, e, link);
	c->bytes -= batch_memory(e->batch);
	batch_unref(e->batch);
	free(e);
}

static void cache_add(struct partition *p, struct batch *b)
{
	struct cache *c = &p->space->dispatch->cache;
	size_t i = cache_index(p, batch_base_seq(b));
	struct cached *e;

	if (i < p->n_cache && cached_base(p->cache[i]) <= batch_base_seq(b))
		return; /* there already */
	e = xcalloc(1, sizeof *e);
	e->batch = batch_ref(b);
	e->partition = p;
	if (p->n_cache == p->cap_cache) {
		p->cap_cache = p->cap_cache ? p->cap_cache * 2 : 4;
		p->cache = xrealloc(p->cache, p->cap_cache * sizeof(struct cached *));
	}
	memmove(&p->cache[i + 1], &p->cache[i], (p->n_cache - i) * sizeof(struct cached *));
	p->cache[i] = e;
	p->n_cache++;
	TAILQ_INSERT_TAIL(&c->lru, e, link);
	c->bytes += batch_memory(b);
	while (c->bytes > c->budget && TAILQ_FIRST(&c->lru) != e)
		cache_drop(c, TAILQ_FIRST(&c->lru));
}

static void cache_clear(struct partition *p)
{
	while (p->n_cache)
		cache_drop(&p->space->dispatch->cache, p->cache[p->n_cache - 1]);
	free(p->cache);
	p->cache = NULL;
	p->cap_cache = 0;
}

struct batch *partition_batch(struct partition *p, uint64_t seq)
{
	struct cache *c = &p->space->dispatch->cache;
	size_t i = cache_index(p, seq);

	if (i == p->n_cache || cached_base(p->cache[i]) > seq)
		return NULL;
	TAILQ_REMOVE(&c->lru, p->cache[i], link);
	TAILQ_INSERT_TAIL(&c->lru, p->cache[i], link);
	return p->cache[i]->batch;
}

/* ---- dispatching one batch --------------------------------------------------------------------
 */

/* The place of a subscription that this pass concerns, or NULL. */
static struct place *place_in_pass(struct partition *p, struct subscription *s, uint64_t seq,
                                   bool live)
{
	struct place *pl;

	if (s->state != SUBSCRIPTION_ACTIVE || !(pl = place_find(s, p->id)))
		return NULL;
	if (live)
		return pl->feed.live ? pl : NULL;
	return pl->in_pass && pl->feed.next_seq <= seq ? pl : NULL;
}

enum { TOUCHED_ON_STACK = 64 };

/* Some of a batch on its way to the feeds of a partition, as far as there is time. */
struct pass {
	struct partition *p;
	struct batch *b;
	bool live;          /* to those who are live; else to those who lag and are in it */
	bool out;           /* of time: who did not get an event comes back for it */
	unsigned offers;    /* since the last look at the clock */
	uint64_t *began_us; /* see timeshare_go_on */
};

static void pass_count(struct pass *ps)
{
	if (++ps->offers < LOOK_EVERY)
		return;
	ps->offers = 0;
	ps->out = !timeshare_go_on(ps->p->space->time, ps->began_us);
}

static void pass_offer(struct pass *ps, struct place *pl, uint64_t seq, const struct event *ev)
{
	if (!ps->out && place_offer(pl, seq, ev, ps->b, &pl->sub->match)) {
		pass_count(ps);
		return;
	}
	pl->in_pass = false;
	place_lag(pl, seq, feed_full(&pl->feed));
}

static void dispatch_event(struct pass *ps, uint64_t seq, const struct event *ev)
{
	struct partition *p = ps->p;
	struct place *on_stack[TOUCHED_ON_STACK];
	struct place **touched = on_stack;
	const struct trie_hit *hits;
	size_t n_hits = trie_match(p->space->trie, ev->topic, &hits);
	uint64_t mark = ++p->space->dispatch->event_mark;
	size_t n = 0;

	if (n_hits > TOUCHED_ON_STACK)
		touched = xmalloc(n_hits * sizeof(struct place *));
	for (size_t i = 0; i < n_hits; i++) {
		struct subscription *s = hits[i].value;
		const struct filter *f = &s->filters[hits[i].index];
		struct place *pl = place_in_pass(p, s, seq, ps->live);

		if (!pl || !filter_applies(f, s, p->id, seq, ev))
			continue;
		if (s->mark != mark) {
			s->mark = mark;
			match_clear(&s->match);
			touched[n++] = pl;
		}
		match_add(&s->match, f);
	}
	for (size_t i = 0; i < n; i++)
		pass_offer(ps, touched[i], seq, ev);
	pass_count(ps);
	if (touched != on_stack)
		free(touched);
}

/* Returns where it came to: behind the batch, or there was no more time. */
static uint64_t dispatch_batch(struct pass *ps, uint64_t from)
{
	uint64_t base = batch_base_seq(ps->b);
	uint32_t i = from > base ? (uint32_t)(from - base) : 0;
	struct event ev;

	for (; i < batch_count(ps->b) && !ps->out; i++) {
		batch_event(ps->b, i, &ev);
		dispatch_event(ps, base + i, &ev);
	}
	return base + i;
}

/* ---- catch-up ---------------------------------------------------------------------------------
 */

static struct place_list *list_of(const struct place *pl)
{
	struct partition *p = pl->partition;

	if (pl->feed.live)
		return &p->live;
	return pl->resting ? &p->resting : &p->lagging;
}

static void place_move(struct place *pl, bool live, bool resting)
{
	TAILQ_REMOVE(list_of(pl), pl, link);
	pl->feed.live = live;
	pl->resting = resting;
	TAILQ_INSERT_TAIL(list_of(pl), pl, link);
}

void place_lag(struct place *pl, uint64_t next_seq, bool blocked)
{
	if (pl->feed.live)
		place_move(pl, false, false);
	pl->feed.next_seq = next_seq;
	pl->feed.blocked = blocked;
}

void place_resume(struct place *pl)
{
	if (!place_wants(pl))
		return;
	if (pl->resting)
		place_move(pl, false, false);
	partition_schedule(pl->partition);
}

/* Where to read for a place that lags; 0 = nowhere. Beyond the head as far as we know it, it waits;
 * but where others have stored more, the head comes first: the place was somebody else's, who knew
 * more than those who rest here. */
static uint64_t read_from(const struct partition *p, const struct place *pl)
{
	uint64_t from = pl->feed.next_seq;

	if (!p->next_seq || from <= p->next_seq)
		return from;
	return p->hinted > p->next_seq ? p->next_seq : 0;
}

/* The lowest position of those that can go on; 0 = nobody. Whoever has arrived at the head is live;
 * whoever cannot go on rests, so that ten thousand of them cost nothing per event. */
static uint64_t lowest_wanted(struct partition *p)
{
	struct place *pl;
	struct place *next;
	uint64_t from;
	uint64_t low = 0;

	for (pl = TAILQ_FIRST(&p->lagging); pl; pl = next) {
		next = TAILQ_NEXT(pl, link);
		if (!place_wants(pl)) {
			place_move(pl, false, true);
			continue;
		}
		if (!backlog_known(p->space))
			continue;
		backlog_limit(pl);
		if (p->next_seq && pl->feed.next_seq == p->next_seq && p->hinted <= p->next_seq) {
			place_move(pl, true, false);
			continue;
		}
		from = read_from(p, pl);
		if (from && (!low || from < low))
			low = from;
	}
	return low;
}

static void dispatch_lagging(struct partition *p, struct batch *b, uint64_t from,
                             uint64_t *began_us)
{
	struct pass ps = {.p = p, .b = b, .began_us = began_us};
	uint64_t end = batch_base_seq(b) + batch_count(b);
	struct place *pl;

	TAILQ_FOREACH (pl, &p->lagging, link)
		pl->in_pass = place_wants(pl) && pl->feed.next_seq < end;
	end = dispatch_batch(&ps, from);
	TAILQ_FOREACH (pl, &p->lagging, link) {
		if (!pl->in_pass)
			continue;
		pl->in_pass = false;
		if (pl->feed.next_seq >= end)
			continue;
		pl->feed.next_seq = end;
		committer_mark(p->space->dispatch, pl);
	}
}

static void lag_all(struct partition *p)
{
	struct place *pl;

	while ((pl = TAILQ_FIRST(&p->live)))
		place_lag(pl, p->next_seq, false);
}

/* The head is known to be at next_seq: what lies between was not dispatched, so that those who were
 * live read it like all who lag. */
static void partition_advance(struct partition *p, uint64_t next_seq)
{
	if (next_seq <= p->next_seq)
		return;
	lag_all(p);
	p->next_seq = next_seq;
}

/* Where the head is has to be asked: all lag until a read tells. */
static void forget_head(struct partition *p)
{
	lag_all(p);
	p->next_seq = 0;
}

static void each_place(struct partition *p, void (*fn)(struct place *, const void *),
                       const void *arg)
{
	struct place_list *lists[] = {&p->live, &p->resting, &p->lagging};

	for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
		struct place *pl;
		struct place *next;

		for (pl = TAILQ_FIRST(lists[i]); pl; pl = next) {
			next = TAILQ_NEXT(pl, link); /* it may change lists, and be met again */
			fn(pl, arg);
		}
	}
}

static void skip_one(struct place *pl, const void *arg)
{
	const struct gap *gap = arg;

	place_skip(pl, gap->from, gap->to);
}

/* Retention took what lies between: whoever wanted it, or waited to be sent some of it, goes on
 * behind the gap. */
static void skip_gap(struct partition *p, uint64_t from, uint64_t to)
{
	struct gap gap = {from, to};

	log_warn("partition", "tenant=%u partition=%u gap_from=%" PRIu64 " gap_to=%" PRIu64,
	         p->space->tenant_id, p->id, from, to - 1);
	each_place(p, skip_one, &gap);
}

struct partition_read {
	struct bus_read req;
	struct partition *p;
	uint64_t generation;
};

static void read_take(struct partition *p, struct bus_read *req)
{
	uint64_t first = req->n ? batch_base_seq(req->batches[0]) : req->next_seq;

	/* the first is wanted first: should the cache be too small, the last ones go */
	for (size_t i = req->n; i > 0; i--)
		cache_add(p, req->batches[i - 1]);
	partition_advance(p, req->next_seq > p->heard_seq ? req->next_seq : p->heard_seq);
	if (first > req->from_seq)
		skip_gap(p, req->from_seq, first);
	p->wanted = 0;
	if (p->outdated)
		forget_head(p);
}

static void pump_one_lacking(struct place *pl, const void *arg)
{
	(void)arg;
	if (pl->feed.n_ready || pl->sub->queue)
		subscription_pump(pl->sub);
}

/* READY entries whose batch had left the cache can be sent now. */
static void pump_lacking(struct partition *p)
{
	each_place(p, pump_one_lacking, NULL);
}

static void freed_end(struct partition *p)
{
	struct space *sp = p->space;

	if (p->reading || p->scheduled)
		return;
	free(p);
	sp->requests--;
	space_free_if_unused(sp);
}

/* What was hinted is not there. On another server of a cluster it takes a moment to be seen; if it
 * takes long, whoever told of it was wrong, and the next look at the heads sets it right. */
static bool misses_hinted(struct partition *p, bool found_nothing)
{
	if (p->hinted <= p->next_seq)
		p->misses = 0;
	if (p->hinted <= p->next_seq || !found_nothing)
		return false;
	if (++p->misses <= MISSES_MAX)
		return true;
	log_warn("partition",
	         "tenant=%u partition=%u hinted=%" PRIu64 " next_seq=%" PRIu64 " a hint was wrong",
	         p->space->tenant_id, p->id, p->hinted, p->next_seq);
	p->hinted = p->confirmed = p->next_seq;
	return false;
}

static void read_again(void *arg)
{
	struct partition *p = arg;

	p->reading = p->pausing = false;
	partition_schedule(p);
}

static void on_read(struct bus_read *req)
{
	struct partition_read *r = (struct partition_read *)req;
	struct partition *p = r->p;
	struct dispatch *d = p->space->dispatch;
	bool current = r->generation == d->bus->generation && d->up;
	bool ok = req->outcome == SQL_OK && current && !p->freed;
	bool found_nothing = req->n == 0;

	if (ok)
		read_take(p, req);
	for (size_t i = 0; i < req->n; i++)
		batch_unref(req->batches[i]);
	free(req->batches);
	free(r);
	reads_done(d);
	p->space->requests--;
	if (p->freed) {
		p->reading = false;
		freed_end(p);
		return;
	}
	if (!ok || misses_hinted(p, found_nothing)) {
		p->pausing = true;
		dispatch_after(d, ok ? PAUSE_AFTER_MISS_MS : PAUSE_AFTER_ERROR_MS, read_again, p);
		return;
	}
	p->reading = false;
	pump_lacking(p);
	partition_schedule(p);
}

void partition_read(struct partition *p)
{
	struct dispatch *d = p->space->dispatch;
	struct partition_read *r = xcalloc(1, sizeof *r);

	r->p = p;
	r->generation = d->bus->generation;
	r->req.done = on_read;
	r->req.tenant_id = p->space->tenant_id;
	r->req.partition_id = p->id;
	r->req.from_seq = p->read_from;
	r->req.confirmed_seq = p->next_seq > p->confirmed ? p->next_seq : p->confirmed;
	r->req.max_bytes = READ_BYTES;
	p->outdated = false;
	p->space->requests++;
	d->stats.catch_up_reads++;
	d->bus->ops->read(d->bus, &r->req);
}

static void start_read(struct partition *p, uint64_t from)
{
	if (p->reading || !p->space->dispatch->up)
		return;
	p->reading = true;
	p->read_from = from;
	reads_ask(p);
}

/* A few batches, as long as the tenant has time in this turn. */
static void catch_up_on(struct partition *p, uint64_t *began_us)
{
	if (p->wanted && !partition_batch(p, p->wanted)) {
		start_read(p, p->wanted);
		return;
	}
	for (int i = 0; i < BATCHES_PER_TURN; i++) {
		uint64_t from = lowest_wanted(p);
		struct batch *b;

		if (!from || (i && !timeshare_go_on(p->space->time, began_us)))
			break;
		b = partition_batch(p, from);
		if (!b) {
			start_read(p, from);
			return;
		}
		/* a subscriber that is dispatched to may pump, fetch and drop cached batches */
		batch_ref(b);
		dispatch_lagging(p, b, from, began_us);
		batch_unref(b);
	}
	if (p->wanted) {
		p->wanted = 0;
		pump_lacking(p);
	}
	if (lowest_wanted(p))
		partition_schedule(p);
}

static void catch_up(void *arg)
{
	struct partition *p = arg;
	struct timeshare_account *time = p->space->time;
	uint64_t began_us;

	p->scheduled = false;
	if (p->freed) {
		freed_end(p);
		return;
	}
	if (!timeshare_turn(time, &p->round)) {
		partition_schedule(p);
		return;
	}
	began_us = timeshare_begin(time);
	catch_up_on(p, &began_us);
	timeshare_end(time, began_us);
}

void partition_schedule(struct partition *p)
{
	if (p->scheduled || p->freed)
		return;
	p->scheduled = true;
	loop_defer(p->space->dispatch->loop, catch_up, p);
}

void partition_fetch(struct partition *p, uint64_t seq)
{
	if (!p->wanted || seq < p->wanted)
		p->wanted = seq;
	partition_schedule(p);
}

/* What there is no time for is read from the cache later, as by all who lag. */
static void dispatch_live(struct partition *p, struct batch *b)
{
	struct timeshare_account *time = p->space->time;
	uint64_t began_us = timeshare_begin(time);
	struct pass ps = {.p = p, .b = b, .live = true, .began_us = &began_us};

	p->next_seq = dispatch_batch(&ps, batch_base_seq(b));
	timeshare_end(time, began_us);
}

/* ---- news --------------------------------------------------------------------------------------
 */

/* While a read is under way it may have seen the head before this batch was stored: what it tells
 * is old then, and nobody else will tell. */
void partition_stored(struct partition *p, struct batch *b)
{
	uint64_t base = batch_base_seq(b);
	uint64_t end = base + batch_count(b);

	if (!base) { /* stored, but where is not known: ask the journal */
		forget_head(p);
		p->outdated = p->reading;
	} else if (!p->next_seq) {
		p->heard_seq = end; /* its readers begin with a read, which will find it */
	} else if (base == p->next_seq && timeshare_left(p->space->time)) {
		cache_add(p, b);
		dispatch_live(p, b);
		partition_advance(p, end);
	} else { /* others wrote before it, a read has seen it already, or it is others' turn */
		cache_add(p, b);
		partition_advance(p, end);
	}
	if (!TAILQ_EMPTY(&p->lagging))
		partition_schedule(p);
}

/* Only a read makes it certain: whoever was live lags until it has come by there. */
void partition_hint(struct partition *p, uint64_t next_seq, bool confirmed)
{
	if (confirmed && next_seq > p->confirmed)
		p->confirmed = next_seq;
	if (next_seq <= p->hinted || next_seq <= p->next_seq)
		return;
	p->hinted = next_seq;
	p->misses = 0;
	if (!p->next_seq)
		return;
	lag_all(p);
	partition_schedule(p);
}

void partition_suspend(struct partition *p)
{
	p->hinted = p->confirmed = 0;
	p->misses = 0;
	cache_clear(p);
	p->next_seq = p->heard_seq = 0;
	p->wanted = 0;
}

/* ---- life -------------------------------------------------------------------------------------
 */

struct partition *space_partition(struct space *sp, uint32_t id)
{
	struct partition *p = space_find_partition(sp, id);

	if (p)
		return p;
	if (id >= sp->n_partitions) {
		sp->partitions = xrealloc(sp->partitions, (id + 1) * sizeof(struct partition *));
		memset(sp->partitions + sp->n_partitions, 0,
		       (id + 1 - sp->n_partitions) * sizeof(struct partition *));
		sp->n_partitions = id + 1;
	}
	p = xcalloc(1, sizeof *p);
	p->space = sp;
	p->id = id;
	TAILQ_INIT(&p->live);
	TAILQ_INIT(&p->lagging);
	TAILQ_INIT(&p->resting);
	sp->partitions[id] = p;
	return p;
}

void partition_join(struct partition *p, struct place *pl)
{
	pl->partition = p;
	pl->feed.live = pl->resting = false;
	TAILQ_INSERT_TAIL(list_of(pl), pl, link);
}

void partition_free(struct partition *p)
{
	cache_clear(p);
	p->space->partitions[p->id] = NULL;
	reads_forget(p);
	if (p->pausing) {
		dispatch_forget(p->space->dispatch, p);
		p->reading = p->pausing = false;
	}
	p->freed = true; /* a read or a turn end may still hold it */
	p->space->requests++;
	freed_end(p);
}

void partition_leave(struct place *pl)
{
	struct partition *p = pl->partition;

	TAILQ_REMOVE(list_of(pl), pl, link);
	pl->partition = NULL;
	if (TAILQ_EMPTY(&p->live) && TAILQ_EMPTY(&p->lagging) && TAILQ_EMPTY(&p->resting))
		partition_free(p);
}
