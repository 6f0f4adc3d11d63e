#include "node/net/timeshare.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>

enum { LATELY_MS = 200 }; /* who was active within this time is expected again */

struct timeshare {
	struct loop *loop;
	struct timeshare_settings settings;
	struct map accounts; /* owner -> account */
	uint64_t turn;
	uint64_t weights;      /* of the accounts that did something in this turn */
	uint64_t last_weights; /* and in the last one with any work */
	uint32_t last_owner;   /* who did something last */
	uint64_t shared_until_ms;
};

struct timeshare_account {
	struct timeshare *of;
	uint32_t owner;
	uint32_t weight;
	uint32_t refs;
	bool left_over;   /* an item of this round was not served in this turn */
	uint64_t turn;    /* the last one it did something in */
	uint64_t used_us; /* in that turn */
	uint64_t round;   /* items whose round is not above it have not been served in it */
};

static void on_turn_last(void *arg)
{
	struct timeshare *b = arg;

	b->turn++;
	if (b->weights)
		b->last_weights = b->weights;
	b->weights = 0;
}

struct timeshare *timeshare_new(struct loop *l, const struct timeshare_settings *s)
{
	struct timeshare *b = xcalloc(1, sizeof *b);

	assert(s->turn_us > 0);
	b->loop = l;
	b->settings = *s;
	if (!b->settings.shared_us)
		b->settings.shared_us = s->turn_us;
	if (!b->settings.now_us)
		b->settings.now_us = clock_us;
	b->turn = 1;
	map_init(&b->accounts);
	loop_on_turn_last(l, on_turn_last, b);
	return b;
}

void timeshare_free(struct timeshare *b)
{
	if (!b)
		return;
	assert(b->accounts.count == 0);
	loop_hook_del(b->loop, on_turn_last, b);
	map_release(&b->accounts);
	free(b);
}

struct timeshare_account *timeshare_account(struct timeshare *b, uint32_t owner)
{
	struct timeshare_account *a;

	if (!b)
		return NULL;
	assert(owner);
	a = map_get(&b->accounts, &owner, sizeof owner);
	if (!a) {
		a = xcalloc(1, sizeof *a);
		a->of = b;
		a->owner = owner;
		map_put(&b->accounts, &a->owner, sizeof a->owner, a);
	}
	a->refs++;
	return a;
}

void timeshare_release(struct timeshare_account *a)
{
	if (!a || --a->refs)
		return;
	map_del(&a->of->accounts, &a->owner, sizeof a->owner);
	free(a);
}

uint32_t timeshare_weight(const struct timeshare_account *a)
{
	const struct timeshare_settings *s = a ? &a->of->settings : NULL;
	uint32_t weight = s && s->weight ? s->weight(s->arg, a->owner) : 1;

	return weight ? weight : 1;
}

/* Its first work in this turn. */
static void begin(struct timeshare_account *a)
{
	struct timeshare *b = a->of;

	a->turn = b->turn;
	a->used_us = 0;
	a->weight = timeshare_weight(a);
	b->weights += a->weight;
	if (b->last_owner && b->last_owner != a->owner)
		b->shared_until_ms = clock_now_ms() + LATELY_MS;
	b->last_owner = a->owner;
	if (!a->left_over)
		a->round++;
	a->left_over = false;
}

/* Whoever was idle in the last turn with work is not in its sum: it gets a little more, once. */
static uint64_t part_us(const struct timeshare_account *a)
{
	const struct timeshare *b = a->of;
	uint64_t weights = b->last_weights > b->weights ? b->last_weights : b->weights;
	bool shared = clock_now_ms() < b->shared_until_ms;
	uint64_t turn_us = shared ? b->settings.shared_us : b->settings.turn_us;

	return turn_us * a->weight / weights;
}

bool timeshare_left(struct timeshare_account *a)
{
	if (!a || BUG(a->of->settings.bug))
		return true;
	if (a->turn != a->of->turn)
		begin(a);
	return !a->used_us || a->used_us < part_us(a);
}

bool timeshare_turn(struct timeshare_account *a, uint64_t *round)
{
	if (!a)
		return true;
	if (!timeshare_left(a)) {
		a->left_over = a->left_over || *round <= a->round;
		return false;
	}
	if (*round > a->round && !BUG(a->of->settings.bug))
		return false;
	*round = a->round + 1;
	return true;
}

void timeshare_spend(struct timeshare_account *a, uint64_t us)
{
	if (a)
		a->used_us += us;
}

uint64_t timeshare_begin(const struct timeshare_account *a)
{
	return a ? a->of->settings.now_us() : 0;
}

void timeshare_end(struct timeshare_account *a, uint64_t began_us)
{
	if (a)
		timeshare_spend(a, a->of->settings.now_us() - began_us);
}

bool timeshare_go_on(struct timeshare_account *a, uint64_t *began_us)
{
	uint64_t now_us = timeshare_begin(a);

	timeshare_spend(a, now_us - *began_us);
	*began_us = now_us;
	return timeshare_left(a);
}
