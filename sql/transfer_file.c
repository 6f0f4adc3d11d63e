#include "sql/transfer_file.h"

#include "base/hash.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static const char magic[8] = {'l', 'e', 'a', 't', '-', 'm', 'v', '1'};

enum { MAGIC_SAME = 7 }; /* bytes of it that every format shares */
enum { AT_DIGEST = 88, AT_CHECK = 120 };

struct transfer_file {
	char *path;
	int fd;
	struct transfer_place here; /* behind the chunk read or written last */
};

static int failed(const struct transfer_file *f, const char *what, struct err *e)
{
	return err_set(e, errno, "cannot %s %s: %s", what, f->path, strerror(errno));
}

static int damaged(const struct transfer_file *f, const char *how, struct err *e)
{
	return err_set(e, 0, "%s: chunk %" PRIu32 " is damaged: %s", f->path, f->here.number, how);
}

/* ---- opening ---- */

static int prepare(struct transfer_file *f, bool append, struct err *e)
{
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return failed(f, "look at", e);
	if (!S_ISREG(st.st_mode))
		return err_set(e, 0, "%s is no regular file", f->path);
	if (!append)
		return 0;
	if (flock(f->fd, LOCK_EX | LOCK_NB) < 0)
		return err_set(e, errno, "%s: another export writes it", f->path);
	if ((st.st_mode & (S_IRWXG | S_IRWXO)) && fchmod(f->fd, S_IRUSR | S_IWUSR) < 0)
		return failed(f, "keep others from reading", e);
	return 0;
}

struct transfer_file *transfer_file_open(const char *path, bool append, struct err *e)
{
	struct transfer_file *f = xcalloc(1, sizeof *f);

	f->path = xstrdup(path);
	f->fd = open(path, append ? O_RDWR | O_CREAT | O_CLOEXEC : O_RDONLY | O_CLOEXEC,
	             S_IRUSR | S_IWUSR);
	if (f->fd >= 0 && prepare(f, append, e) == 0)
		return f;
	if (f->fd < 0)
		failed(f, "open", e);
	transfer_file_close(f);
	return NULL;
}

void transfer_file_close(struct transfer_file *f)
{
	if (!f)
		return;
	if (f->fd >= 0)
		close(f->fd);
	free(f->path);
	free(f);
}

uint64_t transfer_file_bytes(const struct transfer_file *f)
{
	return f->here.at;
}

/* ---- headers ---- */

static void put_u64(struct buf *b, uint64_t v)
{
	buf_u32be(b, (uint32_t)(v >> 32));
	buf_u32be(b, (uint32_t)v);
}

static void header_encode(struct buf *b, const struct transfer_chunk *c)
{
	buf_append(b, magic, sizeof magic);
	buf_u32be(b, c->number);
	buf_u32be(b, (uint32_t)c->kind << 24);
	buf_u32be(b, c->rows);
	buf_u32be(b, c->partition);
	put_u64(b, c->first);
	put_u64(b, c->next);
	put_u64(b, c->bytes);
	put_u64(b, c->sum.rows);
	for (size_t i = 0; i < 4; i++)
		put_u64(b, c->sum.lane[i]);
}

static uint64_t u_at(const uint8_t *p, size_t n)
{
	uint64_t v = 0;

	for (size_t i = 0; i < n; i++)
		v = v << 8 | p[i];
	return v;
}

static int header_decode(const struct transfer_file *f, const uint8_t *h, struct transfer_chunk *c,
                         struct err *e)
{
	if (f->here.number && memcmp(h, magic, sizeof magic) != 0)
		return damaged(f, "it does not begin as a chunk does", e);
	if (memcmp(h, magic, MAGIC_SAME) != 0)
		return err_set(e, 0, "%s is no export of a tenant", f->path);
	if (h[MAGIC_SAME] != (uint8_t)magic[MAGIC_SAME])
		return err_set(e, 0,
		               "%s is of another version of the format: use the leat that wrote it",
		               f->path);
	if (u_at(h + AT_CHECK, 8) != hash_stable(h, AT_CHECK))
		return damaged(f, "its header", e);
	*c = (struct transfer_chunk){
	        .number = (uint32_t)u_at(h + 8, 4),
	        .kind = h[12],
	        .rows = (uint32_t)u_at(h + 16, 4),
	        .partition = (uint32_t)u_at(h + 20, 4),
	        .first = u_at(h + 24, 8),
	        .next = u_at(h + 32, 8),
	        .bytes = u_at(h + 40, 8),
	        .sum.rows = u_at(h + 48, 8),
	};
	for (size_t i = 0; i < 4; i++)
		c->sum.lane[i] = u_at(h + 56 + 8 * i, 8);
	memcpy(c->digest, h + AT_DIGEST, TRANSFER_DIGEST);
	return c->number == f->here.number ? 0 : damaged(f, "it is another one", e);
}

static void digest(const struct transfer_file *f, const void *header, struct slice payload,
                   uint8_t out[TRANSFER_DIGEST])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	if (!ctx || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1 ||
	    EVP_DigestUpdate(ctx, f->here.digest, TRANSFER_DIGEST) != 1 ||
	    EVP_DigestUpdate(ctx, header, AT_DIGEST) != 1 ||
	    EVP_DigestUpdate(ctx, payload.p, payload.n) != 1 ||
	    EVP_DigestFinal_ex(ctx, out, NULL) != 1)
		fatal("SHA-256 does not work");
	EVP_MD_CTX_free(ctx);
}

/* ---- reading ---- */

/* How many bytes are there, up to n; -1 with e. */
static ssize_t read_at(const struct transfer_file *f, void *to, size_t n, uint64_t at,
                       struct err *e)
{
	size_t got = 0;

	while (got < n) {
		ssize_t k = pread(f->fd, (char *)to + got, n - got, (off_t)(at + got));

		if (k == 0)
			break;
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return failed(f, "read", e);
		got += (size_t)k;
	}
	return (ssize_t)got;
}

static int read_payload(struct transfer_file *f, const struct transfer_chunk *c, const void *header,
                        struct buf *payload, struct err *e)
{
	uint8_t found[TRANSFER_DIGEST];
	ssize_t n;

	buf_clear(payload);
	n = read_at(f, buf_extend(payload, c->bytes), c->bytes, f->here.at + TRANSFER_HEADER, e);
	if (n < 0)
		return -1;
	digest(f, header, slice(payload->data, (size_t)n), found);
	if ((uint64_t)n != c->bytes || memcmp(found, c->digest, sizeof found) != 0)
		return damaged(f, "its SHA-256 does not match", e);
	return 0;
}

int transfer_file_next(struct transfer_file *f, struct transfer_chunk *out, struct buf *payload,
                       struct err *e)
{
	uint8_t header[TRANSFER_HEADER];
	struct stat st;
	ssize_t n;

	if (fstat(f->fd, &st) < 0)
		return failed(f, "look at", e);
	n = read_at(f, header, sizeof header, f->here.at, e);
	if (n < 0)
		return -1;
	if ((size_t)n < sizeof header)
		return 0;
	if (header_decode(f, header, out, e) < 0)
		return -1;
	if (out->bytes > (uint64_t)st.st_size - f->here.at - TRANSFER_HEADER)
		return 0; /* nothing of that size is asked memory for */
	if (payload && read_payload(f, out, header, payload, e) < 0)
		return -1;
	f->here.at += TRANSFER_HEADER + out->bytes;
	f->here.number++;
	memcpy(f->here.digest, out->digest, TRANSFER_DIGEST);
	return 1;
}

struct transfer_place transfer_file_place(const struct transfer_file *f)
{
	return f->here;
}

void transfer_file_return(struct transfer_file *f, const struct transfer_place *to)
{
	f->here = *to;
}

/* ---- appending ---- */

static int on_disk(const struct transfer_file *f, struct err *e)
{
	return fdatasync(f->fd) < 0 ? failed(f, "write", e) : 0;
}

int transfer_file_truncate(struct transfer_file *f, struct err *e)
{
	if (ftruncate(f->fd, (off_t)f->here.at) < 0)
		return failed(f, "shorten", e);
	return on_disk(f, e);
}

static int write_at(const struct transfer_file *f, struct slice bytes, uint64_t at, struct err *e)
{
	while (bytes.n) {
		ssize_t n = pwrite(f->fd, bytes.p, bytes.n, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return failed(f, "write", e);
		bytes = slice(bytes.p + n, bytes.n - (size_t)n);
		at += (uint64_t)n;
	}
	return 0;
}

int transfer_file_append(struct transfer_file *f, struct transfer_chunk *c, struct slice payload,
                         struct err *e)
{
	struct buf header = {0};
	int rc = -1;

	c->number = f->here.number;
	c->bytes = payload.n;
	header_encode(&header, c);
	digest(f, header.data, payload, c->digest);
	buf_append(&header, c->digest, TRANSFER_DIGEST);
	put_u64(&header, hash_stable(header.data, header.len));
	/* In this order: whoever finds the header knows how much is missing of the payload. */
	if (write_at(f, buf_slice(&header), f->here.at, e) == 0 &&
	    write_at(f, payload, f->here.at + TRANSFER_HEADER, e) == 0 && on_disk(f, e) == 0)
		rc = 0;
	if (rc == 0) {
		f->here.at += TRANSFER_HEADER + payload.n;
		f->here.number++;
		memcpy(f->here.digest, c->digest, TRANSFER_DIGEST);
	}
	buf_release(&header);
	return rc;
}
