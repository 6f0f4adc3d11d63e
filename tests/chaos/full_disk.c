/* full_disk: preloaded into mariadbd, it makes the disk full while the file $LEAT_FULL_DISK exists:
 * files that would grow do not, and a byte in that file says so. No mount is needed, so anybody can
 * run it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

typedef ssize_t pwrite_fn(int fd, const void *p, size_t n, off64_t at);
typedef int allocate_fn(int fd, off64_t at, off64_t n);

static int is_full(void)
{
	const char *file = getenv("LEAT_FULL_DISK");
	int saved = errno;
	int full = file && access(file, F_OK) == 0;

	errno = saved;
	return full;
}

static int grows(int fd, off64_t end)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && end > st.st_size;
}

static void say_so(void)
{
	const char *file = getenv("LEAT_FULL_DISK");
	int fd = file ? open(file, O_WRONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	if (write(fd, "!", 1) < 0)
		abort(); /* this disk is the test's own, and not full */
	close(fd);
}

static void *real(const char *name)
{
	void *fn = dlsym(RTLD_NEXT, name);

	if (!fn)
		abort();
	return fn;
}

static ssize_t write_at(const char *name, int fd, const void *p, size_t n, off64_t at)
{
	pwrite_fn *fn;

	if (is_full() && grows(fd, at + (off64_t)n)) {
		say_so();
		errno = ENOSPC;
		return -1;
	}
	*(void **)&fn = real(name);
	return fn(fd, p, n, at);
}

static int allocate(const char *name, int fd, off64_t at, off64_t n)
{
	allocate_fn *fn;

	if (is_full() && grows(fd, at + n)) {
		say_so();
		return ENOSPC;
	}
	*(void **)&fn = real(name);
	return fn(fd, at, n);
}

/* They stand in for libc's, whose header names its parameters as nobody else may. */
/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) */
ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
	return write_at("pwrite", fd, p, n, at);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	return write_at("pwrite64", fd, p, n, at);
}

int posix_fallocate(int fd, off_t at, off_t n)
{
	return allocate("posix_fallocate", fd, at, n);
}

int posix_fallocate64(int fd, off64_t at, off64_t n)
{
	return allocate("posix_fallocate64", fd, at, n);
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
