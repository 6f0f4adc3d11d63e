#include "tests/sim_history.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct published {
	uint32_t tenant;
	uint32_t topic;
	bool scheduled; /* no order */
	bool acked;
	bool refused;
	uint32_t stored; /* times in the journal */
	bool delivered[HISTORY_SUBS];
};

/* One partition as deliveries showed it. */
struct shown {
	uint32_t *ids; /* by sequence number; 0 = not delivered */
	uint64_t n;
};

struct history {
	struct published *events; /* by number; 0 unused */
	uint32_t n;               /* the last number */
	uint32_t cap;
	uint32_t answered;
	struct shown shown[HISTORY_TENANTS][HISTORY_PARTITIONS];
	uint32_t last_first[HISTORY_SUBS][HISTORY_TENANTS]
	                   [HISTORY_TOPICS]; /* by first deliveries */
	uint64_t committed[HISTORY_SUBS][HISTORY_PARTITIONS];
	char problem[256];
};

struct history *history_new(void)
{
	return xcalloc(1, sizeof(struct history));
}

void history_free(struct history *h)
{
	for (int t = 0; t < HISTORY_TENANTS; t++) {
		for (int p = 0; p < HISTORY_PARTITIONS; p++)
			free(h->shown[t][p].ids);
	}
	free(h->events);
	free(h);
}

static void broken(struct history *h, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void broken(struct history *h, const char *fmt, ...)
{
	va_list ap;

	if (h->problem[0])
		return;
	va_start(ap, fmt);
	vsnprintf(h->problem, sizeof h->problem, fmt, ap);
	va_end(ap);
}

const char *history_problem(const struct history *h)
{
	return h->problem[0] ? h->problem : NULL;
}

uint32_t history_published(struct history *h, uint32_t tenant, uint32_t topic)
{
	uint32_t id = ++h->n;

	if (id >= h->cap) {
		h->cap = h->cap ? h->cap * 2 : 256;
		h->events = xrealloc(h->events, h->cap * sizeof *h->events);
	}
	h->events[id] = (struct published){.tenant = tenant, .topic = topic};
	return id;
}

uint32_t history_scheduled(struct history *h, uint32_t tenant)
{
	uint32_t id = history_published(h, tenant, 0);

	h->events[id].scheduled = true;
	return id;
}

void history_acked(struct history *h, uint32_t id)
{
	if (h->events[id].refused)
		broken(h, "event %u was refused and then acknowledged", id);
	h->answered += !h->events[id].acked;
	h->events[id].acked = true;
}

void history_refused(struct history *h, uint32_t id)
{
	if (h->events[id].acked)
		broken(h, "event %u was acknowledged and then refused", id);
	h->answered += !h->events[id].refused;
	h->events[id].refused = true;
}

uint32_t history_unanswered(const struct history *h)
{
	return h->n - h->answered;
}

/* The number in a payload; 0 when there is none that was published. */
static uint32_t id_of(const struct history *h, struct slice payload)
{
	char text[16] = "";
	unsigned long id;

	if (payload.n < 2 || payload.n >= sizeof text)
		return 0;
	memcpy(text, payload.p, payload.n);
	id = strtoul(text + 1, NULL, 10);
	return id <= h->n ? (uint32_t)id : 0;
}

/* One number is one event, whoever it is delivered to. */
static void note_shown(struct history *h, uint32_t tenant, uint32_t partition, uint64_t seq,
                       uint32_t id)
{
	struct shown *s = &h->shown[tenant][partition];

	if (seq >= s->n) {
		uint64_t n = (seq + 1) * 2;

		s->ids = xrealloc(s->ids, n * sizeof *s->ids);
		memset(s->ids + s->n, 0, (n - s->n) * sizeof *s->ids);
		s->n = n;
	}
	if (s->ids[seq] && s->ids[seq] != id)
		broken(h, "tenant %u partition %u seq %" PRIu64 " was event %u and is event %u",
		       tenant, partition, seq, s->ids[seq], id);
	s->ids[seq] = id;
}

void history_shared(struct history *h, uint32_t sub, uint32_t tenant, uint32_t partition,
                    uint64_t seq, struct slice payload)
{
	uint32_t id = id_of(h, payload);
	struct published *ev = &h->events[id];

	if (!id || ev->tenant != tenant) {
		broken(h, "sub %u got what tenant %u never published", sub, tenant);
		return;
	}
	note_shown(h, tenant, partition, seq, id);
	ev->delivered[sub] = true;
}

void history_delivered(struct history *h, uint32_t sub, uint32_t tenant, uint32_t partition,
                       uint64_t seq, struct slice payload)
{
	uint32_t id = id_of(h, payload);
	struct published *ev = &h->events[id];
	uint32_t *last;

	if (!id || ev->tenant != tenant) {
		broken(h, "sub %u got what tenant %u never published", sub, tenant);
		return;
	}
	note_shown(h, tenant, partition, seq, id);
	last = &h->last_first[sub][tenant][ev->topic];
	if (!ev->delivered[sub] && !ev->scheduled) {
		if (id < *last)
			broken(h, "sub %u got event %u of topic %u after event %u", sub, id,
			       ev->topic, *last);
		*last = id;
	}
	ev->delivered[sub] = true;
}

void history_committed(struct history *h, uint32_t sub, uint32_t partition, uint64_t acked_through)
{
	if (acked_through > h->committed[sub][partition])
		h->committed[sub][partition] = acked_through;
}

void history_claimed(struct history *h, uint32_t sub, uint32_t partition, uint64_t acked_through)
{
	if (acked_through < h->committed[sub][partition])
		broken(h, "cursor of sub %u partition %u went back from %" PRIu64 " to %" PRIu64,
		       sub, partition, h->committed[sub][partition], acked_through);
}

uint32_t history_owed(const struct history *h, uint32_t sub, uint32_t tenant)
{
	uint32_t owed = 0;

	for (uint32_t id = 1; id <= h->n; id++) {
		const struct published *ev = &h->events[id];

		owed += ev->tenant == tenant && ev->acked && !ev->delivered[sub];
	}
	return owed;
}

static void check_row(struct history *h, const struct batch *b, uint32_t last[HISTORY_TOPICS])
{
	uint32_t tenant = batch_tenant(b);
	const struct shown *shown = &h->shown[tenant][batch_partition(b)];

	for (uint32_t i = 0; i < batch_count(b); i++) {
		uint64_t seq = batch_base_seq(b) + i;
		struct published *ev;
		struct event raw;
		uint32_t id;

		batch_event(b, i, &raw);
		id = id_of(h, raw.payload);
		ev = &h->events[id];
		if (!id || ev->tenant != tenant) {
			broken(h, "the journal of tenant %u holds what it never published", tenant);
			return;
		}
		if (ev->stored++)
			broken(h, "event %u is in the journal twice", id);
		if (!ev->scheduled && id < last[ev->topic])
			broken(h, "event %u of topic %u is stored after event %u", id, ev->topic,
			       last[ev->topic]);
		if (!ev->scheduled)
			last[ev->topic] = id;
		if (seq < shown->n && shown->ids[seq] && shown->ids[seq] != id)
			broken(h, "seq %" PRIu64 " was delivered as event %u and holds event %u",
			       seq, shown->ids[seq], id);
	}
}

/* last: of the partitions before, too: a topic that got another is there later. */
static void check_partition(struct history *h, const struct store *store, uint32_t tenant,
                            uint32_t partition, uint32_t last[HISTORY_TOPICS])
{
	struct bus_read req = {.tenant_id = tenant,
	                       .partition_id = partition,
	                       .from_seq = 1,
	                       .max_bytes = SIZE_MAX};
	const struct shown *shown = &h->shown[tenant][partition];
	uint64_t next = 1;

	store_read(store, &req);
	for (size_t i = 0; i < req.n; i++) {
		if (batch_base_seq(req.batches[i]) != next)
			broken(h, "tenant %u partition %u has a hole before %" PRIu64, tenant,
			       partition, batch_base_seq(req.batches[i]));
		next = batch_base_seq(req.batches[i]) + batch_count(req.batches[i]);
		check_row(h, req.batches[i], last);
		batch_unref(req.batches[i]);
	}
	free(req.batches);
	for (uint64_t seq = next; seq < shown->n; seq++) {
		if (shown->ids[seq])
			broken(h, "event %u was delivered and is not in the journal",
			       shown->ids[seq]);
	}
}

const char *history_check(struct history *h, const struct store *store)
{
	for (uint32_t t = 0; t < HISTORY_TENANTS; t++) {
		uint32_t last[HISTORY_TOPICS] = {0};

		for (uint32_t p = 0; p < HISTORY_PARTITIONS; p++)
			check_partition(h, store, t, p, last);
	}
	for (uint32_t id = 1; id <= h->n; id++) {
		if (h->events[id].acked && !h->events[id].stored)
			broken(h, "event %u was acknowledged and is not in the journal", id);
		if (h->events[id].refused && h->events[id].stored)
			broken(h, "event %u was refused and is in the journal", id);
	}
	return history_problem(h);
}
