/* slowlog: preloaded into mariadbd, it makes each write of InnoDB's redo log slow. Between the
 * moment a commit is visible to readers and the moment it has been written lies then long enough
 * for a kill to hit it; without, that takes microseconds and a test would need luck. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DELAY_MS = 40, LINK_MAX = 4096 };

typedef ssize_t pwrite_fn(int fd, const void *p, size_t n, off64_t at);

static int is_redo_log(int fd)
{
	char fd_name[64];
	char file[LINK_MAX];
	ssize_t n;

	snprintf(fd_name, sizeof fd_name, "/proc/self/fd/%d", fd);
	n = readlink(fd_name, file, sizeof file - 1);
	if (n <= 0)
		return 0;
	file[n] = '\0';
	return strstr(file, "ib_logfile") != NULL;
}

static ssize_t slow(const char *real, int fd, const void *p, size_t n, off64_t at)
{
	const struct timespec delay = {.tv_nsec = DELAY_MS * 1000000L};
	pwrite_fn *fn;

	*(void **)&fn = dlsym(RTLD_NEXT, real);
	if (!fn)
		abort();
	if (is_redo_log(fd))
		nanosleep(&delay, NULL);
	return fn(fd, p, n, at);
}

/* They stand in for libc's, whose header names its parameters as nobody else may. */
/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) */
ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
	return slow("pwrite", fd, p, n, at);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	return slow("pwrite64", fd, p, n, at);
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
