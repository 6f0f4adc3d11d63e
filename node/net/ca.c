#include "node/net/ca.h"

#include "base/mem.h"
#include "node/cli/command.h"
#include "node/cli/options.h"
#include "node/net/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	PATH_BYTES = 4096,
	CA_DAYS = 3650,
	SERVER_DAYS = 397,  /* the most that browsers accept */
	NAMES_BYTES = 8192, /* all subject alternative names as OpenSSL wants them */
	BACKDATE_S = 3600,  /* for clocks that are a little behind */
	DAY_S = 86400,
};

/* A key and its certificate. */
struct pair {
	EVP_PKEY *key;
	X509 *cert;
};

static void pair_release(struct pair *p)
{
	EVP_PKEY_free(p->key);
	X509_free(p->cert);
}

static int crypto_failed(struct err *e, const char *what)
{
	char text[128];

	return err_set(e, 0, "%s: %s", what, tls_error_text(text, sizeof text));
}

/* ---- files */

static int path_in(char out[PATH_BYTES], const char *dir, const char *name, struct err *e)
{
	int n = snprintf(out, PATH_BYTES, "%s/%s", dir, name);

	if (n < 0 || n >= PATH_BYTES)
		return err_set(e, 0, "the directory's name is too long");
	return 0;
}

static int write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t w = write(fd, p, n);

		if (w < 0)
			return -1;
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

/* Replace dir/name in one step, with exactly this mode. */
static int write_file(const char *dir, const char *name, mode_t mode, BIO *pem, struct err *e)
{
	char path[PATH_BYTES];
	char temp[PATH_BYTES];
	char *data;
	long n = BIO_get_mem_data(pem, &data);
	int fd;
	int rc;

	if (path_in(path, dir, name, e) < 0 || path_in(temp, dir, ".leat-ca-XXXXXX", e) < 0)
		return -1;
	fd = mkstemp(temp);
	if (fd < 0)
		return err_set(e, errno, "cannot write in %.150s: %s", dir, strerror(errno));
	rc = write_all(fd, data, (size_t)n) == 0 && fchmod(fd, mode) == 0 && fsync(fd) == 0;
	close(fd);
	if (rc && rename(temp, path) == 0)
		return 0;
	err_set(e, errno, "cannot write %.150s: %s", path, strerror(errno));
	unlink(temp);
	return -1;
}

static int write_key(const char *dir, const char *name, EVP_PKEY *key, struct err *e)
{
	BIO *b = BIO_new(BIO_s_mem());
	int rc = -1;

	if (!b || !PEM_write_bio_PKCS8PrivateKey(b, key, NULL, NULL, 0, NULL, NULL))
		crypto_failed(e, "cannot encode the key");
	else
		rc = write_file(dir, name, 0600, b, e);
	BIO_free(b);
	return rc;
}

static int write_cert(const char *dir, const char *name, X509 *cert, struct err *e)
{
	BIO *b = BIO_new(BIO_s_mem());
	int rc = -1;

	if (!b || !PEM_write_bio_X509(b, cert))
		crypto_failed(e, "cannot encode the certificate");
	else
		rc = write_file(dir, name, 0644, b, e);
	BIO_free(b);
	return rc;
}

/* ---- certificates */

static int set_serial(X509 *cert)
{
	unsigned char raw[16];
	BIGNUM *n;
	int ok;

	if (RAND_bytes(raw, sizeof raw) != 1)
		return 0;
	raw[0] &= 0x7f; /* positive */
	n = BN_bin2bn(raw, sizeof raw, NULL);
	ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert));
	BN_free(n);
	return ok;
}

static int add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *x;
	int ok;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	x = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	ok = x && X509_add_ext(cert, x, -1);
	X509_EXTENSION_free(x);
	return ok;
}

/* A new key and an unsigned certificate for it; the extensions are the caller's. */
static int pair_make(struct pair *p, const char *common_name, const X509 *issuer, int days)
{
	X509_NAME *name;

	p->key = EVP_EC_gen("P-256");
	p->cert = X509_new();
	if (!p->key || !p->cert)
		return 0;
	name = X509_get_subject_name(p->cert);
	return X509_set_version(p->cert, X509_VERSION_3) && set_serial(p->cert) &&
	       X509_gmtime_adj(X509_getm_notBefore(p->cert), -BACKDATE_S) &&
	       X509_gmtime_adj(X509_getm_notAfter(p->cert), (long)days * DAY_S) &&
	       X509_set_pubkey(p->cert, p->key) &&
	       X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
	                                  (const unsigned char *)common_name, -1, -1, 0) &&
	       X509_set_issuer_name(p->cert, issuer ? X509_get_subject_name(issuer) : name);
}

static int make_ca(const char *dir, struct pair *ca, struct err *e)
{
	if (!pair_make(ca, "Leat private CA", NULL, CA_DAYS) ||
	    !add_extension(ca->cert, ca->cert, NID_basic_constraints,
	                   "critical,CA:TRUE,pathlen:0") ||
	    !add_extension(ca->cert, ca->cert, NID_key_usage, "critical,keyCertSign,cRLSign") ||
	    !add_extension(ca->cert, ca->cert, NID_subject_key_identifier, "hash") ||
	    !X509_sign(ca->cert, ca->key, EVP_sha256()))
		return crypto_failed(e, "cannot make the CA");
	if (write_key(dir, "ca.key", ca->key, e) < 0 || write_cert(dir, "ca.crt", ca->cert, e) < 0)
		return -1;
	return 0;
}

static FILE *open_in(const char *dir, const char *name, struct err *e)
{
	char path[PATH_BYTES];

	return path_in(path, dir, name, e) < 0 ? NULL : fopen(path, "re");
}

/* 1 = read, 0 = there is none, -1 = it is damaged */
static int read_ca(const char *dir, struct pair *ca, struct err *e)
{
	FILE *key = open_in(dir, "ca.key", e);
	FILE *cert = open_in(dir, "ca.crt", e);
	int rc = key && cert;

	if (rc) {
		ca->key = PEM_read_PrivateKey(key, NULL, NULL, NULL);
		ca->cert = PEM_read_X509(cert, NULL, NULL, NULL);
		if (!ca->key || !ca->cert || !X509_check_private_key(ca->cert, ca->key))
			rc = err_set(e, 0, "ca.crt and ca.key in %.150s are damaged; remove both",
			             dir);
	}
	if (key)
		fclose(key);
	if (cert)
		fclose(cert);
	return rc;
}

/* A name that goes into OpenSSL's comma-separated list must not bring commas of its own. */
static int is_clean_name(const char *name)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	                              "0123456789.-_:*";

	return *name && !name[strspn(name, allowed)];
}

static int alt_names(char out[NAMES_BYTES], const char *const *names, size_t count, struct err *e)
{
	unsigned char ip[16];
	int n = snprintf(out, NAMES_BYTES, "DNS:localhost,IP:127.0.0.1,IP:::1");

	for (size_t i = 0; i < count; i++) {
		int is_ip = inet_pton(AF_INET, names[i], ip) == 1 ||
		            inet_pton(AF_INET6, names[i], ip) == 1;

		if (!is_clean_name(names[i]) || (!is_ip && strchr(names[i], ':')))
			return err_set(e, 0, "'%.100s' is no host name or address", names[i]);
		n += snprintf(out + n, (size_t)(NAMES_BYTES - n), ",%s:%s", is_ip ? "IP" : "DNS",
		              names[i]);
		if (n >= NAMES_BYTES)
			return err_set(e, 0, "too many names");
	}
	return 0;
}

static int make_server(const char *dir, const struct pair *ca, const char *names, struct err *e)
{
	struct pair p = {0};
	int rc = -1;

	if (!pair_make(&p, "leat", ca->cert, SERVER_DAYS) ||
	    !add_extension(p.cert, ca->cert, NID_basic_constraints, "critical,CA:FALSE") ||
	    !add_extension(p.cert, ca->cert, NID_key_usage, "critical,digitalSignature") ||
	    !add_extension(p.cert, ca->cert, NID_ext_key_usage, "serverAuth,clientAuth") ||
	    !add_extension(p.cert, ca->cert, NID_authority_key_identifier, "keyid") ||
	    !add_extension(p.cert, ca->cert, NID_subject_alt_name, names) ||
	    !X509_sign(p.cert, ca->key, EVP_sha256()))
		crypto_failed(e, "cannot make the server's certificate");
	else if (write_key(dir, "server.key", p.key, e) == 0)
		rc = write_cert(dir, "server.crt", p.cert, e);
	pair_release(&p);
	return rc;
}

int ca_issue(const char *dir, const char *const *names, size_t count, struct err *e)
{
	char alt[NAMES_BYTES];
	struct pair ca = {0};
	int rc;

	if (alt_names(alt, names, count, e) < 0)
		return -1;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_set(e, errno, "cannot make %.150s: %s", dir, strerror(errno));
	rc = read_ca(dir, &ca, e);
	if (rc == 0)
		rc = make_ca(dir, &ca, e);
	if (rc >= 0)
		rc = make_server(dir, &ca, alt, e);
	pair_release(&ca);
	return rc;
}

/* ---- leat ca */

struct ca_options {
	const char *dir;
	struct option_list names;
};

static const struct option ca_rows[] = {
        {.name = "dir",
         .letter = 'd',
         .kind = OPTION_TEXT,
         .offset = offsetof(struct ca_options, dir),
         .arg = "DIR",
         .help = "where ca.crt, ca.key, server.crt and server.key go",
         .flags = OPTION_REQUIRED},
        {.name = "san",
         .kind = OPTION_LIST,
         .offset = offsetof(struct ca_options, names),
         .arg = "NAME..",
         .help = "names and addresses besides localhost, 127.0.0.1 and ::1"},
};

static const struct options ca_spec = {
        "ca", "Create a private CA, unless DIR has one, and a server certificate from it.",
        OPTIONS_ROWS(ca_rows)};

int cmd_ca(int argc, char **argv)
{
	struct ca_options o;
	struct err e;
	int rc;

	if (!options_take(&ca_spec, argc, argv, &o, &rc))
		return rc;
	rc = ca_issue(o.dir, o.names.v, o.names.n, &e);
	if (rc < 0)
		fprintf(stderr, "leat ca: %s\n", e.text);
	else
		printf("CA:     %s/ca.crt\nserver: %s/server.crt %s/server.key\n", o.dir, o.dir,
		       o.dir);
	options_release(&ca_spec, &o);
	return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
