/* cluster_key: the secret by which nodes know each other, from --cluster-key FILE. While it is
 * being changed there are two, so that nodes change one after the other: this node calls the others
 * by the first, and is called by either. Start-up and SIGHUP. */
#ifndef LEAT_NODE_CLUSTER_KEY_H
#define LEAT_NODE_CLUSTER_KEY_H

#include "base/err.h"
#include "node/net/tls_psk.h"

/* also: the second; NULL, or no such file: there is none. The caller wipes what it gets. */
int cluster_key_read(const char *file, const char *also, struct tls_psks *out, struct err *e);

#endif
