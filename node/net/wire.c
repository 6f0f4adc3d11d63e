#include "node/net/wire.h"

#include "base/mem.h"
#include "node/net/outq.h"

#include <assert.h>
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { IOVECS = 64, SEND_BATCH = 64 * 1024 /* bytes encrypted before they are sent */ };

struct wire_io {
	BIO_METHOD *method;
	/* received and not yet decrypted; reader is the wire they belong to */
	const struct wire *reader;
	const char *in_p;
	size_t in_n;
	/* encrypted for writer and not yet sent; empty between calls */
	struct buf out;
	const struct wire *writer;
	char in[WIRE_RECV];
	char record[WIRE_RECORD]; /* small pieces of output, gathered into one record */
	char plain[WIRE_PLAIN];
};

/* ---- the BIO between OpenSSL and the shared buffers */

static int bio_read(BIO *b, char *dst, int max)
{
	struct wire *w = BIO_get_data(b);
	struct wire_io *io = w->io;
	size_t n = (size_t)max;

	BIO_clear_retry_flags(b);
	if (io->reader != w || !io->in_n) {
		BIO_set_retry_read(b);
		return -1;
	}
	if (n > io->in_n)
		n = io->in_n;
	memcpy(dst, io->in_p, n);
	io->in_p += n;
	io->in_n -= n;
	return (int)n;
}

static int bio_write(BIO *b, const char *p, int n)
{
	struct wire *w = BIO_get_data(b);

	BIO_clear_retry_flags(b);
	/* one connection's bytes must never leave through another */
	assert(!w->io->out.len || w->io->writer == w);
	w->io->writer = w;
	buf_append(&w->io->out, p, (size_t)n);
	return n;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	(void)b;
	(void)num;
	(void)ptr;
	return cmd == BIO_CTRL_FLUSH ? 1 : 0;
}

struct wire_io *wire_io_new(void)
{
	struct wire_io *io = xcalloc(1, sizeof *io);

	io->method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "wire");
	if (!io->method || !BIO_meth_set_read(io->method, bio_read) ||
	    !BIO_meth_set_write(io->method, bio_write) || !BIO_meth_set_ctrl(io->method, bio_ctrl))
		fatal("openssl: no BIO method");
	return io;
}

void wire_io_free(struct wire_io *io)
{
	if (!io)
		return;
	BIO_meth_free(io->method);
	buf_release(&io->out);
	free(io);
}

char *wire_io_plain(struct wire_io *io)
{
	return io->plain;
}

/* ---- life */

void wire_init(struct wire *w, struct wire_io *io, int fd)
{
	*w = (struct wire){.fd = fd, .io = io};
}

void wire_set_tls(struct wire *w, SSL *ssl)
{
	BIO *b = BIO_new(w->io->method);

	if (!b)
		fatal("openssl: no BIO");
	BIO_set_data(b, w);
	BIO_set_init(b, 1);
	SSL_set_bio(ssl, b, b);
	w->ssl = ssl;
}

void wire_close(struct wire *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	if (w->io->reader == w)
		w->io->reader = NULL;
}

void wire_release(struct wire *w)
{
	wire_close(w);
	if (w->ssl) {
		/* nothing may be written any more */
		SSL_set_quiet_shutdown(w->ssl, 1);
		SSL_free(w->ssl);
	}
	w->ssl = NULL;
	buf_release(&w->left);
}

/* ---- the socket */

static enum wire_result socket_failed(struct err *e)
{
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
		return WIRE_AGAIN;
	err_set(e, errno, "%s", strerror(errno));
	return WIRE_FAIL;
}

enum wire_result wire_recv(struct wire *w, size_t *n, struct err *e)
{
	struct wire_io *io = w->io;
	ssize_t got = recv(w->fd, w->ssl ? io->in : io->plain, WIRE_RECV, 0);

	*n = 0;
	if (got < 0)
		return socket_failed(e);
	if (got == 0)
		return WIRE_EOF;
	*n = (size_t)got;
	io->reader = w;
	io->in_p = io->in;
	io->in_n = w->ssl ? *n : 0;
	return WIRE_OK;
}

/* Send the encrypted bytes: those left over first, then the shared buffer; what the socket does not
 * take is left over. */
static enum wire_result send_encrypted(struct wire *w, struct err *e)
{
	struct buf *out = &w->io->out;
	struct iovec v[2] = {{w->left.data, w->left.len}, {out->data, out->len}};
	struct iovec *first = v[0].iov_len ? v : v + 1;
	struct msghdr m = {.msg_iov = first, .msg_iovlen = (size_t)(v + 2 - first)};
	size_t total = v[0].iov_len + v[1].iov_len;
	enum wire_result r = WIRE_OK;
	ssize_t sent = 0;

	if (!total)
		return WIRE_OK;
	sent = sendmsg(w->fd, &m, MSG_NOSIGNAL);
	if (sent < 0) {
		r = socket_failed(e);
		sent = 0;
	} else if ((size_t)sent < total) {
		r = WIRE_AGAIN;
	}
	if ((size_t)sent < w->left.len) {
		buf_consume(&w->left, (size_t)sent);
		sent = 0;
	} else {
		sent -= (ssize_t)w->left.len;
		buf_release(&w->left);
	}
	if (r == WIRE_AGAIN)
		buf_append(&w->left, out->data + sent, out->len - (size_t)sent);
	buf_clear(out);
	return r;
}

/* ---- TLS */

/* SSL_get_error believes whatever lies in the thread's error queue. Looking is cheap, clearing is
 * not. */
static void clear_errors(void)
{
	if (ERR_peek_error())
		ERR_clear_error();
}

static enum wire_result tls_failed(struct wire *w, const char *doing, struct err *e)
{
	long verify = SSL_get_verify_result(w->ssl);
	char text[160];
	struct err ignored;

	tls_error_text(text, sizeof text);
	if (verify != X509_V_OK)
		err_set(e, 0, "%s: %s: %s", doing, text, X509_verify_cert_error_string(verify));
	else
		err_set(e, 0, "%s: %s", doing, text);
	/* the alert, if there is one, tells the peer why */
	send_encrypted(w, &ignored);
	return WIRE_FAIL;
}

enum wire_result wire_handshake(struct wire *w, struct err *e)
{
	enum wire_result sent;
	int rc;
	int why;

	clear_errors();
	rc = SSL_do_handshake(w->ssl);
	why = rc == 1 ? SSL_ERROR_NONE : SSL_get_error(w->ssl, rc);
	if (why != SSL_ERROR_NONE && why != SSL_ERROR_WANT_READ)
		return tls_failed(w, "TLS handshake", e);
	sent = send_encrypted(w, e);
	if (sent == WIRE_FAIL)
		return sent;
	return rc == 1 ? WIRE_OK : WIRE_AGAIN;
}

enum wire_result wire_decrypt(struct wire *w, size_t *n, struct err *e)
{
	struct wire_io *io = w->io;
	int why = SSL_ERROR_NONE;
	int got;

	*n = 0;
	clear_errors();
	while (*n < WIRE_PLAIN) {
		got = SSL_read(w->ssl, io->plain + *n, (int)(WIRE_PLAIN - *n));
		if (got <= 0) {
			why = SSL_get_error(w->ssl, got);
			break;
		}
		*n += (size_t)got;
	}
	assert(why != SSL_ERROR_NONE); /* WIRE_PLAIN is never filled */
	if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_ZERO_RETURN)
		return tls_failed(w, "TLS", e);
	/* a key update, for example, is answered from within SSL_read */
	if (io->out.len && send_encrypted(w, e) == WIRE_FAIL)
		return WIRE_FAIL;
	return why == SSL_ERROR_ZERO_RETURN ? WIRE_EOF : WIRE_OK;
}

/* Encrypt from the front of the queue in full records until a batch is ready to be sent. */
static enum wire_result tls_fill(struct wire *w, struct outq *q, struct err *e)
{
	struct wire_io *io = w->io;

	clear_errors();
	while (q->bytes && io->out.len < SEND_BATCH) {
		struct slice s = outq_front(q);
		int rc;

		if (s.n < WIRE_RECORD && s.n < q->bytes)
			s = slice(io->record, outq_gather(q, io->record, WIRE_RECORD));
		if (s.n > WIRE_RECORD)
			s.n = WIRE_RECORD;
		rc = SSL_write(w->ssl, s.p, (int)s.n);
		if (rc <= 0)
			return tls_failed(w, "TLS", e);
		outq_consume(q, (size_t)rc);
	}
	return WIRE_OK;
}

static enum wire_result send_plain(struct wire *w, struct outq *q, struct err *e)
{
	while (q->bytes) {
		struct iovec v[IOVECS];
		struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)outq_iovec(q, v, IOVECS)};
		ssize_t sent = sendmsg(w->fd, &m, MSG_NOSIGNAL);

		if (sent < 0)
			return socket_failed(e);
		outq_consume(q, (size_t)sent);
	}
	return WIRE_OK;
}

enum wire_result wire_send(struct wire *w, struct outq *q, struct err *e)
{
	enum wire_result r;

	if (!w->ssl)
		return send_plain(w, q, e);
	r = send_encrypted(w, e);
	while (r == WIRE_OK && q->bytes) {
		r = tls_fill(w, q, e);
		if (r == WIRE_OK)
			r = send_encrypted(w, e);
	}
	return r;
}

enum wire_result wire_bye(struct wire *w, struct err *e)
{
	enum wire_result r;

	if (w->ssl && !(SSL_get_shutdown(w->ssl) & SSL_SENT_SHUTDOWN)) {
		clear_errors();
		if (SSL_shutdown(w->ssl) < 0)
			return tls_failed(w, "TLS shutdown", e);
	}
	r = send_encrypted(w, e);
	if (r == WIRE_OK)
		shutdown(w->fd, SHUT_WR);
	return r;
}
