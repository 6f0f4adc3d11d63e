#include "cluster/crowd.h"

#include <string.h>

enum { SHARED_FOR_MS = 1000 };

bool crowd_has_room(const struct crowd *w)
{
	return w->n < CROWD_MAX;
}

bool crowd_is_shared(struct crowd *w, uint64_t now_ms)
{
	if (w->n > 1)
		w->shared_ms = now_ms;
	return w->shared_ms && now_ms - w->shared_ms < SHARED_FOR_MS;
}

/* Where it is, or would be. */
static size_t place_of(const struct crowd *w, uint32_t tenant_id)
{
	size_t lo = 0;
	size_t hi = w->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (w->turns[mid].tenant_id < tenant_id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

bool crowd_knows(const struct crowd *w, uint32_t tenant_id)
{
	size_t at = place_of(w, tenant_id);

	return at < w->n && w->turns[at].tenant_id == tenant_id;
}

struct crowd_turn *crowd_add(struct crowd *w, uint32_t tenant_id, uint32_t weight)
{
	size_t at = place_of(w, tenant_id);
	struct crowd_turn *t = &w->turns[at];

	if (at < w->n && t->tenant_id == tenant_id)
		return t;
	if (!crowd_has_room(w))
		return NULL;
	memmove(t + 1, t, (w->n - at) * sizeof *t);
	w->n++;
	*t = (struct crowd_turn){.tenant_id = tenant_id, .weight = weight ? weight : 1};
	return t;
}

/* ---- who there is -------------------------------------------------------------------------------
 */

void crowd_stop(struct crowd *w, uint32_t tenant_id)
{
	w->over = true;
	w->listed = tenant_id;
}

static enum sql_outcome list_range(struct crowd *w, struct sql_conn *c, crowd_find_fn find,
                                   void *arg, uint32_t above, uint32_t upto)
{
	enum sql_outcome o;
	size_t n;

	if (w->over || above >= upto)
		return SQL_OK;
	if (!crowd_has_room(w)) {
		crowd_stop(w, above);
		return SQL_OK;
	}
	o = find(c, arg, above, upto);
	n = place_of(w, upto);
	if (!w->over && !crowd_has_room(w))
		crowd_stop(w, n ? w->turns[n - 1].tenant_id : above);
	return o;
}

static enum sql_outcome list_gaps(struct crowd *w, struct sql_conn *c, crowd_find_fn find,
                                  void *arg)
{
	enum sql_outcome o = SQL_OK;
	uint32_t above = 0;
	size_t known;

	while (o == SQL_OK && (known = place_of(w, above + 1)) < w->n) {
		uint32_t next = w->turns[known].tenant_id;

		o = list_range(w, c, find, arg, above, next - 1);
		above = next;
	}
	return o == SQL_OK ? list_range(w, c, find, arg, above, UINT32_MAX) : o;
}

enum sql_outcome crowd_list(struct crowd *w, struct sql_conn *c, crowd_find_fn find, void *arg)
{
	uint32_t behind = w->listed;
	enum sql_outcome o;

	if (!w->over)
		return list_gaps(w, c, find, arg);
	w->over = false;
	w->n = 0;
	o = list_range(w, c, find, arg, behind, UINT32_MAX);
	return o == SQL_OK ? list_range(w, c, find, arg, 0, behind) : o;
}

/* ---- their parts --------------------------------------------------------------------------------
 */

static void order(struct crowd_round *r, size_t first, bool more, size_t *n)
{
	struct crowd *w = r->crowd;

	for (size_t i = 0; i < w->n; i++) {
		struct crowd_turn *t = &w->turns[(first + i) % w->n];

		if (t->more != more)
			continue;
		t->had = false;
		r->order[(*n)++] = t;
	}
}

/* Of each kind, who is behind the last that had a part is first. */
void crowd_begin(struct crowd_round *r, struct crowd *w, uint64_t limit)
{
	size_t first = place_of(w, w->after + 1);
	size_t n = 0;

	*r = (struct crowd_round){.crowd = w, .rows = limit};
	order(r, first, false, &n);
	order(r, first, true, &n);
	for (size_t i = 0; i < n; i++)
		r->weights += r->order[i]->weight;
}

struct crowd_turn *crowd_next(struct crowd_round *r, uint64_t *part)
{
	struct crowd_turn *t = r->i < r->crowd->n && r->rows ? r->order[r->i] : NULL;

	if (!t)
		return NULL;
	*part = r->rows * t->weight / r->weights;
	*part += *part == 0;
	r->weights -= t->weight;
	r->i++;
	return t;
}

void crowd_took(struct crowd_round *r, uint64_t found, bool more)
{
	struct crowd_turn *t = r->order[r->i - 1];

	t->had = true;
	t->more = more;
	r->rows -= found < r->rows ? found : r->rows;
	r->crowd->after = t->tenant_id;
}

bool crowd_end(struct crowd_round *r)
{
	struct crowd *w = r->crowd;
	bool left = w->over || r->i < w->n;
	size_t n = 0;

	for (size_t i = 0; i < w->n; i++) {
		left |= w->turns[i].more;
		if (w->turns[i].more || !w->turns[i].had)
			w->turns[n++] = w->turns[i];
	}
	w->n = n;
	return left;
}

/* ---- afterwards ---------------------------------------------------------------------------------
 */

static void passed(struct crowd_turn *t, const struct lead_rows *rows)
{
	for (size_t i = 0; i < rows->n; i++) {
		const struct lead_row *row = lead_rows_at(rows, i);

		if (row->tenant_id != t->tenant_id)
			continue;
		if (!row->moved)
			return;
		t->from_at = row->at;
		t->from_id = row->id;
	}
}

void crowd_passed(struct crowd *w, const struct lead_rows *rows)
{
	for (size_t i = 0; i < w->n; i++)
		passed(&w->turns[i], rows);
}

void crowd_forget(struct crowd *w)
{
	*w = (struct crowd){.after = w->after, .shared_ms = w->shared_ms};
}

void crowd_anew(struct crowd *w)
{
	for (size_t i = 0; i < w->n; i++)
		w->turns[i].from_at = w->turns[i].from_id = 0;
}
