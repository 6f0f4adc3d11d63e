/* Finding where a new position begins, partition by partition. */
#include "node/delivery/delivery.h"

#include "base/mem.h"
#include "node/net/loop.h"

#include <stdlib.h>

struct starts {
	struct bus_locate req;
	struct space *space;
	enum session_start_at at;
	uint64_t value;
	uint64_t *seqs;
	uint32_t n; /* found so far */
	uint64_t generation;
	void (*done)(void *arg, const uint64_t *starts);
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

static void starts_next(void *arg);

static void on_locate(struct bus_locate *req)
{
	struct starts *st = req->arg;

	if (req->outcome != SQL_OK || st->generation != st->space->dispatch->bus->generation) {
		starts_end(st, false);
		return;
	}
	st->seqs[st->n++] = req->seq;
	starts_next(st);
}

/* What this node knows without asking; 0 = nothing. */
static uint64_t known_start(const struct starts *st)
{
	const struct partition *p = st->space->partitions[st->n];

	if (st->at == SESSION_START_SEQ)
		return st->value ? st->value : 1;
	if (st->at == SESSION_START_NEW && p)
		return p->next_seq;
	return 0;
}

static void starts_next(void *arg)
{
	static const enum bus_position positions[] = {
	        [SESSION_START_NEW] = BUS_AT_HEAD,  [SESSION_START_EARLIEST] = BUS_AT_EARLIEST,
	        [SESSION_START_SEQ] = BUS_AT_HEAD,  [SESSION_START_TIME] = BUS_AT_TIME,
	        [SESSION_START_HEAD] = BUS_AT_HEAD,
	};
	struct starts *st = arg;
	struct bus *bus = st->space->dispatch->bus;
	uint64_t known;

	while (st->n < st->space->n_partitions && (known = known_start(st)))
		st->seqs[st->n++] = known;
	if (st->n == st->space->n_partitions) {
		starts_end(st, true);
		return;
	}
	st->req = (struct bus_locate){
	        .done = on_locate,
	        .arg = st,
	        .tenant_id = st->space->tenant_id,
	        .partition_id = st->n,
	        .position = positions[st->at],
	        .time_ms = st->value,
	};
	bus->ops->locate(bus, &st->req);
}

void starts_find(struct space *sp, enum session_start_at at, uint64_t value,
                 void (*done)(void *arg, const uint64_t *starts), void *arg)
{
	struct starts *st = xcalloc(1, sizeof *st);

	st->space = sp;
	st->at = at;
	st->value = value;
	st->seqs = xcalloc(sp->n_partitions, sizeof *st->seqs);
	st->generation = sp->dispatch->bus->generation;
	st->done = done;
	st->arg = arg;
	sp->requests++;
	loop_defer(sp->dispatch->loop, starts_next, st); /* never answers before it returned */
}
