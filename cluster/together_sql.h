/* together_sql: requests that share transactions with others of their kind. What has come while the
 * last transaction was under way goes into the next, tenants in turn: one of each, and more of them
 * as far as is done in a few milliseconds. Where but one tenant asked for anything lately, so that
 * no other is held up, it is as many as may be: thousands that a node lets go of or takes over are
 * over soonest so. So one that comes alone waits for nobody, and thousands that come at once
 * neither wait for a commit each nor stand in front of the other tenants' few. One transaction is
 * under way at a time, of whatever kind, and the next is put together when it is over. Embedded in
 * struct bus_sql. Loop thread only, but for work(). */
#ifndef LEAT_CLUSTER_TOGETHER_SQL_H
#define LEAT_CLUSTER_TOGETHER_SQL_H

#include "base/id128.h"
#include "cluster/company.h"
#include "cluster/pace.h"
#include "cluster/turns.h"
#include "sql/sql.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bus_sql;

enum { TOGETHER_MAX = 256 }; /* requests in one transaction, of any kind */

enum together_no { TOGETHER_CLAIM, TOGETHER_RELEASE, TOGETHER_CHANGE, TOGETHER_KINDS };

struct together_kind { /* a constant of the module whose requests they are */
	enum together_no no;
	size_t max; /* 1..TOGETHER_MAX */
	/* On a thread of the lane, n of them: sets the outcome of each. */
	void (*work)(struct sql_conn *c, const struct id128 *me, void *const *reqs, size_t n);
	/* On the loop: calls done. ran: work() was called; else nothing is stored: RETRY. */
	void (*answer)(void *req, bool ran);
};

struct together {
	struct turns turns; /* with the kind of each, and the generation that it was made in */
	struct company company;
	struct pace paces[TOGETHER_KINDS];
	bool busy; /* a transaction is under way */
};

void together_add(struct bus_sql *b, const struct together_kind *kind, uint32_t tenant_id,
                  void *req);
/* Of those that wait, so many go into the next transaction. in_company: more than one tenant came
 * lately. */
size_t together_most(const struct together *t, bool in_company);
void together_release(struct together *t); /* nothing waits any more */

#endif
