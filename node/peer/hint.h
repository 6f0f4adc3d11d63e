/* hint: after each COMMIT the other nodes are told which heads it moved, so that they read on at
 * once instead of at their next look. Sent after the COMMIT: what is hinted is durable. May be
 * lost. Loop thread only. */
#ifndef LEAT_NODE_PEER_HINT_H
#define LEAT_NODE_PEER_HINT_H

#include "base/id128.h"
#include "cluster/batch.h"
#include "cluster/bus.h"
#include "node/peer/peer.h"

#include <stddef.h>
#include <stdint.h>

enum { HINT_NO_WRITER = UINT32_MAX }; /* a commit that is no writer's flush */

/* The node of session `me` committed these; batches of one head are together, in their order. */
void hint_send(struct peer_port *port, const struct id128 *me, uint32_t writer_no,
               uint64_t flush_no, struct batch *const *batches, size_t n);

#endif
