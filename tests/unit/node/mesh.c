#include "tests/unit/node/mesh.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

/* A message on its way, with all that it points to. */
struct mail {
	STAILQ_ENTRY(mail) entry;
	struct peer_message m;
	void *blocks[6];
	size_t n_blocks;
};

/* One direction of a link. */
struct way {
	struct mesh *mesh;
	uint32_t from;
	uint32_t to;
	bool up;
	STAILQ_HEAD(, mail) mails;
};

struct member {
	struct mesh *mesh;
	uint32_t no;
	struct bus *bus; /* NULL = nobody */
	struct dispatch *dispatch;
	struct id128 id; /* as the others know it */
	struct peer_port port;
	bool full;
};

struct mesh {
	struct sim *sim;
	uint32_t delay_ms;
	uint64_t messages;
	struct member members[MESH_NODES];
	struct way ways[MESH_NODES][MESH_NODES];
};

/* ---- copies ------------------------------------------------------------------------------------
 */

static const void *dup(struct mail *mail, const void *p, size_t n)
{
	void *copy = xmalloc(n + 1);

	if (n)
		memcpy(copy, p, n);
	mail->blocks[mail->n_blocks++] = copy;
	return copy;
}

/* Of all deliveries, in one block. */
static void copy_reasons(struct mail *mail, const struct peer_message *m)
{
	struct peer_delivery *deliveries = (struct peer_delivery *)mail->m.deliveries;
	size_t bytes = 0;
	char *at;

	for (size_t i = 0; i < m->n_deliveries; i++)
		bytes += deliveries[i].reason.n;
	at = xmalloc(bytes + 1);
	mail->blocks[mail->n_blocks++] = at;
	for (size_t i = 0; i < m->n_deliveries; i++) {
		struct slice *reason = &deliveries[i].reason;

		if (reason->n)
			memcpy(at, reason->p, reason->n);
		*reason = slice(at, reason->n);
		at += reason->n;
	}
}

static struct mail *mail_new(const struct peer_message *m)
{
	struct mail *mail = xcalloc(1, sizeof *mail);

	mail->m = *m;
	mail->m.name = slice(dup(mail, m->name.p, m->name.n), m->name.n);
	mail->m.filters = slice(dup(mail, m->filters.p, m->filters.n), m->filters.n);
	mail->m.attributes = slice(dup(mail, m->attributes.p, m->attributes.n), m->attributes.n);
	mail->m.body = slice(dup(mail, m->body.p, m->body.n), m->body.n);
	mail->m.deliveries = dup(mail, m->deliveries, m->n_deliveries * sizeof *m->deliveries);
	copy_reasons(mail, m);
	return mail;
}

static void mail_free(struct mail *mail)
{
	while (mail->n_blocks)
		free(mail->blocks[--mail->n_blocks]);
	free(mail);
}

/* ---- ways --------------------------------------------------------------------------------------
 */

static void pull(void *arg)
{
	struct way *w = arg;
	struct member *to = &w->mesh->members[w->to];
	struct mail *mail = STAILQ_FIRST(&w->mails);

	if (!mail) /* lost with its link */
		return;
	STAILQ_REMOVE_HEAD(&w->mails, entry);
	w->mesh->messages++;
	dispatch_on_peer_message(to->dispatch, &w->mesh->members[w->from].id, &mail->m);
	mail_free(mail);
}

static void way_clear(struct way *w)
{
	struct mail *mail;

	w->up = false;
	while ((mail = STAILQ_FIRST(&w->mails))) {
		STAILQ_REMOVE_HEAD(&w->mails, entry);
		mail_free(mail);
	}
}

static bool way_send(struct way *w, const struct peer_message *m)
{
	struct mail *mail;

	if (!w->up)
		return false;
	mail = mail_new(m);
	STAILQ_INSERT_TAIL(&w->mails, mail, entry);
	sim_after(w->mesh->sim, (uint32_t)sim_random(w->mesh->sim, w->mesh->delay_ms + 1), pull, w);
	return true;
}

void mesh_cut(struct mesh *m, uint32_t a, uint32_t b)
{
	bool was_up = m->ways[a][b].up;

	way_clear(&m->ways[a][b]);
	way_clear(&m->ways[b][a]);
	if (!was_up)
		return;
	if (m->members[a].bus)
		dispatch_on_peer_down(m->members[a].dispatch, &m->members[b].id);
	if (m->members[b].bus)
		dispatch_on_peer_down(m->members[b].dispatch, &m->members[a].id);
}

static void bring_up(struct mesh *m, uint32_t a, uint32_t b)
{
	m->ways[a][b].up = m->ways[b][a].up = true;
	dispatch_on_peer_up(m->members[a].dispatch, &m->members[b].id);
	dispatch_on_peer_up(m->members[b].dispatch, &m->members[a].id);
}

/* ---- the port ----------------------------------------------------------------------------------
 */

static struct way *way_to(struct member *from, const struct id128 *to)
{
	for (uint32_t i = 0; i < MESH_NODES; i++) {
		struct member *other = &from->mesh->members[i];

		if (other != from && other->bus && id128_eq(&other->id, to))
			return &from->mesh->ways[from->no][i];
	}
	return NULL;
}

static bool is_bulk(const struct peer_message *m)
{
	return m->type == PEER_DELIVER || m->type == PEER_SETTLE || m->type == PEER_HELD;
}

static bool port_send(void *self, const struct id128 *to, const struct peer_message *msg)
{
	struct member *from = self;
	struct way *w = way_to(from, to);

	return w && !(from->full && is_bulk(msg)) && way_send(w, msg);
}

static void port_send_all(void *self, const struct peer_message *msg)
{
	struct member *from = self;

	for (uint32_t i = 0; i < MESH_NODES; i++)
		way_send(&from->mesh->ways[from->no][i], msg);
}

static bool port_is_up(void *self, const struct id128 *peer)
{
	const struct way *w = way_to(self, peer);

	return w && w->up;
}

static size_t port_n_up(void *self)
{
	const struct member *from = self;
	size_t n = 0;

	for (uint32_t i = 0; i < MESH_NODES; i++)
		n += from->mesh->ways[from->no][i].up;
	return n;
}

static void port_expect(void *self, const struct bus_peer *peer)
{
	(void)self;
	(void)peer; /* mesh_tick does */
}

/* ---- members -----------------------------------------------------------------------------------
 */

void mesh_join(struct mesh *m, uint32_t no, struct bus *bus, struct dispatch *d)
{
	struct member *me = &m->members[no];

	*me = (struct member){
	        .mesh = m, .no = no, .bus = bus, .dispatch = d, .id = bus->session_id};
	me->port = (struct peer_port){.send = port_send,
	                              .send_all = port_send_all,
	                              .is_up = port_is_up,
	                              .n_up = port_n_up,
	                              .expect = port_expect,
	                              .self = me};
	dispatch_set_port(d, &me->port);
}

void mesh_leave(struct mesh *m, uint32_t no)
{
	m->members[no].bus = NULL;
	for (uint32_t i = 0; i < MESH_NODES; i++) {
		if (i != no)
			mesh_cut(m, no, i);
	}
}

static bool is_linked(const struct member *me)
{
	return me->bus && !id128_is_zero(&me->bus->session_id);
}

/* Its session was ended by others and it has a new one: to them it is another node. */
static void follow_session(struct mesh *m, struct member *me)
{
	if (!me->bus || id128_eq(&me->id, &me->bus->session_id))
		return;
	for (uint32_t i = 0; i < MESH_NODES; i++) {
		if (i != me->no)
			mesh_cut(m, me->no, i);
	}
	me->id = me->bus->session_id;
}

void mesh_tick(struct mesh *m)
{
	for (uint32_t i = 0; i < MESH_NODES; i++)
		follow_session(m, &m->members[i]);
	for (uint32_t a = 0; a < MESH_NODES; a++) {
		for (uint32_t b = 0; b < a; b++) {
			if (!m->ways[a][b].up && is_linked(&m->members[a]) &&
			    is_linked(&m->members[b]))
				bring_up(m, a, b);
		}
	}
}

void mesh_block(struct mesh *m, uint32_t no, bool full)
{
	m->members[no].full = full;
	for (uint32_t i = 0; !full && m->members[no].bus && i < MESH_NODES; i++) {
		if (m->ways[no][i].up)
			dispatch_on_peer_room(m->members[no].dispatch, &m->members[i].id);
	}
}

void mesh_say(struct mesh *m, uint32_t from, uint32_t to, const struct peer_message *msg)
{
	way_send(&m->ways[from][to], msg);
}

uint64_t mesh_messages(const struct mesh *m)
{
	return m->messages;
}

struct mesh *mesh_new(struct sim *s, uint32_t delay_ms)
{
	struct mesh *m = xcalloc(1, sizeof *m);

	m->sim = s;
	m->delay_ms = delay_ms;
	for (uint32_t a = 0; a < MESH_NODES; a++) {
		for (uint32_t b = 0; b < MESH_NODES; b++) {
			m->ways[a][b] = (struct way){.mesh = m, .from = a, .to = b};
			STAILQ_INIT(&m->ways[a][b].mails);
		}
	}
	return m;
}

/* After sim_free: nothing is under way any more. */
void mesh_free(struct mesh *m)
{
	for (uint32_t a = 0; a < MESH_NODES; a++) {
		for (uint32_t b = 0; b < MESH_NODES; b++)
			way_clear(&m->ways[a][b]);
	}
	free(m);
}
