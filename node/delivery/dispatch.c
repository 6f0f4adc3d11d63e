#include "node/delivery/dispatch.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/delivery/delivery.h"
#include "node/delivery/queue.h"
#include "node/net/loop.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

enum {
	DEFAULT_CACHE_BYTES = 64 << 20,
	DEFAULT_COMMIT_MS = 5,
	DEFAULT_LINGER_MS = 30000,
	TRIE_CACHE_SLOTS = 8192,
	BACKLOG_MS = 1000, /* who is too far behind */
	SWEEP_MS = 10000,  /* cursors of quiet subscriptions */
	REFUSED_LOG_MS = 1000,
};

/* ---- calls after a pause -----------------------------------------------------------------------
 */

void dispatch_after(struct dispatch *d, uint32_t ms, void (*fn)(void *), void *arg)
{
	later_call(&d->laters, ms, fn, arg);
}

void dispatch_forget(struct dispatch *d, const void *arg)
{
	later_forget(&d->laters, arg);
}

/* ---- claims ------------------------------------------------------------------------------------
 */

/* Thousands may be, of one reason: the full disk of a database. */
void dispatch_claim_refused(struct dispatch *d, const struct bus_claim *req)
{
	uint64_t now = clock_now_ms();

	d->claims_refused++;
	if (now < d->refusal_told_ms + REFUSED_LOG_MS && d->refusal_told_ms)
		return;
	log_error("claim", "tenant=%u name=%s refused=%u error=%s", req->tenant_id,
	          log_quote(req->name.p, req->name.n), d->claims_refused,
	          log_quote_str(req->error));
	d->refusal_told_ms = now;
	d->claims_refused = 0;
}

/* ---- events ------------------------------------------------------------------------------------
 */

struct space *dispatch_space(struct dispatch *d, const struct tenant *t)
{
	struct space *sp = map_get(&d->spaces, &t->id, sizeof t->id);

	if (!sp)
		return space_new(d, t);
	layouts_heard(sp, layout_of(t));
	return sp;
}

void dispatch_stored(struct dispatch *d, struct batch *b)
{
	uint32_t tenant_id = batch_tenant(b);
	struct space *sp = map_get(&d->spaces, &tenant_id, sizeof tenant_id);

	struct partition *p = sp ? space_find_partition(sp, batch_partition(b)) : NULL;

	if (p)
		partition_stored(p, b);
	if (sp)
		layouts_heard_of(sp, batch_partition(b));
}

void dispatch_tenant_changed(struct dispatch *d, const struct tenant *t)
{
	struct space *sp = map_get(&d->spaces, &t->id, sizeof t->id);

	if (sp)
		layouts_heard(sp, layout_of(t));
}

static void suspend_all(struct dispatch *d)
{
	struct space *sp;
	size_t at = 0;

	while ((sp = map_next(&d->spaces, &at))) {
		space_each_subscription(sp, subscription_suspend);
		for (uint32_t i = 0; i < sp->n_partitions; i++) {
			if (sp->partitions[i])
				partition_suspend(sp->partitions[i]);
		}
	}
}

static void resume_one(struct subscription *s)
{
	if (s->state == SUBSCRIPTION_UNCLAIMED)
		subscription_reclaim(s);
	else if (s->state == SUBSCRIPTION_AWAY)
		share_claim(s);
	else
		subscription_wake(s);
}

static void resume_all(struct dispatch *d)
{
	struct space *sp;
	size_t at = 0;

	while ((sp = map_next(&d->spaces, &at)))
		space_each_subscription(sp, resume_one);
}

void dispatch_on_state(struct dispatch *d, enum bus_state state)
{
	bool up = state == BUS_UP;

	if (up == d->up)
		return;
	d->up = up;
	if (up && !BUG("never-resumed"))
		resume_all(d);
	else if (!up)
		suspend_all(d);
	dispatch_drain_check(d);
}

void dispatch_on_others_stored(struct dispatch *d)
{
	others_stored(d);
}

bool dispatch_hinted(struct dispatch *d, const struct bus_head *heads, size_t n)
{
	for (size_t i = 0; d->up && i < n; i++)
		others_hinted(d, &heads[i]);
	return d->up;
}

void dispatch_on_taken(struct dispatch *d)
{
	others_took(d);
}

/* ---- sweep -------------------------------------------------------------------------------------
 */

static void mark_if_behind(struct subscription *s)
{
	if (!s->durable || s->state != SUBSCRIPTION_ACTIVE)
		return;
	for (uint32_t i = 0; i < s->n_places; i++) {
		struct place *pl = s->places[i];
		uint64_t through = place_matched_through(pl);

		if (pl->feed.live &&
		    feed_acked_through(&pl->feed, through) > pl->feed.committed_through)
			committer_mark(s->space->dispatch, pl);
	}
}

/* What did not match moves a cursor too, but nobody hurries to write that down. */
static void mark_behind(struct dispatch *d)
{
	struct subscription *s;

	TAILQ_FOREACH (s, &d->durable, link)
		mark_if_behind(s);
}

static void sweep_one(struct subscription *share, const void *arg)
{
	(void)arg;
	away_sweep(share);
}

static void on_sweep(void *arg)
{
	struct dispatch *d = arg;

	share_each(d, sweep_one, NULL);
	if (!d->up || d->draining)
		return;
	mark_behind(d);
}

static void on_backlog(void *arg)
{
	struct dispatch *d = arg;

	if (d->up && !d->draining)
		backlog_sweep(d);
}

/* ---- drain -------------------------------------------------------------------------------------
 */

static void end_share(struct subscription *share, const void *arg)
{
	(void)arg;
	share_end_if_unused(share, true);
}

static void release_all(struct dispatch *d)
{
	struct space *sp;
	size_t at = 0;

	while ((sp = map_next(&d->spaces, &at))) {
		struct session *s;
		size_t session_at = 0;

		sp->requests++; /* it goes with its last session: not under our feet */
		while ((s = map_next(&sp->sessions, &session_at)))
			session_release(s);
		sp->requests--;
		space_free_if_unused(sp);
	}
	share_each(d, end_share, NULL); /* those that only others had consumers for */
}

/* Is everything that the consumers of queues said written down? */
static bool queues_settled(const struct dispatch *d)
{
	const struct space *sp;
	size_t at = 0;

	while (d->up && (sp = map_next(&d->spaces, &at))) {
		const struct subscription *share;
		size_t share_at = 0;

		while ((share = map_next(&sp->shares, &share_at))) {
			if (share->queue && share->queue->loaded &&
			    share->state == SUBSCRIPTION_ACTIVE && !queue_settled(share->queue))
				return false;
		}
	}
	return true;
}

void dispatch_drain_check(struct dispatch *d)
{
	void (*fn)(void *) = d->drained;

	if (!d->draining || !fn)
		return;
	if (!committer_idle(d)) {
		if (!d->committer.failed) /* else its timer tries again */
			committer_flush(d);
		return;
	}
	if (!d->released && !queues_settled(d))
		return; /* the answer of their settlement calls again */
	if (!d->released) {
		d->released = true;
		release_all(d);
	}
	if (!LIST_EMPTY(&d->closings) && d->up)
		return;
	d->drained = NULL;
	fn(d->drained_arg);
}

static void drain_begin(void *arg)
{
	dispatch_drain_check(arg);
}

void dispatch_drain(struct dispatch *d, void (*fn)(void *arg), void *arg)
{
	assert(!d->draining);
	mark_behind(d);
	d->draining = true;
	d->drained = fn;
	d->drained_arg = arg;
	dispatch_after(d, 0, drain_begin, d);
}

/* ---- life --------------------------------------------------------------------------------------
 */

struct dispatch *dispatch_new(struct loop *loop, struct bus *bus,
                              const struct dispatch_settings *settings)
{
	struct dispatch *d = xcalloc(1, sizeof *d);

	d->loop = loop;
	d->bus = bus;
	if (settings)
		d->settings = *settings;
	if (!d->settings.cache_bytes)
		d->settings.cache_bytes = DEFAULT_CACHE_BYTES;
	if (!d->settings.commit_every_ms)
		d->settings.commit_every_ms = DEFAULT_COMMIT_MS;
	if (!d->settings.linger_ms)
		d->settings.linger_ms = DEFAULT_LINGER_MS;
	d->cache.budget = d->settings.cache_bytes;
	d->trie_cache = trie_cache_new(TRIE_CACHE_SLOTS);
	TAILQ_INIT(&d->cache.lru);
	TAILQ_INIT(&d->durable);
	TAILQ_INIT(&d->steps);
	laters_init(&d->laters, loop);
	d->up = bus->state == BUS_UP;
	committer_init(d);
	reads_init(d);
	d->sweep = loop_every(loop, SWEEP_MS, on_sweep, d);
	d->backlog = loop_every(loop, BACKLOG_MS, on_backlog, d);
	return d;
}

void dispatch_free(struct dispatch *d)
{
	if (!d)
		return;
	d->draining = d->freeing = true;
	release_all(d);
	laters_release(&d->laters);
	closing_release_all(d);
	loop_timer_free(d->sweep);
	loop_timer_free(d->backlog);
	committer_release(d);
	trie_cache_free(d->trie_cache);
	map_release(&d->spaces);
	map_release(&d->opens);
	free(d->peers);
	free(d);
}

void dispatch_get_stats(const struct dispatch *d, struct dispatch_stats *out)
{
	*out = d->stats;
	out->cache_bytes = d->cache.bytes;
}
