/* outq: the bytes a connection has yet to send, in order: copied into chunks, or referenced where
 * they lie. Embedded in a connection; loop thread only. An empty queue holds no memory. */
#ifndef LEAT_NODE_OUTQ_H
#define LEAT_NODE_OUTQ_H

#include "base/slice.h"

#include <stddef.h>

struct outq_seg;
struct iovec;

struct outq {
	struct outq_seg *head;
	struct outq_seg *tail;
	size_t bytes; /* in the whole queue */
};

void outq_copy(struct outq *q, const void *p, size_t n);
/* p stays where it is until sent or dropped; then release(owner) is called once. */
void outq_ref(struct outq *q, const void *p, size_t n, void *owner, void (*release)(void *));

struct slice outq_front(const struct outq *q); /* the contiguous bytes at the front */
size_t outq_gather(const struct outq *q, char *dst, size_t max); /* copy, do not consume */
int outq_iovec(const struct outq *q, struct iovec *v, int max);  /* returns how many were filled */
void outq_consume(struct outq *q, size_t n);
void outq_release(struct outq *q); /* drop everything; the queue is usable again */

#endif
