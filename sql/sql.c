#include "sql/sql.h"

#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>

enum {
	LANE_THREADS_MAX = 2,
	BACKOFF_MIN_MS = 50,
	BACKOFF_MAX_MS = 2000,
};

static const struct {
	const char *name;
	unsigned threads;
} lane_table[SQL_LANE_COUNT] = {
        [SQL_LANE_WRITER0] = {"writer0", 1}, [SQL_LANE_WRITER1] = {"writer1", 1},
        [SQL_LANE_CURSOR] = {"cursor", 1},   [SQL_LANE_READ] = {"read", 2},
        [SQL_LANE_SESSION] = {"session", 1}, [SQL_LANE_ADMIN] = {"admin", 1},
        [SQL_LANE_LEADER] = {"leader", 1},
};

/* One submitted job: in its lane's queue, then in a worker's hands, then in the list of the done.
 */
struct task {
	STAILQ_ENTRY(task) entry; /* guarded by the lane's mtx */
	struct task *next_done;
	sql_work_fn work;
	sql_done_fn done;
	void *job;
	enum sql_job_flags flags;
	uint64_t generation; /* of its submission */
	enum sql_outcome outcome;
};

struct worker {
	struct sql *sql;
	struct lane *lane;
	pthread_t thread;
	/* worker thread only */
	struct sql_conn *conn;
	uint64_t conn_generation; /* the connection was opened in */
	unsigned attempts;        /* failed connects in a row */
	unsigned seed;            /* for jitter */
};

struct lane {
	const char *name;
	unsigned threads; /* started */
	struct worker workers[LANE_THREADS_MAX];
	pthread_mutex_t mtx;
	pthread_cond_t cond;
	STAILQ_HEAD(, task) queue; /* guarded by mtx */
	unsigned queued;           /* guarded by mtx */
	bool stop;                 /* guarded by mtx */
	/* Highest generation a worker of this lane was connected in: the lane is up while that is
	 * the current one, so that raising the generation takes every lane down at once. */
	atomic_uint_fast64_t up_generation;
};

struct sql {
	struct dsn dsn; /* read-only once the threads run */
	struct sql_settings settings;
	struct lane lanes[SQL_LANE_COUNT];

	pthread_mutex_t member_mtx; /* held while a lane comes up at a member, or all leave it */
	uint64_t member;            /* guarded; modulo the DSN's hosts, the one in use */
	atomic_uint_fast64_t generation;
	atomic_uint_fast64_t max_packet;
	_Atomic(struct task *)
	        done; /* completed, newest first; pushed by any thread, emptied by the loop */
	int wake_fd;  /* eventfd: `done` went from empty to not, or the state changed */

	/* loop thread only */
	struct event *wake;
	uint64_t told_generation;
	bool told_up;
	bool stopping;
};

/* ---- completions ------------------------------------------------------------------------------
 */

static void wake_loop(struct sql *s)
{
	uint64_t one = 1;

	/* A full counter (EAGAIN) wakes the loop just as well. */
	if (write(s->wake_fd, &one, sizeof one) < 0 && errno != EAGAIN)
		fatal("eventfd: %s", strerror(errno));
}

/* Any thread. Wakes the loop only for the first of a batch: it takes the whole list at once. */
static void complete(struct sql *s, struct task *t, enum sql_outcome outcome)
{
	struct task *head = atomic_load(&s->done);

	t->outcome = outcome;
	do {
		t->next_done = head;
	} while (!atomic_compare_exchange_weak(&s->done, &head, t));
	if (!head)
		wake_loop(s);
}

static struct task *reversed(struct task *t)
{
	struct task *out = NULL;

	while (t) {
		struct task *next = t->next_done;

		t->next_done = out;
		out = t;
		t = next;
	}
	return out;
}

static void call_done(struct task *list)
{
	while (list) {
		struct task *t = list;

		list = t->next_done;
		t->done(t->job, t->outcome);
		free(t);
	}
}

/* ---- generations ------------------------------------------------------------------------------
 */

uint64_t sql_generation(const struct sql *s)
{
	return atomic_load(&s->generation);
}

static bool lane_is_up(const struct sql *s, const struct lane *l)
{
	return atomic_load(&l->up_generation) == atomic_load(&s->generation);
}

bool sql_is_up(const struct sql *s)
{
	for (int i = 0; i < SQL_LANE_COUNT; i++)
		if (!lane_is_up(s, &s->lanes[i]))
			return false;
	return true;
}

/* The connections of this generation are of no more use. If it is already over, its end was told by
 * another worker. */
static void worker_end_generation(struct worker *w, uint_fast64_t generation)
{
	struct sql *s = w->sql;

	if (!atomic_compare_exchange_strong(&s->generation, &generation, generation + 1))
		return;
	log_warn("sql", "lane=%s generation=%" PRIu64 " connection lost, error=%s", w->lane->name,
	         (uint64_t)generation + 1, log_quote_str(sql_error(w->conn)));
	for (int i = 0; i < SQL_LANE_COUNT;
	     i++) { /* idle ones reconnect now, not at their next ping */
		pthread_mutex_lock(&s->lanes[i].mtx);
		pthread_cond_broadcast(&s->lanes[i].cond);
		pthread_mutex_unlock(&s->lanes[i].mtx);
	}
	wake_loop(s);
}

/* ---- worker thread ----------------------------------------------------------------------------
 */

static struct timespec deadline_in(unsigned ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

static bool is_stale(const struct sql *s, const struct task *t)
{
	return !(t->flags & SQL_ANY_GENERATION) && t->generation != sql_generation(s);
}

/* With mtx held: complete what must not run any more, so that nobody waits for a dead connection.
 */
static void fail_stale(struct sql *s, struct lane *l)
{
	struct task *t, *next;

	for (t = STAILQ_FIRST(&l->queue); t; t = next) {
		next = STAILQ_NEXT(t, entry);
		if (!is_stale(s, t))
			continue;
		STAILQ_REMOVE(&l->queue, t, task, entry);
		l->queued--;
		complete(s, t, SQL_RETRY);
	}
}

/* Sleep through the backoff. New jobs do not end it; the end of the pool does. false = stop. */
static bool worker_back_off(struct worker *w)
{
	struct lane *l = w->lane;
	unsigned ms = BACKOFF_MAX_MS;
	struct timespec until;
	bool stop;

	if (w->attempts < 6)
		ms = BACKOFF_MIN_MS << w->attempts;
	w->attempts++;
	until = deadline_in(ms / 2 + (unsigned)rand_r(&w->seed) % ms);
	pthread_mutex_lock(&l->mtx);
	while (!l->stop && pthread_cond_timedwait(&l->cond, &l->mtx, &until) != ETIMEDOUT)
		fail_stale(w->sql, l);
	stop = l->stop;
	pthread_mutex_unlock(&l->mtx);
	return !stop;
}

static void worker_lost(struct worker *w)
{
	worker_end_generation(w, w->conn_generation);
}

/* A server that a failover led to must be as durable as the first one was. */
static int worker_open(struct worker *w, uint64_t member, struct err *e)
{
	if (sql_conn_open_at(w->conn, (unsigned)(member % w->sql->dsn.host_count), e))
		return -1;
	if (sql_check_durable(sql_conn_server(w->conn), w->sql->settings.accept_data_loss, e) == 0)
		return 0;
	sql_conn_close(w->conn);
	return -1;
}

/* Eight lanes have the same to say about a server that is away: one speaks for all at first, and
 * each ever more seldom. */
static void log_attempt(const struct worker *w, const struct err *e)
{
	unsigned n = w->attempts + 1;
	bool speaks = n >= 4 || w->lane == &w->sql->lanes[SQL_LANE_SESSION];

	if (speaks && (n & (n - 1)) == 0)
		log_warn("sql", "lane=%s attempts=%u not connected, error=%s", w->lane->name, n,
		         log_quote_str(e->text));
}

/* Never lower it: the lane's other worker may have connected in a later generation already. */
static void raise_to(atomic_uint_fast64_t *v, uint_fast64_t to)
{
	uint_fast64_t seen = atomic_load(v);

	while (seen < to && !atomic_compare_exchange_weak(v, &seen, to))
		;
}

/* The one place that decides which member all use. Nobody gets to it any more, or not everybody:
 * the next one is tried, and lanes that are up at this one leave it. */
static void worker_leave_member(struct worker *w, uint64_t member)
{
	struct sql *s = w->sql;
	const struct dsn_host *next = NULL;
	uint64_t was_up = 0; /* generation of the lanes that are */

	pthread_mutex_lock(&s->member_mtx);
	if (s->dsn.host_count > 1 && s->member == member) {
		next = &s->dsn.hosts[++s->member % s->dsn.host_count];
		for (int i = 0; i < SQL_LANE_COUNT; i++)
			if (lane_is_up(s, &s->lanes[i]))
				was_up = sql_generation(s);
	}
	pthread_mutex_unlock(&s->member_mtx);
	if (was_up)
		worker_end_generation(w, was_up);
	if (next)
		log_info("sql", "host=%s port=%u trying the next server", log_quote_str(next->name),
		         next->port);
}

/* false: the others have left this member meanwhile. */
static bool worker_come_up(struct worker *w, uint64_t member, uint64_t generation)
{
	struct sql *s = w->sql;
	bool same;

	pthread_mutex_lock(&s->member_mtx);
	same = s->member == member;
	if (same) {
		w->conn_generation = generation;
		raise_to(&w->lane->up_generation, generation);
	}
	pthread_mutex_unlock(&s->member_mtx);
	return same;
}

static uint64_t member_in_use(struct sql *s)
{
	uint64_t member;

	pthread_mutex_lock(&s->member_mtx);
	member = s->member;
	pthread_mutex_unlock(&s->member_mtx);
	return member;
}

static bool worker_connect(struct worker *w)
{
	struct sql *s = w->sql;
	struct lane *l = w->lane;
	uint64_t generation = sql_generation(s), member = member_in_use(s);
	struct err e;

	pthread_mutex_lock(&l->mtx);
	fail_stale(s, l);
	pthread_mutex_unlock(&l->mtx);
	if (worker_open(w, member, &e)) {
		log_attempt(w, &e);
		worker_leave_member(w, member);
		return false;
	}
	if (!worker_come_up(w, member, generation)) {
		sql_conn_close(w->conn);
		return false;
	}
	w->attempts = 0;
	atomic_store(&s->max_packet, sql_conn_server(w->conn)->max_packet);
	log_debug("sql", "lane=%s generation=%" PRIu64 " connected", l->name, generation);
	wake_loop(s);
	return true;
}

static bool worker_is_connected(const struct worker *w)
{
	return sql_conn_is_open(w->conn) && w->conn_generation == sql_generation(w->sql);
}

enum turn {
	TURN_JOB,
	TURN_PING,      /* nothing to do for a third of the server's patience */
	TURN_RECONNECT, /* the generation has changed */
	TURN_STOP,
};

static enum turn worker_wait(struct worker *w, struct task **out)
{
	struct lane *l = w->lane;
	struct timespec until = deadline_in(w->sql->settings.limits.wait_timeout_s * 1000 / 3);
	enum turn turn = TURN_PING;
	int rc = 0;

	pthread_mutex_lock(&l->mtx);
	while (!l->stop && worker_is_connected(w) && STAILQ_EMPTY(&l->queue) && rc != ETIMEDOUT)
		rc = pthread_cond_timedwait(&l->cond, &l->mtx, &until);
	if (l->stop) {
		turn = TURN_STOP;
	} else if (!worker_is_connected(w)) {
		turn = TURN_RECONNECT;
	} else if (!STAILQ_EMPTY(&l->queue)) {
		turn = TURN_JOB;
		*out = STAILQ_FIRST(&l->queue);
		STAILQ_REMOVE_HEAD(&l->queue, entry);
		l->queued--;
	}
	pthread_mutex_unlock(&l->mtx);
	return turn;
}

static void worker_run(struct worker *w, struct task *t)
{
	enum sql_outcome o = SQL_RETRY;

	if (!is_stale(w->sql, t)) {
		o = t->work(w->conn, t->job);
		sql_rollback(w->conn); /* nothing is sent when the job ended its transaction */
	}
	/* The loss first: the loop must hear of it no later than of the job's outcome. */
	if (!sql_conn_is_open(w->conn))
		worker_lost(w);
	complete(w->sql, t, o);
}

static bool worker_turn(struct worker *w)
{
	struct task *t = NULL;

	if (!worker_is_connected(w) && !worker_connect(w))
		return worker_back_off(w);
	switch (worker_wait(w, &t)) {
	case TURN_JOB:
		worker_run(w, t);
		break;
	case TURN_PING:
		if (sql_conn_ping(w->conn) != SQL_OK)
			worker_lost(w);
		break;
	case TURN_RECONNECT:
		break;
	case TURN_STOP:
		return false;
	}
	return true;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	sql_thread_begin();
	w->conn = sql_conn_new(&w->sql->dsn, &w->sql->settings.limits);
	while (worker_turn(w))
		;
	sql_conn_free(w->conn);
	sql_thread_end();
	return NULL;
}

/* ---- loop thread ------------------------------------------------------------------------------
 */

static void tell(struct sql *s, bool up)
{
	s->told_up = up;
	if (s->settings.on_generation)
		s->settings.on_generation(s->settings.arg, s->told_generation, up);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct sql *s = arg;
	struct task *list;
	uint64_t count;

	(void)what;
	if (read(fd, &count, sizeof count) < 0 && errno != EAGAIN)
		fatal("eventfd: %s", strerror(errno));
	/* List first, generation second: a job's loss is then told before its completion. */
	list = reversed(atomic_exchange(&s->done, NULL));
	if (s->told_generation != sql_generation(s)) {
		s->told_generation = sql_generation(s);
		tell(s, false);
	}
	call_done(list);
	if (!s->told_up && s->told_generation == sql_generation(s) && sql_is_up(s))
		tell(s, true);
}

static int lane_push(struct sql *s, struct lane *l, struct task *t)
{
	bool full;

	pthread_mutex_lock(&l->mtx);
	full = l->queued >= s->settings.queue_max;
	if (!full) {
		STAILQ_INSERT_TAIL(&l->queue, t, entry);
		l->queued++;
		pthread_cond_broadcast(&l->cond); /* a signal could go to one that is backing off */
	}
	pthread_mutex_unlock(&l->mtx);
	return full ? -1 : 0;
}

int sql_submit_flags(struct sql *s, enum sql_lane lane, sql_work_fn work, sql_done_fn done,
                     void *job, enum sql_job_flags flags)
{
	struct lane *l = &s->lanes[lane];
	struct task *t;

	if (s->stopping)
		return -1;
	t = xmalloc(sizeof *t);
	*t = (struct task){.work = work,
	                   .done = done,
	                   .job = job,
	                   .flags = flags,
	                   .generation = sql_generation(s)};
	if (!(flags & SQL_ANY_GENERATION) && !lane_is_up(s, l)) {
		complete(s, t, SQL_RETRY);
		return 0;
	}
	if (lane_push(s, l, t) == 0)
		return 0;
	free(t);
	return -1;
}

int sql_submit(struct sql *s, enum sql_lane lane, sql_work_fn work, sql_done_fn done, void *job)
{
	return sql_submit_flags(s, lane, work, done, job, SQL_THIS_GENERATION);
}

unsigned sql_queued(struct sql *s, enum sql_lane lane)
{
	struct lane *l = &s->lanes[lane];
	unsigned n;

	pthread_mutex_lock(&l->mtx);
	n = l->queued;
	pthread_mutex_unlock(&l->mtx);
	return n;
}

uint64_t sql_max_packet(const struct sql *s)
{
	return atomic_load(&s->max_packet);
}

/* ---- life -------------------------------------------------------------------------------------
 */

static void lane_init(struct lane *l, const char *name)
{
	pthread_condattr_t attr;

	l->name = name;
	STAILQ_INIT(&l->queue);
	pthread_mutex_init(&l->mtx, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->cond, &attr);
	pthread_condattr_destroy(&attr);
}

static int lane_start(struct sql *s, struct lane *l, unsigned threads)
{
	for (; l->threads < threads; l->threads++) {
		struct worker *w = &l->workers[l->threads];

		*w = (struct worker){
		        .sql = s, .lane = l, .seed = (unsigned)(uintptr_t)w ^ (unsigned)getpid()};
		if (pthread_create(&w->thread, NULL, worker_main, w))
			return -1;
	}
	return 0;
}

static void lane_stop(struct lane *l)
{
	pthread_mutex_lock(&l->mtx);
	l->stop = true;
	pthread_cond_broadcast(&l->cond);
	pthread_mutex_unlock(&l->mtx);
}

/* Threads are gone: what they did not get to is completed unrun. */
static void lane_drain(struct sql *s, struct lane *l)
{
	struct task *t;

	while ((t = STAILQ_FIRST(&l->queue))) {
		STAILQ_REMOVE_HEAD(&l->queue, entry);
		l->queued--;
		complete(s, t, SQL_RETRY);
	}
}

/* Signals are the loop's: the workers are started with all of them blocked. */
static int start_lanes(struct sql *s)
{
	sigset_t all, before;
	int rc = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (int i = 0; i < SQL_LANE_COUNT && rc == 0; i++)
		rc = lane_start(s, &s->lanes[i], lane_table[i].threads);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}

struct sql *sql_new(struct event_base *base, const struct dsn *dsn,
                    const struct sql_settings *settings, struct err *e)
{
	struct sql *s = xcalloc(1, sizeof *s);

	dsn_copy(&s->dsn, dsn);
	s->settings = *settings;
	s->told_generation = 1;
	atomic_store(&s->generation, 1);
	pthread_mutex_init(&s->member_mtx, NULL);
	for (int i = 0; i < SQL_LANE_COUNT; i++)
		lane_init(&s->lanes[i], lane_table[i].name);
	s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (s->wake_fd >= 0)
		s->wake = event_new(base, s->wake_fd, EV_READ | EV_PERSIST, on_wake, s);
	if (!s->wake || event_add(s->wake, NULL) || start_lanes(s)) {
		err_set(e, errno, "database threads cannot be started: %s", strerror(errno));
		sql_free(s);
		return NULL;
	}
	return s;
}

void sql_free(struct sql *s)
{
	if (!s)
		return;
	s->stopping = true;
	for (int i = 0; i < SQL_LANE_COUNT; i++)
		lane_stop(&s->lanes[i]);
	for (int i = 0; i < SQL_LANE_COUNT; i++) {
		struct lane *l = &s->lanes[i];

		for (unsigned t = 0; t < l->threads; t++)
			pthread_join(l->workers[t].thread, NULL);
		lane_drain(s, l);
	}
	call_done(reversed(atomic_exchange(&s->done, NULL)));
	if (s->wake)
		event_free(s->wake);
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	for (int i = 0; i < SQL_LANE_COUNT; i++) {
		pthread_mutex_destroy(&s->lanes[i].mtx);
		pthread_cond_destroy(&s->lanes[i].cond);
	}
	pthread_mutex_destroy(&s->member_mtx);
	dsn_release(&s->dsn);
	free(s);
}
