#include "node/net/tls.h"

#include "base/log.h"
#include "base/mem.h"
#include "node/net/tls_psk.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Mozilla's "intermediate" list without the DHE suites (slow, and ECDHE is everywhere), AES-128
 * first: it is as safe and costs a quarter less. A client that prefers ChaCha20 gets it. */
static const char tls13_suites[] =
        "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
static const char tls12_suites[] = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
                                   "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
                                   "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
static const char groups[] = "X25519:P-256:P-384";

enum { ALPN_MAX = 32, DAY_S = 86400, CHAIN_MAX_BYTES = 32 * 1024 };

struct tls_server {
	SSL_CTX *ctx; /* for new connections; each SSL holds a reference to the one it was made from
	               */
	char *cert_file;
	char *key_file;
	char *client_ca_file; /* or NULL */
	bool client_may_have_none;
	unsigned char alpn[ALPN_MAX]; /* length byte and name; length 0 = none */
	const struct tls_psks *psks;  /* instead of the files, or NULL */
	int64_t expires_s;
};

struct tls_client {
	SSL_CTX *ctx;
	char *alpn; /* or NULL */
	bool any_name;
};

const char *tls_error_text(char *out, unsigned size)
{
	unsigned long code = ERR_get_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	if (reason)
		snprintf(out, size, "%s", reason);
	else
		snprintf(out, size, code ? "error %08lx" : "unknown error", code);
	ERR_clear_error();
	return out;
}

static int fail(struct err *e, const char *what, const char *file)
{
	char text[128];

	return err_set(e, 0, "%s %.100s: %s", what, file, tls_error_text(text, sizeof text));
}

/* OpenSSL's message for a missing file is cryptic, so look first. */
static int check_readable(const char *what, const char *file, struct err *e)
{
	if (!file)
		return err_set(e, 0, "no %s file is named", what);
	if (access(file, R_OK) == 0)
		return 0;
	return err_set(e, errno, "cannot read the %s %.150s: %s", what, file, strerror(errno));
}

/* An encrypted key would make OpenSSL ask on the terminal. */
static int no_password(char *out, int size, int writing, void *arg)
{
	(void)out;
	(void)size;
	(void)writing;
	(void)arg;
	return -1;
}

/* ---- certificate and key */

static int64_t seconds_of(const ASN1_TIME *t)
{
	struct tm tm;

	return ASN1_TIME_to_tm(t, &tm) ? timegm(&tm) : 0;
}

static void warn_validity(const char *file, int64_t from_s, int64_t until_s)
{
	int64_t now_s = time(NULL);

	if (now_s < from_s)
		log_warn("tls", "cert=%s not valid yet", log_quote_str(file));
	else if (now_s >= until_s)
		log_warn("tls", "cert=%s expired days=%lld", log_quote_str(file),
		         (long long)(now_s - until_s) / DAY_S);
	else if (until_s - now_s < 14 * DAY_S)
		log_warn("tls", "cert=%s expires soon days=%lld", log_quote_str(file),
		         (long long)(until_s - now_s) / DAY_S);
}

static int load_pair(SSL_CTX *ctx, const char *cert, const char *key, int64_t *expires_s,
                     struct err *e)
{
	const X509 *x;

	if (check_readable("certificate", cert, e) < 0 || check_readable("key", key, e) < 0)
		return -1;
	ERR_clear_error();
	SSL_CTX_set_default_passwd_cb(ctx, no_password);
	if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
		return fail(e, "no PEM certificate in", cert);
	if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1) {
		if (ERR_GET_REASON(ERR_peek_error()) == X509_R_KEY_VALUES_MISMATCH)
			return err_set(e, 0,
			               "the key %.100s does not belong to the certificate %.100s",
			               key, cert);
		return fail(e, "no unencrypted PEM key in", key);
	}
	x = SSL_CTX_get0_certificate(ctx);
	*expires_s = seconds_of(X509_get0_notAfter(x));
	warn_validity(cert, seconds_of(X509_get0_notBefore(x)), *expires_s);
	return 0;
}

/* ---- contexts */

static SSL_CTX *ctx_new(const SSL_METHOD *method)
{
	SSL_CTX *ctx = SSL_CTX_new(method);

	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) ||
	    !SSL_CTX_set_ciphersuites(ctx, tls13_suites) ||
	    !SSL_CTX_set_cipher_list(ctx, tls12_suites) || !SSL_CTX_set1_groups_list(ctx, groups))
		fatal("openssl: cannot set up a TLS context");
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
	                                 SSL_OP_CIPHER_SERVER_PREFERENCE |
	                                 SSL_OP_PRIORITIZE_CHACHA);
	/* buffers of 16 KB each way would otherwise stay with every idle connection */
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
	                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	return ctx;
}

static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *outlen,
                       const unsigned char *offered, unsigned n, void *arg)
{
	const unsigned char *ours = arg;

	(void)ssl;
	for (unsigned i = 0; i < n; i += 1u + offered[i]) {
		if (i + 1u + offered[i] <= n && offered[i] == ours[0] &&
		    memcmp(offered + i + 1, ours + 1, ours[0]) == 0) {
			*out = offered + i + 1;
			*outlen = offered[i];
			return SSL_TLSEXT_ERR_OK;
		}
	}
	/* clients offer all sorts of names; one that does not know ours is still served */
	return SSL_TLSEXT_ERR_NOACK;
}

static int require_client_cert(SSL_CTX *ctx, const char *ca_file, struct err *e)
{
	if (check_readable("client CA", ca_file, e) < 0)
		return -1;
	if (SSL_CTX_load_verify_file(ctx, ca_file) != 1)
		return fail(e, "no PEM certificates in", ca_file);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	return 0;
}

/* A session that is taken up again is not verified again, so there is none to take up. */
static int ask_client_cert(SSL_CTX *ctx, const char *ca_file, struct err *e)
{
	if (require_client_cert(ctx, ca_file, e) < 0)
		return -1;
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(ca_file));
	SSL_CTX_set_max_cert_list(ctx, CHAIN_MAX_BYTES); /* whoever comes may send one */
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
	SSL_CTX_set_num_tickets(ctx, 0);
	return 0;
}

static int use_client_ca(SSL_CTX *ctx, const struct tls_server *t, struct err *e)
{
	if (!t->client_ca_file)
		return 0;
	return t->client_may_have_none ? ask_client_cert(ctx, t->client_ca_file, e)
	                               : require_client_cert(ctx, t->client_ca_file, e);
}

static SSL_CTX *server_ctx(struct tls_server *t, int64_t *expires_s, struct err *e)
{
	static const unsigned char session_context[] = "leat";
	SSL_CTX *ctx = ctx_new(TLS_server_method());

	SSL_CTX_set_session_id_context(ctx, session_context, sizeof session_context - 1);
	/* one ticket is enough, and each costs a message in every handshake */
	SSL_CTX_set_num_tickets(ctx, 1);
	if (t->alpn[0])
		SSL_CTX_set_alpn_select_cb(ctx, select_alpn, t->alpn);
	if (t->psks) {
		tls_psks_use(ctx, t->psks);
		return ctx;
	}
	if (load_pair(ctx, t->cert_file, t->key_file, expires_s, e) < 0 ||
	    use_client_ca(ctx, t, e) < 0) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	return ctx;
}

/* ---- server */

struct tls_server *tls_server_new(const struct tls_server_options *o, struct err *e)
{
	struct tls_server *t = xcalloc(1, sizeof *t);
	size_t alpn = o->alpn ? strlen(o->alpn) : 0;

	if (alpn && alpn < ALPN_MAX) {
		t->alpn[0] = (unsigned char)alpn;
		memcpy(t->alpn + 1, o->alpn, alpn);
	}
	t->psks = o->psks;
	t->cert_file = o->cert_file ? xstrdup(o->cert_file) : NULL;
	t->key_file = o->key_file ? xstrdup(o->key_file) : NULL;
	t->client_ca_file = o->client_ca_file ? xstrdup(o->client_ca_file) : NULL;
	t->client_may_have_none = o->client_may_have_none;
	t->ctx = server_ctx(t, &t->expires_s, e);
	if (t->ctx)
		return t;
	tls_server_free(t);
	return NULL;
}

void tls_server_free(struct tls_server *t)
{
	if (!t)
		return;
	SSL_CTX_free(t->ctx);
	free(t->cert_file);
	free(t->key_file);
	free(t->client_ca_file);
	free(t);
}

int tls_server_reload(struct tls_server *t, struct err *e)
{
	int64_t expires_s = 0;
	SSL_CTX *ctx = server_ctx(t, &expires_s, e);

	if (!ctx)
		return -1;
	SSL_CTX_free(t->ctx);
	t->ctx = ctx;
	t->expires_s = expires_s;
	if (t->cert_file)
		log_info("tls", "cert=%s reloaded", log_quote_str(t->cert_file));
	return 0;
}

SSL_CTX *tls_server_ctx(struct tls_server *t)
{
	return t->ctx;
}

int64_t tls_server_expires(const struct tls_server *t)
{
	return t->expires_s;
}

SSL *tls_server_ssl(struct tls_server *t)
{
	SSL *ssl = SSL_new(t->ctx);

	if (!ssl)
		fatal("openssl: out of memory");
	SSL_set_accept_state(ssl);
	return ssl;
}

bool tls_shown(SSL *ssl, struct tls_shown *out)
{
	const X509 *x = SSL_get0_peer_certificate(ssl);
	const STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
	unsigned n = sizeof out->sha256;

	if (!x || SSL_get_verify_result(ssl) != X509_V_OK ||
	    X509_digest(x, EVP_sha256(), out->sha256, &n) != 1)
		return false;
	out->not_before_s = seconds_of(X509_get0_notBefore(x));
	out->not_after_s = seconds_of(X509_get0_notAfter(x));
	for (int i = 0; i < sk_X509_num(chain); i++) {
		int64_t end_s = seconds_of(X509_get0_notAfter(sk_X509_value(chain, i)));

		if (end_s < out->not_after_s)
			out->not_after_s = end_s;
	}
	return true;
}

/* ---- client */

static int load_trust(SSL_CTX *ctx, const char *ca_file, struct err *e)
{
	ERR_clear_error();
	if (!ca_file)
		return SSL_CTX_set_default_verify_paths(ctx) == 1
		               ? 0
		               : err_set(e, 0, "cannot read the system's CA certificates");
	if (check_readable("CA", ca_file, e) < 0)
		return -1;
	return SSL_CTX_load_verify_file(ctx, ca_file) == 1
	               ? 0
	               : fail(e, "no PEM certificates in", ca_file);
}

struct tls_client *tls_client_new(const struct tls_client_options *o, struct err *e)
{
	struct tls_client *t = xcalloc(1, sizeof *t);
	int64_t expires_s;

	t->ctx = ctx_new(TLS_client_method());
	t->alpn = o->alpn ? xstrdup(o->alpn) : NULL;
	t->any_name = o->any_name || o->psks;
	if (o->psks) {
		tls_psks_use(t->ctx, o->psks);
		return t;
	}
	SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER, NULL);
	if (load_trust(t->ctx, o->ca_file, e) == 0 &&
	    (!o->cert_file || load_pair(t->ctx, o->cert_file, o->key_file, &expires_s, e) == 0))
		return t;
	tls_client_free(t);
	return NULL;
}

void tls_client_free(struct tls_client *t)
{
	if (!t)
		return;
	SSL_CTX_free(t->ctx);
	free(t->alpn);
	free(t);
}

void tls_client_become(struct tls_client *t, struct tls_client *take)
{
	struct tls_client was = *t;

	*t = *take;
	*take = was;
	tls_client_free(take);
}

static void offer_alpn(SSL *ssl, const char *name)
{
	unsigned char wire[ALPN_MAX];
	size_t n = strlen(name);

	if (n >= sizeof wire)
		return;
	wire[0] = (unsigned char)n;
	memcpy(wire + 1, name, n);
	SSL_set_alpn_protos(ssl, wire, (unsigned)n + 1);
}

static void verify_host(SSL *ssl, const char *host)
{
	unsigned char ip[16];
	bool is_ip = inet_pton(AF_INET, host, ip) == 1 || inet_pton(AF_INET6, host, ip) == 1;

	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	/* without a name to check any certificate of the CA would do: never go on then */
	if (is_ip ? !X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host)
	          : !SSL_set1_host(ssl, host) || !SSL_set_tlsext_host_name(ssl, host))
		fatal("openssl: cannot set the host name to verify");
}

SSL *tls_client_ssl(struct tls_client *t, const char *host)
{
	SSL *ssl = SSL_new(t->ctx);

	if (!ssl)
		fatal("openssl: out of memory");
	SSL_set_connect_state(ssl);
	if (!t->any_name)
		verify_host(ssl, host);
	if (t->alpn)
		offer_alpn(ssl, t->alpn);
	return ssl;
}
