#include "cluster/inbox_look.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum {
	LIST_SHARE = 2,   /* listing tenants: so much less than the rest */
	ANEW_SHARE = 10,  /* looking at what was moved: so much less */
	STEPS_MAX = 1000, /* from tenant to tenant, in one listing */
	ANEW_MS = 1000,   /* when each is looked at from the beginning */
};

/* ---- who is held --------------------------------------------------------------------------------
 */

static int by_tenant(const void *key, const void *row)
{
	uint32_t a = *(const uint32_t *)key;
	uint32_t b = *(const uint32_t *)row;

	return (a > b) - (a < b);
}

static struct inbox_held *held_find(const struct inbox_state *s, uint32_t tenant_id)
{
	return s->n_held ? bsearch(&tenant_id, s->held, s->n_held, sizeof *s->held, by_tenant)
	                 : NULL;
}

static bool may_move(const struct bus_allowance *may)
{
	return may->events && may->bytes;
}

static void held_add(struct inbox_state *s, uint32_t tenant_id)
{
	size_t at = s->n_held;

	s->held = xrealloc(s->held, (s->n_held + 1) * sizeof *s->held);
	for (; at && s->held[at - 1].tenant_id > tenant_id; at--)
		s->held[at] = s->held[at - 1];
	s->held[at] = (struct inbox_held){.tenant_id = tenant_id};
	s->n_held++;
}

/* Without those of whom all that is there was found, and those who may move as much as they like.
 */
static void held_drop(struct inbox_state *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n_held; i++) {
		if (!s->held[i].over)
			s->held[n++] = s->held[i];
	}
	s->n_held = n;
}

void inbox_look_begin(struct inbox_look *l, const struct bus_collect *req)
{
	struct inbox_state *s = &l->state;

	for (size_t i = 0; i < s->n_held; i++) {
		struct inbox_held *h = &s->held[i];

		h->may = BUS_ALLOWANCE_ALL;
		if (req->allow)
			req->allow(req->arg, h->tenant_id, false, &h->may);
		h->over = h->may.events == UINT64_MAX && h->may.bytes == UINT64_MAX;
	}
	held_drop(s);
}

/* ---- how much -----------------------------------------------------------------------------------
 */

static uint32_t rows_at_once(const struct inbox_look *l, bool shared)
{
	return (uint32_t)stint_take(&l->state.stint, shared ? STINT_US : STINT_ALONE_US,
	                            INBOX_ROWS_LEAST, l->limit);
}

/* ---- by id --------------------------------------------------------------------------------------
 */

static int on_item(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct inbox_look *l = arg;
	struct inbox_item *it;

	if (n < 4)
		return 1;
	it = lead_rows_add(&l->rows);
	it->weight = n > 4 && cells[4].u ? (uint32_t)cells[4].u : 1;
	it->row.id = cells[0].u;
	it->row.tenant_id = (uint32_t)cells[1].u;
	it->bytes = cells[2].u;
	it->later = cells[3].u != 0;
	return 0;
}

static enum sql_outcome find_in(struct sql_conn *c, struct inbox_look *l, struct sweep_range r)
{
	struct sql_param params[3] = {sql_u64(r.above), sql_u64(r.upto),
	                              sql_u64(l->at_once - l->rows.n)};

	if (sweep_empty(r) || l->rows.n == l->at_once)
		return SQL_OK;
	return sql_query(c, STMT_INBOX_LOOK, params, 3, on_item, l);
}

static enum sql_outcome find_old(struct sql_conn *c, struct inbox_look *l)
{
	uint64_t began_us = clock_us();
	enum sql_outcome o = find_in(c, l, l->parts.old);

	if (o == SQL_OK)
		sweep_took(&l->state.sweep, &l->parts, clock_us() - began_us, l->rows.n);
	return o;
}

/* All tenants. What is fresh and a slice of what is old only tell whether there is anything: in
 * front of it there may be an id that no part had, of a transaction that was open for long and that
 * its application committed before. So what is moved is what one read of everything finds. */
static enum sql_outcome find_all(struct sql_conn *c, struct inbox_look *l, uint64_t now_ms)
{
	bool in_parts;
	enum sql_outcome o;

	l->parts = sweep_next(&l->state.sweep, now_ms);
	in_parts = l->parts.old.above || !sweep_empty(l->parts.fresh);
	o = find_in(c, l, l->parts.fresh);
	if (o == SQL_OK && !l->rows.n)
		o = find_old(c, l);
	if (o != SQL_OK || !l->rows.n || !in_parts)
		return o;
	l->rows.n = 0;
	l->parts = (struct sweep_look){.old = {0, UINT64_MAX}};
	return find_old(c, l);
}

/* ---- tenant by tenant ---------------------------------------------------------------------------
 */

struct step {
	uint32_t tenant_id; /* 0 = there is none */
	uint32_t weight;
	bool moving; /* to another database; or suspended: what it has stays there */
};

static int on_tenant(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct step *step = arg;

	if (n >= 3)
		*step = (struct step){.tenant_id = (uint32_t)cells[0].u,
		                      .weight = cells[1].u ? (uint32_t)cells[1].u : 1,
		                      .moving = cells[2].u != 0};
	return 1;
}

static bool has_turn(const struct inbox_state *s, const struct step *step)
{
	struct inbox_held *h = step->moving ? NULL : held_find(s, step->tenant_id);

	if (h)
		h->over = false;
	return !step->moving && (!h || may_move(&h->may));
}

struct listing {
	struct inbox_look *look;
	unsigned steps;
};

/* Those who may not move anything are passed over. */
static enum sql_outcome find_tenants(struct sql_conn *c, void *arg, uint32_t above, uint32_t upto)
{
	struct listing *l = arg;
	struct inbox_state *s = &l->look->state;

	for (; crowd_has_room(&s->crowd); l->steps++) {
		struct sql_param params[2] = {sql_u64(above), sql_u64(upto)};
		struct step step = {0};
		enum sql_outcome o;

		if (l->steps == STEPS_MAX) {
			crowd_stop(&s->crowd, above);
			return SQL_OK;
		}
		o = sql_query(c, STMT_INBOX_TENANT, params, 2, on_tenant, &step);
		if (o != SQL_OK || !step.tenant_id)
			return o;
		if (has_turn(s, &step))
			crowd_add(&s->crowd, step.tenant_id, step.weight);
		above = step.tenant_id;
	}
	return SQL_OK;
}

static int on_top(void *arg, const struct sql_cell *cells, unsigned n)
{
	if (n)
		*(uint64_t *)arg = cells[0].u;
	return 1;
}

/* Who is held and is not seen has nothing there any more. */
static enum sql_outcome list_tenants(struct sql_conn *c, struct inbox_look *l)
{
	struct inbox_state *s = &l->state;
	struct listing listing = {.look = l};
	uint64_t began_us = clock_us();
	enum sql_outcome o = sql_query(c, STMT_INBOX_TOP, NULL, 0, on_top, &s->top);

	for (size_t i = 0; i < s->n_held; i++)
		s->held[i].over = true;
	if (o == SQL_OK)
		o = crowd_list(&s->crowd, c, find_tenants, &listing);
	for (size_t i = 0; i < s->n_held; i++) {
		struct inbox_held *h = &s->held[i];

		h->over &= o == SQL_OK && !s->crowd.over && !crowd_knows(&s->crowd, h->tenant_id);
	}
	s->crowd.list_ms = (clock_us() + (clock_us() - began_us) * LIST_SHARE) / 1000;
	return o;
}

/* A tenant's rows come at even distances; those of one with more weight are closer together. Its
 * first look is at all there is. Those that go on from where its part ended end at the highest id
 * there was before that: what an application commits behind something that the first did not see
 * has a higher one, and waits until this tenant is looked at from the beginning again. */
static enum sql_outcome find_of(struct sql_conn *c, struct inbox_look *l, struct crowd_turn *t,
                                uint64_t part, bool *more)
{
	struct inbox_held *h = held_find(&l->state, t->tenant_id);
	uint64_t allowed = h ? h->may.events : UINT64_MAX;
	bool bounded = allowed <= part;
	struct sql_param params[4];
	size_t before = l->rows.n;
	size_t found;
	enum sql_outcome o;

	*more = false;
	if (h && !may_move(&h->may))
		return SQL_OK;
	if (!t->from_id)
		t->upto = l->state.top;
	params[0] = sql_u64(t->tenant_id);
	params[1] = sql_u64(t->from_id);
	params[2] = sql_u64(t->from_id ? t->upto : UINT64_MAX);
	params[3] = sql_u64(bounded ? allowed : part);
	o = sql_query(c, STMT_INBOX_OF, params, 4, on_item, l);
	found = l->rows.n - before;
	if (found)
		t->weight = inbox_item(l, before)->weight;
	for (size_t i = 0; i < found; i++)
		inbox_item(l, before + i)->row.rank = i * CROWD_RANK_ONE / t->weight;
	if (h && o == SQL_OK)
		h->over = !t->from_id && found < params[3].u;
	*more = !bounded && found == part;
	return o;
}

static enum sql_outcome find_parts(struct sql_conn *c, struct inbox_look *l)
{
	struct inbox_state *s = &l->state;
	struct crowd_round round;
	struct crowd_turn *t;
	enum sql_outcome o = SQL_OK;
	uint64_t part;

	crowd_begin(&round, &s->crowd,
	            rows_at_once(l, crowd_is_shared(&s->crowd, clock_us() / 1000)));
	while (o == SQL_OK && (t = crowd_next(&round, &part))) {
		size_t before = l->rows.n;
		bool more;

		o = find_of(c, l, t, part, &more);
		crowd_took(&round, l->rows.n - before, more);
	}
	l->left = crowd_end(&round);
	lead_rows_sort(&l->rows);
	return o;
}

static enum sql_outcome find_fair(struct sql_conn *c, struct inbox_look *l, uint64_t now_ms)
{
	struct inbox_state *s = &l->state;
	uint64_t began_us = clock_us();
	bool anew = now_ms >= s->crowd.anew_ms;
	bool all = anew || !s->crowded || now_ms >= s->crowd.list_ms;
	enum sql_outcome o = SQL_OK;

	l->rows.n = 0;
	if (!s->crowded)
		crowd_forget(&s->crowd);
	if (all)
		o = list_tenants(c, l);
	if (anew)
		crowd_anew(&s->crowd);
	if (o == SQL_OK)
		o = find_parts(c, l);
	if (anew)
		s->crowd.anew_ms = now_ms + ANEW_MS + (clock_us() - began_us) * ANEW_SHARE / 1000;
	l->left |= !all;
	return o;
}

enum sql_outcome inbox_look(struct sql_conn *c, struct inbox_look *l, uint64_t now_ms)
{
	struct inbox_state *s = &l->state;
	bool fair = (s->crowded || s->n_held) && !BUG("unfair-inbox");
	enum sql_outcome o = SQL_OK;

	l->at_once = BUG("unfair-inbox") ? l->limit : rows_at_once(l, true);
	if (!fair)
		o = find_all(c, l, now_ms);
	if (BUG("unfair-inbox"))
		l->left = l->rows.n == l->at_once;
	else if (o == SQL_OK && (fair || l->rows.n == l->at_once))
		o = find_fair(c, l, now_ms);
	if (o == SQL_OK && !l->rows.n && l->left) { /* is that all? */
		s->crowd.list_ms = 0;
		o = find_fair(c, l, now_ms);
	}
	if (s->most && l->rows.n > s->most) {
		l->rows.n = s->most;
		l->left = true;
	}
	for (size_t i = 0; i < l->rows.n; i++)
		sweep_saw(&s->sweep, inbox_item(l, i)->row.id);
	return o;
}

/* ---- what may be moved --------------------------------------------------------------------------
 */

/* Of the rows' tenants. */
struct sieve {
	const struct bus_collect *req;
	struct bus_allowance *may; /* [n_tenants] */
	bool *later;               /* [n_tenants]: may.scheduled is known */
};

static int by_number(const void *a, const void *b)
{
	return by_tenant(a, b);
}

static void list_of_rows(struct inbox_look *l)
{
	uint32_t *ids = xcalloc(l->rows.n + 1, sizeof *ids);

	for (size_t i = 0; i < l->rows.n; i++)
		ids[i] = inbox_item(l, i)->row.tenant_id;
	qsort(ids, l->rows.n, sizeof *ids, by_number);
	l->tenants = xcalloc(l->rows.n + 1, sizeof *l->tenants);
	for (size_t i = 0; i < l->rows.n; i++) {
		if (!i || ids[i] != ids[i - 1])
			l->tenants[l->n_tenants++].tenant_id = ids[i];
	}
	free(ids);
}

struct bus_collected *inbox_look_tenant(const struct inbox_look *l, uint32_t tenant_id)
{
	return bsearch(&tenant_id, l->tenants, l->n_tenants, sizeof *l->tenants, by_tenant);
}

static void ask(struct inbox_look *l, struct sieve *v)
{
	for (size_t i = 0; i < l->n_tenants; i++) {
		const struct inbox_held *h = held_find(&l->state, l->tenants[i].tenant_id);

		v->may[i] = h ? h->may : BUS_ALLOWANCE_ALL;
		if (!h && v->req->allow)
			v->req->allow(v->req->arg, l->tenants[i].tenant_id, false, &v->may[i]);
	}
}

static bool passes(const struct inbox_look *l, struct sieve *v, struct inbox_item *it)
{
	struct bus_collected *t = inbox_look_tenant(l, it->row.tenant_id);
	size_t no = (size_t)(t - l->tenants);
	struct bus_allowance *may = &v->may[no];

	t->held |= !may_move(may);
	if (t->held)
		return false;
	it->too_large = it->bytes > may->event_bytes;
	if (it->too_large) /* it is not moved, and takes nothing of the rest */
		return true;
	if (it->later && !v->later[no] && v->req->allow) {
		struct bus_allowance known = *may;

		v->req->allow(v->req->arg, it->row.tenant_id, true, may);
		if (may->events) /* else that is not known yet */
			may->events = known.events;
		may->bytes = known.bytes;
		t->held |= !may->events;
	}
	if (t->held)
		return false;
	v->later[no] |= it->later;
	it->no_room = it->later && !may->scheduled;
	may->events -= may->events != UINT64_MAX;
	if (may->bytes != UINT64_MAX)
		may->bytes -= it->bytes < may->bytes ? it->bytes : may->bytes;
	if (it->later && may->scheduled && may->scheduled != UINT64_MAX)
		may->scheduled--;
	return true;
}

/* Of each tenant the first so many, since those behind must not come before them. */
void inbox_look_sieve(struct inbox_look *l, const struct bus_collect *req)
{
	struct sieve v = {.req = req};
	size_t n = 0;

	list_of_rows(l);
	v.may = xcalloc(l->n_tenants + 1, sizeof *v.may);
	v.later = xcalloc(l->n_tenants + 1, sizeof *v.later);
	ask(l, &v);
	for (size_t i = 0; i < l->rows.n; i++) {
		if (!passes(l, &v, inbox_item(l, i)))
			continue;
		if (n != i)
			memcpy(inbox_item(l, n), inbox_item(l, i), sizeof(struct inbox_item));
		n++;
	}
	l->rows.n = n;
	for (size_t i = 0; i < l->n_tenants; i++) {
		struct inbox_held *h = held_find(&l->state, l->tenants[i].tenant_id);

		if (h && l->tenants[i].held)
			h->over = false;
		else if (l->tenants[i].held)
			held_add(&l->state, l->tenants[i].tenant_id);
	}
	free(v.may);
	free(v.later);
}

/* ---- afterwards ---------------------------------------------------------------------------------
 */

void inbox_look_end(struct inbox_look *l)
{
	crowd_passed(&l->state.crowd, &l->rows);
	held_drop(&l->state);
	l->state.crowded = l->left;
}
