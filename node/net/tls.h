/* tls: what a TLS connection needs besides its socket: certificates, versions, suites and names.
 * TLS 1.2 and 1.3, AEAD suites with forward secrecy only (Mozilla "intermediate"). Loop thread.
 *
 * A server's certificate can be replaced while it runs: new connections get the new one, old
 * connections keep theirs, and files that do not work change nothing. */
#ifndef LEAT_NODE_TLS_H
#define LEAT_NODE_TLS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct tls_server;
struct tls_client;
struct tls_psks;
typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;

struct tls_server_options {
	const char *cert_file;      /* PEM: the certificate, then its chain */
	const char *key_file;       /* PEM, not encrypted */
	const char *client_ca_file; /* clients must show a certificate of this CA; NULL = none */
	bool client_may_have_none;  /* they may, and it must be good if they do: tls_shown() */
	const char *alpn;           /* the protocol we speak, "mqtt"; NULL = ignore offers */
	/* Instead of all files: TLS 1.3 with these keys (node/net/tls_psk.h). Borrowed for good,
	 * and read again by tls_server_reload. */
	const struct tls_psks *psks;
};

struct tls_client_options {
	const char *ca_file;   /* PEM; NULL = the system's */
	const char *cert_file; /* our own certificate, NULL = none */
	const char *key_file;
	const char *alpn;            /* offered; NULL = none */
	bool any_name;               /* whoever has a certificate of ca_file will do */
	const struct tls_psks *psks; /* instead of all files; copied */
};

struct tls_server *tls_server_new(const struct tls_server_options *o, struct err *e); /* copies o */
void tls_server_free(struct tls_server *t);                 /* open connections live on */
int tls_server_reload(struct tls_server *t, struct err *e); /* -1 = the old one still serves */
SSL_CTX *tls_server_ctx(struct tls_server *t); /* the current one, for libraries; borrowed */
int64_t tls_server_expires(const struct tls_server *t); /* seconds since 1970 */

struct tls_client *tls_client_new(const struct tls_client_options *o, struct err *e);
void tls_client_free(struct tls_client *t);
/* It is as the other from now on, also for connections that were begun with it. */
void tls_client_become(struct tls_client *t, struct tls_client *take);

/* The certificate that a client showed, which is good; false: none. */
struct tls_shown {
	uint8_t sha256[32];
	int64_t not_before_s; /* seconds since 1970, as the next */
	int64_t not_after_s;  /* what ends first of it and of those who vouch for it */
};
bool tls_shown(SSL *ssl, struct tls_shown *out);

/* For conn.c: an SSL in the accept or connect state. host is checked against the certificate's
 * names, or its addresses when it is one. */
SSL *tls_server_ssl(struct tls_server *t);
SSL *tls_client_ssl(struct tls_client *t, const char *host);

/* The first error in OpenSSL's queue as text (never empty); clears the queue. */
const char *tls_error_text(char *out, unsigned size);

#endif
