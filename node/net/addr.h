/* addr: a network address as people write it: host:port, [v6]:port, *:port or :port for every
 * interface. Plain data. Any thread. */
#ifndef LEAT_NODE_ADDR_H
#define LEAT_NODE_ADDR_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum { ADDR_HOST = 256, ADDR_TEXT = ADDR_HOST + 9 };

struct addr {
	char host[ADDR_HOST]; /* without brackets; "" = every interface */
	uint16_t port;        /* 0 = a free one */
};

int addr_parse(struct addr *a, const char *text, struct err *e);
const char *addr_text(const struct addr *a, char out[ADDR_TEXT]); /* host:port; returns out */
bool addr_is_set(const struct addr *a);                           /* not host "" and port 0 */
bool addr_is_loopback(const struct addr *a); /* localhost, 127/8 or ::1; nothing else */
bool addr_is_numeric(const struct addr *a);  /* no name that would have to be looked up */
/* Look the host up; a name blocks. passive = to listen on. */
int addr_resolve(const struct addr *a, bool passive, struct sockaddr_storage *ss, socklen_t *len,
                 struct err *e);
void addr_of_sockaddr(struct addr *a, const struct sockaddr *sa);

#endif
