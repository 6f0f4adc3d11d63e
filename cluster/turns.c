#include "cluster/turns.h"

#include "base/bug.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct last {
	uint32_t tenant_id;
	uint64_t turn;
};

static void forget_tenants(struct turns *t)
{
	struct last *l;
	size_t at = 0;

	while ((l = map_next(&t->tenants, &at)))
		free(l);
	map_release(&t->tenants);
	map_init(&t->tenants);
}

static uint64_t turn_for(struct turns *t, uint32_t tenant_id)
{
	struct last *l = map_get(&t->tenants, &tenant_id, sizeof tenant_id);

	if (BUG("unfair-claims"))
		return t->turn + 1;
	if (!l) {
		l = xcalloc(1, sizeof *l);
		l->tenant_id = tenant_id;
		map_put(&t->tenants, &l->tenant_id, sizeof l->tenant_id, l);
	}
	l->turn = (l->turn > t->turn ? l->turn : t->turn) + 1;
	return l->turn;
}

/* Where it goes: behind all whose turn is not later. Usually at the end. */
static size_t place_of(const struct turns *t, uint64_t turn)
{
	size_t lo = 0;
	size_t hi = t->n;

	if (!t->n || t->waiting[t->n - 1].turn <= turn)
		return t->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (t->waiting[mid].turn <= turn)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

void turns_add(struct turns *t, uint32_t tenant_id, const void *kind, void *req,
               uint64_t generation)
{
	uint64_t turn = turn_for(t, tenant_id);
	size_t at = place_of(t, turn);

	if (t->n == t->cap) {
		t->cap = t->cap ? t->cap * 2 : 64;
		t->waiting = xrealloc(t->waiting, t->cap * sizeof *t->waiting);
	}
	memmove(&t->waiting[at + 1], &t->waiting[at], (t->n - at) * sizeof *t->waiting);
	t->waiting[at] = (struct turns_waiting){turn, kind, req, generation};
	t->n++;
}

static bool alike(const struct turns_waiting *a, const struct turns_waiting *b)
{
	return a->kind == b->kind && a->generation == b->generation;
}

size_t turns_take(struct turns *t, void **reqs, size_t n)
{
	const struct turns_waiting first = t->waiting[0];
	uint64_t last = first.turn;
	size_t taken = 0;
	size_t left = 0;

	assert(n > 0 && t->n > 0);
	for (size_t i = 0; i < t->n; i++) {
		if (taken < n && alike(&t->waiting[i], &first)) {
			last = t->waiting[i].turn;
			reqs[taken++] = t->waiting[i].req;
		} else {
			t->waiting[left++] = t->waiting[i];
		}
	}
	t->n = left;
	t->turn = left && t->waiting[0].turn < last ? t->waiting[0].turn : last;
	if (!left)
		forget_tenants(t);
	return taken;
}

bool turns_of_one_tenant(const struct turns *t)
{
	return t->n && t->tenants.count == 1;
}

size_t turns_in_first_round(const struct turns *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->n && t->waiting[i].turn == t->waiting[0].turn; i++)
		n += alike(&t->waiting[i], &t->waiting[0]);
	return n;
}

void turns_release(struct turns *t)
{
	forget_tenants(t);
	free(t->waiting);
	*t = (struct turns){0};
}
