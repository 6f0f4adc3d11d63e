/* What one tenant has on this node. It comes with its first session and goes with its last. */
#include "node/delivery/delivery.h"

#include "base/mem.h"
#include "node/delivery/usage.h"
#include "node/net/timeshare.h"

#include <stdlib.h>

struct space *space_new(struct dispatch *d, const struct tenant *t)
{
	struct space *sp = xcalloc(1, sizeof *sp);

	sp->dispatch = d;
	sp->tenant = t;
	sp->tenant_id = t->id;
	sp->time = timeshare_account(d->settings.time, t->id);
	sp->layout = layout_of(t);
	sp->usage = usage_of(d->settings.usage, t->id);
	sp->trie = trie_new(d->trie_cache);
	map_init(&sp->sessions);
	map_init(&sp->shares);
	map_init(&sp->share_ids);
	reads_enter(sp);
	map_put(&d->spaces, &sp->tenant_id, sizeof sp->tenant_id, sp);
	return sp;
}

enum dispatch_room space_may_make(const struct space *sp)
{
	const struct dispatch_settings *set = &sp->dispatch->settings;

	return set->may_make ? set->may_make(set->arg, sp->tenant) : DISPATCH_ROOM;
}

void space_made(const struct space *sp, const struct bus_claim *claim)
{
	const struct dispatch_settings *set = &sp->dispatch->settings;

	if (set->on_made)
		set->on_made(set->arg, sp->tenant,
		             claim->outcome == SQL_OK ? claim->created
		                                      : claim->outcome == SQL_UNKNOWN);
}

bool space_may_bury(const struct space *sp)
{
	const struct dispatch_settings *set = &sp->dispatch->settings;

	return !set->may_bury || set->may_bury(set->arg, sp->tenant);
}

void space_buried(const struct space *sp, bool buried)
{
	const struct dispatch_settings *set = &sp->dispatch->settings;

	if (set->on_buried)
		set->on_buried(set->arg, sp->tenant, buried);
}

void space_full(const struct space *sp)
{
	const struct dispatch_settings *set = &sp->dispatch->settings;

	if (set->on_limit)
		set->on_limit(set->arg, sp->tenant, DISPATCH_LIMIT_SUBSCRIPTIONS, 0, 1);
}

static void space_free(struct space *sp)
{
	reads_leave(sp);
	map_del(&sp->dispatch->spaces, &sp->tenant_id, sizeof sp->tenant_id);
	trie_free(sp->trie);
	map_release(&sp->sessions);
	map_release(&sp->shares);
	map_release(&sp->share_ids);
	free(sp->partitions);
	timeshare_release(sp->time);
	free(sp->backlog.old);
	layouts_free(sp->layouts);
	free(sp);
}

void space_free_if_unused(struct space *sp)
{
	if (!sp->requests && !sp->sessions.count && !sp->shares.count)
		space_free(sp);
}

void space_each_subscription(struct space *sp, void (*fn)(struct subscription *))
{
	struct session *s;
	struct subscription *share;
	size_t at = 0;

	while ((s = map_next(&sp->sessions, &at))) {
		if (s->sub)
			fn(s->sub);
	}
	at = 0;
	while ((share = map_next(&sp->shares, &at)))
		fn(share);
}
