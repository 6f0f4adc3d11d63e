/* issuers: of the node that holds the role: the keys of identity providers, fetched from where
 * their row says, every ISSUER_REFRESH_S, and sooner when a node saw a kid it does not know (at
 * most every ISSUER_WANT_EVERY_S) or the last attempt failed (ever more seldom: ISSUER_RETRY_S).
 * Several are fetched side by side, those of one tenant and those of any no more than their part
 * (see ISSUER_FETCHES), so that a provider that hangs holds up few. What was fetched goes into the
 * row, which all nodes follow (tenancy/tenant_store.h). One per node; loop thread only. */
#ifndef LEAT_NODE_ISSUERS_H
#define LEAT_NODE_ISSUERS_H

#include "cluster/bus.h"
#include "node/net/loop.h"
#include "sql/sql.h"

#include <stddef.h>

struct authorities;
struct issuers;

struct issuers *issuers_new(struct loop *loop, struct bus *bus, struct sql *sql); /* borrowed */
void issuers_free(struct issuers *i); /* after bus and sql have answered every request */

void issuers_on_state(struct issuers *i, enum bus_state state);
void issuers_on_peers(struct issuers *i, const struct bus_peer *peers, size_t n);
/* Who vouches for their servers, from the next fetch on; NULL = the system's. Keeps a reference. */
void issuers_trust(struct issuers *i, struct authorities *a);
void issuers_stop(struct issuers *i); /* shutdown: lead no more */

#endif
