#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int failed(struct err *e, const char *what, const char *path)
{
	return err_set(e, errno, "%s %s: %s", what, path, strerror(errno));
}

int file_read(const char *path, size_t max, struct buf *out, struct err *e)
{
	size_t start = out->len;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return failed(e, "cannot open", path);
	do {
		char part[4096];

		n = read(fd, part, sizeof part);
		if (n > 0)
			buf_append(out, part, (size_t)n);
	} while ((n > 0 && out->len - start <= max) || (n < 0 && errno == EINTR));
	if (n < 0)
		failed(e, "cannot read", path);
	close(fd);
	if (n < 0)
		return -1;
	if (out->len - start > max)
		return err_set(e, EFBIG, "%s has more than %zu bytes", path, max);
	return 0;
}

static int read_private(int fd, const char *path, size_t max, struct buf *out, struct err *e)
{
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) < 0)
		return failed(e, "cannot read", path);
	if (S_ISREG(st.st_mode) && (st.st_mode & S_IRWXO))
		return err_set(e, EACCES, "%s can be read by everybody: chmod o= %s", path, path);
	buf_grow(out, max + 1);
	do {
		n = read(fd, out->data + out->len, max + 1 - out->len);
		out->len += n > 0 ? (size_t)n : 0;
	} while ((n > 0 && out->len <= max) || (n < 0 && errno == EINTR));
	if (n < 0)
		return failed(e, "cannot read", path);
	if (out->len > max)
		return err_set(e, EFBIG, "%s has more than %zu bytes", path, max);
	return 0;
}

int file_read_secret(const char *path, size_t max, struct buf *out, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return failed(e, "cannot open", path);
	rc = read_private(fd, path, max, out, e);
	close(fd);
	return rc;
}

static int write_all(int fd, struct slice bytes)
{
	while (bytes.n) {
		ssize_t n = write(fd, bytes.p, bytes.n);

		if (n < 0 && errno != EINTR)
			return -1;
		if (n > 0)
			bytes = slice(bytes.p + n, bytes.n - (size_t)n);
	}
	return 0;
}

int file_write_private(const char *path, struct slice bytes, struct err *e)
{
	struct buf part = {0};
	int rc = 0;
	int fd;

	buf_printf(&part, "%s.part", path);
	buf_u8(&part, 0);
	fd = open(part.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || fchmod(fd, 0600) < 0 || write_all(fd, bytes) < 0)
		rc = failed(e, "cannot write", part.data);
	if (fd >= 0 && close(fd) < 0 && rc == 0)
		rc = failed(e, "cannot write", part.data);
	if (rc == 0 && rename(part.data, path) < 0)
		rc = failed(e, "cannot replace", path);
	buf_release(&part);
	return rc;
}
