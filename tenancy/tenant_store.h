/* tenant_store: keeps a node's registry equal to the tables tenant, tenant_key, issuer,
 * client_certificate and revocation. A job on the admin lane looks at change_counter four times a
 * second and reads again what moved, in a tenth of the time at most where there is so much that
 * this takes long; everything every TENANT_STORE_FULL_S seconds anyhow, for whoever changed a row
 * by hand and did not bump it. What the registry wants fetched it asks for in the same job. Loop
 * thread only.
 *
 * While the database is away the registry stays as it was: tenants go on as far as they can. */
#ifndef LEAT_TENANCY_TENANT_STORE_H
#define LEAT_TENANCY_TENANT_STORE_H

#include "sql/sql.h"
#include "tenancy/registry.h"

struct event_base;
struct tenant_store;

enum {
	TENANT_STORE_POLL_MS = 250,
	TENANT_STORE_REST_MAX_MS = 750, /* after a job that took long */
	TENANT_STORE_FULL_S = 30,
};

/* Starts at once. on_ready, called once, when the registry is filled for the first time; before
 * that nobody should be let in. All borrowed; s and r outlive the store. */
struct tenant_store *tenant_store_new(struct event_base *base, struct sql *s, struct registry *r,
                                      void (*on_ready)(void *arg), void *arg);

/* Before sql_free(). */
void tenant_store_free(struct tenant_store *ts);

#endif
