#include "node/net/hangup.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/net/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BATCH = 64 };

struct hangup {
	int fd; /* of the epoll set */
	struct loop_watch *watch;
	void (*fn)(void *arg, uint64_t id);
	void *arg;
};

/* More than fit in here keep the set readable, so they come in the next turn. */
static void on_some(void *arg)
{
	struct hangup *h = arg;
	struct epoll_event v[BATCH];
	int n = epoll_wait(h->fd, v, BATCH, 0);

	for (int i = 0; i < n; i++)
		h->fn(h->arg, v[i].data.u64);
}

struct hangup *hangup_new(struct loop *l, void (*fn)(void *arg, uint64_t id), void *arg)
{
	struct hangup *h = xcalloc(1, sizeof *h);

	h->fd = epoll_create1(EPOLL_CLOEXEC);
	if (h->fd < 0)
		fatal("epoll: %s", strerror(errno));
	h->fn = fn;
	h->arg = arg;
	h->watch = loop_watch_read(l, h->fd, on_some, h);
	return h;
}

void hangup_free(struct hangup *h)
{
	if (!h)
		return;
	loop_watch_free(h->watch);
	close(h->fd);
	free(h);
}

void hangup_watch(struct hangup *h, int fd, uint64_t id)
{
	struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.u64 = id};

	/* for want of memory, or a limit of the system's */
	if (epoll_ctl(h->fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		log_warn("hangup", "fd=%d error=%s", fd, log_quote_str(strerror(errno)));
}

void hangup_forget(struct hangup *h, int fd)
{
	epoll_ctl(h->fd, EPOLL_CTL_DEL, fd, NULL); /* it may not have been let in */
}
