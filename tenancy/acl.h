/* acl: what a token lets its bearer do: the `acl` claim, in EMQX's array form:
 *
 *     [{"permission": "allow"|"deny", "action": "publish"|"subscribe"|"all",
 *       "topic": FILTER  or  "topics": [FILTER, …]}, …]
 *
 * Entries are tried in order and the first that matches decides; no match = denied. Filters are
 * judged without $share/NAME/ and $queue/NAME/ in front, and may contain ${clientid} and ${sub}
 * (the token's subject). Anything else in an entry (`qos`, `retain`, "eq …" …) is refused and not
 * ignored, since ignoring it would widen the permission.
 *
 * A subscription is judged as a whole: the first entry that settles every topic of the wanted
 * filter decides. So a deny entry that overlaps the filter refuses it (`#` never leaks a denied
 * topic), and an allow entry counts only if it covers the filter entirely; several allow entries
 * that cover it only together do not.
 *
 * Or scopes, as an identity provider gives them: leat.publish:FILTER, leat.subscribe:FILTER,
 * leat.all:FILTER, each of which allows. Those that do not begin with "leat." are somebody else's.
 *
 * Parsed once per token, owned by its claims; read-only once bound. One thread at a time. */
#ifndef LEAT_TENANCY_ACL_H
#define LEAT_TENANCY_ACL_H

#include "base/err.h"
#include "base/slice.h"

#include <jansson.h>
#include <stdbool.h>

enum { ACL_MAX_FILTERS = 256 }; /* of all entries together */

struct acl;

/* The claim, or NULL when the token has none: nothing is allowed. NULL on error, and e names the
 * entry, counted from 1. */
struct acl *acl_parse(const json_t *claim, struct err *e);

/* The same of a claim with scopes: a string of them, separated by spaces, or an array of strings,
 * one each. `name` is the claim's, for messages. */
struct acl *acl_parse_scopes(const char *name, const json_t *claim, struct err *e);
void acl_free(struct acl *a);

/* Put in the subject and the client id; once, before the first acl_may_…. -1: a name that is used
 * cannot be put into a topic level (empty, has / + #, or starts with $): refuse the connection. */
int acl_bind(struct acl *a, struct slice subject, struct slice client_id, struct err *e);

bool acl_may_publish(const struct acl *a, struct slice topic);
bool acl_may_subscribe(const struct acl *a, struct slice filter);

#endif
