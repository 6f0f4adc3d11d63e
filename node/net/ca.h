/* ca: a private certificate authority in a directory, for `leat dev`, the demo and tests: ca.crt,
 * ca.key, server.crt and server.key (EC P-256; keys mode 0600). Start-up only. */
#ifndef LEAT_NODE_CA_H
#define LEAT_NODE_CA_H

#include "base/err.h"

#include <stddef.h>

/* Create what is missing in dir (made, mode 0700, if it is not there). The CA is kept when it
 * exists; the server's certificate is issued anew each time, for localhost, 127.0.0.1, ::1 and the
 * further names or addresses given, signed by that CA. */
int ca_issue(const char *dir, const char *const *names, size_t count, struct err *e);

#endif
