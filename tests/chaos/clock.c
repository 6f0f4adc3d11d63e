/* clock: preloaded into mariadbd, it shifts its wall clock by the milliseconds that the file
 * $LEAT_CLOCK holds; a second number in it is a moment of the monotonic clock, in milliseconds,
 * from which on the wall clock runs at double speed. The monotonic clock stays; a wait until a
 * moment of the wall clock ends when that would have come, as the kernel has it after a clock was
 * set: waits are converted back to the real one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { NS_PER_MS = 1000000, NS_PER_S = 1000000000, US_PER_MS = 1000, LOOK_EVERY_MS = 20 };

typedef int gettime_fn(clockid_t clock, struct timespec *ts);
typedef int timedwait_fn(pthread_cond_t *cond, pthread_mutex_t *mtx, const struct timespec *until);

static atomic_llong shift_ms;
static atomic_llong double_from_ms; /* 0 = it runs as fast as the monotonic one */
static atomic_llong looked_ms;

static void *real(const char *name)
{
	void *fn = dlsym(RTLD_NEXT, name);

	if (!fn)
		abort();
	return fn;
}

static int real_gettime(clockid_t clock, struct timespec *ts)
{
	static _Atomic(gettime_fn *) fn;
	gettime_fn *found = atomic_load(&fn);

	if (!found) {
		*(void **)&found = real("clock_gettime");
		atomic_store(&fn, found);
	}
	return found(clock, ts);
}

static void look(const char *file)
{
	char text[64] = "";
	int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
	char *end;

	if (fd >= 0 && read(fd, text, sizeof text - 1) > 0) {
		atomic_store(&shift_ms, strtoll(text, &end, 10));
		atomic_store(&double_from_ms, strtoll(end, NULL, 10));
	}
	if (fd >= 0)
		close(fd);
}

/* The file is looked at every few milliseconds; a short read of an empty one changes nothing. */
static long long shift(void)
{
	struct timespec now;
	int saved = errno;
	long long now_ms, from_ms;

	real_gettime(CLOCK_MONOTONIC, &now);
	now_ms = now.tv_sec * 1000LL + now.tv_nsec / NS_PER_MS;
	if (now_ms - atomic_load(&looked_ms) >= LOOK_EVERY_MS) {
		atomic_store(&looked_ms, now_ms);
		look(getenv("LEAT_CLOCK"));
	}
	errno = saved;
	from_ms = atomic_load(&double_from_ms);
	return atomic_load(&shift_ms) + (from_ms && now_ms > from_ms ? now_ms - from_ms : 0);
}

static void move(struct timespec *ts, long long ms)
{
	long long ns = ts->tv_nsec + ms % 1000 * NS_PER_MS;

	ts->tv_sec += ms / 1000;
	while (ns < 0) {
		ns += NS_PER_S;
		ts->tv_sec--;
	}
	ts->tv_sec += ns / NS_PER_S;
	ts->tv_nsec = ns % NS_PER_S;
}

/* They stand in for libc's, whose header names its parameters as nobody else may. */
/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) */
int clock_gettime(clockid_t clock, struct timespec *ts)
{
	int r = real_gettime(clock, ts);

	if (r == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		move(ts, shift());
	return r;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
	struct timespec ts;

	(void)zone;
	clock_gettime(CLOCK_REALTIME, &ts);
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / US_PER_MS;
	return 0;
}

time_t time(time_t *out)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (out)
		*out = ts.tv_sec;
	return ts.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mtx,
                           const struct timespec *restrict until)
{
	static _Atomic(timedwait_fn *) fn;
	timedwait_fn *found = atomic_load(&fn);
	struct timespec moved = *until;

	if (!found) {
		*(void **)&found = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
		if (!found)
			abort();
		atomic_store(&fn, found);
	}
	move(&moved, -shift());
	return found(cond, mtx, &moved);
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
