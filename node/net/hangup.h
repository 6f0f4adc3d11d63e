/* hangup: tells of sockets that nobody reads when their peer closes or resets, and does not touch
 * what they hold unread. One for all connections of a loop; loop thread only.
 *
 * An epoll set of its own, seen by the loop as one descriptor: libevent's EV_CLOSED says nothing of
 * a reset, and is called without end for one. */
#ifndef LEAT_NODE_HANGUP_H
#define LEAT_NODE_HANGUP_H

#include <stdint.h>

struct hangup;
struct loop;

/* fn is told the id that came with the socket, in a turn of its own. */
struct hangup *hangup_new(struct loop *l, void (*fn)(void *arg, uint64_t id), void *arg);
void hangup_free(struct hangup *h);

/* Tell once; also if it has happened already. The fd stays the caller's, who forgets it before it
 * is closed or watched anew. */
void hangup_watch(struct hangup *h, int fd, uint64_t id);
void hangup_forget(struct hangup *h, int fd);

#endif
