/* Churn: clients that come, go, take over, subscribe and acknowledge at random while a database
 * fails at random. Whoever stays subscribed gets every event at least once, in the order of its
 * topic, and on one connection none twice. SEED=n repeats one run; SEEDS=n says how many. */
#include "tests/unit/node/rig.h"

enum {
	TOPICS = 4,
	FILTERS = 6, /* one for each topic, all of them, a share of all of them */
	ALL = 4,
	SHARE = 5,
	PLAYERS = 6, /* the first is the share's member that stays */
	EVENTS_MAX = 4000,
	UNACKED_MAX = 1024,
	STEPS = 600,
};

static const char *const filters[FILTERS] = {"t/0", "t/1", "t/2", "t/3", "t/+", "$share/g/t/+"};

static uint64_t seed;
static struct node node;
static unsigned published[TOPICS];
static bool share_got[TOPICS][EVENTS_MAX];
static unsigned share_from[TOPICS];

static unsigned rnd(unsigned below)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (unsigned)(seed >> 33) % below;
}

struct event_id {
	unsigned topic;
	unsigned n;
	uint16_t packet_id;
};

/* A connection: what was seen on it, and what it owes. */
struct link {
	struct player *player;
	uint64_t id;
	struct session *session;
	bool ended;
	bool deaf;
	bool (*seen)[EVENTS_MAX]; /* by topic */
	unsigned last[TOPICS];    /* the next number expected */
	struct event_id unacked[UNACKED_MAX];
	size_t n_unacked;
	int asked; /* the filter that SUBACK is awaited for */
	struct link *next;
};

struct player {
	char name[8];
	struct link *link; /* the one that counts */
	bool durable;
	bool on[FILTERS]; /* SUBACK came, UNSUBSCRIBE was not sent */
	bool ever_shared;
	uint8_t due[TOPICS][EVENTS_MAX]; /* which of its filters it is due for */
};

static struct player players[PLAYERS];
static struct link *links; /* all, to be freed at the end */

/* ---- the bus ----------------------------------------------------------------------------------
 */

static struct bus_ops faulty;
static const struct bus_ops *real;
static unsigned retry_in_1000;
static unsigned unknown_in_1000;
static struct {
	struct bus_commit *req;
	void (*done)(struct bus_commit *);
} unknown_commits[8];

#define FAULTY(verb, on_fail)                                              \
	static void finish_##verb(void *arg)                               \
	{                                                                  \
		struct bus_##verb *req = arg;                              \
                                                                           \
		req->done(req);                                            \
	}                                                                  \
                                                                           \
	static void faulty_##verb(struct bus *bus, struct bus_##verb *req) \
	{                                                                  \
		if (bus->state == BUS_UP && rnd(1000) >= retry_in_1000) {  \
			real->verb(bus, req);                              \
			return;                                            \
		}                                                          \
		req->outcome = SQL_RETRY;                                  \
		on_fail;                                                   \
		loop_defer(node.loop, finish_##verb, req);                 \
	}

FAULTY(read, (req->n = 0, req->batches = NULL))
FAULTY(locate, (void)0)
FAULTY(claim, (req->memory = NULL, req->cursors = NULL, req->n_cursors = 0))
FAULTY(change, (void)0)
FAULTY(commit, (void)0)

static void on_unknown(struct bus_commit *req)
{
	for (size_t i = 0; i < 8; i++) {
		if (unknown_commits[i].req != req)
			continue;
		unknown_commits[i].req = NULL;
		req->outcome = SQL_UNKNOWN;
		unknown_commits[i].done(req);
		return;
	}
}

/* Stored, and nobody is told. */
static void doubtful_commit(struct bus *bus, struct bus_commit *req)
{
	for (size_t i = 0; i < 8 && rnd(1000) < unknown_in_1000; i++) {
		if (unknown_commits[i].req)
			continue;
		unknown_commits[i].req = req;
		unknown_commits[i].done = req->done;
		req->done = on_unknown;
		break;
	}
	faulty_commit(bus, req);
}

static void bus_down(void)
{
	node.bus->generation++;
	node.bus->state = BUS_DOWN;
	node.bus->events.on_state(node.bus->events.arg, BUS_DOWN);
}

static void bus_up(void)
{
	node.bus->state = BUS_UP;
	node.bus->events.on_state(node.bus->events.arg, BUS_UP);
}

/* ---- what is due ------------------------------------------------------------------------------
 */

static uint8_t wants(const struct player *p, unsigned topic)
{
	return (uint8_t)(p->on[topic] << topic | p->on[ALL] << ALL);
}

static void forget_due(struct player *p)
{
	memset(p->due, 0, sizeof p->due);
	memset(p->on, 0, sizeof p->on);
}

static void drop_filter(struct player *p, int f)
{
	p->on[f] = false;
	for (unsigned t = 0; t < TOPICS; t++) {
		for (unsigned n = 0; n < published[t]; n++)
			p->due[t][n] &= (uint8_t) ~(1 << f);
	}
}

static void publish_one(void)
{
	static const char *const topics[] = {"t/0", "t/1", "t/2", "t/3"};
	unsigned t = rnd(TOPICS);

	if (published[t] == EVENTS_MAX)
		return;
	for (size_t i = 0; i < PLAYERS; i++)
		players[i].due[t][published[t]] = wants(&players[i], t);
	publish(&node, topics[t], published[t]++);
}

/* ---- connections ------------------------------------------------------------------------------
 */

static bool can_send(void *conn)
{
	return !((struct link *)conn)->deaf;
}

static void ack(struct link *l, size_t i)
{
	struct event_id e = l->unacked[i];

	memmove(&l->unacked[i], &l->unacked[i + 1], (l->n_unacked - i - 1) * sizeof l->unacked[0]);
	l->n_unacked--;
	l->player->due[e.topic][e.n] = 0;
	share_got[e.topic][e.n] = true;
	assert_true(session_puback(l->session, e.packet_id, 0));
}

static void send(void *conn, const struct outgoing *out)
{
	struct link *l = conn;
	struct player *p = l->player;
	struct event_id *e = &l->unacked[l->n_unacked++];

	assert_false(l->ended);
	assert_true(l->n_unacked < UNACKED_MAX);
	*e = (struct event_id){.topic = (unsigned)(out->ev->topic.p[2] - '0'),
	                       .n = (unsigned)strtoul(out->ev->payload.p, NULL, 10),
	                       .packet_id = out->packet_id};
	for (size_t i = 0; i + 1 < l->n_unacked; i++)
		assert_int_not_equal(l->unacked[i].packet_id, out->packet_id);
	if (!p->ever_shared) { /* the same event may come for the share and for itself */
		if (l->seen[e->topic][e->n])
			fail_msg("%s: t/%u event %u twice on one connection", p->name, e->topic,
			         e->n);
		if (e->n + 1 < l->last[e->topic])
			fail_msg("%s: t/%u event %u after %u", p->name, e->topic, e->n,
			         l->last[e->topic] - 1);
	}
	l->seen[e->topic][e->n] = true;
	l->last[e->topic] = e->n + 1;
	if (rnd(20) == 0) /* a connection may settle it at once */
		ack(l, l->n_unacked - 1);
}

static void kick(void *conn, uint8_t reason, const char *text)
{
	struct link *l = conn;

	if (l->player->link == l) /* nobody took over */
		fail_msg("%s was kicked: 0x%02x %s", l->player->name, reason, text);
	l->ended = true;
	l->session = NULL;
}

static const struct session_conn_ops link_ops = {.can_send = can_send, .send = send, .kick = kick};

static void on_open(void *conn, struct session *s, bool present, uint8_t reason, const char *text)
{
	struct link *l = conn;

	(void)reason;
	if (!s && l->player->link == l)
		fail_msg("%s was refused: %s", l->player->name, text);
	if (!s) {
		l->ended = true;
		return;
	}
	(void)present;
	l->session = s;
	session_start(s);
}

static void connect_player(struct player *p, bool clean)
{
	struct link *l = xcalloc(1, sizeof *l);
	struct session_open req = {
	        .tenant = &node.tenant,
	        .subject = slice_str("alice"),
	        .client_id = slice_str(p->name),
	        .clean_start = clean || !p->durable,
	        .expiry_s = p->durable ? 3600 : 0,
	        .receive_max = (uint16_t)(1 + rnd(50)),
	        .conn_id = ++node.next_conn,
	        .ops = &link_ops,
	        .conn = l,
	        .done = on_open,
	};

	l->player = p;
	l->id = req.conn_id;
	l->seen = xcalloc(TOPICS, sizeof *l->seen);
	l->asked = -1;
	l->next = links;
	links = l;
	p->link = l;
	if (req.clean_start)
		forget_due(p);
	session_open(node.dispatch, &req);
}

static void on_suback(void *conn, uint16_t packet_id, const uint8_t *reasons, size_t n,
                      const char *text)
{
	struct link *l = conn;
	struct player *p = l->player;

	(void)packet_id;
	(void)text;
	assert_int_equal(n, 1);
	assert_int_equal(reasons[0], 1);
	if (l->asked >= 0 && p->link == l) {
		p->on[l->asked] = true;
		if (p == &players[0] && l->asked == SHARE)
			memcpy(share_from, published, sizeof share_from);
	}
	l->asked = -1;
}

static void ask(struct link *l, int f)
{
	struct session_filter want = {.filter = slice_str(filters[f]), .qos = 1};
	struct session_subscribe req = {.filters = &want, .n = 1, .done = on_suback};

	if (l->asked >= 0)
		return;
	l->asked = f;
	l->player->ever_shared = l->player->ever_shared || f == SHARE;
	session_subscribe(l->session, &req);
}

static void unsubscribe(struct link *l, int f)
{
	struct slice filter = slice_str(filters[f]);
	struct session_unsubscribe req = {.filters = &filter, .n = 1};

	if (l->asked >= 0)
		return;
	drop_filter(l->player, f);
	session_unsubscribe(l->session, &req);
}

static void leave(struct player *p)
{
	struct link *l = p->link;

	if (!l || l->ended)
		return;
	if (l->session)
		session_detach(l->session, p->durable ? 3600 : 0);
	else
		session_open_cancel(node.dispatch, l->id);
	l->session = NULL;
	l->ended = true;
	if (!p->durable)
		forget_due(p);
}

/* ---- a run ------------------------------------------------------------------------------------
 */

static void act(struct player *p)
{
	struct link *l = p->link;
	unsigned dice = rnd(100);
	bool stays = p == &players[0];

	if (!l || l->ended) {
		if (dice < 30)
			connect_player(p, !stays && rnd(10) == 0);
		return;
	}
	if (dice < 4) {
		connect_player(p, !stays && rnd(10) == 0); /* takes over */
	} else if (dice < 7) {
		leave(p);
	} else if (!l->session) {
		return;
	} else if (dice < 15) {
		ask(l, (int)rnd(stays || rnd(4) == 0 ? FILTERS : SHARE));
	} else if (dice < 18) {
		unsubscribe(l, (int)rnd(stays ? SHARE : FILTERS));
	} else if (dice < 25) {
		l->deaf = !l->deaf;
		if (!l->deaf)
			session_writable(l->session);
	} else {
		for (unsigned n = rnd(10); n && l->n_unacked; n--)
			ack(l, rnd(3) ? 0 : rnd((unsigned)l->n_unacked));
	}
}

static bool owed(void)
{
	for (size_t i = 0; i < PLAYERS; i++) {
		const struct player *p = &players[i];

		for (unsigned t = 0; t < TOPICS; t++) {
			for (unsigned n = 0; n < published[t]; n++) {
				if (p->due[t][n])
					return true;
			}
		}
	}
	for (unsigned t = 0; players[0].on[SHARE] && t < TOPICS; t++) {
		for (unsigned n = share_from[t]; n < published[t]; n++) {
			if (!share_got[t][n])
				return true;
		}
	}
	return false;
}

static void tell_owed(void)
{
	for (size_t i = 0; i < PLAYERS; i++) {
		const struct player *p = &players[i];

		for (unsigned t = 0; t < TOPICS; t++) {
			for (unsigned n = 0; n < published[t]; n++) {
				if (p->due[t][n])
					fail_msg("%s never got t/%u event %u of %u", p->name, t, n,
					         published[t]);
			}
		}
	}
	fail_msg("the share lost an event");
}

/* Everybody comes back, reads and acknowledges. */
static void settle_all(void)
{
	retry_in_1000 = unknown_in_1000 = 0;
	if (node.bus->state != BUS_UP)
		bus_up();
	for (size_t i = 0; i < PLAYERS; i++) {
		if ((!players[i].link || players[i].link->ended) && players[i].durable)
			connect_player(&players[i], false);
	}
	for (int turn = 0; owed(); turn++) {
		if (turn == 4000)
			tell_owed();
		for (size_t i = 0; i < PLAYERS; i++) {
			struct link *l = players[i].link;

			if (!l || l->ended || !l->session)
				continue;
			if (l->deaf) {
				l->deaf = false;
				session_writable(l->session);
			}
			while (l->n_unacked)
				ack(l, 0);
		}
		loop_turn(node.loop);
	}
}

static void run(void)
{
	int down = 0;

	memset(players, 0, sizeof players);
	memset(published, 0, sizeof published);
	memset(share_got, 0, sizeof share_got);
	for (size_t i = 0; i < PLAYERS; i++) {
		snprintf(players[i].name, sizeof players[i].name, "p%zu", i);
		players[i].durable = i < 4;
	}
	node_init_with(&node, rnd(2) ? 0 : 20000, rnd(2) ? 1 : 60000);
	real = node.bus->ops;
	faulty = *real;
	faulty.read = faulty_read;
	faulty.locate = faulty_locate;
	faulty.claim = faulty_claim;
	faulty.change = faulty_change;
	faulty.commit = doubtful_commit;
	node.bus->ops = &faulty;
	retry_in_1000 = rnd(2) * 50;
	unknown_in_1000 = rnd(2) * 30;
	connect_player(&players[0], true);
	for (int i = 0; i < STEPS; i++) {
		if (down && --down == 0)
			bus_up();
		else if (!down && rnd(60) == 0) {
			bus_down();
			down = 1 + (int)rnd(20);
		}
		for (unsigned n = rnd(12); n; n--)
			publish_one();
		act(&players[rnd(PLAYERS)]);
		act(&players[rnd(PLAYERS)]);
		loop_turn(node.loop);
	}
	settle_all();
	for (size_t i = 0; i < PLAYERS; i++)
		leave(&players[i]);
	node_release(&node);
	while (links) {
		struct link *next = links->next;

		free(links->seen);
		free(links);
		links = next;
	}
}

static void test_churn(void **state)
{
	const char *one = getenv("SEED");
	const char *many = getenv("SEEDS");
	unsigned runs = many ? (unsigned)strtoul(many, NULL, 10) : 12;

	(void)state;
	for (unsigned i = 1; i <= runs; i++) {
		uint64_t this = one ? strtoull(one, NULL, 10) : i;

		fprintf(stderr, "seed=%llu\n", (unsigned long long)this);
		seed = this;
		run();
		if (one)
			break;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_churn)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
