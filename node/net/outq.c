#include "node/net/outq.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

struct outq_seg {
	struct outq_seg *next;
	const char *p; /* the first byte not yet consumed */
	size_t n;      /* bytes from p */
	size_t room;   /* bytes free behind them; 0 when referenced */
	void *owner;
	void (*release)(void *); /* NULL = the bytes are in store[] */
	char store[];
};

/* The first chunk stays within malloc's per-thread cache: most turns write a few hundred bytes to
 * a connection. Whoever writes more gets chunks of a TLS record's size. */
enum {
	FIRST_STORE = 1024 - sizeof(struct outq_seg),
	NEXT_STORE = 16384 - sizeof(struct outq_seg),
};

static void seg_push(struct outq *q, struct outq_seg *s)
{
	s->next = NULL;
	if (q->tail)
		q->tail->next = s;
	else
		q->head = s;
	q->tail = s;
}

static void seg_pop(struct outq *q)
{
	struct outq_seg *s = q->head;

	q->head = s->next;
	if (!q->head)
		q->tail = NULL;
	if (s->release)
		s->release(s->owner);
	free(s);
}

void outq_copy(struct outq *q, const void *p, size_t n)
{
	struct outq_seg *s = q->tail;
	size_t fit = s && s->room ? (n < s->room ? n : s->room) : 0;
	size_t cap;

	if (fit) {
		memcpy((char *)s->p + s->n, p, fit);
		s->n += fit;
		s->room -= fit;
	}
	q->bytes += n;
	n -= fit;
	if (!n)
		return;
	cap = q->head ? NEXT_STORE : FIRST_STORE;
	if (cap < n)
		cap = n > NEXT_STORE ? n : NEXT_STORE;
	s = xmalloc(sizeof *s + cap);
	memcpy(s->store, (const char *)p + fit, n);
	*s = (struct outq_seg){.p = s->store, .n = n, .room = cap - n};
	seg_push(q, s);
}

void outq_ref(struct outq *q, const void *p, size_t n, void *owner, void (*release)(void *))
{
	struct outq_seg *s = xmalloc(sizeof *s);

	assert(n && release);
	*s = (struct outq_seg){.p = p, .n = n, .owner = owner, .release = release};
	seg_push(q, s);
	q->bytes += n;
}

struct slice outq_front(const struct outq *q)
{
	return q->head ? slice(q->head->p, q->head->n) : slice(NULL, 0);
}

size_t outq_gather(const struct outq *q, char *dst, size_t max)
{
	size_t n = 0;

	for (const struct outq_seg *s = q->head; s && n < max; s = s->next) {
		size_t take = s->n < max - n ? s->n : max - n;

		memcpy(dst + n, s->p, take);
		n += take;
	}
	return n;
}

int outq_iovec(const struct outq *q, struct iovec *v, int max)
{
	int n = 0;

	for (const struct outq_seg *s = q->head; s && n < max; s = s->next)
		v[n++] = (struct iovec){.iov_base = (char *)s->p, .iov_len = s->n};
	return n;
}

void outq_consume(struct outq *q, size_t n)
{
	assert(n <= q->bytes);
	q->bytes -= n;
	while (n) {
		struct outq_seg *s = q->head;

		if (n < s->n) {
			s->p += n;
			s->n -= n;
			return;
		}
		n -= s->n;
		seg_pop(q);
	}
}

void outq_release(struct outq *q)
{
	while (q->head)
		seg_pop(q);
	q->bytes = 0;
}
