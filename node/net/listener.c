#include "node/net/listener.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/net/addr.h"
#include "node/net/conn.h"
#include "node/net/loop.h"
#include "node/net/spread.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	ACCEPTS_A_TURN = 64, /* so that a storm leaves time for the connected */
	SHARED_A_TURN = 8,   /* and, where others accept too, something for them */
	YIELD_MS = 1,        /* how long who is less busy goes first */
	BACKLOG = 4096,
	RETRY_MS = 20,  /* look again whether there is room */
	NO_FD_MS = 200, /* out of descriptors: nothing gets better at once */
	MAX_CONNS = 100000,
	MAX_HANDSHAKES = 4096,
};

struct listener {
	struct loop *loop;
	struct conn_table *table;
	struct listener_options o;
	char *name;
	int fd;      /* -1 = stopped */
	int reserve; /* a descriptor to give up when there are no more; see out_of_fds */
	struct loop_watch *watch;
	struct loop_timer *retry;
	bool complained; /* about the present shortage */
	bool yielded;    /* the retry is for clients that were left to other processes */
};

static void pause_for(struct listener *l, uint64_t ms, const char *why)
{
	if (!l->complained)
		log_warn("listener", "name=%s accepting paused: %s", l->name, why);
	l->complained = true;
	loop_watch_pause(l->watch);
	loop_timer_set(l->retry, ms);
}

/* Without a descriptor the client at the head of the queue can neither be served nor told to go,
 * and the socket stays readable. Give up the reserve, tell one client, and wait. */
static void out_of_fds(struct listener *l)
{
	int fd;

	close(l->reserve);
	fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		close(fd);
	l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	pause_for(l, NO_FD_MS, "out of file descriptors");
}

static bool has_room(struct listener *l)
{
	if (conn_count(l->table) >= l->o.max_conns) {
		pause_for(l, RETRY_MS, "the limit of connections is reached");
		return false;
	}
	if (conn_handshakes(l->table) >= l->o.max_handshakes) {
		pause_for(l, RETRY_MS, "too many unfinished TLS handshakes");
		return false;
	}
	return true;
}

static void accept_some(struct listener *l, int n)
{
	for (int i = 0; i < n && has_room(l); i++) {
		int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
			    errno == ENOBUFS)
				out_of_fds(l);
			/* EAGAIN: no more; otherwise the client has gone already */
			return;
		}
		l->complained = false;
		conn_accept(l->table, fd, l->o.tls, l->o.ops, l->o.arg);
	}
}

static void tell_others(void *arg)
{
	struct listener *l = arg;

	if (l->fd >= 0)
		spread_set(l->o.spread, l->o.slot, conn_count(l->table));
}

/* The kernel wakes every process that waits, and often the same one is first. So who has more
 * connections than another leaves it the client, and takes it after a moment all the same: the
 * other may be stopped or busy. */
static bool yield(struct listener *l)
{
	if (!l->o.spread)
		return false;
	tell_others(l);
	if (!spread_is_ahead(l->o.spread, l->o.slot))
		return false;
	l->yielded = true;
	loop_watch_pause(l->watch);
	loop_timer_set(l->retry, YIELD_MS);
	return true;
}

static void on_connection(void *arg)
{
	struct listener *l = arg;

	if (!yield(l))
		accept_some(l, l->o.spread ? SHARED_A_TURN : ACCEPTS_A_TURN);
}

static void on_retry(void *arg)
{
	struct listener *l = arg;

	if (l->fd < 0)
		return;
	loop_watch_resume(l->watch);
	if (l->yielded)
		accept_some(l, SHARED_A_TURN);
	l->yielded = false;
}

/* ---- the socket */

static int bind_fd(int fd, const struct sockaddr_storage *ss, socklen_t len)
{
	int on = 1;
	int off = 0;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (ss->ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
	return bind(fd, (const struct sockaddr *)ss, len);
}

static int bind_on(const struct addr *a, struct err *e)
{
	char text[ADDR_TEXT];
	struct sockaddr_storage ss;
	socklen_t len;
	int fd;

	if (addr_resolve(a, true, &ss, &len, e) < 0)
		return -1;
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && bind_fd(fd, &ss, len) == 0)
		return fd;
	err_set(e, errno, "cannot listen on %.100s: %s", addr_text(a, text), strerror(errno));
	if (fd >= 0)
		close(fd);
	return -1;
}

int listener_bind(const char *addr, struct err *e)
{
	struct addr a;
	int fd;

	if (addr_parse(&a, addr, e) < 0)
		return -1;
	if (a.host[0])
		return bind_on(&a, e);
	/* every interface: one socket for both families, or IPv4 where there is no IPv6 */
	strcpy(a.host, "::");
	fd = bind_on(&a, NULL);
	if (fd >= 0)
		return fd;
	strcpy(a.host, "0.0.0.0");
	return bind_on(&a, e);
}

/* On a shared socket every process does it: the first one's counts. */
static int start_listening(int fd, const char *addr, struct err *e)
{
	if (listen(fd, BACKLOG) == 0)
		return fd;
	err_set(e, errno, "cannot listen on %.100s: %s", addr, strerror(errno));
	close(fd);
	return -1;
}

int listener_open(const char *addr, struct err *e)
{
	int fd = listener_bind(addr, e);

	return fd < 0 ? -1 : start_listening(fd, addr, e);
}

void listener_addr(const struct listener *l, struct addr *out)
{
	struct sockaddr_storage ss = {0};
	socklen_t len = sizeof ss;

	getsockname(l->fd, (struct sockaddr *)&ss, &len);
	addr_of_sockaddr(out, (struct sockaddr *)&ss);
}

uint16_t listener_port(const struct listener *l)
{
	struct addr a;

	listener_addr(l, &a);
	return a.port;
}

/* ---- life */

struct listener *listener_new(struct loop *loop, struct conn_table *t,
                              const struct listener_options *o, struct err *e)
{
	struct listener *l;
	struct addr bound;
	char text[ADDR_TEXT];
	int fd = o->fd > 0 ? start_listening(o->fd, o->addr, e) : listener_open(o->addr, e);

	if (fd < 0)
		return NULL;
	l = xcalloc(1, sizeof *l);
	l->loop = loop;
	l->table = t;
	l->o = *o;
	l->o.max_conns = o->max_conns ? o->max_conns : MAX_CONNS;
	l->o.max_handshakes = o->max_handshakes ? o->max_handshakes : MAX_HANDSHAKES;
	l->name = xstrdup(o->name);
	l->fd = fd;
	l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	l->watch = loop_watch_read(loop, fd, on_connection, l);
	l->retry = loop_after(loop, 0, on_retry, l);
	if (o->spread) {
		tell_others(l);
		loop_on_turn_end(loop, tell_others, l);
	}
	listener_addr(l, &bound);
	log_info("listener", "name=%s addr=%s tls=%s listening", l->name, addr_text(&bound, text),
	         o->tls ? "yes" : "no");
	return l;
}

void listener_stop(struct listener *l)
{
	if (l->fd < 0)
		return;
	loop_watch_free(l->watch);
	loop_timer_stop(l->retry);
	if (l->o.spread) {
		loop_hook_del(l->loop, tell_others, l);
		spread_leave(l->o.spread, l->o.slot);
	}
	l->watch = NULL;
	close(l->fd);
	l->fd = -1;
	log_info("listener", "name=%s stopped", l->name);
}

void listener_free(struct listener *l)
{
	if (!l)
		return;
	listener_stop(l);
	loop_timer_free(l->retry);
	if (l->reserve >= 0)
		close(l->reserve);
	free(l->name);
	free(l);
}
