/* resolve: host names looked up without holding up the loop. Each lookup has a thread of its own
 * while it lasts, since getaddrinfo (hosts file, DNS, whatever the machine is set up for) blocks
 * for as long as it likes. Loop thread only. */
#ifndef LEAT_NODE_RESOLVE_H
#define LEAT_NODE_RESOLVE_H

#include "base/err.h"
#include "node/net/addr.h"

struct loop;
struct resolver;

enum { RESOLVE_MAX = 32 }; /* lookups under way */

/* found: the address in numbers, with the port asked for; NULL = error says why. */
typedef void resolve_fn(void *arg, const struct addr *found, const char *error);

struct resolver *resolver_new(struct loop *l);
void resolver_free(struct resolver *r); /* does not wait; nothing is called any more */

/* Calls done once, later. -1 = too many are under way. */
int resolver_ask(struct resolver *r, const struct addr *a, resolve_fn *done, void *arg,
                 struct err *e);
void resolver_forget(struct resolver *r, const void *arg); /* no call with this arg any more */

#endif
