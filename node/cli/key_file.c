#include "node/cli/key_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int key_file_read(const char *path, struct buf *out, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return err_set(e, errno, "cannot open key %.120s: %s", path, strerror(errno));
	buf_grow(out,
	         JWS_MATERIAL_MAX + 1); /* once: growing would leave copies of a secret behind */
	do {
		n = read(fd, out->data + out->len, JWS_MATERIAL_MAX + 1 - out->len);
		out->len += n > 0 ? (size_t)n : 0;
	} while (n > 0 && out->len <= JWS_MATERIAL_MAX);
	close(fd);
	if (n < 0)
		return err_set(e, errno, "cannot read key %.120s: %s", path, strerror(errno));
	if (out->len > JWS_MATERIAL_MAX)
		return err_set(e, 0, "key %.120s has more than %d bytes", path, JWS_MATERIAL_MAX);
	if (out->len && out->data[out->len - 1] == '\n')
		out->len--;
	if (out->len && out->data[out->len - 1] == '\r')
		out->len--;
	return 0;
}

void key_file_release(struct buf *b)
{
	if (b->data)
		explicit_bzero(b->data, b->cap);
	buf_release(b);
}

int key_file_alg(const char *name, struct slice material, enum jws_alg *out, struct err *e)
{
	if (!name)
		return jws_alg_guess(material, out, e);
	if (jws_alg_parse(slice_str(name), out) < 0)
		return err_set(e, 0, "--alg %.40s: use one of %s", name, jws_alg_list);
	return 0;
}
