#include "node/net/authorities.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>

enum { FILE_MAX = 1024 * 1024 }; /* bytes; a system's whole bundle has a quarter of it */

struct authorities {
	unsigned refs;
	size_t count;
	struct buf pem;
};

/* As libcurl reads it: certificates and whatever else is between them. */
static size_t certificates_in(struct slice pem)
{
	BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
	STACK_OF(X509_INFO) *all = bio ? PEM_X509_INFO_read_bio(bio, NULL, NULL, NULL) : NULL;
	size_t n = 0;

	for (int i = 0; i < sk_X509_INFO_num(all); i++)
		n += sk_X509_INFO_value(all, i)->x509 != NULL;
	sk_X509_INFO_pop_free(all, X509_INFO_free);
	BIO_free(bio);
	ERR_clear_error();
	return n;
}

struct authorities *authorities_read(const char *file, struct err *e)
{
	struct authorities *a = xcalloc(1, sizeof *a);

	a->refs = 1;
	if (file_read(file, FILE_MAX, &a->pem, e) == 0) {
		a->count = certificates_in(buf_slice(&a->pem));
		if (a->count)
			return a;
		err_set(e, 0, "no PEM certificates in %s", file);
	}
	authorities_free(a);
	return NULL;
}

struct authorities *authorities_ref(struct authorities *a)
{
	if (a)
		a->refs++;
	return a;
}

void authorities_free(struct authorities *a)
{
	if (!a || --a->refs)
		return;
	buf_release(&a->pem);
	free(a);
}

struct slice authorities_pem(const struct authorities *a)
{
	return buf_slice(&a->pem);
}

size_t authorities_count(const struct authorities *a)
{
	return a->count;
}
