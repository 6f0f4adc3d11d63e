/* Writers and durable subscriptions on the fault simulator: two nodes that are killed and started
 * again, over a database that does what databases do.
 *
 *   test_sim                 a few hundred seeds
 *   test_sim --seeds N       seeds 1 .. N
 *   test_sim --seed N        one seed, with its trace */
#include "base/buf.h"
#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/ranges.h"
#include "cluster/sim.h"
#include "cluster/writer.h"
#include "tests/sim_history.h"
#include "tests/sim_main.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
	NODES = 2,
	EVENTS = 250, /* published by each seed */
	TENANTS = 3,  /* 1 .. 3 */
	PARTS = 2,
	SUBS = 3,
	LED = 2, /* roles */
	TICK_MS = 5,
	SETTLE_MAX_MS = 600000, /* virtual, until everything is delivered once faults have ended */
	UNSETTLED_MAX = 256,
	SEEDS_DEFAULT = 300,
};

/* Subscription 0 belongs to node 0, 1 to node 1, and both want 2. */
static const struct {
	const char *name;
	uint32_t tenant;
	bool wanted[NODES];
} subs[SUBS] = {
        {"s0", 1, {true, false}},
        {"s1", 1, {false, true}},
        {"s2", 2, {true, true}},
};

struct world {
	struct sim *sim;
	struct history *history;
	struct node *nodes[NODES];
	uint32_t published;
	bool calm; /* no more faults and kills */
};

/* One partition of a subscription in its owner's memory. */
struct part {
	uint64_t acked_through;
	struct ranges ahead;
	uint64_t next_seq; /* to read */
	uint64_t confirmed_seq;
	uint64_t commit_no;
	uint64_t unsettled[UNSETTLED_MAX];
	size_t n_unsettled;
	bool reading;
	bool dirty;
	bool committing;
};

struct reader {
	struct node *node;
	uint32_t sub;
	uint64_t life; /* raised whenever the state is dropped: older answers mean nothing */
	bool claiming;
	bool owned;
	uint64_t subscription_id;
	uint64_t epoch;
	struct part parts[PARTS];
};

struct node {
	struct world *world;
	uint32_t no;
	bool dead;
	struct bus *bus;
	struct writer *writers[BUS_WRITERS];
	struct batch *open[TENANTS + 1][PARTS + 1]; /* the last: what is scheduled */
	struct reader readers[SUBS];
	struct leader {
		uint64_t life;  /* raised with every generation: older answers mean nothing */
		uint64_t epoch; /* 0 = it does not lead */
		bool asking;    /* a claim, a fire or a collect is out */
	} leaders[LED];
};

static void node_start(void *arg);

/* ---- publishing ---------------------------------------------------------------------------------
 */

static uint32_t writer_of(uint32_t tenant, uint32_t partition)
{
	return (tenant + partition) % BUS_WRITERS;
}

static void flush(struct node *n, uint32_t no)
{
	struct batch *batches[(TENANTS + 1) * (PARTS + 1)];
	size_t count = 0;

	if (n->dead || writer_busy(n->writers[no]))
		return;
	for (uint32_t t = 1; t <= TENANTS; t++) {
		for (uint32_t p = 0; p <= PARTS; p++) {
			if (writer_of(t, p) != no || !n->open[t][p])
				continue;
			batch_seal(n->open[t][p]);
			batches[count++] = n->open[t][p];
			n->open[t][p] = NULL;
		}
	}
	if (count)
		writer_flush(n->writers[no], batches, count);
}

static void publish(struct node *n)
{
	struct world *w = n->world;
	uint32_t tenant = 1 + (uint32_t)sim_random(w->sim, TENANTS);
	uint32_t topic = (uint32_t)sim_random(w->sim, 4) * NODES + n->no; /* each node its own */
	uint32_t partition = topic / NODES % PARTS;
	uint32_t id = history_published(w->history, tenant, topic);
	char payload[16];
	struct event ev = {.topic = slice("abcdefgh" + topic, 1), .qos = 1};

	w->published++;
	snprintf(payload, sizeof payload, "%c%u", sim_random(w->sim, 40) ? 'e' : 'x', id);
	ev.payload = slice_str(payload);
	if (!n->open[tenant][partition])
		n->open[tenant][partition] = batch_new(tenant, partition);
	batch_append(n->open[tenant][partition], &ev, (struct publisher){1, id});
	flush(n, writer_of(tenant, partition));
}

/* Some have a name that nobody else uses, so that each is to be published. */
static void schedule(struct node *n)
{
	struct world *w = n->world;
	uint32_t tenant = 1 + (uint32_t)sim_random(w->sim, TENANTS);
	uint32_t id = history_scheduled(w->history, tenant);
	struct batch **open = &n->open[tenant][PARTS];
	char payload[16];
	struct event ev = {.topic = slice_str("later"),
	                   .qos = 1,
	                   .when = EVENT_AFTER,
	                   .when_ms = sim_random(w->sim, 400),
	                   .partition_id = (uint32_t)sim_random(w->sim, PARTS)};

	w->published++;
	snprintf(payload, sizeof payload, "e%u", id);
	ev.payload = slice_str(payload);
	if (sim_random(w->sim, 2))
		ev.name = ev.payload;
	if (!*open)
		*open = batch_new(tenant, BATCH_SCHEDULED);
	batch_append(*open, &ev, (struct publisher){1, id});
	flush(n, writer_of(tenant, PARTS));
}

/* An application's own transaction, which commits at once. */
static void publish_sql(struct world *w)
{
	uint32_t tenant = 1 + (uint32_t)sim_random(w->sim, TENANTS);
	uint32_t topic = 4 * NODES + (uint32_t)sim_random(w->sim, 4);
	uint32_t id = history_published(w->history, tenant, topic);
	char payload[16];
	struct event ev = {.topic = slice("abcdefghijkl" + topic, 1), .qos = 1};
	struct batch *one = batch_new(tenant, topic % PARTS);

	w->published++;
	snprintf(payload, sizeof payload, "e%u", id);
	ev.payload = slice_str(payload);
	batch_append(one, &ev, (struct publisher){0});
	batch_seal(one);
	sim_publish(w->sim, one);
	batch_unref(one);
	history_acked(w->history, id);
}

static void on_stored(void *arg, struct batch *take)
{
	struct node *n = arg;

	for (uint32_t i = 0; i < batch_count(take); i++)
		history_acked(n->world->history, batch_publisher(take, i).packet_id);
	batch_unref(take);
}

static void on_refused(void *arg, struct batch *take, const char *reason)
{
	struct node *n = arg;

	(void)reason;
	for (uint32_t i = 0; i < batch_count(take); i++)
		history_refused(n->world->history, batch_publisher(take, i).packet_id);
	batch_unref(take);
}

static void on_idle(void *arg, uint32_t writer_no)
{
	flush(arg, writer_no);
}

static void after(void *arg, uint32_t delay_ms, void (*fn)(void *), void *fn_arg)
{
	struct node *n = arg;

	sim_bus_after(n->bus, delay_ms, fn, fn_arg);
}

/* ---- reading ------------------------------------------------------------------------------------
 */

/* A request of a reader, of one of its lives. */
struct ask {
	struct reader *reader;
	uint64_t life;
	uint32_t partition;
	struct bus_claim claim;
	struct bus_read read;
	struct bus_commit commit;
	struct bus_cursor_row row;
	struct bus_cursor starts[PARTS];
	struct buf ahead;
};

static struct ask *ask_new(struct reader *r, uint32_t partition)
{
	struct ask *a = xcalloc(1, sizeof *a);

	a->reader = r;
	a->life = r->life;
	a->partition = partition;
	return a;
}

static void ask_free(struct ask *a)
{
	buf_release(&a->ahead);
	free(a);
}

static void reader_drop(struct reader *r)
{
	r->life++;
	r->owned = false;
	r->claiming = false;
	for (uint32_t p = 0; p < PARTS; p++) {
		ranges_release(&r->parts[p].ahead);
		r->parts[p] = (struct part){0};
	}
}

static void on_claimed(struct bus_claim *req)
{
	struct ask *a = req->arg;
	struct reader *r = a->reader;
	struct world *w = r->node->world;

	if (req->outcome == SQL_OK && a->life == r->life) {
		r->owned = true;
		r->subscription_id = req->subscription_id;
		r->epoch = req->epoch;
		for (uint32_t i = 0; i < req->n_cursors; i++) {
			const struct bus_cursor *c = &req->cursors[i];
			struct part *p = &r->parts[c->partition_id];

			history_claimed(w->history, r->sub, c->partition_id, c->acked_through);
			p->acked_through = c->acked_through;
			p->commit_no = c->commit_no;
			p->next_seq = c->acked_through + 1;
			assert_int_equal(ranges_decode(&p->ahead, c->acked_through, c->acked_ahead),
			                 0);
		}
	}
	if (a->life == r->life)
		r->claiming = false;
	if (req->outcome == SQL_OK)
		r->node->bus->ops->claim_release(r->node->bus, req);
	ask_free(a);
}

static void claim(struct reader *r)
{
	struct ask *a = ask_new(r, 0);

	r->claiming = true;
	a->starts[1].partition_id = 1;
	a->claim = (struct bus_claim){
	        .done = on_claimed,
	        .arg = a,
	        .tenant_id = subs[r->sub].tenant,
	        .kind = BUS_SUB_SHARE,
	        .name = slice_str(subs[r->sub].name),
	        .create = true,
	        .expiry_s = UINT32_MAX,
	        .n_starts = PARTS,
	        .starts = a->starts,
	};
	r->node->bus->ops->claim(r->node->bus, &a->claim);
}

static void deliver(struct reader *r, uint32_t partition, const struct batch *b)
{
	struct part *p = &r->parts[partition];

	for (uint32_t i = 0; i < batch_count(b); i++) {
		uint64_t seq = batch_base_seq(b) + i;
		struct event ev;

		if (seq < p->next_seq || p->n_unsettled == UNSETTLED_MAX)
			continue;
		p->next_seq = seq + 1;
		if (ranges_contain(&p->ahead, seq))
			continue;
		batch_event(b, i, &ev);
		history_delivered(r->node->world->history, r->sub, batch_tenant(b), partition, seq,
		                  ev.payload);
		p->unsettled[p->n_unsettled++] = seq;
	}
}

static void on_read(struct bus_read *req)
{
	struct ask *a = req->arg;
	struct reader *r = a->reader;
	bool ours = a->life == r->life;

	if (ours)
		r->parts[a->partition].reading = false;
	for (size_t i = 0; req->outcome == SQL_OK && i < req->n; i++) {
		if (ours)
			deliver(r, a->partition, req->batches[i]);
		batch_unref(req->batches[i]);
	}
	if (req->outcome == SQL_OK) {
		free(req->batches);
		if (ours)
			r->parts[a->partition].confirmed_seq = req->next_seq;
	}
	ask_free(a);
}

static void read_more(struct reader *r, uint32_t partition)
{
	struct part *p = &r->parts[partition];
	struct ask *a = ask_new(r, partition);

	p->reading = true;
	a->read = (struct bus_read){
	        .done = on_read,
	        .arg = a,
	        .tenant_id = subs[r->sub].tenant,
	        .partition_id = partition,
	        .from_seq = p->next_seq,
	        .confirmed_seq = p->confirmed_seq,
	        .max_bytes = 300,
	};
	r->node->bus->ops->read(r->node->bus, &a->read);
}

/* Consumers acknowledge in any order. */
static void settle_some(struct reader *r, struct part *p)
{
	for (size_t i = 0; i < p->n_unsettled;) {
		if (sim_random(r->node->world->sim, 3) == 0) {
			i++;
			continue;
		}
		ranges_add(&p->ahead, p->unsettled[i], p->unsettled[i]);
		p->unsettled[i] = p->unsettled[--p->n_unsettled];
		p->dirty = true;
	}
	if (p->ahead.n && p->ahead.items[0].first == p->acked_through + 1) {
		p->acked_through = p->ahead.items[0].last;
		ranges_trim(&p->ahead, p->acked_through);
	}
}

static void on_committed(struct bus_commit *req)
{
	struct ask *a = req->arg;
	struct reader *r = a->reader;
	struct part *p = &r->parts[a->partition];
	bool ok = req->outcome == SQL_OK && !a->row.fenced;

	if (ok)
		history_committed(r->node->world->history, r->sub, a->partition,
		                  a->row.to.acked_through);
	if (a->life == r->life) {
		p->committing = false;
		if (ok)
			p->commit_no++;
		else if (req->outcome == SQL_OK)
			reader_drop(r);
		else
			p->dirty = true;
	}
	ask_free(a);
}

static void commit(struct reader *r, uint32_t partition)
{
	struct part *p = &r->parts[partition];
	struct ask *a = ask_new(r, partition);

	p->dirty = false;
	p->committing = true;
	ranges_encode(&p->ahead, p->acked_through, BUS_AHEAD_MAX, &a->ahead);
	a->row = (struct bus_cursor_row){
	        .tenant_id = subs[r->sub].tenant,
	        .subscription_id = r->subscription_id,
	        .epoch = r->epoch,
	        .to = {.partition_id = partition,
	               .acked_through = p->acked_through,
	               .commit_no = p->commit_no,
	               .acked_ahead = buf_slice(&a->ahead)},
	};
	a->commit = (struct bus_commit){.done = on_committed, .arg = a, .n = 1, .rows = &a->row};
	r->node->bus->ops->commit(r->node->bus, &a->commit);
}

static void reader_tick(struct reader *r)
{
	if (r->node->bus->state != BUS_UP || !subs[r->sub].wanted[r->node->no])
		return;
	if (!r->owned) {
		if (!r->claiming && sim_random(r->node->world->sim, 4) == 0)
			claim(r);
		return;
	}
	for (uint32_t i = 0; i < PARTS && r->owned; i++) {
		struct part *p = &r->parts[i];

		settle_some(r, p);
		if (!p->reading && p->n_unsettled < UNSETTLED_MAX / 2)
			read_more(r, i);
		/* one write in flight per cursor */
		if (p->dirty && (!p->committing || BUG("cursor-without-commit-no")))
			commit(r, i);
	}
}

/* ---- leading ------------------------------------------------------------------------------------
 */

static const enum bus_role roles[LED] = {BUS_ROLE_TIMERS, BUS_ROLE_INBOX};

struct lead {
	struct leader *leader;
	uint64_t life;
	struct bus_role_claim claim;
	struct bus_fire fire;
	struct bus_collect collect;
};

static struct lead *lead_new(struct leader *leader)
{
	struct lead *l = xcalloc(1, sizeof *l);

	l->leader = leader;
	l->life = leader->life;
	leader->asking = true;
	return l;
}

static void lead_end(struct lead *l, uint64_t epoch)
{
	struct leader *leader = l->leader;

	if (l->life == leader->life) {
		leader->asking = false;
		leader->epoch = epoch;
	}
	free(l);
}

static void on_role(struct bus_role_claim *req)
{
	struct lead *l = req->arg;

	lead_end(l, req->outcome == SQL_OK && !req->release ? req->epoch : 0);
}

static void on_fired(struct bus_fire *req)
{
	struct lead *l = req->arg;

	for (size_t i = 0; req->outcome == SQL_OK && i < req->n; i++)
		batch_unref(req->batches[i]);
	if (req->outcome == SQL_OK) {
		free(req->batches);
		free(req->late_ms);
	}
	lead_end(l, req->outcome == SQL_LOST ? 0 : req->epoch);
}

static void on_collected(struct bus_collect *req)
{
	struct lead *l = req->arg;

	for (size_t i = 0; req->outcome == SQL_OK && i < req->n; i++)
		batch_unref(req->batches[i]);
	if (req->outcome == SQL_OK) {
		free(req->batches);
		free(req->late_ms);
		free(req->tenants);
	}
	lead_end(l, req->outcome == SQL_LOST ? 0 : req->epoch);
}

static void move(struct node *n, struct lead *l, enum bus_role role)
{
	uint64_t epoch = l->leader->epoch;

	if (role == BUS_ROLE_TIMERS) {
		l->fire = (struct bus_fire){.done = on_fired, .arg = l, .epoch = epoch, .limit = 3};
		n->bus->ops->fire(n->bus, &l->fire);
	} else {
		l->collect = (struct bus_collect){
		        .done = on_collected, .arg = l, .epoch = epoch, .limit = 3};
		n->bus->ops->collect(n->bus, &l->collect);
	}
}

/* Claims it, moves what is due or was published in SQL, and gives it up now and then. */
static void leader_tick(struct node *n, unsigned which)
{
	struct leader *leader = &n->leaders[which];
	struct world *w = n->world;
	struct lead *l;

	if (n->bus->state != BUS_UP || leader->asking || sim_random(w->sim, 3))
		return;
	l = lead_new(leader);
	if (leader->epoch && sim_random(w->sim, 50)) {
		move(n, l, roles[which]);
		return;
	}
	l->claim = (struct bus_role_claim){.done = on_role,
	                                   .arg = l,
	                                   .role = roles[which],
	                                   .release = leader->epoch != 0,
	                                   .epoch = leader->epoch};
	n->bus->ops->role_claim(n->bus, &l->claim);
}

/* ---- nodes --------------------------------------------------------------------------------------
 */

static void on_state(void *arg, enum bus_state state)
{
	struct node *n = arg;

	for (uint32_t i = 0; i < BUS_WRITERS; i++)
		writer_on_state(n->writers[i], state);
	for (uint32_t i = 0; i < SUBS && state != BUS_UP; i++)
		reader_drop(&n->readers[i]);
	for (unsigned i = 0; i < LED && state != BUS_UP; i++)
		n->leaders[i] = (struct leader){.life = n->leaders[i].life + 1};
}

static void node_kill(struct node *n)
{
	n->dead = true;
	n->world->nodes[n->no] = NULL;
	for (uint32_t i = 0; i < SUBS; i++)
		reader_drop(&n->readers[i]);
	for (uint32_t i = 0; i < BUS_WRITERS; i++)
		writer_free(n->writers[i]);
	sim_bus_kill(n->bus);
	for (uint32_t t = 0; t <= TENANTS; t++) {
		for (uint32_t p = 0; p <= PARTS; p++)
			batch_unref(n->open[t][p]);
	}
	free(n);
}

struct restart {
	struct world *world;
	uint32_t no;
};

static void node_restart_later(struct world *w, uint32_t no, uint32_t ms)
{
	struct restart *r = xcalloc(1, sizeof *r);

	*r = (struct restart){w, no};
	sim_after(w->sim, ms, node_start, r);
}

static void node_tick(void *arg)
{
	struct node *n = arg;
	struct world *w = n->world;

	if (n->dead)
		return;
	if (!w->calm && sim_random(w->sim, 300) == 0) {
		node_restart_later(w, n->no, (uint32_t)sim_random(w->sim, 1500));
		node_kill(n);
		return;
	}
	for (uint64_t i = sim_random(w->sim, 2); i > 0 && w->published < EVENTS; i--)
		sim_random(w->sim, 4) ? publish(n) : schedule(n);
	if (w->published < EVENTS && sim_random(w->sim, 4) == 0)
		publish_sql(w);
	for (unsigned i = 0; i < LED; i++)
		leader_tick(n, i);
	for (uint32_t i = 0; i < SUBS; i++)
		reader_tick(&n->readers[i]);
	sim_bus_after(n->bus, 1 + (uint32_t)sim_random(w->sim, 2 * TICK_MS), node_tick, n);
}

static void node_start(void *arg)
{
	static const char *const names[NODES] = {"n0", "n1"};
	struct restart *r = arg;
	struct node *n = xcalloc(1, sizeof *n);
	struct writer_events events = {.on_stored = on_stored,
	                               .on_refused = on_refused,
	                               .on_idle = on_idle,
	                               .after = after,
	                               .arg = n};

	n->world = r->world;
	n->no = r->no;
	n->world->nodes[n->no] = n;
	free(r);
	n->bus = sim_bus_new(n->world->sim, names[n->no]);
	n->bus->events.on_state = on_state;
	n->bus->events.arg = n;
	for (uint32_t i = 0; i < BUS_WRITERS; i++)
		n->writers[i] = writer_new(n->bus, i, &events);
	for (uint32_t i = 0; i < SUBS; i++)
		n->readers[i] = (struct reader){.node = n, .sub = i};
	node_tick(n);
}

/* ---- runs ---------------------------------------------------------------------------------------
 */

static uint32_t owed(const struct world *w)
{
	uint32_t sum = 0;

	for (uint32_t i = 0; i < SUBS; i++)
		sum += history_owed(w->history, i, subs[i].tenant);
	return sum;
}

static bool world_quiet(const struct world *w)
{
	for (int i = 0; i < NODES; i++) {
		if (!w->nodes[i])
			return false;
		for (uint32_t k = 0; k < BUS_WRITERS; k++) {
			if (writer_busy(w->nodes[i]->writers[k]))
				return false;
		}
	}
	return owed(w) == 0;
}

static const char *run_world(struct world *w)
{
	uint64_t until;

	for (uint32_t i = 0; i < NODES; i++)
		node_restart_later(w, i, 0);
	while (w->published < EVENTS && !history_problem(w->history))
		sim_run_for(w->sim, 20);
	sim_run_for(w->sim, 200);
	w->calm = true;
	sim_set_faults(w->sim, &(struct sim_faults){0});
	until = sim_now_ms(w->sim) + SETTLE_MAX_MS;
	sim_run_for(w->sim, 3000); /* ghosts come and go */
	while (!world_quiet(w) && sim_now_ms(w->sim) < until && !history_problem(w->history))
		sim_run_for(w->sim, 100);
	if (!history_problem(w->history) && owed(w))
		return "acknowledged events were never delivered to a durable subscription";
	if (!history_problem(w->history) && !world_quiet(w))
		return "a writer never finished";
	return history_check(w->history, sim_store(w->sim));
}

/* NULL, or what went wrong, good until the next call. */
static const char *run_seed(uint64_t seed, bool trace)
{
	static char text[300];
	struct sim_faults faults = SIM_FAULTS_HARSH;
	struct world w = {.sim = sim_new(seed, &faults), .history = history_new()};
	const char *problem;

	sim_set_trace(w.sim, trace);
	sim_set_poison(w.sim, 'x');
	problem = run_world(&w);
	if (problem)
		snprintf(text, sizeof text, "seed %llu: %s", (unsigned long long)seed, problem);
	for (int i = 0; i < NODES; i++) {
		if (w.nodes[i])
			node_kill(w.nodes[i]);
	}
	sim_run_for(w.sim, 10000);
	for (int i = 0; i < NODES; i++) { /* one that was to be started again */
		if (w.nodes[i])
			node_kill(w.nodes[i]);
	}
	sim_run_for(w.sim, 10000);
	sim_free(w.sim);
	history_free(w.history);
	return problem ? text : NULL;
}

int main(int argc, char **argv)
{
	static const struct sim_main sim = {.seeds = SEEDS_DEFAULT, .run_seed = run_seed};

	return sim_main_run(&sim, argc, argv);
}
