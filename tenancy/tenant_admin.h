/* tenant_admin: what an operator does to tenants and keys, as transactions. Each call is one
 * transaction on the connection it is given and blocks; for a CLI's main thread or a worker's job.
 * Every change bumps change_counter, so that nodes follow it (tenancy/tenant_store.h).
 *
 * Errors: e->code is the enum sql_outcome (SQL_FATAL also for what was refused here), the text is
 * for a person. SQL_RETRY changed nothing and may be repeated; after SQL_UNKNOWN look first. */
#ifndef LEAT_TENANCY_TENANT_ADMIN_H
#define LEAT_TENANCY_TENANT_ADMIN_H

#include "base/err.h"
#include "sql/conn.h"
#include "tenancy/jws.h"
#include "tenancy/tenant.h"

/* A tenant with partitions heads. Its name, checked here, can never be given again. */
struct tenant_admin_new {
	struct slice name;
	uint16_t weight;
	uint16_t partitions;
};

int tenant_admin_create(struct sql_conn *c, const struct tenant_admin_new *t, uint32_t *id,
                        struct err *e);

/* Suspend, resume, or delete for good: a deleted tenant keeps its rows but nobody gets in. */
int tenant_admin_set_state(struct sql_conn *c, struct slice name, enum tenant_state state,
                           struct err *e);

/* How many partitions its events are spread over from now on. */
int tenant_admin_set_partitions(struct sql_conn *c, struct slice name, uint16_t partitions,
                                struct err *e);

struct tenant_admin_partition {
	uint32_t id;
	struct slice state; /* open or sealed; borrowed */
	uint64_t next_seq, stored_bytes;
	uint64_t subscriptions_left; /* those that have still to finish a sealed one */
};

int tenant_admin_partitions(struct sql_conn *c, struct slice name,
                            void (*fn)(void *arg, const struct tenant_admin_partition *p),
                            void *arg, struct err *e);

struct tenant_admin_row {
	struct tenant tenant;
	char created_at[32]; /* UTC; empty in a listing */
};

int tenant_admin_find(struct sql_conn *c, struct slice name, struct tenant_admin_row *out,
                      struct err *e);

/* Every tenant but the deleted ones. */
int tenant_admin_list(struct sql_conn *c, void (*fn)(void *arg, const struct tenant *t), void *arg,
                      struct err *e);

struct tenant_admin_key {
	struct slice issuer; /* borrowed */
	struct slice kid;
	struct slice material; /* to add; empty in a listing */
	enum jws_alg alg;
	bool active; /* in a listing */
	struct slice created_at;
};

int tenant_admin_key_add(struct sql_conn *c, struct slice name, const struct tenant_admin_key *k,
                         struct err *e);
int tenant_admin_key_retire(struct sql_conn *c, struct slice name, struct slice issuer,
                            struct slice kid, struct err *e);
int tenant_admin_key_list(struct sql_conn *c, struct slice name,
                          void (*fn)(void *arg, const struct tenant_admin_key *k), void *arg,
                          struct err *e);

/* Tokens that are refused from now on though they verify: one by its id, those of a subject, or,
 * with neither, all of the tenant. Times as in SQL, UTC: tokens issued before `before` (empty:
 * until now; not with an id), none of which lives longer than `expires` (empty: kept until undone).
 */
struct tenant_admin_revocation {
	struct slice subject, id; /* p NULL = not this */
	struct slice before, expires, reason;
};

int tenant_admin_revoke(struct sql_conn *c, struct slice name,
                        const struct tenant_admin_revocation *r, struct err *e);
int tenant_admin_revoke_undo(struct sql_conn *c, struct slice name,
                             const struct tenant_admin_revocation *r, struct err *e);

/* A row of TENANT_LIST; for the loader. false: the row breaks a rule and must be left out. */
bool tenant_admin_parse_row(const struct sql_cell *cells, unsigned n, struct tenant *out);

#endif
