#include "sql/transfer_freeze.h"

#include "base/mem.h"
#include "sql/transfer_walk.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
	FOLLOW_LEAST_MS = 3000, /* nodes follow a suspension within 2 s */
	FOLLOW_MOST_MS = 120000,
	FOLLOW_RENEWALS = 2, /* of a node that has certainly looked at its tenants meanwhile */
	FOLLOW_LOOK_MS = 200,
};

struct freeze {
	struct sql_conn *c;
	uint32_t tenant_id;
	struct err *e;
};

/* ---- the nodes ---- */

struct node {
	char session[16];
	char name[64];
	uint64_t renewals;
	bool awaited;
};

struct nodes {
	struct node *v;
	size_t n;
	bool first; /* look: they are taken down, not compared */
};

static void forget_or_keep(struct nodes *all, struct slice session, uint64_t renewals)
{
	for (size_t i = 0; i < all->n; i++) {
		struct node *node = &all->v[i];

		if (memcmp(node->session, session.p, sizeof node->session) == 0)
			node->awaited = renewals < node->renewals + FOLLOW_RENEWALS;
	}
}

static int on_node(void *arg, const struct sql_cell *cells, unsigned n)
{
	struct nodes *all = arg;
	struct node *node;

	(void)n;
	if (cells[0].bytes.n != sizeof node->session)
		return 0;
	if (!all->first) {
		forget_or_keep(all, cells[0].bytes, cells[1].u);
		return 0;
	}
	all->v = xrealloc(all->v, (all->n + 1) * sizeof *all->v);
	node = &all->v[all->n++];
	*node = (struct node){.renewals = cells[1].u};
	memcpy(node->session, cells[0].bytes.p, sizeof node->session);
	snprintf(node->name, sizeof node->name, "%.*s", (int)cells[2].bytes.n, cells[2].bytes.p);
	return 0;
}

static int look_at_nodes(struct freeze *x, struct nodes *all)
{
	for (size_t i = 0; i < all->n; i++)
		all->v[i].awaited = false; /* one that is not listed any more has ended */
	if (transfer_outcome(x->c, sql_query(x->c, STMT_ADMIN_EXPORT_NODES, NULL, 0, on_node, all),
	                     x->e) < 0)
		return -1;
	sql_rollback(x->c);
	all->first = false;
	return 0;
}

static const struct node *awaited(const struct nodes *all)
{
	for (size_t i = 0; i < all->n; i++)
		if (all->v[i].awaited)
			return &all->v[i];
	return NULL;
}

/* Every node that lives has renewed its session often enough to have seen the suspension, or ended.
 */
static int wait_for_nodes(struct freeze *x)
{
	struct nodes all = {.first = true};
	const struct timespec pause = {.tv_nsec = FOLLOW_LOOK_MS * 1000000L};
	int rc = look_at_nodes(x, &all);

	for (unsigned ms = 0; rc == 0 && all.n; ms += FOLLOW_LOOK_MS) {
		nanosleep(&pause, NULL);
		rc = look_at_nodes(x, &all);
		if (rc == 0 && ms >= FOLLOW_LEAST_MS && !awaited(&all))
			break;
		if (rc == 0 && ms >= FOLLOW_MOST_MS)
			rc = err_set(x->e, SQL_FATAL,
			             "node %s does not follow: it renews its session no more, and"
			             " nobody ended it; stop it and run this again",
			             awaited(&all)->name);
	}
	free(all.v);
	return rc;
}

/* ---- what they had ---- */

static int change(struct freeze *x, enum sql_stmt s, unsigned params, uint64_t *matched)
{
	struct sql_param p[] = {sql_u64(x->tenant_id), sql_u64(x->tenant_id)};
	enum sql_outcome o = sql_exec(x->c, s, p, params);

	if (o == SQL_OK && matched)
		*matched = sql_affected(x->c);
	if (o == SQL_OK)
		o = sql_commit(x->c);
	return transfer_outcome(x->c, o, x->e);
}

static int take_subscriptions(struct freeze *x)
{
	static const enum sql_stmt steps[] = {STMT_ADMIN_EXPORT_TAKE,
	                                      STMT_ADMIN_EXPORT_TAKE_CURSORS};

	for (unsigned i = 0; i < 2; i++) {
		uint64_t matched = 0;

		do
			if (change(x, steps[i], i + 1, &matched) < 0)
				return -1;
		while (matched);
	}
	if (change(x, STMT_ADMIN_EXPORT_TAKEN, 0, NULL) < 0)
		return -1;
	return change(x, STMT_ADMIN_EXPORT_WILLS, 1, NULL);
}

static int begin(struct freeze *x)
{
	struct sql_param tenant = sql_u64(x->tenant_id);
	enum sql_outcome o = sql_exec(x->c, STMT_ADMIN_EXPORT_SHUT, &tenant, 1);

	if (o == SQL_OK && sql_affected(x->c) != 1) {
		sql_rollback(x->c);
		return err_set(x->e, SQL_FATAL,
		               "the tenant was resumed or deleted meanwhile: run this again");
	}
	if (transfer_outcome(x->c, o, x->e) < 0)
		return -1;
	return change(x, STMT_ADMIN_EXPORT_BEGIN, 1, NULL);
}

int transfer_freeze(struct sql_conn *c, uint32_t tenant_id, struct err *e)
{
	struct freeze x = {.c = c, .tenant_id = tenant_id, .e = e};

	if (begin(&x) < 0 || wait_for_nodes(&x) < 0)
		return -1;
	return take_subscriptions(&x);
}
