#include "node/net/conn_impl.h"

#include "base/clock.h"
#include "base/mem.h"
#include "node/net/hangup.h"
#include "node/net/loop.h"
#include "node/net/wire.h"

#include <stdlib.h>

enum {
	SWEEP_MS = 100,
	FLUSH_ROUNDS = 4, /* on_lowat may write again: so often within one turn */
};

/* ---- slots and ids */

static struct conn_slot *slot_of(struct conn *c)
{
	return &c->table->slots[(uint32_t)c->id];
}

void conn_slot_take(struct conn_table *t, struct conn *c)
{
	uint32_t i = t->free_slot;

	if (i) {
		t->free_slot = t->slots[i].next_free;
	} else {
		if (t->slots_used == t->slots_cap) {
			t->slots_cap *= 2;
			t->slots = xrealloc(t->slots, t->slots_cap * sizeof *t->slots);
		}
		i = t->slots_used++;
		t->slots[i] = (struct conn_slot){.generation = 1};
	}
	t->slots[i].conn = c;
	t->slots[i].deadline_ms = 0;
	c->id = (uint64_t)t->slots[i].generation << 32 | i;
}

void conn_slot_give(struct conn *c)
{
	struct conn_slot *s = slot_of(c);

	s->conn = NULL;
	s->deadline_ms = 0;
	s->generation++;
	s->next_free = c->table->free_slot;
	c->table->free_slot = (uint32_t)c->id;
}

struct conn *conn_find(struct conn_table *t, uint64_t id)
{
	uint32_t i = (uint32_t)id;
	struct conn *c;

	if (i == 0 || i >= t->slots_used || t->slots[i].generation != id >> 32)
		return NULL;
	c = t->slots[i].conn;
	return c && c->state != CONN_CLOSED ? c : NULL;
}

struct conn *conn_next(struct conn_table *t, size_t *at)
{
	while (++*at < t->slots_used) {
		struct conn *c = t->slots[*at].conn;

		if (c && c->state != CONN_CLOSED)
			return c;
	}
	return NULL;
}

size_t conn_count(const struct conn_table *t)
{
	return t->count;
}

size_t conn_handshakes(const struct conn_table *t)
{
	return t->handshakes;
}

/* ---- lists */

void conn_mark_dirty(struct conn *c)
{
	struct conn_table *t = c->table;

	if (c->lists & CONN_LIST_DIRTY)
		return;
	c->lists |= CONN_LIST_DIRTY;
	TAILQ_INSERT_TAIL(&t->dirty, c, dirty);
	t->dirty_count++;
	loop_wake(t->loop);
}

void conn_mark_resumed(struct conn *c)
{
	struct conn_table *t = c->table;

	if (c->lists & CONN_LIST_RESUMED)
		return;
	c->lists |= CONN_LIST_RESUMED;
	TAILQ_INSERT_TAIL(&t->resumed, c, resumed);
	t->resumed_count++;
	if (!t->delivering)
		loop_defer(t->loop, conn_show_resumed, t);
	t->delivering = true;
}

void conn_unlist(struct conn *c, enum conn_list list)
{
	struct conn_table *t = c->table;

	if (!(c->lists & list))
		return;
	c->lists &= (uint8_t)~list;
	if (list == CONN_LIST_DIRTY) {
		TAILQ_REMOVE(&t->dirty, c, dirty);
		t->dirty_count--;
	} else if (list == CONN_LIST_RESUMED) {
		TAILQ_REMOVE(&t->resumed, c, resumed);
		t->resumed_count--;
	} else {
		TAILQ_REMOVE(&t->waiting, c, waiting);
	}
}

/* ---- peers that go while we do not read */

static bool wants_watch(const struct conn *c)
{
	return c->state == CONN_READY && c->paused && !c->eof;
}

void conn_update_watch(struct conn *c)
{
	struct conn_table *t = c->table;

	if (!wants_watch(c)) {
		conn_unlist(c, CONN_LIST_WAITING);
		if (c->watched)
			hangup_forget(t->hangup, c->wire.fd);
		c->watched = false;
	} else if (!c->watched && !(c->lists & CONN_LIST_WAITING)) {
		c->lists |= CONN_LIST_WAITING;
		TAILQ_INSERT_TAIL(&t->waiting, c, waiting);
	}
}

static void watch_waiting(struct conn_table *t)
{
	struct conn *c;

	while ((c = TAILQ_FIRST(&t->waiting))) {
		conn_unlist(c, CONN_LIST_WAITING);
		c->watched = true;
		hangup_watch(t->hangup, c->wire.fd, c->id);
	}
}

static void on_hangup(void *arg, uint64_t id)
{
	struct conn *c = conn_find(arg, id);

	if (c && c->watched)
		conn_left(c);
}

/* ---- deadlines */

void conn_deadline_in(struct conn *c, uint64_t ms)
{
	slot_of(c)->deadline_ms = ms ? clock_now_ms() + ms : 0;
}

static void on_sweep(void *arg)
{
	struct conn_table *t = arg;
	uint64_t now_ms = clock_now_ms();

	watch_waiting(t);
	/* a callback may add connections and move the array: index it anew each time */
	for (uint32_t i = 1; i < t->slots_used; i++) {
		if (t->slots[i].deadline_ms && t->slots[i].deadline_ms <= now_ms)
			conn_expired(t->slots[i].conn);
	}
}

/* ---- the end of a turn */

static void reap(struct conn_table *t)
{
	struct conn *c;

	while ((c = TAILQ_FIRST(&t->closed))) {
		TAILQ_REMOVE(&t->closed, c, closed);
		if (c->error && c->ops->on_error)
			c->ops->on_error(c, c->arg, c->error);
		if (c->ops->on_closed)
			c->ops->on_closed(c, c->arg, c->reason);
		conn_free(c);
	}
}

/* The last hook of every turn. */
static void on_turn_last(void *arg)
{
	struct conn_table *t = arg;

	for (int i = 0; i < FLUSH_ROUNDS; i++) {
		size_t put_off = conn_flush_dirty(t);

		reap(t);
		if (t->dirty_count <= put_off)
			break;
	}
	if (!TAILQ_EMPTY(&t->dirty))
		loop_again(t->loop);
	t->handshake_us = 0;
}

/* ---- the table */

struct conn_table *conn_table_new(struct loop *l)
{
	struct conn_table *t = xcalloc(1, sizeof *t);

	t->loop = l;
	t->io = wire_io_new();
	t->slots_cap = 64;
	t->slots_used = 1;
	t->slots = xcalloc(t->slots_cap, sizeof *t->slots);
	TAILQ_INIT(&t->dirty);
	TAILQ_INIT(&t->resumed);
	TAILQ_INIT(&t->waiting);
	TAILQ_INIT(&t->closed);
	t->hangup = hangup_new(l, on_hangup, t);
	t->sweep = loop_every(l, SWEEP_MS, on_sweep, t);
	loop_on_turn_last(l, on_turn_last, t);
	return t;
}

void conn_close_all(struct conn_table *t, const char *reason)
{
	struct conn *c;
	size_t at = 0;

	while ((c = conn_next(t, &at)))
		conn_close(c, reason);
	reap(t);
}

void conn_table_free(struct conn_table *t)
{
	if (!t)
		return;
	conn_close_all(t, "shutdown");
	loop_hook_del(t->loop, on_turn_last, t);
	loop_timer_free(t->sweep);
	hangup_free(t->hangup);
	wire_io_free(t->io);
	free(t->slots);
	free(t);
}
