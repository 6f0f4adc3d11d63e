/* fetch: HTTPS GETs of small documents, off the loop: in one thread, side by side, since name
 * lookup, the reading of the machine's certificates and handshakes take their time. One server that
 * hangs holds up no other. Loop thread only.
 *
 * Only https with a certificate that is good for the host's name; no redirects are followed, no
 * compression is asked for, and the answer is cut off at its limit, as are its headers. A proxy is
 * used where the environment names one (https_proxy). The system's authorities vouch for servers,
 * and are read again when they were kept for a minute, unless others were given (fetcher_trust). */
#ifndef LEAT_NODE_FETCH_H
#define LEAT_NODE_FETCH_H

#include "base/err.h"
#include "base/slice.h"

#include <stddef.h>

struct authorities;
struct fetcher;
struct loop;

struct fetch_settings {
	size_t max_bytes;   /* of an answer */
	size_t max_at_once; /* fetches */
	long timeout_ms;    /* of all of one */
};

enum { FETCH_URL_MAX = 1024 };

/* error NULL: the answer was 200, and body is what came, borrowed. */
typedef void fetch_fn(void *arg, struct slice body, const char *error);

struct fetcher *fetcher_new(struct loop *l, const struct fetch_settings *settings);
void fetcher_free(struct fetcher *f); /* breaks off what is under way: done is not called */

/* These alone vouch for servers, from the next fetch on; NULL = the system's. A reference is kept.
 */
void fetcher_trust(struct fetcher *f, struct authorities *a);

/* Calls done once, later. -1: so many are under way, or there is no thread for them. */
int fetcher_get(struct fetcher *f, const char *url, fetch_fn *done, void *arg, struct err *e);

#endif
