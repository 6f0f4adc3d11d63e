/* Finding where a new position begins: in the present layout, or for the earliest event or a time
 * in the first layout that has something of it; partition by partition. */
#include "node/delivery/delivery.h"

#include "base/mem.h"
#include "node/net/loop.h"

#include <stdlib.h>

struct starts {
	struct bus_locate req;
	struct space *space;
	enum session_start_at at;
	uint64_t value;
	struct positions *seqs;
	uint32_t n; /* found so far */
	uint64_t generation;
	void (*done)(void *arg, const struct positions *starts);
	void *arg;
};

static void starts_end(struct starts *st, bool ok)
{
	struct space *sp = st->space;

	st->done(st->arg, ok ? st->seqs : NULL);
	free(st->seqs);
	free(st);
	sp->requests--;
	space_free_if_unused(sp);
}

static void starts_next(struct starts *st);

static void on_locate(struct bus_locate *req)
{
	struct starts *st = req->arg;

	if (req->outcome != SQL_OK || st->generation != st->space->dispatch->bus->generation) {
		starts_end(st, false);
		return;
	}
	st->seqs->seqs[st->n++] = req->seq;
	starts_next(st);
}

/* What this node knows without asking; 0 = nothing. */
static uint64_t known_start(const struct starts *st)
{
	const struct partition *p = space_find_partition(st->space, st->seqs->layout.first + st->n);

	if (st->at == SESSION_START_SEQ)
		return st->value ? st->value : 1;
	if (st->at == SESSION_START_NEW && p)
		return p->next_seq;
	return 0;
}

static void begin_layout(struct starts *st, struct layout l)
{
	free(st->seqs);
	st->seqs = positions_new(l);
	st->n = 0;
}

/* Another layout came after this one, and nothing of what is wanted is in it: look there. */
static bool is_elsewhere(struct starts *st)
{
	const struct layout_head *heads;
	const struct positions *p = st->seqs;
	struct layout l = layouts_from(st->space, p->layout.first, &heads);

	if (l.first != p->layout.first || l.n != p->layout.n || !heads->sealed)
		return false;
	for (uint32_t i = 0; i < l.n; i++) {
		if (p->seqs[i] < heads[i].next_seq)
			return false;
	}
	l = layouts_from(st->space, l.first + l.n, &heads);
	if (l.n)
		begin_layout(st, l);
	return l.n != 0;
}

static void starts_next(struct starts *st)
{
	static const enum bus_position positions[] = {
	        [SESSION_START_NEW] = BUS_AT_HEAD,  [SESSION_START_EARLIEST] = BUS_AT_EARLIEST,
	        [SESSION_START_SEQ] = BUS_AT_HEAD,  [SESSION_START_TIME] = BUS_AT_TIME,
	        [SESSION_START_HEAD] = BUS_AT_HEAD,
	};
	struct bus *bus = st->space->dispatch->bus;
	uint64_t known;

	do {
		while (st->n < st->seqs->layout.n && (known = known_start(st)))
			st->seqs->seqs[st->n++] = known;
	} while (st->n == st->seqs->layout.n && is_elsewhere(st));
	if (st->n == st->seqs->layout.n) {
		starts_end(st, true);
		return;
	}
	st->req = (struct bus_locate){
	        .done = on_locate,
	        .arg = st,
	        .tenant_id = st->space->tenant_id,
	        .partition_id = st->seqs->layout.first + st->n,
	        .position = positions[st->at],
	        .time_ms = st->value,
	};
	bus->ops->locate(bus, &st->req);
}

static void on_layouts(void *arg, bool ok)
{
	struct starts *st = arg;
	const struct layout_head *heads;
	struct layout first;

	if (!ok) {
		starts_end(st, false);
		return;
	}
	first = layouts_from(st->space, 0, &heads);
	begin_layout(st, first.n ? first : st->space->layout);
	starts_next(st);
}

static void starts_begin(void *arg)
{
	struct starts *st = arg;
	bool past = st->at == SESSION_START_EARLIEST || st->at == SESSION_START_TIME;

	if (past && st->space->layout.first) {
		layouts_ask(st->space, on_layouts, st);
		return;
	}
	begin_layout(st, st->space->layout);
	starts_next(st);
}

void starts_find(struct space *sp, enum session_start_at at, uint64_t value,
                 void (*done)(void *arg, const struct positions *starts), void *arg)
{
	struct starts *st = xcalloc(1, sizeof *st);

	st->space = sp;
	st->at = at;
	st->value = value;
	st->generation = sp->dispatch->bus->generation;
	st->done = done;
	st->arg = arg;
	sp->requests++;
	loop_defer(sp->dispatch->loop, starts_begin, st); /* never answers before it returned */
}

struct bus_cursor *starts_cursors(const struct positions *starts)
{
	struct bus_cursor *cursors = xcalloc(starts->layout.n, sizeof *cursors);

	for (uint32_t i = 0; i < starts->layout.n; i++)
		cursors[i] = (struct bus_cursor){.partition_id = starts->layout.first + i,
		                                 .acked_through = starts->seqs[i] - 1};
	return cursors;
}
