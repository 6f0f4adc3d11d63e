#include "node/peer/links.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "node/net/conn.h"
#include "node/net/listener.h"
#include "node/net/loop.h"
#include "node/net/resolve.h"
#include "node/net/tls.h"
#include "node/net/tls_psk.h"
#include "node/peer/link.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	TICK_MS = 50,
	DIAL_FIRST_MS = 50, /* pause after the first failure; doubles */
	DIAL_MAX_MS = 5000,
	/* Who has the higher session id waits for the other's call, as that link would stay. */
	DIAL_YIELD_MS = 250,
	DIAL_HOLD_MS = 1000,  /* so long, see waits_for_ours() */
	EXPECTED_MS = 10000,  /* a peer heard of otherwise must be seen in a look by then */
	COMPLAIN_MS = 10000,  /* between two lines about refused connections */
	CONNS_MAX = 4096,     /* open connections, accepted and dialled */
	HANDSHAKES_MAX = 256, /* of those, unfinished */
};

/* Another node: in the latest look at the sessions, or expected to be in the next. */
struct peer {
	TAILQ_ENTRY(peer) entry;
	struct links *links;
	struct bus_peer who;
	bool resolving;       /* its host name is being looked up */
	bool seen;            /* by the looks */
	uint64_t until_ms;    /* not seen: forgotten then */
	struct link *up;      /* NULL = none */
	struct link *dialled; /* ours to its address, not up yet; or NULL */
	uint64_t dialled_ms;  /* when that began */
	uint32_t failures;    /* dials in a row */
	uint64_t dial_ms;     /* not before */
	bool waits;           /* send() refused: on_room is due */
};

struct links {
	struct links_settings settings;
	struct peer_port port;
	char addr[ADDR_TEXT];
	struct id128 me; /* zero = no session yet: nobody is linked */
	bool looked;     /* the first list of peers of this session has come */
	bool freeing;

	struct tls_psks psks; /* n 0: by certificates */
	struct tls_server *server;
	struct tls_client *client;
	struct conn_table *conns;
	struct listener *listener;
	struct resolver *resolver;
	struct loop_timer *timer;

	struct link_owner owner;
	struct link_list links;
	struct map by_id; /* session id -> peer */
	TAILQ_HEAD(, peer) peers;
	struct links_stats stats;
	uint64_t complained_ms;
};

static const char *short_id(const struct id128 *id, char out[ID128_HEX])
{
	id128_hex(id, out);
	out[8] = '\0';
	return out;
}

static bool lower(const struct id128 *a, const struct id128 *b)
{
	return memcmp(a->b, b->b, sizeof a->b) < 0;
}

/* ---- peers ----------------------------------------------------------------------------------- */

static struct peer *peer_find(const struct links *l, const struct id128 *id)
{
	return map_get(&l->by_id, id->b, sizeof id->b);
}

static struct peer *peer_new(struct links *l, const struct bus_peer *who)
{
	struct peer *p = xcalloc(1, sizeof *p);

	p->links = l;
	p->who = *who;
	map_put(&l->by_id, p->who.session_id.b, sizeof p->who.session_id.b, p);
	TAILQ_INSERT_TAIL(&l->peers, p, entry);
	return p;
}

static bool is_up(const struct links *l, const struct id128 *id)
{
	const struct peer *p = peer_find(l, id);

	return p && p->up && p->up->state == LINK_UP;
}

static void tell_down(struct links *l, struct peer *p)
{
	p->up = NULL;
	p->waits = false;
	l->stats.up--;
	if (!l->freeing)
		l->settings.events.on_down(l->settings.events.arg, &p->who.session_id);
}

static void peer_drop(struct links *l, struct peer *p, const char *why)
{
	if (p->up) {
		link_close(p->up, why);
		tell_down(l, p);
	}
	if (p->dialled)
		link_close(p->dialled, why);
	resolver_forget(l->resolver, p);
	map_del(&l->by_id, p->who.session_id.b, sizeof p->who.session_id.b);
	TAILQ_REMOVE(&l->peers, p, entry);
	free(p);
}

/* ---- dialling -------------------------------------------------------------------------------- */

static uint64_t jittered(uint64_t ms)
{
	struct id128 r = id128_random();

	return ms / 2 + (uint64_t)(r.b[0] | r.b[1] << 8) % (ms / 2 + 1);
}

static void dial_later(struct links *l, struct peer *p)
{
	uint64_t ms = DIAL_MAX_MS;

	if (p->failures < 7)
		ms = DIAL_FIRST_MS << p->failures;
	p->failures++;
	p->dial_ms = clock_now_ms() + jittered(ms < DIAL_MAX_MS ? ms : DIAL_MAX_MS);
	if (lower(&p->who.session_id, &l->me))
		p->dial_ms += DIAL_YIELD_MS;
}

static void not_dialled(struct links *l, struct peer *p, const char *why)
{
	if (!p->failures)
		log_warn("links", "addr=%s not dialled: %s", log_quote_str(p->who.addr), why);
	dial_later(l, p);
}

static void dial(struct links *l, struct peer *p, const struct addr *at)
{
	char text[ADDR_TEXT];
	struct err e;

	p->dialled_ms = clock_now_ms();
	p->dialled = link_dial(&l->owner, l->conns, &p->who, addr_text(at, text), l->client, &e);
	if (p->dialled)
		TAILQ_INSERT_TAIL(&l->links, p->dialled, entry);
	else
		not_dialled(l, p, e.text);
}

static void on_resolved(void *arg, const struct addr *found, const char *error)
{
	struct peer *p = arg;
	struct links *l = p->links;

	p->resolving = false;
	if (p->up)
		return; /* it called meanwhile */
	if (found)
		dial(l, p, found);
	else
		not_dialled(l, p, error);
}

/* Its address in numbers, or later on_resolved. */
static int dial_address(struct links *l, struct peer *p, struct err *e)
{
	struct addr a;

	if (addr_parse(&a, p->who.addr, e) < 0)
		return -1;
	if (addr_is_numeric(&a)) {
		dial(l, p, &a);
		return 0;
	}
	if (resolver_ask(l->resolver, &a, on_resolved, p, e) < 0)
		return -1;
	p->resolving = true;
	return 0;
}

static void dial_if_due(struct links *l, struct peer *p)
{
	struct err e;

	if (p->up || p->dialled || p->resolving || !p->who.addr[0] || clock_now_ms() < p->dial_ms)
		return;
	if (dial_address(l, p, &e) < 0)
		not_dialled(l, p, e.text);
}

/* ---- links ----------------------------------------------------------------------------------- */

/* Of two links with one peer the one that stays is the same at both ends: the lower id's. Where one
 * node dialled both, the older one is dead and it knows. */
static bool supersedes(const struct links *l, const struct link *new, const struct link *old)
{
	bool we_are_lower = lower(&l->me, &new->session_id);

	return new->dialled == old->dialled || new->dialled == we_are_lower;
}

static void admit(struct links *l, struct peer *p, struct link *k)
{
	char hex[ID128_HEX];

	if (p->up && !supersedes(l, k, p->up)) {
		link_close(k, "duplicate");
		return;
	}
	if (p->up) {
		link_close(p->up, "superseded");
		tell_down(l, p);
	}
	if (p->dialled && p->dialled != k)
		link_close(p->dialled, "duplicate");
	p->dialled = NULL;
	p->up = k;
	p->failures = 0;
	l->stats.up++;
	log_info("links", "peer=%s addr=%s dialled=%s up", short_id(&k->session_id, hex),
	         log_quote_str(k->addr), k->dialled ? "yes" : "no");
	link_begin(k);
	l->settings.events.on_up(l->settings.events.arg, &p->who.session_id);
}

/* Both called at once, and our call is the one that will stay: let the other wait for what becomes
 * of it, so that no link comes up only to be replaced. */
static bool waits_for_ours(const struct links *l, const struct peer *p, const struct link *k)
{
	return !k->dialled && p->dialled && lower(&l->me, &k->session_id) &&
	       clock_now_ms() - p->dialled_ms < DIAL_HOLD_MS;
}

static void judge(struct links *l, struct peer *p, struct link *k)
{
	if (!waits_for_ours(l, p, k))
		admit(l, p, k);
}

/* Somebody else answers at that address: a node that was started again, for example. */
static void not_whom_we_called(struct links *l, struct link *k)
{
	struct peer *p = peer_find(l, &k->target);

	if (!p || p->dialled != k || id128_eq(&k->target, &k->session_id))
		return;
	p->dialled = NULL;
	dial_later(l, p);
}

static void admit_held(struct links *l)
{
	struct link *k;

	TAILQ_FOREACH (k, &l->links, entry) {
		struct peer *p = k->state == LINK_HELD ? peer_find(l, &k->session_id) : NULL;

		if (p)
			judge(l, p, k);
	}
}

static void on_hello(void *arg, struct link *k)
{
	struct links *l = arg;
	struct peer *p = peer_find(l, &k->session_id);

	not_whom_we_called(l, k);
	if (id128_eq(&k->session_id, &l->me))
		link_close(k, "this node itself");
	else if (p)
		judge(l, p, k);
	else
		l->settings.look(l->settings.arg); /* held: links_on_peers, or its deadline */
}

static void on_message(void *arg, struct link *k, const struct peer_message *m)
{
	struct links *l = arg;

	l->settings.events.on_message(l->settings.events.arg, &k->session_id, m);
}

/* OpenSSL's words for a key that is not ours lead nobody to it. */
static const char *advice(const struct links *l, const char *why)
{
	if (!strstr(why, "handshake failure") && !strstr(why, "no suitable signature"))
		return "";
	return l->psks.n ? ": its --cluster-key is not this node's"
	                 : ": it shows no certificate; has it a --cluster-key?";
}

/* Connections that fail are logged now and then: anybody can make them. */
static void complain(struct links *l, const char *what, const char *why)
{
	l->stats.refused++;
	if (l->complained_ms && clock_now_ms() - l->complained_ms < COMPLAIN_MS)
		return;
	l->complained_ms = clock_now_ms();
	log_warn("links", "%s refused=%" PRIu64 " %s%s", what, l->stats.refused, why,
	         advice(l, why));
}

static void log_closed(struct links *l, const struct link *k, const char *reason)
{
	const char *why = k->error[0] ? k->error : reason;
	char hex[ID128_HEX];

	if (k->begun)
		log_info("links", "peer=%s addr=%s down reason=%s", short_id(&k->session_id, hex),
		         log_quote_str(k->addr), log_quote_str(why));
	else if (!k->dialled && !is_up(l, &k->session_id))
		complain(l, "an accepted connection did not become a link:", why);
	else
		log_debug("links", "addr=%s not linked reason=%s", log_quote_str(k->addr),
		          log_quote_str(why));
}

static void log_unlinked(const struct links *l, const struct link *k, const char *why)
{
	log_warn("links", "addr=%s cannot be linked with: %s%s", log_quote_str(k->addr),
	         log_quote_str(why), advice(l, why));
}

static void on_closed(void *arg, struct link *k, const char *reason)
{
	struct links *l = arg;
	struct peer *p = peer_find(l, &k->session_id);
	bool was_up = p && p->up == k;

	TAILQ_REMOVE(&l->links, k, entry);
	if (l->freeing)
		return;
	log_closed(l, k, reason);
	if (was_up) {
		l->stats.lost++;
		tell_down(l, p);
		dial_later(l, p);
	}
	p = peer_find(l, &k->target);
	if (p && p->dialled == k) {
		if (p->failures == 3)
			log_unlinked(l, k, k->error[0] ? k->error : reason);
		p->dialled = NULL;
		dial_later(l, p);
	}
}

/* ---- accepting ------------------------------------------------------------------------------- */

static void on_accepted(struct conn *c, void *arg)
{
	struct links *l = arg;
	struct link *k;

	if (id128_is_zero(&l->me)) {
		conn_close(c, "no session yet");
		return;
	}
	k = link_accepted(&l->owner, c);
	TAILQ_INSERT_TAIL(&l->links, k, entry);
}

static void on_not_accepted(struct conn *c, void *arg, const char *text)
{
	char peer[CONN_PEER_TEXT];
	char what[CONN_PEER_TEXT + 16];

	snprintf(what, sizeof what, "from=%s", conn_peer(c, peer));
	complain(arg, what, text);
}

static const struct conn_ops accept_ops = {
        .on_ready = on_accepted,
        .on_error = on_not_accepted,
};

/* ---- time ------------------------------------------------------------------------------------ */

static void on_tick(void *arg)
{
	struct links *l = arg;
	struct link *k;
	struct peer *p;
	struct peer *next;

	TAILQ_FOREACH (k, &l->links, entry)
		link_tick(k);
	for (p = TAILQ_FIRST(&l->peers); p; p = next) {
		next = TAILQ_NEXT(p, entry);
		if (!p->seen && clock_now_ms() >= p->until_ms)
			peer_drop(l, p, "its session is not live");
		else
			dial_if_due(l, p);
	}
	admit_held(l);
}

/* What was sent in this turn is with the kernel, as far as it took it. */
static void on_turn_end(void *arg)
{
	struct links *l = arg;
	struct peer *p;

	TAILQ_FOREACH (p, &l->peers, entry) {
		if (!p->waits || link_queued(p->up) > LINKS_QUEUE_ROOM)
			continue;
		p->waits = false;
		l->settings.events.on_room(l->settings.events.arg, &p->who.session_id);
	}
}

/* ---- who there is ---------------------------------------------------------------------------- */

void links_on_session(struct links *l, const struct id128 *me)
{
	struct link *k;
	struct peer *p;

	if (id128_eq(&l->me, me))
		return;
	while ((p = TAILQ_FIRST(&l->peers)))
		peer_drop(l, p, "a new session");
	TAILQ_FOREACH (k, &l->links, entry)
		link_close(k, "a new session");
	l->me = *me;
	l->owner.hello.session_id = *me;
	l->looked = false;
}

/* Those there were when we started are dialled at once; who comes later dials us. */
static void note_peer(struct links *l, const struct bus_peer *who, bool at_once)
{
	struct peer *p = peer_find(l, &who->session_id);

	if (!p) {
		p = peer_new(l, who);
		p->dial_ms = clock_now_ms() + (at_once ? 0 : DIAL_YIELD_MS);
	}
	p->seen = true;
}

void links_on_peers(struct links *l, const struct bus_peer *peers, size_t n)
{
	struct peer *p;
	struct peer *next;

	TAILQ_FOREACH (p, &l->peers, entry) {
		if (p->seen)
			p->until_ms = 0;
		p->seen = false;
	}
	for (size_t i = 0; i < n; i++)
		note_peer(l, &peers[i], !l->looked);
	l->looked = true;
	for (p = TAILQ_FIRST(&l->peers); p; p = next) {
		next = TAILQ_NEXT(p, entry);
		if (!p->seen && !p->until_ms)
			peer_drop(l, p, "its session ended");
		else
			dial_if_due(l, p);
	}
	admit_held(l);
}

/* ---- the port -------------------------------------------------------------------------------- */

static bool is_hint(const struct peer_message *m)
{
	return m->type == PEER_STORED || m->type == PEER_DUE || m->type == PEER_USE;
}

/* More of these than a link takes is what fills it. */
static bool is_bulk(const struct peer_message *m)
{
	return m->type == PEER_DELIVER || m->type == PEER_SETTLE || m->type == PEER_HELD;
}

/* What is neither is small and not said twice: it is lost with its link only. */
static bool send_to(struct links *l, struct peer *p, const struct peer_message *m)
{
	if (!p || !p->up || p->up->state != LINK_UP)
		return false;
	if (link_queued(p->up) <= LINKS_QUEUE_MAX) {
		link_send(p->up, m);
		return true;
	}
	if (is_hint(m)) {
		l->stats.dropped++;
		return true;
	}
	if (is_bulk(m)) {
		p->waits = true;
		return false;
	}
	if (link_queued(p->up) > LINKS_QUEUE_LIMIT) {
		link_close(p->up, "takes nothing");
		return false;
	}
	link_send(p->up, m);
	return true;
}

static bool port_send(void *self, const struct id128 *to, const struct peer_message *m)
{
	return send_to(self, peer_find(self, to), m);
}

static void port_send_all(void *self, const struct peer_message *m)
{
	struct links *l = self;
	struct peer *p;

	TAILQ_FOREACH (p, &l->peers, entry)
		send_to(l, p, m);
}

static bool port_is_up(void *self, const struct id128 *id)
{
	return is_up(self, id);
}

static size_t port_n_up(void *self)
{
	const struct links *l = self;

	return l->stats.up;
}

static void port_expect(void *self, const struct bus_peer *who)
{
	struct links *l = self;
	struct peer *p = peer_find(l, &who->session_id);

	if (id128_is_zero(&l->me) || id128_eq(&who->session_id, &l->me))
		return;
	if (!p) {
		p = peer_new(l, who);
		p->until_ms = clock_now_ms() + EXPECTED_MS;
	}
	dial_if_due(l, p);
	admit_held(l);
}

/* ---- life ------------------------------------------------------------------------------------ */

static struct tls_client *make_client(const struct links *l, struct err *e)
{
	const struct links_settings *s = &l->settings;
	struct tls_client_options by_key = {.psks = &l->psks};
	struct tls_client_options by_certificate = {.ca_file = s->ca_file,
	                                            .cert_file = s->cert_file,
	                                            .key_file = s->key_file,
	                                            .any_name = true};

	return tls_client_new(l->psks.n ? &by_key : &by_certificate, e);
}

static int make_tls(struct links *l, struct err *e)
{
	const struct links_settings *s = &l->settings;
	struct tls_server_options by_key = {.psks = &l->psks};
	struct tls_server_options by_certificate = {
	        .cert_file = s->cert_file, .key_file = s->key_file, .client_ca_file = s->ca_file};

	if (s->psks)
		l->psks = *s->psks;
	l->settings.psks = NULL;
	l->server = tls_server_new(l->psks.n ? &by_key : &by_certificate, e);
	l->client = l->server ? make_client(l, e) : NULL;
	return l->client ? 0 : -1;
}

int links_reload(struct links *l, const struct tls_psks *psks, struct err *e)
{
	struct tls_client *client;

	if (psks)
		l->psks = *psks;
	client = make_client(l, e);
	if (!client)
		return -1;
	if (tls_server_reload(l->server, e) < 0) {
		tls_client_free(client);
		return -1;
	}
	tls_client_become(l->client, client);
	return 0;
}

static bool is_wildcard(const struct addr *a)
{
	return !a->host[0] || strcmp(a->host, "0.0.0.0") == 0 || strcmp(a->host, "::") == 0;
}

static int take_address(struct links *l, struct err *e)
{
	struct addr a = l->settings.advertise;

	if (!a.host[0] && !is_wildcard(&l->settings.listen))
		memcpy(a.host, l->settings.listen.host, sizeof a.host);
	if (!a.host[0] && gethostname(a.host, sizeof a.host - 1) < 0)
		return err_set(e, 0, "this machine has no name: --peer-advertise HOST:PORT");
	if (!a.port)
		a.port = listener_port(l->listener);
	addr_text(&a, l->addr);
	if (strlen(l->addr) > BUS_ADDR_MAX)
		return err_set(e, 0, "the peer address is longer than %d bytes", BUS_ADDR_MAX);
	l->owner.hello.version = PEER_VERSION;
	l->owner.hello.addr = slice_str(l->addr);
	return 0;
}

static int listen_on(struct links *l, struct err *e)
{
	char text[ADDR_TEXT];
	struct listener_options o = {
	        .name = "peer",
	        .addr = addr_text(&l->settings.listen, text),
	        .tls = l->server,
	        .ops = &accept_ops,
	        .arg = l,
	        .max_conns = CONNS_MAX,
	        .max_handshakes = HANDSHAKES_MAX,
	};

	l->listener = listener_new(l->settings.loop, l->conns, &o, e);
	return l->listener ? 0 : -1;
}

struct links *links_new(const struct links_settings *settings, struct err *e)
{
	struct links *l = xcalloc(1, sizeof *l);

	l->settings = *settings;
	l->port = (struct peer_port){.send = port_send,
	                             .send_all = port_send_all,
	                             .is_up = port_is_up,
	                             .n_up = port_n_up,
	                             .expect = port_expect,
	                             .self = l};
	l->owner.silent_ms = settings->silent_ms ? settings->silent_ms : LINK_SILENT_MS;
	l->owner.on_hello = on_hello;
	l->owner.on_message = on_message;
	l->owner.on_closed = on_closed;
	l->owner.arg = l;
	TAILQ_INIT(&l->links);
	TAILQ_INIT(&l->peers);
	l->conns = conn_table_new(settings->loop);
	l->resolver = resolver_new(settings->loop);
	l->timer = loop_every(settings->loop, TICK_MS, on_tick, l);
	loop_on_turn_end(settings->loop, on_turn_end, l);
	if (make_tls(l, e) == 0 && listen_on(l, e) == 0 && take_address(l, e) == 0)
		return l;
	links_free(l);
	return NULL;
}

void links_free(struct links *l)
{
	struct peer *p;

	if (!l)
		return;
	l->freeing = true;
	while ((p = TAILQ_FIRST(&l->peers)))
		peer_drop(l, p, "shutdown");
	loop_hook_del(l->settings.loop, on_turn_end, l);
	loop_timer_free(l->timer);
	listener_free(l->listener);
	resolver_free(l->resolver);
	conn_table_free(l->conns);
	tls_server_free(l->server);
	tls_client_free(l->client);
	tls_psks_wipe(&l->psks);
	map_release(&l->by_id);
	peer_decoder_release(&l->owner.decoder);
	buf_release(&l->owner.frame);
	free(l);
}

const char *links_addr(const struct links *l)
{
	return l->addr;
}

struct peer_port *links_port(struct links *l)
{
	return &l->port;
}

void links_get_stats(const struct links *l, struct links_stats *out)
{
	const struct link_traffic *t = &l->owner.traffic;

	*out = l->stats;
	out->known = l->by_id.count;
	out->bytes_in = t->bytes_in;
	out->bytes_out = t->bytes_out;
	memcpy(out->messages_in, t->messages_in, sizeof out->messages_in);
	memcpy(out->messages_out, t->messages_out, sizeof out->messages_out);
}
