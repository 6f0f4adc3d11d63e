#include "node/workers.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "node/net/listener.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	BACKOFF_MS = 100, /* before a worker is started again; doubles */
	BACKOFF_MAX_MS = 10000,
	STEADY_MS = 10000,     /* who lived so long begins with the first pause again */
	STOP_LIMIT_MS = 30000, /* a drain has its own limits: who needs longer hangs */
};

struct worker {
	pid_t pid; /* 0 = not running */
	uint64_t started_ms;
	uint64_t due_ms; /* not running: when to start it */
	uint64_t backoff_ms;
};

struct workers {
	const struct node_config *config;
	unsigned n;
	struct worker *v; /* slot i is worker i + 1 */
	struct spread *spread;
	int mqtt_fd; /* 0 = not served, as insecure_fd */
	int insecure_fd;
	sigset_t signals; /* those that this process waits for */
	sigset_t before;  /* the mask it came with, which is the workers' */
	bool stopping;
	uint64_t kill_ms; /* stopping: when what still runs is killed */
	int status;
};

static uint64_t now_ms(void)
{
	return clock_us() / 1000;
}

/* ---- a worker's life ------------------------------------------------------------------------- */

static void take_port(struct addr *a, unsigned slot)
{
	if (a->port)
		a->port = (uint16_t)(a->port + slot);
}

/* In the new process: a node like any other, on the sockets it was born with. */
static int worker_main(const struct workers *w, unsigned slot)
{
	struct node_config c = *w->config;
	char name[NODE_NAME_MAX + 8];
	char origin[32];

	snprintf(name, sizeof name, "%s/%u", c.name, slot + 1);
	snprintf(origin, sizeof origin, "worker=%u", slot + 1);
	log_set_origin(origin);
	c.name = name;
	c.shared = (struct node_shared){w->spread, slot, w->mqtt_fd, w->insecure_fd};
	take_port(&c.admin, slot);
	take_port(&c.peer.listen, slot);
	take_port(&c.peer.advertise, slot);
	return node_run(&c);
}

static void worker_start(struct workers *w, unsigned slot)
{
	struct worker *worker = &w->v[slot];
	pid_t parent = getpid();
	pid_t pid = fork();

	if (pid == 0) {
		/* asked for after the fork: the parent may be gone already */
		if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent)
			_exit(1);
		sigprocmask(SIG_SETMASK, &w->before, NULL);
		exit(worker_main(w, slot));
	}
	worker->started_ms = now_ms();
	if (pid < 0) {
		log_error("workers", "worker=%u not started: %s", slot + 1, strerror(errno));
		worker->due_ms = worker->started_ms + BACKOFF_MAX_MS;
		return;
	}
	worker->pid = pid;
	log_info("workers", "worker=%u pid=%d started", slot + 1, (int)pid);
}

static void signal_all(const struct workers *w, int number)
{
	for (unsigned i = 0; i < w->n; i++) {
		if (w->v[i].pid)
			kill(w->v[i].pid, number);
	}
}

static unsigned running(const struct workers *w)
{
	unsigned n = 0;

	for (unsigned i = 0; i < w->n; i++)
		n += w->v[i].pid != 0;
	return n;
}

static void close_sockets(struct workers *w)
{
	if (w->mqtt_fd)
		close(w->mqtt_fd);
	if (w->insecure_fd)
		close(w->insecure_fd);
	w->mqtt_fd = w->insecure_fd = 0;
}

/* The workers close their copies of the sockets; with ours gone too, clients are refused and go
 * elsewhere. */
static void stop(struct workers *w)
{
	w->stopping = true;
	w->kill_ms = now_ms() + STOP_LIMIT_MS;
	close_sockets(w);
	signal_all(w, SIGTERM);
}

static void kill_all(struct workers *w)
{
	w->status = 1;
	w->kill_ms = UINT64_MAX;
	signal_all(w, SIGKILL);
}

/* ---- what happens to them -------------------------------------------------------------------- */

/* Whoever dies often is not started ever faster. */
static void schedule(struct worker *worker)
{
	uint64_t now = now_ms();

	if (now - worker->started_ms >= STEADY_MS || !worker->backoff_ms)
		worker->backoff_ms = BACKOFF_MS;
	else if (worker->backoff_ms < BACKOFF_MAX_MS / 2)
		worker->backoff_ms *= 2;
	else
		worker->backoff_ms = BACKOFF_MAX_MS;
	worker->due_ms = now + worker->backoff_ms;
}

static void on_end(struct workers *w, unsigned slot, int status)
{
	struct worker *worker = &w->v[slot];
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
	int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;

	worker->pid = 0;
	spread_leave(w->spread, slot);
	if (w->stopping) {
		log_info("workers", "worker=%u status=%d signal=%d ended", slot + 1, code, number);
		if (status && number != SIGTERM) /* which ends one that has hardly begun */
			w->status = 1;
		return;
	}
	if (code && !spread_was_used(w->spread)) {
		log_error("workers", "worker=%u status=%d cannot serve: ending", slot + 1, code);
		w->status = code;
		stop(w);
		return;
	}
	schedule(worker);
	log_warn("workers", "worker=%u status=%d signal=%d restart_ms=%" PRIu64 " ended by itself",
	         slot + 1, code, number, worker->backoff_ms);
}

static void reap(struct workers *w)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (unsigned i = 0; i < w->n; i++) {
			if (w->v[i].pid == pid)
				on_end(w, i, status);
		}
	}
}

static void on_signal(struct workers *w, int number)
{
	if (number == SIGHUP) {
		signal_all(w, SIGHUP);
	} else if (number != SIGCHLD && w->stopping) {
		log_warn("workers", "a second signal: ending at once");
		kill_all(w);
	} else if (number != SIGCHLD) {
		log_info("workers", "signal received, shutting down");
		stop(w);
	}
}

/* ---- the round ------------------------------------------------------------------------------- */

/* Start whom it is time to start, end what hangs; when to look again. */
static uint64_t act(struct workers *w)
{
	uint64_t now = now_ms();
	uint64_t next = w->stopping ? w->kill_ms : UINT64_MAX;

	if (w->stopping && now >= w->kill_ms) {
		log_error("workers", "running=%u not ended in time: killed", running(w));
		kill_all(w);
		next = UINT64_MAX;
	}
	for (unsigned i = 0; i < w->n && !w->stopping; i++) {
		struct worker *worker = &w->v[i];

		if (!worker->pid && now >= worker->due_ms)
			worker_start(w, i);
		if (!worker->pid && worker->due_ms < next)
			next = worker->due_ms;
	}
	return next;
}

static void wait_until(struct workers *w, uint64_t until_ms)
{
	uint64_t now = now_ms();
	uint64_t ms = until_ms > now ? until_ms - now : 0;
	struct timespec limit = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
	int number = sigtimedwait(&w->signals, NULL, until_ms == UINT64_MAX ? NULL : &limit);

	if (number > 0)
		on_signal(w, number);
	reap(w);
}

static void mind(struct workers *w)
{
	uint64_t next;

	do {
		next = act(w);
		wait_until(w, next);
	} while (!w->stopping || running(w));
}

/* ---- life ------------------------------------------------------------------------------------ */

static int bind_one(const struct addr *a, int *fd, struct err *e)
{
	char text[ADDR_TEXT];

	if (!addr_is_set(a))
		return 0;
	*fd = listener_bind(addr_text(a, text), e);
	return *fd < 0 ? -1 : 0;
}

static int check_ports(const struct addr *a, unsigned n, const char *option, struct err *e)
{
	if (a->port && a->port + n - 1 > UINT16_MAX)
		return err_set(e, 0, "%s: %u workers need the ports from %u on, which do not exist",
		               option, n, a->port);
	return 0;
}

static int prepare(struct workers *w, struct err *e)
{
	const struct node_config *c = w->config;

	if (node_check(c, e) < 0 || check_ports(&c->admin, w->n, "--admin", e) < 0)
		return -1;
	if (strlen(c->name) > NODE_NAME_MAX)
		return err_set(e, 0, "--name: %d bytes at most", NODE_NAME_MAX);
	return bind_one(&c->mqtt, &w->mqtt_fd, e) < 0 ||
	                       bind_one(&c->insecure, &w->insecure_fd, e) < 0
	               ? -1
	               : 0;
}

static void take_signals(struct workers *w)
{
	signal(SIGHUP, SIG_IGN); /* where nobody waits for it; a node sees to it itself */
	sigemptyset(&w->signals);
	sigaddset(&w->signals, SIGTERM);
	sigaddset(&w->signals, SIGINT);
	sigaddset(&w->signals, SIGHUP);
	sigaddset(&w->signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &w->signals, &w->before);
}

int workers_run(const struct node_config *config, unsigned n)
{
	struct workers w = {.config = config, .n = n};
	struct err e;

	assert(n > 0 && n <= WORKERS_MAX);
	if (prepare(&w, &e) < 0) {
		log_error("workers", "%s", e.text);
		close_sockets(&w);
		return 1;
	}
	w.v = xcalloc(n, sizeof *w.v);
	w.spread = spread_new();
	take_signals(&w);
	mind(&w);
	log_info("workers", "status=%d stopped", w.status); /* signals change nothing any more */
	spread_free(w.spread);
	free(w.v);
	return w.status;
}
