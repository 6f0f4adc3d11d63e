/* mesh: links between the dispatch objects of one simulation (cluster/sim.h): every message is
 * copied, takes its time, and arrives in order, or is lost with its link. A node is known by the
 * session of its bus at the time a link came up. */
#ifndef LEAT_TESTS_UNIT_NODE_MESH_H
#define LEAT_TESTS_UNIT_NODE_MESH_H

#include "cluster/bus.h"
#include "cluster/sim.h"
#include "node/delivery/dispatch.h"
#include "node/peer/peer.h"

#include <stdbool.h>
#include <stdint.h>

enum { MESH_NODES = 4 };

struct mesh;

struct mesh *mesh_new(struct sim *s, uint32_t delay_ms); /* a message takes 0 to delay_ms */
void mesh_free(struct mesh *m);

/* The node is there; links to the others come up by and by. A place that was left is used again. */
void mesh_join(struct mesh *m, uint32_t no, struct bus *bus, struct dispatch *d);
void mesh_leave(struct mesh *m, uint32_t no);            /* it died: the others hear of it */
void mesh_tick(struct mesh *m);                          /* links that should be up come up */
void mesh_cut(struct mesh *m, uint32_t a, uint32_t b);   /* now; mesh_tick brings it back */
void mesh_block(struct mesh *m, uint32_t no, bool full); /* as links.h says */
/* Something that its dispatch never said. */
void mesh_say(struct mesh *m, uint32_t from, uint32_t to, const struct peer_message *msg);
uint64_t mesh_messages(const struct mesh *m); /* delivered so far */

#endif
