/* Reads of the journal go to the backend a few at a time, tenants in turn by weight: whoever has a
 * backlog in many partitions does not stand in front of everybody else's with all of them. */
#include "node/delivery/delivery.h"

#include "base/bug.h"
#include "node/net/timeshare.h"

#include <assert.h>
#include <stddef.h>

/* As many as the backend works on at once, and one more for each to go on with. */
enum { UNDER_WAY_MAX = 4 };

void reads_init(struct dispatch *d)
{
	share_init(&d->reads.share, 1);
}

void reads_enter(struct space *sp)
{
	share_entry_init(&sp->reading, 1);
	TAILQ_INIT(&sp->reads);
}

void reads_leave(struct space *sp)
{
	assert(TAILQ_EMPTY(&sp->reads));
	share_deactivate(&sp->dispatch->reads.share, &sp->reading);
}

static void take_out(struct partition *p)
{
	struct space *sp = p->space;

	p->queued = false;
	TAILQ_REMOVE(&sp->reads, p, read_link);
	if (TAILQ_EMPTY(&sp->reads))
		share_deactivate(&sp->dispatch->reads.share, &sp->reading);
}

static void begin_some(struct dispatch *d)
{
	struct share_entry *e;

	while (d->reads.under_way < UNDER_WAY_MAX && (e = share_next(&d->reads.share))) {
		struct space *sp = (struct space *)((char *)e - offsetof(struct space, reading));
		struct partition *p = TAILQ_FIRST(&sp->reads);

		share_charge(&d->reads.share, e, 1);
		take_out(p);
		d->reads.under_way++;
		partition_read(p);
	}
}

void reads_ask(struct partition *p)
{
	struct space *sp = p->space;
	struct dispatch *d = sp->dispatch;

	if (BUG("unfair-reads")) {
		d->reads.under_way++;
		partition_read(p);
		return;
	}
	p->queued = true;
	TAILQ_INSERT_TAIL(&sp->reads, p, read_link);
	sp->reading.weight = timeshare_weight(sp->time);
	share_push_active(&d->reads.share, &sp->reading);
	begin_some(d);
}

void reads_forget(struct partition *p)
{
	if (!p->queued)
		return;
	take_out(p);
	p->reading = false;
}

void reads_done(struct dispatch *d)
{
	assert(d->reads.under_way > 0);
	d->reads.under_way--;
	begin_some(d);
}
