#include "cluster/lead_sql.h"

#include "base/bug.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/flush_sql.h"

#include <string.h>

static enum sql_outcome fence(struct sql_conn *c, struct lead *l)
{
	struct sql_param me = sql_bytes(l->me->b, sizeof l->me->b);
	struct sql_param role[3] = {sql_u64(l->role), me, sql_u64(l->epoch)};
	struct sql_param writer[2] = {me, sql_u64(l->writer_no)};
	enum sql_outcome o = SQL_OK;

	if (!BUG("leader-unchecked")) {
		o = sql_exec(c, STMT_ROLE_WRITE, role, 3);
		if (o == SQL_OK && sql_affected(c) == 0)
			return SQL_LOST;
	}
	if (o != SQL_OK)
		return o;
	o = sql_exec(c, STMT_WRITER_LEAD, writer, 2);
	if (o == SQL_OK && sql_affected(c) == 0)
		return SQL_LOST; /* the session has ended */
	l->flush_no = sql_insert_id(c);
	return o;
}

enum sql_outcome lead_sql_fence(struct sql_conn *c, struct lead *l)
{
	uint64_t began_us = clock_us();
	enum sql_outcome o = fence(c, l);

	l->fixed_us += clock_us() - began_us;
	return o;
}

enum sql_outcome lead_sql_commit(struct sql_conn *c, struct lead *l)
{
	uint64_t began_us = clock_us();
	enum sql_outcome o = sql_commit(c);

	l->fixed_us += clock_us() - began_us;
	return o;
}

enum sql_outcome lead_sql_append(struct sql_conn *c, struct lead *l, const struct gather *g)
{
	struct flush flush = {.me = l->me,
	                      .writer_no = l->writer_no,
	                      .flush_no = l->flush_no,
	                      .n = g->n,
	                      .batches = g->batches};
	enum sql_outcome o;

	if (!g->n)
		return SQL_OK;
	flush.base_seqs = l->base_seqs = xcalloc(g->n, sizeof *l->base_seqs);
	o = flush_sql_run(c, &flush);
	if (o == SQL_FATAL && flush_is_outdated(&flush))
		return SQL_RETRY;
	l->error_no = flush.error_no;
	memcpy(l->error, flush.error, sizeof l->error);
	return o;
}

bool lead_sql_about_rows(unsigned error_no)
{
	static const unsigned others[] = {1044, 1045, 1049, 1054, 1142, 1143, 1146, 1227, 1370};

	for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
		if (error_no == others[i])
			return false;
	}
	return true;
}

void lead_sql_stored(const struct lead *l, const struct gather *g)
{
	uint64_t stamp = batch_stamp_of(l->me->b, l->writer_no, l->flush_no);

	for (size_t i = 0; i < g->n; i++) {
		batch_set_base_seq(g->batches[i], l->base_seqs[i]);
		batch_set_stamp(g->batches[i], stamp);
	}
}
