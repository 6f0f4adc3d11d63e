#include "node/delivery/rota.h"

#include "base/clock.h"
#include "base/mem.h"
#include "node/delivery/consumer.h"

#include <stdlib.h>

void rota_release(struct rota *r)
{
	free(r->places);
	*r = (struct rota){0};
}

void rota_add(struct rota *r, struct consumer *c)
{
	r->places = xrealloc(r->places, (r->n + 1) * sizeof *r->places);
	r->places[r->n++] = (struct rota_place){.consumer = c};
}

void rota_remove(struct rota *r, const struct consumer *c)
{
	for (size_t i = 0; i < r->n; i++) {
		if (r->places[i].consumer == c) {
			r->places[i] = r->places[--r->n];
			return;
		}
	}
}

bool rota_has(const struct rota *r, const struct consumer *c)
{
	for (size_t i = 0; i < r->n; i++) {
		if (r->places[i].consumer == c)
			return true;
	}
	return false;
}

static uint32_t kept(const struct rota_place *p, uint64_t now_ms)
{
	return now_ms < p->until_ms ? p->kept : 0;
}

/* It would be too far ahead of somebody who will have room in a moment. */
static bool must_wait(const struct rota *r, const struct rota_place *p, uint64_t now_ms)
{
	if (!p->unbounded || now_ms >= r->until_ms || kept(p, now_ms))
		return false;
	for (size_t i = 0; i < r->n; i++) {
		if (kept(&r->places[i], now_ms) >= ROTA_AHEAD_MAX)
			return true;
	}
	return false;
}

/* It has no room, or waits, and another has its turn. */
static void miss(struct rota *r, struct rota_place *p, uint32_t turns, uint64_t now_ms)
{
	p->kept = kept(p, now_ms);
	if (p->taken) {
		p->kept_max = p->taken;
		p->taken = 0;
		p->until_ms = r->until_ms = now_ms + ROTA_KEPT_MS;
	}
	if (now_ms >= p->until_ms)
		return;
	p->kept += turns;
	if (p->kept > p->kept_max)
		p->kept = p->kept_max;
}

/* A turn is over when it was had: then nothing is missed. */
static void miss_all(struct rota *r, size_t from, size_t n, uint32_t served, uint64_t now_ms)
{
	for (size_t i = 0; i < n; i++) {
		struct rota_place *p = &r->places[(from + i) % r->n];
		uint32_t turns = consumer_weight(p->consumer);

		if (served < turns)
			miss(r, p, turns - served, now_ms);
		served = 0;
	}
}

static void take(struct rota *r, struct rota_place *p)
{
	if (r->served < consumer_weight(p->consumer))
		r->served++;
	else
		p->kept--;
	p->taken++;
}

struct consumer *rota_pick(struct rota *r)
{
	uint64_t now_ms = clock_now_ms();
	size_t from = r->turn;
	uint32_t served = r->served;

	r->waits = false;
	for (size_t i = 0; i <= r->n && r->n; i++) {
		struct rota_place *p = &r->places[r->turn % r->n];
		bool has_turn = r->served < consumer_weight(p->consumer) || kept(p, now_ms);

		if (has_turn && consumer_can_begin(p->consumer)) {
			if (!must_wait(r, p, now_ms)) {
				take(r, p);
				miss_all(r, from, i, served, now_ms);
				return p->consumer;
			}
			r->waits = true;
		}
		r->turn++;
		r->served = 0;
	}
	return NULL;
}

void rota_gave(struct rota *r, bool takes_room)
{
	if (r->n)
		r->places[r->turn % r->n].unbounded = !takes_room;
}
