#include "node/net/resolve.h"

#include "base/mem.h"
#include "node/net/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <unistd.h>

/* One name on its way. Belongs to its thread, then to shared->done, then to the loop. */
struct lookup {
	STAILQ_ENTRY(lookup) done_entry;
	struct shared *shared;
	uint64_t id;
	struct addr addr; /* the name; then what was found */
	struct err err;   /* text "" = found */
};

STAILQ_HEAD(lookup_list, lookup);

/* What threads and loop share; goes with the last of them. */
struct shared {
	pthread_mutex_t mtx;
	unsigned users;          /* guarded by mtx: the resolver and each thread */
	struct lookup_list done; /* guarded by mtx */
	int fd;                  /* eventfd: there is something in `done` */
};

/* Who waits for it; loop thread only. */
struct ask {
	TAILQ_ENTRY(ask) entry;
	uint64_t id;
	resolve_fn *done;
	void *arg;
};

struct resolver {
	struct loop *loop;
	struct shared *shared;
	struct loop_watch *watch;
	TAILQ_HEAD(, ask) asks;
	unsigned running;
	uint64_t last_id;
};

static void shared_unref(struct shared *s)
{
	struct lookup *k;
	bool last;

	pthread_mutex_lock(&s->mtx);
	last = --s->users == 0;
	pthread_mutex_unlock(&s->mtx);
	if (!last)
		return;
	while ((k = STAILQ_FIRST(&s->done))) {
		STAILQ_REMOVE_HEAD(&s->done, done_entry);
		free(k);
	}
	close(s->fd);
	pthread_mutex_destroy(&s->mtx);
	free(s);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void *look_up(void *arg)
{
	struct lookup *k = arg;
	struct shared *s = k->shared;
	struct sockaddr_storage ss;
	socklen_t len;
	uint64_t one = 1;

	if (addr_resolve(&k->addr, false, &ss, &len, &k->err) == 0) {
		k->err.text[0] = '\0';
		addr_of_sockaddr(&k->addr, (struct sockaddr *)&ss);
	}
	pthread_mutex_lock(&s->mtx);
	STAILQ_INSERT_TAIL(&s->done, k, done_entry);
	pthread_mutex_unlock(&s->mtx);
	if (write(s->fd, &one, sizeof one) < 0)
		fatal("eventfd: %s", strerror(errno));
	shared_unref(s);
	return NULL;
}

static int start(struct lookup *k)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all;
	sigset_t before;
	int rc;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the loop's */
	rc = pthread_create(&thread, &attr, look_up, k);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return rc;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static struct ask *ask_find(struct resolver *r, uint64_t id)
{
	struct ask *a;

	TAILQ_FOREACH (a, &r->asks, entry) {
		if (a->id == id)
			return a;
	}
	return NULL;
}

static void answer(struct resolver *r, struct lookup *k)
{
	struct ask *a = ask_find(r, k->id);
	bool found = !k->err.text[0];

	r->running--;
	if (a) {
		TAILQ_REMOVE(&r->asks, a, entry);
		a->done(a->arg, found ? &k->addr : NULL, found ? NULL : k->err.text);
		free(a);
	}
	free(k);
}

static void on_done(void *arg)
{
	struct resolver *r = arg;
	struct lookup_list done = STAILQ_HEAD_INITIALIZER(done);
	struct lookup *k;
	uint64_t n;

	if (read(r->shared->fd, &n, sizeof n) < 0)
		return;
	pthread_mutex_lock(&r->shared->mtx);
	STAILQ_CONCAT(&done, &r->shared->done);
	pthread_mutex_unlock(&r->shared->mtx);
	while ((k = STAILQ_FIRST(&done))) {
		STAILQ_REMOVE_HEAD(&done, done_entry);
		answer(r, k);
	}
}

int resolver_ask(struct resolver *r, const struct addr *addr, resolve_fn *done, void *arg,
                 struct err *e)
{
	struct lookup *k;
	struct ask *a;
	int rc;

	if (r->running >= RESOLVE_MAX)
		return err_set(e, 0, "too many host names are being looked up");
	k = xcalloc(1, sizeof *k);
	k->shared = r->shared;
	k->id = ++r->last_id;
	k->addr = *addr;
	pthread_mutex_lock(&r->shared->mtx);
	r->shared->users++;
	pthread_mutex_unlock(&r->shared->mtx);
	rc = start(k);
	if (rc) {
		shared_unref(r->shared);
		free(k);
		return err_set(e, rc, "no thread for a host name: %s", strerror(rc));
	}
	r->running++;
	a = xcalloc(1, sizeof *a);
	*a = (struct ask){.id = r->last_id, .done = done, .arg = arg};
	TAILQ_INSERT_TAIL(&r->asks, a, entry);
	return 0;
}

void resolver_forget(struct resolver *r, const void *arg)
{
	struct ask *a;
	struct ask *next;

	for (a = TAILQ_FIRST(&r->asks); a; a = next) {
		next = TAILQ_NEXT(a, entry);
		if (a->arg != arg)
			continue;
		TAILQ_REMOVE(&r->asks, a, entry);
		free(a);
	}
}

struct resolver *resolver_new(struct loop *l)
{
	struct resolver *r = xcalloc(1, sizeof *r);
	struct shared *s = xcalloc(1, sizeof *s);

	pthread_mutex_init(&s->mtx, NULL);
	s->users = 1;
	STAILQ_INIT(&s->done);
	s->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->fd < 0)
		fatal("eventfd: %s", strerror(errno));
	TAILQ_INIT(&r->asks);
	r->loop = l;
	r->shared = s;
	r->watch = loop_watch_read(l, s->fd, on_done, r);
	return r;
}

void resolver_free(struct resolver *r)
{
	struct ask *a;

	if (!r)
		return;
	while ((a = TAILQ_FIRST(&r->asks))) {
		TAILQ_REMOVE(&r->asks, a, entry);
		free(a);
	}
	loop_watch_free(r->watch);
	shared_unref(r->shared);
	free(r);
}
