#include "cluster/sim_op.h"

#include "base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- copying ------------------------------------------------------------------------------------
 */

static void *op_dup(struct sim_op *op, const void *p, size_t n)
{
	void *copy = xmalloc(n ? n : 1);

	assert(op->n_blocks < sizeof op->blocks / sizeof *op->blocks);
	if (n)
		memcpy(copy, p, n);
	op->blocks[op->n_blocks++] = copy;
	return copy;
}

static struct slice op_dup_slice(struct sim_op *op, struct slice s)
{
	return slice(op_dup(op, s.p, s.n), s.n);
}

static void copy_append(struct sim_op *op)
{
	struct bus_append *r = &op->r.append;

	r->batches = op_dup(op, r->batches, r->n * sizeof *r->batches);
	for (size_t i = 0; i < r->n; i++)
		r->batches[i] = batch_split(r->batches[i], 0, batch_count(r->batches[i]));
}

static const struct bus_cursor *copy_starts(struct sim_op *op, const struct bus_cursor *starts,
                                            uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		assert(starts[i].acked_ahead.n == 0); /* a start has nothing done ahead of it */
	return op_dup(op, starts, n * sizeof *starts);
}

static void copy_claim(struct sim_op *op)
{
	struct bus_claim *r = &op->r.claim;

	r->subject = op_dup_slice(op, r->subject);
	r->name = op_dup_slice(op, r->name);
	r->filters = op_dup_slice(op, r->filters);
	r->starts = copy_starts(op, r->starts, r->n_starts);
	r->memory = NULL;
}

static void copy_change(struct sim_op *op)
{
	struct bus_change *r = &op->r.change;

	r->filters = op_dup_slice(op, r->filters);
	r->starts = copy_starts(op, r->starts, r->n_starts);
}

static void copy_commit(struct sim_op *op)
{
	struct bus_commit *r = &op->r.commit;
	size_t bytes = 0;
	char *text;

	r->rows = op_dup(op, r->rows, r->n * sizeof *r->rows);
	for (size_t i = 0; i < r->n; i++)
		bytes += r->rows[i].to.acked_ahead.n;
	text = op_dup(op, NULL, 0);
	text = op->blocks[op->n_blocks - 1] = xrealloc(text, bytes ? bytes : 1);
	for (size_t i = 0; i < r->n; i++) {
		struct slice *ahead = &r->rows[i].to.acked_ahead;

		if (ahead->n)
			memcpy(text, ahead->p, ahead->n);
		*ahead = slice(text, ahead->n);
		text += ahead->n;
	}
}

/* The bytes of n slices end to end in one block, and the slices into it. */
struct texts {
	char *at;
};

static struct texts op_texts(struct sim_op *op, size_t bytes)
{
	op->blocks[op->n_blocks] = xmalloc(bytes ? bytes : 1);
	return (struct texts){op->blocks[op->n_blocks++]};
}

static void texts_move(struct texts *t, struct slice *s)
{
	if (s->n)
		memcpy(t->at, s->p, s->n);
	*s = slice(t->at, s->n);
	t->at += s->n;
}

static void copy_settle(struct sim_op *op)
{
	struct bus_settle *r = &op->r.settle;
	struct bus_cursor *cursors = op_dup(op, r->cursors, r->n_cursors * sizeof *cursors);
	struct texts texts;
	size_t bytes = 0;

	r->failures = op_dup(op, r->failures, r->n_failures * sizeof *r->failures);
	r->done_timers = op_dup(op, r->done_timers, r->n_done * sizeof *r->done_timers);
	for (size_t i = 0; i < r->n_cursors; i++)
		bytes += cursors[i].acked_ahead.n;
	for (size_t i = 0; i < r->n_failures; i++)
		bytes += r->failures[i].reason.n;
	texts = op_texts(op, bytes);
	for (size_t i = 0; i < r->n_cursors; i++)
		texts_move(&texts, &cursors[i].acked_ahead);
	for (size_t i = 0; i < r->n_failures; i++) {
		struct bus_failure *f = &r->failures[i];

		texts_move(&texts, &f->reason);
		if (!f->batch)
			continue;
		f->batch = batch_split(f->batch, f->index, f->index + 1);
		f->index = 0;
	}
	r->cursors = cursors;
}

static void copy_retries(struct sim_op *op)
{
	struct bus_retries *r = &op->r.retries;

	r->known = op_dup(op, r->known, r->n_known * sizeof *r->known);
	r->n = r->n_list = 0;
	r->retries = NULL;
	r->rows = NULL;
}

/* It may be done again, and its node may be gone by then: nobody is asked, and all is allowed. */
static void copy_collect(struct sim_op *op)
{
	op->r.collect.allow = NULL;
	bus_collect_clear(&op->r.collect);
}

static void copy_fire(struct sim_op *op)
{
	op->r.fire.n = op->r.fire.n_late = 0;
	op->r.fire.batches = NULL;
	op->r.fire.late_ms = NULL;
}

static size_t request_size(enum sim_kind kind)
{
	static const size_t sizes[] = {
#define SIM_SIZE(verb, writes) [SIM_##verb] = sizeof(struct bus_##verb),
	        SIM_REQUESTS(SIM_SIZE)
#undef SIM_SIZE
	};

	return sizes[kind];
}

struct sim_op *sim_op_new(enum sim_kind kind, const struct id128 *me, const void *request)
{
	struct sim_op *op = xcalloc(1, sizeof *op);

	op->kind = kind;
	op->refs = 1;
	op->me = *me;
	if (request)
		memcpy(&op->r, request, request_size(kind));
	if (kind == SIM_append)
		copy_append(op);
	else if (kind == SIM_claim)
		copy_claim(op);
	else if (kind == SIM_change)
		copy_change(op);
	else if (kind == SIM_commit)
		copy_commit(op);
	else if (kind == SIM_heads)
		op->r.heads.heads =
		        op_dup(op, op->r.heads.heads, op->r.heads.n * sizeof *op->r.heads.heads);
	else if (kind == SIM_settle)
		copy_settle(op);
	else if (kind == SIM_retries)
		copy_retries(op);
	else if (kind == SIM_fire)
		copy_fire(op);
	else if (kind == SIM_collect)
		copy_collect(op);
	else if (kind == SIM_owned)
		op->r.owned.rows =
		        op_dup(op, op->r.owned.rows, op->r.owned.n * sizeof *op->r.owned.rows);
	return op;
}

struct sim_op *sim_op_ref(struct sim_op *op)
{
	op->refs++;
	return op;
}

void sim_op_unref(struct sim_op *op)
{
	if (--op->refs)
		return;
	sim_op_drop_results(op);
	for (size_t i = 0; op->kind == SIM_append && i < op->r.append.n; i++)
		batch_unref(op->r.append.batches[i]);
	for (size_t i = 0; op->kind == SIM_settle && i < op->r.settle.n_failures; i++)
		batch_unref(op->r.settle.failures[i].batch);
	batch_unref(op->one);
	for (uint32_t i = 0; i < op->n_blocks; i++)
		free(op->blocks[i]);
	free(op);
}

/* ---- what it is ---------------------------------------------------------------------------------
 */

bool sim_op_writes(const struct sim_op *op)
{
	static const bool writes[] = {
#define SIM_WRITES(verb, w) [SIM_##verb] = w,
	        SIM_REQUESTS(SIM_WRITES)
#undef SIM_WRITES
	                [SIM_open_session] = 1,
	        [SIM_end_session] = 1,
	        [SIM_publish] = 1,
	        [SIM_set_partitions] = 1,
	};

	return writes[op->kind];
}

const char *sim_op_name(const struct sim_op *op)
{
	static const char *const names[] = {
#define SIM_NAME(verb, w) [SIM_##verb] = #verb,
	        SIM_REQUESTS(SIM_NAME)
#undef SIM_NAME
	                [SIM_open_session] = "open_session",
	        [SIM_end_session] = "end_session",
	        [SIM_publish] = "publish",
	        [SIM_set_partitions] = "set_partitions",
	};

	return names[op->kind];
}

static bool batch_has(const struct batch *b, char letter)
{
	for (uint32_t i = 0; i < batch_count(b); i++) {
		struct event ev;

		batch_event(b, i, &ev);
		if (ev.payload.n && ev.payload.p[0] == letter)
			return true;
	}
	return false;
}

bool sim_op_poisoned(struct sim_op *op, char letter)
{
	struct bus_append *r = &op->r.append;

	if (op->kind != SIM_append || !letter)
		return false;
	for (size_t i = 0; i < r->n; i++) {
		if (!batch_has(r->batches[i], letter))
			continue;
		r->culprit = r->n % 2 ? i : SIZE_MAX; /* the database cannot always tell */
		snprintf(r->error, sizeof r->error, "poison");
		return true;
	}
	return false;
}

/* ---- doing it -----------------------------------------------------------------------------------
 */

enum sql_outcome sim_op_apply(struct sim_op *op, struct store *store)
{
	sim_op_drop_results(op);
	switch (op->kind) {
	case SIM_append:
		return store_append(store, &op->me, &op->r.append);
	case SIM_resolve:
		return store_resolve(store, &op->r.resolve);
	case SIM_read:
		return store_read(store, &op->r.read);
	case SIM_locate:
		return store_locate(store, &op->r.locate);
	case SIM_heads:
		return store_heads(store, &op->r.heads);
	case SIM_layouts:
		return store_layouts(store, &op->r.layouts);
	case SIM_owned:
		return store_owned(store, &op->me, &op->r.owned);
	case SIM_claim:
		return store_claim(store, &op->me, &op->r.claim);
	case SIM_change:
		return store_change(store, &op->me, &op->r.change);
	case SIM_commit:
		return store_commit(store, &op->me, &op->r.commit);
	case SIM_expire:
		return store_expire(store, &op->r.expire);
	case SIM_settle:
		return store_settle(store, &op->me, &op->r.settle);
	case SIM_retries:
		return store_retries(store, &op->r.retries);
	case SIM_role_claim:
		return store_role_claim(store, &op->me, &op->r.role_claim);
	case SIM_fire:
		return store_fire(store, &op->me, &op->r.fire);
	case SIM_collect:
		return store_collect(store, &op->me, &op->r.collect);
	case SIM_retain:
		return store_retain(store, &op->me, &op->r.retain);
	case SIM_stock:
		return store_stock(store, &op->r.stock);
	case SIM_report:
	case SIM_note:
		return SQL_OK; /* nothing here reads it */
	case SIM_open_session:
		store_session_open(store, &op->me, op->name);
		return SQL_OK;
	case SIM_end_session:
		store_session_end(store, &op->me);
		return SQL_OK;
	case SIM_publish:
		store_publish(store, op->one);
		return SQL_OK;
	case SIM_set_partitions:
		store_set_partitions(store, op->partitions.tenant_id, op->partitions.before,
		                     op->partitions.n);
		return SQL_OK;
	}
	return SQL_FATAL;
}

static void drop_retries(struct bus_retries *r)
{
	for (size_t i = 0; i < r->n; i++)
		batch_unref(r->retries[i].batch);
	free(r->retries);
	free(r->rows);
	r->retries = NULL;
	r->rows = NULL;
	r->n = r->n_list = 0;
}

static void drop_fire(struct bus_fire *r)
{
	for (size_t i = 0; i < r->n; i++)
		batch_unref(r->batches[i]);
	free(r->batches);
	free(r->late_ms);
	r->batches = NULL;
	r->late_ms = NULL;
	r->n = r->n_late = 0;
}

static void drop_collect(struct bus_collect *r)
{
	for (size_t i = 0; i < r->n; i++)
		batch_unref(r->batches[i]);
	free(r->batches);
	free(r->late_ms);
	free(r->tenants);
	bus_collect_clear(r);
}

void sim_op_drop_results(struct sim_op *op)
{
	if (op->kind == SIM_claim && op->r.claim.memory)
		store_claim_release(&op->r.claim);
	if (op->kind == SIM_retries)
		drop_retries(&op->r.retries);
	if (op->kind == SIM_fire)
		drop_fire(&op->r.fire);
	if (op->kind == SIM_collect)
		drop_collect(&op->r.collect);
	if (op->kind == SIM_layouts) {
		free(op->r.layouts.heads);
		op->r.layouts.heads = NULL;
		op->r.layouts.n = 0;
	}
	if (op->kind != SIM_read)
		return;
	for (size_t i = 0; i < op->r.read.n; i++)
		batch_unref(op->r.read.batches[i]);
	free(op->r.read.batches);
	op->r.read.batches = NULL;
	op->r.read.n = 0;
}

static void answer_scheduled(const struct batch *from, struct batch *to)
{
	for (uint32_t i = 0; i < batch_count(from); i++) {
		if (batch_missing(from, i))
			batch_set_missing(to, i);
	}
}

/* The caller's pointers stay; everything else is as the database left it. */
static void answer_append(struct sim_op *op, struct bus_append *out)
{
	const struct bus_append *r = &op->r.append;

	for (size_t i = 0; out->outcome == SQL_OK && i < r->n; i++) {
		batch_set_base_seq(out->batches[i], batch_base_seq(r->batches[i]));
		batch_set_stamp(out->batches[i], batch_stamp(r->batches[i]));
		if (batch_partition(r->batches[i]) == BATCH_SCHEDULED)
			answer_scheduled(r->batches[i], out->batches[i]);
	}
	out->culprit = r->culprit;
	out->sealed_tenant = r->sealed_tenant;
	out->layout = r->layout;
	memcpy(out->error, r->error, sizeof out->error);
}

static void answer_claim(struct sim_op *op, struct bus_claim *out)
{
	struct bus_claim *r = &op->r.claim;

	out->holder = r->holder;
	out->absent = r->absent;
	out->created = r->created;
	out->subscription_id = r->subscription_id;
	out->epoch = r->epoch;
	out->policy = r->policy;
	out->stored_expiry_s = r->stored_expiry_s;
	out->stored_filters = r->stored_filters;
	out->n_cursors = r->n_cursors;
	out->cursors = r->cursors;
	out->memory = r->memory;
	r->memory = NULL;
}

static void answer_stock(const struct sim_op *op, struct bus_stock *req)
{
	req->stored_bytes = op->r.stock.stored_bytes;
	req->subscriptions = op->r.stock.subscriptions;
	req->scheduled = op->r.stock.scheduled;
	req->dead_letters = op->r.stock.dead_letters;
}

static void answer_read(struct sim_op *op, struct bus_read *out)
{
	out->n = op->r.read.n;
	out->batches = op->r.read.batches;
	out->next_seq = op->r.read.next_seq;
	op->r.read.n = 0;
	op->r.read.batches = NULL;
}

static void answer_layouts(struct sim_op *op, struct bus_layouts *out)
{
	out->n = op->r.layouts.n;
	out->heads = op->r.layouts.heads;
	op->r.layouts.n = 0;
	op->r.layouts.heads = NULL;
}

static void answer_retain(const struct sim_op *op, struct bus_retain *out)
{
	out->tenant_id = op->r.retain.tenant_id;
	out->partition_id = op->r.retain.partition_id;
	out->removed = op->r.retain.removed;
	out->gaps = op->r.retain.gaps;
	out->asides = op->r.retain.asides;
	out->aside_more = op->r.retain.aside_more;
	out->aside_tenant_id = op->r.retain.aside_tenant_id;
	out->more = op->r.retain.more;
}

static void answer_retries(struct sim_op *op, struct bus_retries *out)
{
	struct bus_retries *r = &op->r.retries;

	out->n = r->n;
	out->retries = r->retries;
	out->n_list = r->n_list;
	out->rows = r->rows;
	out->waiting = r->waiting;
	out->next_in_ms = r->next_in_ms;
	r->n = r->n_list = 0;
	r->retries = NULL;
	r->rows = NULL;
}

static void answer_role_claim(const struct sim_op *op, struct bus_role_claim *out)
{
	out->epoch = op->r.role_claim.epoch;
	out->holder = op->r.role_claim.holder;
}

static void answer_fire(struct sim_op *op, struct bus_fire *out)
{
	struct bus_fire *r = &op->r.fire;

	out->n = r->n;
	out->batches = r->batches;
	out->writer_no = r->writer_no;
	out->flush_no = r->flush_no;
	out->n_late = r->n_late;
	out->late_ms = r->late_ms;
	out->next_in_ms = r->next_in_ms;
	copy_fire(op);
}

static void answer_collect(struct sim_op *op, struct bus_collect *out)
{
	struct bus_collect *r = &op->r.collect;

	r->done = out->done;
	r->arg = out->arg;
	r->allow = out->allow;
	r->outcome = out->outcome;
	*out = *r;
	bus_collect_clear(r);
}

static void answer_commit(struct sim_op *op, struct bus_commit *out)
{
	for (size_t i = 0; i < op->r.commit.n; i++)
		out->rows[i].fenced = op->r.commit.rows[i].fenced;
}

static void answer_settle(struct sim_op *op, struct bus_settle *out)
{
	for (size_t i = 0; i < op->r.settle.n_failures; i++)
		out->failures[i].made = op->r.settle.failures[i].made;
}

static void answer_resolve(struct sim_op *op, struct bus_resolve *out)
{
	out->fence = op->r.resolve.fence;
	out->flush_no = op->r.resolve.flush_no;
}

/* What is done in a role. */
static void answer_role_results(struct sim_op *op, void *request)
{
	switch (op->kind) {
	case SIM_role_claim:
		answer_role_claim(op, request);
		break;
	case SIM_fire:
		answer_fire(op, request);
		break;
	case SIM_collect:
		answer_collect(op, request);
		break;
	case SIM_retain:
		answer_retain(op, request);
		break;
	default: /* nothing but the outcome */
		break;
	}
}

static void answer_results(struct sim_op *op, void *request)
{
	switch (op->kind) {
	case SIM_append:
		answer_append(op, request);
		break;
	case SIM_resolve:
		answer_resolve(op, request);
		break;
	case SIM_read:
		answer_read(op, request);
		break;
	case SIM_locate:
		((struct bus_locate *)request)->seq = op->r.locate.seq;
		break;
	case SIM_heads:
		memcpy(((struct bus_heads *)request)->heads, op->r.heads.heads,
		       op->r.heads.n * sizeof *op->r.heads.heads);
		break;
	case SIM_layouts:
		answer_layouts(op, request);
		break;
	case SIM_owned:
		memcpy(((struct bus_owned *)request)->rows, op->r.owned.rows,
		       op->r.owned.n * sizeof *op->r.owned.rows);
		break;
	case SIM_claim:
		answer_claim(op, request);
		break;
	case SIM_commit:
		answer_commit(op, request);
		break;
	case SIM_expire:
		((struct bus_expire *)request)->removed = op->r.expire.removed;
		break;
	case SIM_settle:
		answer_settle(op, request);
		break;
	case SIM_retries:
		answer_retries(op, request);
		break;
	case SIM_stock:
		answer_stock(op, request);
		break;
	default:
		answer_role_results(op, request);
		break;
	}
}

void sim_op_answer(struct sim_op *op, void *request, enum sql_outcome outcome)
{
	if (outcome != SQL_OK)
		sim_op_drop_results(op);
	switch (op->kind) {
#define SIM_ANSWER(verb, writes)                                                      \
	case SIM_##verb:                                                              \
		((struct bus_##verb *)request)->outcome = outcome;                    \
		if (outcome == SQL_OK || outcome == SQL_FATAL || outcome == SQL_LOST) \
			answer_results(op, request);                                  \
		((struct bus_##verb *)request)->done(request);                        \
		break;
		SIM_REQUESTS(SIM_ANSWER)
#undef SIM_ANSWER
	case SIM_open_session:
	case SIM_end_session:
	case SIM_publish:
	case SIM_set_partitions:
		break;
	}
}
