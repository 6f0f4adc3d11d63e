/* tenant_store: keeps a node's registry equal to the tables tenant and tenant_key. A job on the
 * admin lane looks at change_counter once a second and reads everything again when it moved; and
 * every TENANT_STORE_FULL_S seconds anyhow, for whoever changed a row by hand and did not bump it.
 * Loop thread only.
 *
 * While the database is away the registry stays as it was: tenants go on as far as they can. */
#ifndef LEAT_TENANCY_TENANT_STORE_H
#define LEAT_TENANCY_TENANT_STORE_H

#include "sql/sql.h"
#include "tenancy/registry.h"

struct event_base;
struct tenant_store;

enum {
	TENANT_STORE_POLL_MS = 1000,
	TENANT_STORE_FULL_S = 30,
};

/* Starts at once. on_ready, called once, when the registry is filled for the first time; before
 * that nobody should be let in. All borrowed; s and r outlive the store. */
struct tenant_store *tenant_store_new(struct event_base *base, struct sql *s, struct registry *r,
                                      void (*on_ready)(void *arg), void *arg);

/* Before sql_free(). */
void tenant_store_free(struct tenant_store *ts);

#endif
