#include "cluster/sim.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/sim_op.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

enum {
	RETENTION_BYTES = 1 << 30,
	REQUEST_MS = 3,  /* at most, to the server and again for its commit */
	DOWN_MS = 300,   /* at most, from a loss to the next connection */
	GHOST_MS = 2000, /* at most, until a commit nobody waits for is over */
	NOTICE_MS = 500, /* at most, until a node notices that its session was ended */
	JUMP_MS = 20000,
	STALL_MS = 60, /* at most, of the disk before a crash */
	START_MS = 1000,
};

#define WALL_START_MS 1767225600000ull /* 2026-01-01 */

struct sim_bus {
	struct bus bus; /* first */
	struct sim *sim;
	char name[32];
	bool coming_up; /* an attempt to come up is due */
	bool killed;    /* being freed: nothing becomes due any more */
	void (*on_stopped)(void *arg);
	void *stopped_arg;
};

/* Something that is due. */
struct due {
	uint64_t at_ms;
	uint64_t tie; /* random: what is due at one time has no order */
	void (*fn)(void *arg);
	void *arg;
	struct sim_bus *owner; /* goes with this node; NULL = the sim's */
};

enum fate {
	FATE_DONE,         /* carried out, answered as it went */
	FATE_RETRY,        /* not carried out, RETRY */
	FATE_UNKNOWN_DONE, /* carried out, UNKNOWN */
	FATE_UNKNOWN_NOT,  /* not carried out, UNKNOWN */
	FATE_GHOST,        /* UNKNOWN; carried out later */
};

/* A request that is not answered yet, or a commit that nobody waits for any more. */
struct flight {
	TAILQ_ENTRY(flight) entry;
	struct sim *sim;
	struct sim_op *op;
	struct sim_bus *bus; /* NULL: the node died */
	void *request;       /* the node's; NULL once answered */
	enum fate fate;
	enum sql_outcome outcome;
	bool applied;
	bool stray;       /* answered or orphaned, and still to be carried out */
	size_t log_count; /* durable when this much of the log is */
};

struct log_entry {
	struct sim_op *op;
	uint64_t wall_ms;
};

struct sim {
	uint64_t random;
	struct sim_faults faults;
	bool trace;
	char poison;
	uint64_t now_ms;
	uint64_t stall_until_ms; /* the disk does not sync before */

	struct due *heap; /* the earliest first */
	size_t n_due;
	size_t cap_due;
	TAILQ_HEAD(flights, flight) flights;
	struct sim_bus *buses[16];
	size_t n_buses;

	/* the server: what readers see, and the log it recovers from, of which log[0 .. durable)
	 * outlives a crash */
	struct store *store;
	struct log_entry *log;
	size_t n_log;
	size_t cap_log;
	size_t durable;
};

#define TRACE(s, ...)                                         \
	do {                                                  \
		if ((s)->trace) {                             \
			printf("%8" PRIu64 " ", (s)->now_ms); \
			printf(__VA_ARGS__);                  \
			putchar('\n');                        \
		}                                             \
	} while (0)

/* ---- chance and time ----------------------------------------------------------------------------
 */

/* splitmix64 */
static uint64_t random_next(struct sim *s)
{
	uint64_t z = (s->random += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint64_t sim_random(struct sim *s, uint64_t below)
{
	return random_next(s) % below;
}

static bool chance(struct sim *s, uint32_t of_1000)
{
	return sim_random(s, 1000) < of_1000;
}

uint64_t sim_now_ms(const struct sim *s)
{
	return s->now_ms;
}

static void set_clock(const struct sim *s)
{
	clock_set(s->now_ms, WALL_START_MS + s->now_ms);
}

static bool due_before(const struct due *a, const struct due *b)
{
	return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->tie < b->tie;
}

static void heap_down(struct sim *s, size_t i)
{
	for (;;) {
		size_t least = i;
		struct due swap;

		for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < s->n_due; child++) {
			if (due_before(&s->heap[child], &s->heap[least]))
				least = child;
		}
		if (least == i)
			return;
		swap = s->heap[i];
		s->heap[i] = s->heap[least];
		s->heap[least] = swap;
		i = least;
	}
}

static void heap_push(struct sim *s, struct due d)
{
	size_t i = s->n_due;

	if (s->n_due == s->cap_due) {
		s->cap_due = s->cap_due ? s->cap_due * 2 : 64;
		s->heap = xrealloc(s->heap, s->cap_due * sizeof *s->heap);
	}
	s->n_due++;
	while (i > 0 && due_before(&d, &s->heap[(i - 1) / 2])) {
		s->heap[i] = s->heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	s->heap[i] = d;
}

static struct due heap_remove(struct sim *s, size_t i)
{
	struct due d = s->heap[i];
	struct due last = s->heap[--s->n_due];

	if (i < s->n_due) {
		/* simplest that is right: put the last one through the whole path again */
		s->heap[i] = last;
		heap_down(s, i);
		while (i > 0 && due_before(&s->heap[i], &s->heap[(i - 1) / 2])) {
			struct due swap = s->heap[i];

			s->heap[i] = s->heap[(i - 1) / 2];
			s->heap[(i - 1) / 2] = swap;
			i = (i - 1) / 2;
		}
	}
	return d;
}

/* What was to be called with this is not any more. */
static void drop_due(struct sim *s, const void *arg)
{
	for (size_t i = s->n_due; i-- > 0;) {
		if (s->heap[i].arg == arg)
			heap_remove(s, i);
	}
}

static void call_in(struct sim *s, struct sim_bus *owner, uint64_t ms, void (*fn)(void *),
                    void *arg)
{
	if (owner && owner->killed)
		return;
	heap_push(s, (struct due){s->now_ms + ms, random_next(s), fn, arg, owner});
}

void sim_after(struct sim *s, uint32_t delay_ms, void (*fn)(void *arg), void *arg)
{
	call_in(s, NULL, delay_ms, fn, arg);
}

void sim_bus_after(struct bus *bus, uint32_t delay_ms, void (*fn)(void *arg), void *arg)
{
	struct sim_bus *b = (struct sim_bus *)bus;

	call_in(b->sim, b, delay_ms, fn, arg);
}

bool sim_step(struct sim *s)
{
	struct due d;

	if (!s->n_due)
		return false;
	d = heap_remove(s, 0);
	if (d.at_ms > s->now_ms)
		s->now_ms = d.at_ms;
	set_clock(s);
	d.fn(d.arg);
	return true;
}

void sim_run_for(struct sim *s, uint64_t ms)
{
	uint64_t until = s->now_ms + ms;

	while (s->n_due && s->heap[0].at_ms <= until)
		sim_step(s);
	if (s->now_ms < until)
		s->now_ms = until;
	set_clock(s);
}

/* ---- the server ---------------------------------------------------------------------------------
 */

static void log_push(struct sim *s, struct sim_op *op)
{
	if (s->n_log == s->cap_log) {
		s->cap_log = s->cap_log ? s->cap_log * 2 : 64;
		s->log = xrealloc(s->log, s->cap_log * sizeof *s->log);
	}
	s->log[s->n_log++] = (struct log_entry){sim_op_ref(op), clock_wall_ms()};
}

static enum sql_outcome server_apply(struct sim *s, struct sim_op *op)
{
	enum sql_outcome o;

	if (sim_op_poisoned(op, s->poison))
		return SQL_FATAL;
	o = sim_op_apply(op, s->store);
	if (o == SQL_OK && sim_op_writes(op))
		log_push(s, op);
	return o;
}

/* A commit returned: it and everything before it is on disk. */
static void server_sync(struct sim *s, size_t log_count)
{
	if (log_count > s->durable)
		s->durable = log_count;
}

/* Start again from what was on disk. */
static void server_recover(struct sim *s)
{
	store_free(s->store);
	s->store = store_new(RETENTION_BYTES);
	while (s->n_log > s->durable)
		sim_op_unref(s->log[--s->n_log].op);
	for (size_t i = 0; i < s->n_log; i++) {
		clock_set(s->now_ms, s->log[i].wall_ms);
		sim_op_apply(s->log[i].op, s->store);
		sim_op_drop_results(s->log[i].op);
	}
	set_clock(s);
}

const struct store *sim_store(const struct sim *s)
{
	return s->store;
}

/* ---- up and down --------------------------------------------------------------------------------
 */

static void bus_tell(struct sim_bus *b, enum bus_state state)
{
	b->bus.state = state;
	TRACE(b->sim, "%s %s", b->name, state == BUS_UP ? "up" : "down");
	if (b->bus.events.on_state)
		b->bus.events.on_state(b->bus.events.arg, state);
}

/* As a random one, but of the seed. */
static struct id128 next_id(struct sim *s)
{
	uint64_t words[2] = {random_next(s), random_next(s)};
	struct id128 id;

	memcpy(id.b, words, sizeof id.b);
	return id;
}

void sim_publish(struct sim *s, const struct batch *one)
{
	static const struct id128 nobody;
	struct sim_op *op = sim_op_new(SIM_publish, &nobody, NULL);

	op->one = batch_split(one, 0, 1);
	server_apply(s, op);
	server_sync(s, s->n_log);
	sim_op_unref(op);
}

static void open_session(struct sim_bus *b)
{
	struct sim *s = b->sim;
	struct sim_op *op;

	b->bus.session_id = next_id(s);
	memset(b->bus.writers, 0, sizeof b->bus.writers);
	op = sim_op_new(SIM_open_session, &b->bus.session_id, NULL);
	snprintf(op->name, sizeof op->name, "%s", b->name);
	server_apply(s, op);
	server_sync(s, s->n_log);
	sim_op_unref(op);
	TRACE(s, "%s new session", b->name);
}

static void come_up(void *arg)
{
	struct sim_bus *b = arg;

	b->coming_up = false;
	if (!store_session_live(b->sim->store, &b->bus.session_id))
		open_session(b);
	bus_tell(b, BUS_UP);
}

static void go_down(struct sim_bus *b)
{
	if (b->bus.state == BUS_UP) {
		b->bus.generation++;
		bus_tell(b, BUS_DOWN);
	}
	if (!b->coming_up) {
		b->coming_up = true;
		call_in(b->sim, b, 1 + sim_random(b->sim, DOWN_MS), come_up, b);
	}
}

static void notice_end(void *arg)
{
	struct sim_bus *b = arg;

	if (!store_session_live(b->sim->store, &b->bus.session_id))
		go_down(b);
}

/* As other nodes do to one that stood still: it learns of it at its next renewal. */
static void end_session(struct sim_bus *b)
{
	struct sim *s = b->sim;
	struct sim_op *op = sim_op_new(SIM_end_session, &b->bus.session_id, NULL);

	TRACE(s, "%s session ended", b->name);
	server_apply(s, op);
	server_sync(s, s->n_log);
	sim_op_unref(op);
	call_in(s, b, sim_random(s, NOTICE_MS), notice_end, b);
}

/* ---- requests -----------------------------------------------------------------------------------
 */

static void flight_free(struct flight *f)
{
	TAILQ_REMOVE(&f->sim->flights, f, entry);
	sim_op_unref(f->op);
	free(f);
}

static void flight_answer(struct flight *f, enum sql_outcome outcome)
{
	void *request = f->request;

	TRACE(f->sim, "%s %s %s", f->bus ? f->bus->name : "?", sim_op_name(f->op),
	      sql_outcome_name(outcome));
	f->request = NULL;
	if (request)
		sim_op_answer(f->op, request, outcome);
}

static void flight_apply(struct flight *f)
{
	f->outcome = server_apply(f->sim, f->op);
	f->applied = true;
	f->log_count = f->sim->n_log;
}

/* The commit that nobody waits for comes, or the transaction was rolled back by then. */
static void on_ghost(void *arg)
{
	struct flight *f = arg;

	flight_apply(f);
	server_sync(f->sim, f->log_count);
	TRACE(f->sim, "ghost %s %s", sim_op_name(f->op), sql_outcome_name(f->outcome));
	flight_free(f);
}

static bool is_unknown(enum fate fate)
{
	return fate == FATE_UNKNOWN_DONE || fate == FATE_UNKNOWN_NOT || fate == FATE_GHOST;
}

/* A read answers only after a commit of its own, which makes what it saw durable. */
static bool commits(const struct flight *f)
{
	if (sim_op_writes(f->op))
		return f->outcome == SQL_OK;
	if (f->op->kind == SIM_heads) /* as anyone sees them */
		return false;
	if (f->op->kind == SIM_read && f->op->r.read.next_seq <= f->op->r.read.confirmed_seq)
		return false;
	return !BUG("dispatch-before-confirmed");
}

static void on_answer(void *arg)
{
	struct flight *f = arg;
	struct sim *s = f->sim;

	if (f->applied && commits(f) && s->now_ms < s->stall_until_ms) {
		call_in(s, NULL, s->stall_until_ms - s->now_ms, on_answer, f);
		return;
	}
	if (is_unknown(f->fate)) {
		if (f->bus)
			go_down(f->bus); /* the loss is told before the outcome */
		flight_answer(f, sim_op_writes(f->op) ? SQL_UNKNOWN : SQL_RETRY);
		if (f->fate == FATE_GHOST) {
			f->stray = true;
			call_in(s, NULL, sim_random(s, GHOST_MS), on_ghost, f);
			return;
		}
	} else {
		if (f->applied && commits(f))
			server_sync(s, f->log_count);
		flight_answer(f, f->fate == FATE_RETRY ? SQL_RETRY : f->outcome);
	}
	flight_free(f);
}

/* The worst time for a ghost of this node to come is around its next requests. */
static void wake_ghosts(struct sim *s, const struct id128 *me)
{
	struct flight *f;
	struct flight *next;

	for (f = TAILQ_FIRST(&s->flights); f; f = next) {
		next = TAILQ_NEXT(f, entry);
		if (f->stray && id128_eq(&f->op->me, me) && sim_random(s, 4) == 0) {
			drop_due(s, f);
			on_ghost(f);
		}
	}
}

static void on_arrival(void *arg)
{
	struct flight *f = arg;

	if (sim_op_writes(f->op))
		wake_ghosts(f->sim, &f->op->me);
	if (f->fate == FATE_DONE || f->fate == FATE_UNKNOWN_DONE)
		flight_apply(f);
	call_in(f->sim, NULL, sim_random(f->sim, REQUEST_MS + 1), on_answer, f);
}

static enum fate choose_fate(struct sim *s, const struct sim_op *op)
{
	static const enum fate unknown[] = {FATE_UNKNOWN_DONE, FATE_UNKNOWN_NOT, FATE_GHOST};

	if (chance(s, s->faults.retry))
		return FATE_RETRY;
	if (!chance(s, s->faults.unknown))
		return FATE_DONE;
	/* a late second fence or look does no harm, but is not one the caller could ask for */
	if (op->kind == SIM_resolve || !sim_op_writes(op))
		return FATE_UNKNOWN_NOT;
	return unknown[sim_random(s, 3)];
}

static void on_crash(void *arg)
{
	sim_crash(arg);
}

static void trouble(struct sim *s, struct sim_bus *b)
{
	if (chance(s, s->faults.crash)) {
		/* most crashes come with a disk that has stopped syncing: readers see more and more
		 * that will be gone */
		s->stall_until_ms = s->now_ms + sim_random(s, STALL_MS);
		call_in(s, NULL, s->stall_until_ms - s->now_ms, on_crash, s);
	}
	if (chance(s, s->faults.end_session))
		end_session(b);
	if (chance(s, s->faults.jump)) {
		s->now_ms += sim_random(s, JUMP_MS);
		TRACE(s, "time jumps");
		set_clock(s);
	}
}

static void request(struct bus *bus, enum sim_kind kind, void *req)
{
	struct sim_bus *b = (struct sim_bus *)bus;
	struct sim *s = b->sim;
	struct flight *f = xcalloc(1, sizeof *f);

	f->sim = s;
	f->bus = b;
	f->request = req;
	f->op = sim_op_new(kind, &bus->session_id, req);
	f->fate = bus->state == BUS_UP ? choose_fate(s, f->op) : FATE_RETRY;
	TAILQ_INSERT_TAIL(&s->flights, f, entry);
	TRACE(s, "%s %s asked fate=%d", b->name, sim_op_name(f->op), (int)f->fate);
	if (bus->state == BUS_UP)
		trouble(s, b);
	call_in(s, NULL, sim_random(s, REQUEST_MS + 1), on_arrival, f);
}

#define SIM_OP(verb, writes)                                            \
	static void sim_##verb(struct bus *bus, struct bus_##verb *req) \
	{                                                               \
		request(bus, SIM_##verb, req);                          \
	}
SIM_REQUESTS(SIM_OP)
#undef SIM_OP

/* ---- the worst ----------------------------------------------------------------------------------
 */

static void crash_flight(struct flight *f)
{
	bool wrote = sim_op_writes(f->op) && f->op->kind != SIM_resolve;

	drop_due(f->sim, f);
	if (f->request)
		flight_answer(f, wrote ? SQL_UNKNOWN : SQL_RETRY);
	flight_free(f);
}

void sim_crash(struct sim *s)
{
	struct flight *f;
	struct flight *next;

	TRACE(s, "server crash: %zu commits lost", s->n_log - s->durable);
	s->stall_until_ms = 0;
	server_recover(s);
	for (size_t i = 0; i < s->n_buses; i++)
		go_down(s->buses[i]);
	for (f = TAILQ_FIRST(&s->flights); f; f = next) {
		next = TAILQ_NEXT(f, entry);
		crash_flight(f);
	}
}

/* An admin's word that it was done: it is durable, and all that came before it. */
void sim_set_partitions(struct sim *s, uint32_t tenant_id, uint32_t before, uint32_t n)
{
	struct sim_op *op = sim_op_new(SIM_set_partitions, &(struct id128){{0}}, NULL);

	TRACE(s, "tenant %u: %u partitions", tenant_id, n);
	op->partitions.tenant_id = tenant_id;
	op->partitions.before = before;
	op->partitions.n = n;
	server_apply(s, op);
	server_sync(s, s->n_log);
	sim_op_unref(op);
}

static void sim_stop(struct bus *bus, void (*on_stopped)(void *arg), void *arg)
{
	end_session((struct sim_bus *)bus);
	sim_bus_after(bus, 1, on_stopped, arg);
}

static void orphan(struct flight *f)
{
	struct sim *s = f->sim;

	if (f->request)
		flight_answer(f, SQL_RETRY);
	f->bus = NULL;
	if (f->fate == FATE_DONE && !f->applied && sim_random(s, 2))
		f->fate = FATE_RETRY; /* the connection broke before the server had it all */
}

void sim_bus_kill(struct bus *bus)
{
	struct sim_bus *b = (struct sim_bus *)bus;
	struct sim *s = b->sim;
	struct flight *f;

	TRACE(s, "%s killed", b->name);
	b->killed = true;
	bus->state = BUS_DOWN;
	bus->events.on_state = NULL;
	for (size_t i = 0; i < s->n_buses; i++) {
		if (s->buses[i] == b)
			s->buses[i] = s->buses[--s->n_buses];
	}
	for (size_t i = 0; i < s->n_due;) {
		if (s->heap[i].owner == b) {
			struct due d = heap_remove(s, i);

			if (d.arg != b) /* not our own coming up */
				d.fn(d.arg);
			i = 0;
		} else {
			i++;
		}
	}
	TAILQ_FOREACH (f, &s->flights, entry) {
		if (f->bus == b)
			orphan(f);
	}
	free(b);
}

/* ---- life ---------------------------------------------------------------------------------------
 */

static void sim_claim_release(struct bus *bus, struct bus_claim *req)
{
	(void)bus;
	store_claim_release(req);
}

static void sim_look(struct bus *bus)
{
	(void)bus; /* its nodes have no links */
}

static void sim_hinted(struct bus *bus, const struct id128 *session_id, uint32_t writer_no,
                       uint64_t flush_no)
{
	(void)bus;
	(void)session_id;
	(void)writer_no;
	(void)flush_no;
}

static void sim_bus_free(struct bus *bus)
{
	sim_bus_kill(bus);
}

static const struct bus_ops sim_ops = {
        .append = sim_append,
        .resolve = sim_resolve,
        .read = sim_read,
        .locate = sim_locate,
        .heads = sim_heads,
        .layouts = sim_layouts,
        .claim = sim_claim,
        .claim_release = sim_claim_release,
        .change = sim_change,
        .commit = sim_commit,
        .owned = sim_owned,
        .expire = sim_expire,
        .settle = sim_settle,
        .retries = sim_retries,
        .retain = sim_retain,
        .report = sim_report,
        .stock = sim_stock,
        .note = sim_note,
        .look = sim_look,
        .hinted = sim_hinted,
        .role_claim = sim_role_claim,
        .fire = sim_fire,
        .collect = sim_collect,
        .stop = sim_stop,
        .free = sim_bus_free,
};

struct bus *sim_bus_new(struct sim *s, const char *name)
{
	struct sim_bus *b = xcalloc(1, sizeof *b);

	assert(s->n_buses < sizeof s->buses / sizeof *s->buses);
	b->sim = s;
	b->bus.ops = &sim_ops;
	b->bus.state = BUS_DOWN;
	b->bus.generation = 1;
	snprintf(b->name, sizeof b->name, "%s", name);
	s->buses[s->n_buses++] = b;
	go_down(b);
	return &b->bus;
}

struct sim *sim_new(uint64_t seed, const struct sim_faults *faults)
{
	struct sim *s = xcalloc(1, sizeof *s);

	s->random = seed;
	s->faults = *faults;
	s->now_ms = START_MS;
	s->store = store_new(RETENTION_BYTES);
	TAILQ_INIT(&s->flights);
	set_clock(s);
	return s;
}

void sim_set_faults(struct sim *s, const struct sim_faults *faults)
{
	s->faults = *faults;
}

void sim_set_trace(struct sim *s, bool on)
{
	s->trace = on;
}

void sim_set_poison(struct sim *s, char letter)
{
	s->poison = letter;
}

void sim_free(struct sim *s)
{
	struct flight *f;
	struct flight *next;

	if (!s)
		return;
	assert(s->n_buses == 0);
	for (f = TAILQ_FIRST(&s->flights); f; f = next) {
		next = TAILQ_NEXT(f, entry);
		sim_op_unref(f->op);
		free(f);
	}
	for (size_t i = 0; i < s->n_log; i++)
		sim_op_unref(s->log[i].op);
	store_free(s->store);
	free(s->log);
	free(s->heap);
	free(s);
}
