/* workers: `leat node --workers N`: this process binds the client listeners, forks N nodes that
 * accept from them, and minds them until a signal ends all. Each worker is a whole node, with a
 * name (NAME/1 ..), an admin and a peer port (the first one's, +1, +2 ..; or each a free one) of
 * its own.
 *
 * SIGTERM, SIGINT: the workers drain; the status is 0 when all ended with 0. A second one, or 30
 * seconds, ends them at once. SIGHUP is passed on. A worker that ends by itself is started again,
 * after a pause that doubles from 0.1 s to 10 s while it does not live 10 s; one that cannot start
 * before any has served ends them all with its status. When this process dies, however it does,
 * the workers drain. */
#ifndef LEAT_NODE_WORKERS_H
#define LEAT_NODE_WORKERS_H

#include "node/net/spread.h"
#include "node/node.h"

enum { WORKERS_MAX = SPREAD_MAX };

/* The exit status; what was wrong is logged. Before any thread was started. */
int workers_run(const struct node_config *config, unsigned n);

#endif
